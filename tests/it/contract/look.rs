//! What an operator sees: lists and single executions.

use orchestrator_worker::{
    domain::{
        execution::ExecutionState,
        id::{ExecutionId, TemplateId},
        recovery::Cause,
    },
    ports::{
        control::{Control, ControlError, ExecutionDetail, Filter, UnixMillis},
        executions::{Advance, Advanced},
    },
};

use super::{Subject, world::*, writes::*};

/// The ids that a filter finds, in their order.
async fn listed<S: Subject>(world: &World<S>, filter: Filter) -> Vec<ExecutionId> {
    let limit = if filter.limit == 0 { 100 } else { filter.limit };
    let found = world.b.list(&Filter { limit, ..filter }).await.expect("a list");
    found.into_iter().map(|it| it.execution).collect()
}

/// Submits one that is so many minutes old.
async fn aged<S: Subject>(world: &World<S>, template: &TemplateId, minutes: i64) -> ExecutionId {
    let id = world.submit(template).await;
    let created = S::moved(S::now(), -minutes * 60_000);
    world.edit(&id, &format!("created_at={created}")).await;
    id
}

pub async fn a_list_has_the_newest_first_and_no_more_than_asked<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let third = aged(&world, &template, 3).await;
    let first = aged(&world, &template, 1).await;
    let undated = aged(&world, &template, 0).await;
    let second = aged(&world, &template, 2).await;
    world.edit(&undated, "created_at=NULL").await;
    let all = [first, second, third, undated];
    assert_eq!(listed(&world, Filter::default()).await, all);
    for limit in 1..=4 {
        let filter = Filter { limit, ..Filter::default() };
        assert_eq!(listed(&world, filter).await, all[..limit as usize]);
    }
    assert_eq!(world.a.list(&Filter::default()).await, Ok(Vec::new()), "none was asked for");
}

pub async fn a_list_holds_what_its_filter_says<S: Subject>() {
    let world = World::<S>::new().await;
    let one = world.apply(&workflow("one", chain(&["one"]))).await;
    let two = world.apply(&workflow("two", chain(&["one"]))).await;
    let a = aged(&world, &one, 1).await;
    let b = aged(&world, &two, 2).await;
    let c = aged(&world, &one, 3).await;
    let d = aged(&world, &one, 4).await;
    world.edit(&c, "status='failed'").await;
    world.edit(&d, "status='Failed'").await;
    let all = || Filter::default();
    let of = |template: &str| Filter { template: Some(template.into()), ..all() };
    let only = |ids: &[&ExecutionId]| Filter {
        executions: ids.iter().map(|id| (*id).clone()).collect(),
        ..all()
    };
    let failed = Some(ExecutionState::Failed);
    for (what, filter, expected) in [
        ("pending", Filter { state: Some(ExecutionState::Pending), ..all() }, vec![&a, &b]),
        ("failed", Filter { state: failed, ..all() }, vec![&c]),
        ("running", Filter { state: Some(ExecutionState::Running), ..all() }, vec![]),
        ("a name", of("one"), vec![&a, &c, &d]),
        ("an id", of("template-two"), vec![&b]),
        ("another name", of("One"), vec![]),
        ("a name with a space", of("one "), vec![]),
        ("another id", of("TEMPLATE-two"), vec![]),
        ("a pattern", of("%"), vec![]),
        ("ids", only(&[&d, &b]), vec![&b, &d]),
        ("an unknown id", only(&[&"nobody-knows".into()]), vec![]),
        ("an id and a state", Filter { state: failed, ..only(&[&a, &c]) }, vec![&c]),
        ("all", Filter { state: failed, executions: vec![c.clone()], ..of("one") }, vec![&c]),
        ("too much", Filter { executions: vec![c.clone()], ..of("two") }, vec![]),
    ] {
        let found = listed(&world, filter).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{what}");
    }
}

pub async fn a_line_of_a_list_says_whose_it_is_and_how_it_stands<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    let line = async || {
        let filter = Filter { limit: 1, ..Filter::default() };
        world.b.list(&filter).await.expect("a list").remove(0)
    };
    let held = line().await;
    assert_eq!(held.execution, *id);
    assert_eq!(held.template, Some("template-w".into()));
    assert_eq!(held.template_name.as_deref(), Some("w"));
    assert_eq!(held.status.as_deref(), Some("running"));
    assert_eq!(held.owner, "a");
    assert_eq!(held.error, None);
    assert_eq!(held.created_by.as_deref(), Some("ann@example.org"));
    assert!(held.created_at.is_some() && held.started_at >= held.created_at);
    assert_eq!(held.finished_at, None);
    assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Recorded));
    assert_eq!(line().await.owner, "~released");
    only(world.b_takes_over(id, Cause::Released).await);
    world.edit(id, "status='failed', error='why', ow_owner='', template_id='gone'").await;
    let failed = line().await;
    assert_eq!(failed.error.as_deref(), Some("why"));
    assert_eq!((failed.template, failed.template_name), (Some("gone".into()), None));
}

async fn show<S: Subject>(world: &World<S>, id: &ExecutionId) -> ExecutionDetail {
    world.b.show(id).await.expect("it is there")
}

fn step_names(detail: &ExecutionDetail) -> Vec<&str> {
    detail.steps.iter().map(|step| step.name.as_deref().unwrap_or("-")).collect()
}

pub async fn an_execution_is_shown_with_its_steps_and_every_attempt<S: Subject>() {
    let world = World::<S>::new().await;
    let mut steps = fork();
    steps[1].on_failure = Some("skip".into());
    let claim = world.a_claims(steps).await;
    let id = &claim.lease.execution;
    let sent = Advance {
        ended: vec![failed(&claim, "two")],
        retrying: vec![retry(&claim, "one")],
        started: vec![start_after_retry(&claim, "one")],
        ..advance(&claim)
    };
    assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
    let taken = only(world.b_takes_over(id, Cause::LeaseExpired).await);

    let detail = show(&world, id).await;
    assert_eq!(detail.fence, taken.lease.fence.0);
    assert_eq!(detail.summary.execution, *id);
    assert_eq!(detail.summary.owner, "b");
    assert_eq!(step_names(&detail), ["one", "two", "last"]);
    let [one, two, last] = &detail.steps[..] else { panic!("three steps") };
    assert_eq!(one.step_execution, slot(&claim, "one").id.as_str());
    assert_eq!(one.executor_type.as_deref(), Some("func"));
    assert_eq!(one.status.as_deref(), Some("running"));
    assert_eq!(one.retry_count, 1);
    assert!(one.started_at.is_some() && one.finished_at.is_none());
    let attempts: Vec<_> = one
        .attempts
        .iter()
        .map(|it| (it.attempt, it.owner.as_str(), it.outcome.as_deref(), it.cause.as_deref()))
        .collect();
    assert_eq!(
        attempts,
        [
            (1, "a", Some("failed"), Some("exit status 1")),
            (2, "a", Some("lost"), Some("lease_expired")),
            (3, "b", None, None),
        ]
    );
    let fences: Vec<u64> = one.attempts.iter().map(|it| it.fence).collect();
    assert_eq!(fences, [claim.lease.fence.0, claim.lease.fence.0, taken.lease.fence.0]);
    assert!(one.attempts[1].finished_at >= one.attempts[1].started_at);
    assert_eq!(one.attempts[2].finished_at, None);
    assert_eq!(two.status.as_deref(), Some("failed"));
    assert_eq!(two.output.as_deref(), Some("output of two"));
    assert_eq!(two.error.as_deref(), Some("exit status 1"));
    assert!(two.finished_at.is_some());
    assert_eq!(last.attempts, []);
}

pub async fn steps_are_shown_as_they_are_taken_though_the_template_is_edited<S: Subject>() {
    let world = World::<S>::new().await;
    let mut steps = chain(&["one", "two", "three"]);
    let id = world.submit_chain(&["one", "two", "three"]).await;
    assert_eq!(step_names(&show(&world, &id).await), ["one", "two", "three"]);
    // Before its first claim the template counts, after it the plan.
    steps[0].name = Some("renamed".into());
    steps.rotate_left(1);
    for step in &mut steps {
        step.dependencies = None;
    }
    world.apply(&workflow("chain", steps.clone())).await;
    assert_eq!(step_names(&show(&world, &id).await), ["two", "three", "renamed"]);
    claim_one(&world.a, "a").await;
    steps[2].name = Some("renamed again".into());
    steps[2].executor_type = Some("shell".into());
    steps.reverse();
    steps.pop();
    world.apply(&workflow("chain", steps)).await;
    let detail = show(&world, &id).await;
    assert_eq!(step_names(&detail), ["two", "three", "renamed"]);
    assert!(detail.steps.iter().all(|step| step.executor_type.as_deref() == Some("func")));
}

pub async fn times_are_told_to_the_millisecond<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    // 2024-01-02 03:04:05 UTC.
    let second = 1_704_164_645_000;
    for milliseconds in [0, 1, 123, 499, 678, 999] {
        let time = format!("'2024-01-02 03:04:05.{milliseconds:03}'");
        world.edit(id, &format!("created_at={time}, started_at={time}, finished_at={time}")).await;
        for table in ["workflow_step_executions", "ow_attempts"] {
            let sql = format!("UPDATE {table} SET started_at={time}, finished_at={time}");
            assert_eq!(world.subject.exec(&sql).await, 1);
        }
        let told = Some(UnixMillis(second + milliseconds));
        let detail = show(&world, id).await;
        let (summary, step) = (&detail.summary, &detail.steps[0]);
        let attempt = &step.attempts[0];
        for (what, time) in [
            ("created", summary.created_at),
            ("started", summary.started_at),
            ("finished", summary.finished_at),
            ("a step's start", step.started_at),
            ("a step's end", step.finished_at),
            ("an attempt's start", attempt.started_at),
            ("an attempt's end", attempt.finished_at),
        ] {
            assert_eq!(time, told, "{what}");
        }
        let filter = Filter { limit: 1, ..Filter::default() };
        let listed = world.b.list(&filter).await.expect("a list").remove(0);
        assert_eq!(listed, detail.summary);
    }
}

pub async fn what_nobody_should_have_written_is_shown_all_the_same<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    world
        .edit(&id, "status=NULL, template_id=NULL, created_by=NULL, created_at=NULL, duration=-1")
        .await;
    let odd = format!(
        "INSERT INTO workflow_step_executions(id, execution_id, step_id, status, retry_count) \
         VALUES ('odd', '{id}', 'of no template', 'paused', NULL), \
                ('odder', '{id}', NULL, NULL, -3)"
    );
    assert_eq!(world.subject.exec(&odd).await, 2);
    let detail = show(&world, &id).await;
    assert_eq!(detail.summary.status, None);
    assert_eq!(detail.summary.template, None);
    assert_eq!(detail.summary.created_at, None);
    let mut steps: Vec<_> = detail
        .steps
        .iter()
        .map(|it| (it.name.as_deref(), it.status.as_deref(), it.retry_count))
        .collect();
    steps.sort_unstable();
    let expected = [(None, None, -3), (None, Some("paused"), 0), (Some("one"), Some("pending"), 0)];
    assert_eq!(steps, expected);
    assert_eq!(listed(&world, Filter::default()).await, [id]);
}

pub async fn an_execution_is_found_by_its_very_id<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    world.edit(&id, "id='Abc'").await;
    for unknown in ["", "abc", "ABC", "Abc ", "%"] {
        let answer = world.b.show(&unknown.into()).await;
        assert_eq!(answer, Err(ControlError::NoExecution(unknown.into())));
        let executions = vec![unknown.into()];
        assert_eq!(listed(&world, Filter { executions, ..Filter::default() }).await, []);
    }
    assert_eq!(show(&world, &"Abc".into()).await.summary.execution, "Abc".into());
}
