//! Why an execution is not running, told by the rows of a real store.

use std::{collections::BTreeSet, time::Duration};

use orchestrator_worker::{
    domain::{
        death::{EndedBy, PodEnd},
        eligibility::Eligibility,
        execution::{AttemptOutcome, ExecutionState},
        explain::{Explanation, View, explain},
        id::ExecutionId,
        plan::Finish,
        recovery::Cause,
    },
    ports::{
        control::{Control, LockFilter, Pausable, Start, Submission},
        executions::{Advance, Advanced, Claim, ExecutionStore, HandBack, StepEnd},
    },
};

use super::{Subject, world::*};

async fn explained<S: Subject>(world: &World<S>, id: &ExecutionId) -> Explanation {
    let facts = world.b.facts(id).await.expect("it is there");
    let supported = (*who("b").supported).clone();
    let look_within = Duration::from_secs(20);
    explain(&facts, &View { supported, look_within, ..View::default() })
}

/// Its reason is this one, and says so.
async fn is<S: Subject>(world: &World<S>, id: &ExecutionId, reason: &str, because: &str) {
    let explanation = explained(world, id).await;
    assert_eq!(explanation.reason, reason, "{explanation:?}");
    assert!(explanation.because.contains(because), "{because:?} is not in {explanation:?}");
    assert!(!explanation.next.is_empty());
}

fn ended(claim: &Claim, succeeded: bool) -> Advance {
    let (outcome, state) = if succeeded {
        (AttemptOutcome::Success, ExecutionState::Success)
    } else {
        (AttemptOutcome::Failed, ExecutionState::Failed)
    };
    let mut advance = Advance::new(claim.lease.clone());
    let error = (!succeeded).then(|| "exit code 3".to_owned());
    advance.ended.push(StepEnd {
        step: claim.slots[0].id.clone(),
        attempt: 1,
        succeeded,
        outcome,
        output: None,
        error: error.clone(),
        retry_count: 0,
    });
    let error = error.map(|error| format!("step one failed: {error}"));
    advance.finish = Some(Finish { state, error });
    advance
}

pub async fn a_pending_execution_is_explained<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    is(&world, &id, "no_worker_seen", "no worker holds any execution").await;
    let other = world.submit(&"template-chain".into()).await;
    world.edit(&other, &format!("created_at={}", S::moved(S::now(), -60_000))).await;
    is(&world, &id, "no_worker_seen", "nothing speaks against it").await;
    claim_one_of(&world, 1).await;
    is(&world, &id, "waiting", "next in line; 1 worker holds 1 execution").await;
    world.edit(&id, &format!("created_at={}", S::moved(S::now(), -90_000))).await;
    is(&world, &id, "no_free_slots", "due for 1m 30s and no worker").await;

    world.foreign_lock(&id, "go-1", 300).await;
    is(&world, &id, "locked", "held by go-1").await;
    // Not due for a moment, because a worker has met the lock.
    assert_eq!(world.b.claim(&who("b"), 1).await.expect("a claim").deferred.len(), 1);
    is(&world, &id, "locked", "held by go-1").await;
    world.edit(&id, "ow_not_before=NULL").await;
    world.a.pause(&Pausable::Template("chain".into())).await.expect("paused");
    is(&world, &id, "paused", "template \"chain\" is paused").await;
    world.a.pause(&Pausable::All).await.expect("paused");
    is(&world, &id, "paused", "all templates").await;
    world.a.resume(&Pausable::All).await.expect("resumed");
    world.a.resume(&Pausable::Template("chain".into())).await.expect("resumed");
    world.edit(&id, &format!("created_at={}", S::moved(S::now(), -200 * 3_600_000))).await;
    is(&world, &id, "backlog", "first migrated").await;
    world.edit(&id, "ow_fence=9000000000000000000").await;
    is(&world, &id, "fence_exhausted", "9000000000000000000").await;

    let template = "template-chain".to_owned();
    let start = Start::After(Duration::from_secs(7230));
    let submission = Submission { template, created_by: String::new(), start, traceparent: None };
    let later = world.a.submit(&submission).await.expect("it is submitted").execution;
    is(&world, &later, "not_due", "not due for another 2h 0m").await;
    let include = ["another".to_owned()].into();
    let view =
        View { eligibility: Eligibility { include, ..Eligibility::default() }, ..View::default() };
    let facts = world.b.facts(&later).await.expect("it is there");
    assert_eq!(explain(&facts, &view).reason, "filtered");
    world.b.facts(&"nothing".into()).await.expect_err("there is none");
}

/// Claims so many, the oldest first.
async fn claim_one_of<S: Subject>(world: &World<S>, limit: usize) -> Claim {
    only(world.a.claim(&who("a"), limit).await.expect("a claim"))
}

pub async fn what_cannot_be_claimed_is_explained<S: Subject>() {
    let world = World::<S>::new().await;
    let half = world.submit_chain(&["one", "two"]).await;
    let gone = format!("DELETE FROM workflow_step_executions WHERE step_id='{}'", step_id("two"));
    world.subject.exec(&gone).await;
    is(&world, &half, "half_made", "1 of its 2 step rows").await;

    let mut steps = chain(&["three"]);
    steps[0].parameters = Some(r#"{"func":"brew"}"#.into());
    let template = world.apply(&workflow("unknown", steps)).await;
    let unknown = world.submit(&template).await;
    is(&world, &unknown, "unknown_action", "function \"brew\" of step three").await;

    let template = world.apply(&workflow("broken", chain(&["four"]))).await;
    let broken = world.submit(&template).await;
    let sql = format!("UPDATE steps SET parameters='[' WHERE id='{}'", step_id("four"));
    world.subject.exec(&sql).await;
    is(&world, &broken, "not_runnable", "step \"four\" cannot be run").await;
    world.edit(&broken, "template_id=NULL").await;
    is(&world, &broken, "not_runnable", "names no template").await;
    world.edit(&broken, "status=NULL").await;
    is(&world, &broken, "unknown_state", "NULL").await;
    world.edit(&broken, "status='resting'").await;
    is(&world, &broken, "unknown_state", "\"resting\"").await;
}

pub async fn a_running_execution_is_explained<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one", "two"]).await;
    claim_one(&world.a, "a").await;
    is(&world, &id, "running", "a runs it, in step one (attempt 1, for ").await;
    world.pass(Duration::from_secs(20)).await;
    is(&world, &id, "orphaned", "has not renewed its lease for 20s").await;
    world.pass(HOUR).await;
    is(&world, &id, "orphaned", "for 1h 0m").await;
    world.subject.exec("DELETE FROM distributed_locks").await;
    is(&world, &id, "lock_missing", "its lock row is gone").await;
    let node = Some("n-1".into());
    let killed = PodEnd { by: EndedBy::OomKill, exit_code: 137, node };
    let claim = only(world.b_takes_over(&id, Cause::PodEnded(killed)).await);
    let lost = "; before that a was lost: oom_killed (exit code 137, node n-1)";
    is(&world, &id, "running", "b runs it, in step one (attempt 2, for ").await;
    is(&world, &id, "running", lost).await;
    let returned = HandBack { lease: claim.lease, drained: Vec::new() };
    assert_eq!(world.b.hand_back(&[returned]).await, [Ok(Advanced::Recorded)]);
    is(&world, &id, "released", "handed it back").await;
    world.a.cancel(&id).await.expect("cancelled");
    is(&world, &id, "being_cancelled", "after it was handed back").await;

    let own = world.submit(&"template-chain".into()).await;
    world.edit(&own, "status='running'").await;
    is(&world, &own, "run_by_orchestrator", "holds no lock").await;
    world.foreign_lock(&own, "go-1", 330).await;
    is(&world, &own, "run_by_orchestrator", "as go-1, whose lock holds for 5m ").await;
}

pub async fn an_execution_that_has_ended_is_explained<S: Subject>() {
    let world = World::<S>::new().await;
    let good = world.submit_chain(&["one"]).await;
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(world.a.advance(&[ended(&claim, true)]).await, [Ok(Advanced::Recorded)]);
    is(&world, &good, "succeeded", "every step succeeded").await;

    let bad = world.submit(&"template-chain".into()).await;
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(world.a.advance(&[ended(&claim, false)]).await, [Ok(Advanced::Recorded)]);
    is(&world, &bad, "failed", "step one failed: exit code 3").await;
    world.edit(&bad, "error=NULL").await;
    is(&world, &bad, "failed", "step one failed: exit code 3").await;

    let gone = world.submit(&"template-chain".into()).await;
    claim_one(&world.a, "a").await;
    world.b.cancel(&gone).await.expect("cancelled");
    is(&world, &gone, "being_cancelled", "while a held it").await;
    let never = world.submit(&"template-chain".into()).await;
    world.b.cancel(&never).await.expect("cancelled");
    is(&world, &never, "cancelled", "somebody cancelled it").await;
}

pub async fn workers_and_locks_are_told_from_each_other<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    for _ in 0..3 {
        world.submit(&template).await;
    }
    world.a.claim(&who("a"), 2).await.expect("a claim");
    world.b.claim(&who("b"), 1).await.expect("a claim");
    let workers = world.b.workers().await.expect("a list");
    let held: Vec<(&str, u64)> =
        workers.iter().map(|worker| (worker.owner.as_str(), worker.executions)).collect();
    assert_eq!(held, [("a", 2), ("b", 1)]);
    assert!(workers.iter().all(|worker| worker.renewed_ago_ms < Some(10_000)));

    let list = async |filter: LockFilter| world.b.locks(&filter).await.expect("a list");
    let all = LockFilter { limit: 10, ..LockFilter::default() };
    let locks = list(all.clone()).await;
    assert_eq!(locks.len(), 3);
    assert!(locks.iter().all(|lock| lock.expires_in_ms > 0 && lock.fence > 0 && lock.beat == 1));
    let of_b = list(LockFilter { owner: Some("b".into()), ..all.clone() }).await;
    assert_eq!(of_b.len(), 1);
    let key = of_b[0].key.clone();
    let of_key = list(LockFilter { key: Some(key.clone()), ..all.clone() }).await;
    assert_eq!((of_key.len(), &of_key[0].key), (1, &key));
    assert!(list(LockFilter { expired: true, ..all.clone() }).await.is_empty());

    // Of all that is long expired only what is nobody's lease is deleted.
    world.foreign_lock(&"stone".into(), "~finished", -120).await;
    let now = S::now();
    let plain = format!(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) \
         VALUES ('mine', 'me', {}, {now}, {now})",
        S::moved(now, -120_000)
    );
    world.subject.exec(&plain).await;
    world.pass(HOUR).await;
    assert!(world.b.workers().await.expect("a list").is_empty(), "their leases have expired");
    assert_eq!(world.b.clean_locks(true).await, Ok(2));
    assert_eq!(world.b.clean_locks(false).await, Ok(2));
    let left: BTreeSet<String> = list(all).await.into_iter().map(|lock| lock.owner).collect();
    assert_eq!(left, ["a".to_owned(), "b".to_owned()].into());
    assert!(world.b.clean_locks_sql().starts_with("DELETE FROM "));
}
