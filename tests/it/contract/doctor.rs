//! What `doctor` finds in a real store.

use std::{collections::BTreeMap, time::Duration};

use orchestrator_worker::{
    domain::{
        definition::RecordedStep,
        doctor::{Facts, Finding, Repaired, Repairs, Verdict, View, diagnose, repairs, template},
        eligibility::Backlog,
        intake::Supported,
        lock_table::LockTable,
    },
    ports::{control::Control, executions::ExecutionStore},
};

use super::{Subject, world::*};

/// What a configuration of defaults says.
pub fn view() -> View {
    View {
        backlog: Backlog::Hold,
        unknown_after: HOUR,
        retention: false,
        time_offset: Some("+00:00".into()),
        lock_table: LockTable::default(),
        drain_deadline: Duration::from_secs(60),
        pod: None,
    }
}

fn findings(facts: &Facts) -> Vec<Finding> {
    diagnose(facts, &view(), &Repaired::default())
}

/// What needs a person; warnings depend on how a server is set up.
pub fn problems(facts: &Facts) -> Vec<Finding> {
    let all = findings(facts).into_iter();
    all.filter(|finding| finding.verdict == Verdict::Problem).collect()
}

/// The one problem there is.
pub fn problem(facts: &Facts) -> Finding {
    let mut all = problems(facts);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn warned(facts: &Facts, check: &str, says: &str) {
    let all = findings(facts);
    let is_it = |finding: &&Finding| finding.check == check && finding.found.contains(says);
    let found = all.iter().find(is_it).unwrap_or_else(|| panic!("no {says:?} in {all:?}"));
    assert_eq!(found.verdict, Verdict::Warning, "{found:?}");
}

pub async fn an_empty_database_is_told_to_be_migrated_and_is_well_after_it<S: Subject>() {
    let subject = S::create().await;
    let store = subject.store().await;
    let facts = store.examine().await;
    let found = problem(&facts);
    assert_eq!(found.check, "schema");
    assert!(found.found.contains("create table steps"), "{found:?}");
    assert_eq!(repairs(&facts), Repairs { migrate: true, clean: false });
    assert_eq!(
        store.examine().await.tables.map(|it| it.pending),
        facts.tables.map(|it| it.pending)
    );

    store.migrate(false).await.expect("it is migrated");
    let facts = store.examine().await;
    assert_eq!(problems(&facts), []);
    assert_eq!(repairs(&facts), Repairs::default());
    let checks: Vec<&str> = findings(&facts).iter().map(|finding| finding.check).collect();
    for check in ["server", "schema", "indexes", "grants", "clock", "zone", "lock", "rows"] {
        assert!(checks.contains(&check), "{check} is not in {checks:?}");
    }
    let clock = facts.clock.expect("there are tables");
    assert!(clock.ahead_ms.abs() < 5_000, "it is the same machine: {clock:?}");

    subject.exec("UPDATE ow_meta SET oldest_reader=1000").await;
    let found = problem(&subject.store().await.examine().await);
    assert!(found.found.contains("needs a worker of schema 1000"), "{found:?}");
}

pub async fn a_trial_lock_leaves_everything_as_it_was<S: Subject>() {
    let world = World::<S>::new().await;
    world.submit_chain(&["one"]).await;
    claim_one(&world.a, "a").await;
    world.foreign_lock(&"other".into(), "go-1", 300).await;
    let before = world.everything().await;
    let facts = world.b.examine().await;
    let round = facts.round_trip.expect("a lock is free");
    assert!(round.acquire + round.renew + round.release > Duration::ZERO);
    assert_eq!(world.everything().await, before);
}

pub async fn what_waits_and_what_no_version_knows_is_counted<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    for set in ["status=NULL", "status='resting'", "status='running', ow_owner='a'"] {
        let id = world.submit(&template).await;
        world.edit(&id, set).await;
    }
    let old = world.submit(&template).await;
    world.edit(&old, &format!("created_at={}", S::moved(S::now(), -200 * 3_600_000))).await;
    let future = world.submit(&template).await;
    world.edit(&future, &format!("created_at={}", S::moved(S::now(), 8 * 3_600_000))).await;
    world.submit(&template).await;

    let facts = world.b.examine().await;
    let rows = facts.rows.clone().expect("there are tables");
    assert_eq!((rows.unknown, rows.running, rows.backlog), (2, 1, 1));
    assert_eq!(rows.oldest_backlog.as_secs() / 3600, 200);
    assert!(rows.due >= 1 && rows.later == 1, "{rows:?}");
    assert_eq!(facts.clock.as_ref().map(|clock| clock.future), Ok(1));
    warned(&facts, "rows", "2 executions with a status that is NULL");
    warned(&facts, "backlog", "1 execution from before the first migration");
    warned(&facts, "zone", "1 pending execution created in the future, up to 7h 59m");
    assert_eq!(problems(&facts), []);
}

pub async fn a_lock_row_in_another_zone_names_the_offset_to_set<S: Subject>() {
    let world = World::<S>::new().await;
    world.submit_chain(&["one"]).await;
    claim_one(&world.a, "a").await;
    let compared = async || world.b.examine().await.clock.expect("tables").orchestrator_ms;
    assert_eq!(compared().await, None, "no worker's row is compared");
    world.foreign_lock(&"old".into(), "go-1", -9_000).await;
    world
        .edit_lock(&"old".into(), &format!("updated_at={}", S::moved(S::now(), -86_400_000)))
        .await;
    world.foreign_lock(&"new".into(), "go-1", 300).await;
    let difference = compared().await.expect("there is one");
    assert!(difference.abs() < 60_000, "the newest row counts: {difference}");
    let at_start = world.b.circumstances().await.expect("tables").orchestrator_ms;
    assert!(at_start.is_some_and(|it| it.abs_diff(difference) < 60_000), "{at_start:?}");
    assert_eq!(problems(&world.b.examine().await), []);

    for (minutes, offset) in [(480, "+08:00"), (330, "+05:30"), (-300, "-05:00")] {
        world
            .edit_lock(&"old".into(), &format!("updated_at={}", S::moved(S::now(), -864_000_000)))
            .await;
        let there = S::moved(S::now(), minutes * 60_000);
        world.edit_lock(&"new".into(), &format!("updated_at={there}")).await;
        let found = problem(&world.b.examine().await);
        assert_eq!(found.check, "zone");
        let repair = found.repair.expect("it says what to do");
        assert!(repair.starts_with(&format!("set database.time_offset to {offset} ")), "{repair}");
    }
}

pub async fn the_step_that_may_run_for_longest_is_found<S: Subject>() {
    let world = World::<S>::new().await;
    let found = async || {
        let longest = world.b.examine().await.longest_step.expect("there are tables");
        let at_start = world.b.circumstances().await.expect("there are tables").longest_step;
        assert_eq!(longest, at_start);
        longest.map(|it| (it.template, it.step, it.timeout.as_secs()))
    };
    assert_eq!(found().await, None);
    world.submit_chain(&["one", "two", "three"]).await;
    let set = async |name: &str, timeout: &str| {
        let sql = format!("UPDATE steps SET timeout={timeout} WHERE id='{}'", step_id(name));
        world.subject.exec(&sql).await;
    };
    for (one, two, three, longest) in [
        ("NULL", "10", "20", ("one", 30)),
        ("0", "-5", "600", ("three", 600)),
        ("45", "9223372036854775807", "1", ("two", 31_536_000)),
    ] {
        set("one", one).await;
        set("two", two).await;
        set("three", three).await;
        let (step, seconds) = longest;
        assert_eq!(found().await, Some(("chain".into(), step.into(), seconds)));
    }
}

pub async fn what_doctor_cleans_is_what_locks_clean_cleans<S: Subject>() {
    let world = World::<S>::new().await;
    world.submit_chain(&["one"]).await;
    claim_one(&world.a, "a").await;
    world.foreign_lock(&"stone".into(), "~finished", 60).await;
    let facts = world.b.examine().await;
    assert_eq!(repairs(&facts), Repairs::default());
    world.pass(HOUR).await;
    let facts = world.b.examine().await;
    assert_eq!(repairs(&facts), Repairs { migrate: false, clean: true });
    warned(&facts, "locks", "1 expired lock row");
    assert_eq!(world.b.clean_locks(false).await, Ok(1));
    assert_eq!(repairs(&world.b.examine().await), Repairs::default());
}

pub async fn a_column_that_somebody_has_dropped_is_named<S: Subject>() {
    let world = World::<S>::new().await;
    world.subject.exec("ALTER TABLE ow_paused DROP COLUMN since").await;
    world.subject.exec("ALTER TABLE workflow_executions DROP COLUMN ow_run").await;
    let found = problem(&world.subject.store().await.examine().await);
    let names = "somebody has dropped workflow_executions.ow_run, ow_paused.since";
    assert_eq!((found.check, &*found.found), ("schema", names));
}

/// Named templates of one step each, made by hand in the ways that rows can be broken.
fn templates() -> Vec<(&'static str, RecordedStep)> {
    let one = |name| step(name);
    let edited = |name: &'static str, edit: fn(&mut RecordedStep)| {
        let mut step = one(name);
        edit(&mut step);
        (name, step)
    };
    vec![
        edited("good", |_| {}),
        edited("timeless", |step| step.timeout = Some(0)),
        edited("itself", |step| step.dependencies = Some(r#"["step-itself"]"#.into())),
        edited("mode", |step| step.run_mode = Some("sideways".into())),
        edited("json", |step| step.parameters = Some("[".into())),
        edited("function", |step| step.parameters = Some(r#"{"func":"brew"}"#.into())),
        edited("kind", |step| step.executor_type = Some("ssh".into())),
        edited("negative", |step| step.timeout = Some(-1)),
    ]
}

pub async fn a_template_that_is_called_runnable_is_claimed_and_one_refused_is_not<S: Subject>() {
    let world = World::<S>::new().await;
    let mut executions = BTreeMap::new();
    for (name, step) in templates() {
        let template = world.apply(&workflow(name, vec![step])).await;
        executions.insert(name, world.submit(&template).await);
    }
    let gone = world.apply(&workflow("gone", chain(&["gone"]))).await;
    executions.insert("gone", world.submit(&gone).await);
    world.subject.exec("DELETE FROM steps WHERE id='step-gone'").await;

    let supported: Supported = (*who("b").supported).clone();
    let stored = world.b.templates().await.expect("a list");
    let verdicts: BTreeMap<String, Verdict> = stored
        .iter()
        .map(|stored| template(stored, &supported))
        .map(|finding| (finding.template.unwrap_or_default(), finding.verdict))
        .collect();
    let refused = ["function", "gone", "itself", "json", "kind", "mode", "negative"];
    let expected = refused.map(|name| (name.to_owned(), Verdict::Problem)).into_iter();
    let expected = expected
        .chain([("good".to_owned(), Verdict::Ok), ("timeless".to_owned(), Verdict::Warning)]);
    assert_eq!(verdicts, expected.collect());

    let batch = world.b.claim(&who("b"), 50).await.expect("a claim");
    let mut claimed: Vec<_> =
        batch.claims.iter().map(|claim| claim.lease.execution.clone()).collect();
    claimed.sort();
    let mut runnable = vec![executions["good"].clone(), executions["timeless"].clone()];
    runnable.sort();
    assert_eq!(claimed, runnable);
}
