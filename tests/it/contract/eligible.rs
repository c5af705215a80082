//! Which pending executions a claim may take.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use orchestrator_worker::{
    domain::{
        eligibility::{Backlog, Eligibility},
        id::{ExecutionId, TemplateId},
        recovery::Cause,
    },
    ports::{
        control::{Control, Filter, Pausable, Start, Submission, UnixMillis},
        executions::{Batch, Claimant, ExecutionStore},
    },
};

use super::{Subject, world::*};

fn eligible(include: &[&str], exclude: &[&str]) -> Claimant {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let eligibility =
        Eligibility { include: names(include), exclude: names(exclude), ..Eligibility::default() };
    Claimant { eligibility: Arc::new(eligibility), ..who("a") }
}

fn ids(batch: Batch) -> BTreeSet<ExecutionId> {
    claims(batch).into_keys().collect()
}

/// Templates "x", "y" and "z" with an execution each.
async fn three<S: Subject>(world: &World<S>) -> [(TemplateId, ExecutionId); 3] {
    let mut all = Vec::new();
    for name in ["x", "y", "z"] {
        let template = world.apply(&workflow(name, chain(&[name]))).await;
        let id = world.submit(&template).await;
        all.push((template, id));
    }
    all.try_into().expect("three")
}

pub async fn only_templates_that_are_let_in_are_claimed<S: Subject>() {
    let world = World::<S>::new().await;
    let [(_, x), (_, y), (_, z)] = three(&world).await;
    let claim = async |who: Claimant| ids(world.a.claim(&who, 10).await.expect("a claim"));

    assert!(claim(eligible(&["no such template"], &[])).await.is_empty());
    let queue = world.a.queue(&eligible(&["x"], &[]).eligibility).await.expect("numbers");
    assert_eq!(queue.due, 1, "what this worker may not claim does not wait for it");
    assert_eq!(claim(eligible(&["x", "z"], &["z"])).await, [x].into());
    assert_eq!(claim(eligible(&[], &["z"])).await, [y].into());
    assert!(claim(eligible(&["X", "Z"], &[])).await.is_empty(), "names are told by their case");
    // An execution without a template is nobody's but is not kept out by the names of others.
    world.edit(&z, "template_id=NULL").await;
    let batch = world.a.claim(&eligible(&[], &["y"]), 10).await.expect("a claim");
    assert_eq!(batch.refused.len(), 1, "it names no template");
}

pub async fn a_paused_template_waits_and_goes_on_when_it_is_resumed<S: Subject>() {
    let world = World::<S>::new().await;
    let [(template, x), (_, y), (_, z)] = three(&world).await;
    let change = world.a.pause(&Pausable::Template("x".into())).await.expect("paused");
    assert_eq!((change.template.as_ref(), change.changed), (Some(&template), true));
    let again = world.b.pause(&Pausable::Template(template.to_string())).await.expect("paused");
    assert!(!again.changed);
    let paused = world.b.paused().await.expect("a list");
    assert_eq!(paused.len(), 1);
    assert_eq!(paused[0].template_name.as_deref(), Some("x"));
    assert!(paused[0].since.is_some());

    assert_eq!(ids(world.a.claim(&who("a"), 10).await.expect("a claim")), [y, z].into());
    let queue = world.a.queue(&Eligibility::default()).await.expect("numbers");
    assert_eq!(queue.due, 0, "what is paused does not wait");
    assert!(world.b.resume(&Pausable::Template("x".into())).await.expect("resumed").changed);
    assert!(!world.b.resume(&Pausable::Template("x".into())).await.expect("resumed").changed);
    assert_eq!(ids(world.a.claim(&who("a"), 10).await.expect("a claim")), [x].into());
    let missing = world.a.pause(&Pausable::Template("nothing".into())).await;
    assert!(missing.expect_err("it is refused").to_string().contains("nothing"));
}

pub async fn a_pause_of_all_stops_every_claim_and_no_takeover<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    claim_one(&world.a, "a").await;
    let other = world.submit(&"template-chain".into()).await;
    world.a.pause(&Pausable::All).await.expect("paused");
    assert!(is_nothing(&world.a.claim(&eligible(&["chain"], &[]), 10).await.expect("a claim")));
    let taken = only(world.b_takes_over(&id, Cause::LeaseExpired).await);
    assert_eq!(taken.lease.execution, id, "what runs goes on");
    world.a.resume(&Pausable::All).await.expect("resumed");
    assert_eq!(claim_one(&world.a, "a").await.lease.execution, other);
}

/// Makes an execution older than any that a fresh installation should run.
async fn make_old<S: Subject>(world: &World<S>, id: &ExecutionId, days: i64) {
    let created = S::moved(S::now(), -days * 24 * 3_600_000);
    world.edit(id, &format!("created_at={created}")).await;
}

pub async fn the_backlog_is_held_until_it_is_released<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut old = Vec::new();
    for days in [2, 400] {
        let id = world.submit(&template).await;
        make_old(&world, &id, days).await;
        old.push(id);
    }
    let recent = world.submit(&template).await;
    world.edit(&recent, &format!("created_at={}", S::moved(S::now(), -23 * 3_600_000))).await;

    let queue = world.a.queue(&Eligibility::default()).await.expect("numbers");
    assert_eq!((queue.due, queue.backlog), (1, 2));
    assert!(queue.oldest_backlog > Duration::from_secs(399 * 24 * 3600));
    assert!(queue.oldest_due < Duration::from_secs(24 * 3600), "the backlog does not wait");
    assert_eq!(claim_one(&world.a, "a").await.lease.execution, recent);
    let held = world.a.backlog().await.expect("numbers");
    assert_eq!(held.executions, 2);
    assert!(held.oldest < held.newest);
    let filter = Filter { backlog: true, limit: 10, ..Filter::default() };
    let listed = world.a.list(&filter).await.expect("a list");
    assert_eq!(listed.iter().map(|one| &one.execution).collect::<Vec<_>>(), [&old[0], &old[1]]);

    assert_eq!(world.a.release_backlog(None).await.expect("released"), 2);
    assert_eq!(world.a.release_backlog(None).await.expect("released"), 0, "twice is once");
    let newer = world.submit(&template).await;
    let claimed = world.a.claim(&who("a"), 2).await.expect("a claim");
    assert_eq!(ids(claimed), old.into_iter().collect(), "before everything newer");
    assert_eq!(claim_one(&world.a, "a").await.lease.execution, newer);
    assert_eq!(world.a.backlog().await.expect("numbers").executions, 0);
}

pub async fn the_backlog_of_one_template_is_released_alone<S: Subject>() {
    let world = World::<S>::new().await;
    let [(_, x), (_, y), (_, z)] = three(&world).await;
    for id in [&x, &y, &z] {
        make_old(&world, id, 30).await;
    }
    world.a.release_backlog(Some("nothing")).await.expect_err("no such template");
    assert_eq!(world.a.release_backlog(Some("y")).await.expect("released"), 1);
    assert_eq!(claim_one(&world.a, "a").await.lease.execution, y);
    // A cancelled one is no backlog any more, and a retry is wanted by somebody.
    world.a.cancel(&x).await.expect("cancelled");
    assert_eq!(world.a.backlog().await.expect("numbers").executions, 1);
    world.a.retry(&x).await.expect("retried");
    assert_eq!(claim_one(&world.a, "a").await.lease.execution, x);
    assert_eq!(world.status(&z).await, "pending");
}

pub async fn a_worker_that_is_told_to_runs_the_backlog<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    make_old(&world, &id, 400).await;
    assert!(is_nothing(&world.a.claim(&who("a"), 10).await.expect("a claim")));
    let eligibility = Eligibility { backlog: Backlog::Run, ..Eligibility::default() };
    let queue = world.a.queue(&eligibility).await.expect("numbers");
    assert_eq!((queue.due, queue.backlog), (1, 0));
    let eager = Claimant { eligibility: Arc::new(eligibility), ..who("a") };
    assert_eq!(only(world.a.claim(&eager, 10).await.expect("a claim")).lease.execution, id);
}

pub async fn a_scheduled_execution_waits_for_its_moment<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let submit = async |start| {
        let (template, created_by) = (template.to_string(), String::new());
        let submission = Submission { template, created_by, start, traceparent: None };
        world.a.submit(&submission).await.expect("it is submitted").execution
    };
    let now = submit(Start::Now).await;
    let past = submit(Start::At(UnixMillis(1_000_000_000_123))).await;
    let later = submit(Start::After(Duration::from_secs(1800))).await;
    let far = submit(Start::At(UnixMillis(4_000_000_000_123))).await;

    let shown = world.a.show(&far).await.expect("it is there").summary;
    assert_eq!(shown.not_before, Some(UnixMillis(4_000_000_000_123)));
    let due: BTreeSet<_> = [now, past].into();
    assert_eq!(ids(world.a.claim(&who("a"), 10).await.expect("a claim")), due);
    let queue = world.a.queue(&Eligibility::default()).await.expect("numbers");
    assert_eq!((queue.due, queue.later), (0, 2));
    world.pass(HOUR).await;
    assert_eq!(claim_one(&world.a, "a").await.lease.execution, later);
}
