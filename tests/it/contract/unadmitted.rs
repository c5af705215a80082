//! What a watcher takes over and then must not run: it is left for others, or failed with a reason,
//! and never becomes pending again.

use std::time::Duration;

use orchestrator_worker::{
    domain::{
        deferral::Deferral,
        id::Beat,
        lease::Renewal,
        recovery::{Cause, Held, Holder, TakeOver},
    },
    ports::executions::{AdvanceError, Batch, Claim, ClaimKind, Claimant, ExecutionStore},
};

use super::{Subject, world::*, writes::*};

/// A worker of another build, which does not know the function of the steps.
fn stranger(name: &str) -> Claimant {
    let mut who = who(name);
    let supported = std::sync::Arc::make_mut(&mut who.supported);
    supported.functions.clear();
    who
}

async fn takes(store: &impl ExecutionStore, who: &Claimant, seen: Held, cause: Cause) -> Batch {
    store.take_over(who, &[TakeOver { seen, cause }]).await.expect("a takeover")
}

/// The former owner has lost it for good.
async fn is_shut_out<S: Subject>(world: &World<S>, claim: &Claim) {
    let before = world.everything().await;
    let lease = std::slice::from_ref(&claim.lease);
    assert_eq!(world.a.renew(TTL, Beat(9), lease).await, Ok(vec![Renewal::Lost]));
    for (kind, sent) in every_kind(claim) {
        assert_eq!(send(&world.a, &sent).await, Err(AdvanceError::Fenced), "{kind}");
    }
    assert_eq!(hand_back(&world.a, claim).await, Err(AdvanceError::Fenced));
    assert_eq!(world.everything().await, before);
}

pub async fn what_a_watcher_cannot_run_is_left_released_for_the_next<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    let plan = world.execution(id, "ow_plan").await;
    let seen = world.held(id).await.expect("it is held");
    let batch = takes(&world.b, &stranger("b"), seen, Cause::LeaseExpired).await;
    assert!(batch.claims.is_empty() && batch.refused.is_empty());
    let unknown = "function \"noop\" of step one".to_owned();
    assert_eq!(batch.deferred, [(id.clone(), Deferral::Unknown(unknown))]);

    // Never pending, or the Go service might start it in its middle.
    assert_eq!(world.status(id).await, "running");
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some("~released"));
    assert_eq!(world.execution(id, "ow_claims").await.as_deref(), Some("1"), "it was unclean");
    assert_eq!(world.execution(id, "ow_not_before").await, None);
    assert_eq!(world.execution(id, "ow_plan").await, plan);
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~released"));
    assert_eq!(world.steps(id, &["one", "two", "last"]).await, ["running", "running", "pending"]);
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("lost/lease_expired/a"));
    assert_eq!(world.attempt(id, "one", 2).await, None);
    is_shut_out(&world, &claim).await;

    let seen = world.held(id).await.expect("it is seen");
    assert_eq!(seen.by, Holder::Released);
    let taken = only(takes(&world.a, &who("c"), seen, Cause::Released).await);
    assert_eq!(taken.kind, ClaimKind::TakenOver { from: None, cause: Cause::Released });
    assert_eq!(started(&taken), ["one", "two"]);
    let one = slot(&taken, "one");
    assert_eq!((one.attempt, one.key_gen, one.retry_count), (2, 0, 0));
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("lost/lease_expired/a"));
}

pub async fn what_a_watcher_could_not_run_it_leaves_alone_for_a_moment<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", fork())).await;
    world.submit(&template).await;
    // It has come across it so often that its back-off is the longest there is.
    for _ in 0..6 {
        let batch = world.b.claim(&stranger("b"), 1).await.expect("a claim");
        assert_eq!(batch.deferred.len(), 1);
        world.pass(Duration::from_secs(10)).await;
    }
    let claim = claim_one(&world.a, "a").await;
    let id = &claim.lease.execution;
    let seen = world.held(id).await.expect("it is held");
    let batch = takes(&world.b, &stranger("b"), seen, Cause::LeaseExpired).await;
    assert_eq!(batch.deferred.len(), 1);
    // At its very next poll it finds it released, as everybody does.
    let seen = world.held(id).await.expect("it is seen");
    let before = world.everything().await;
    let batch = takes(&world.b, &stranger("b"), seen.clone(), Cause::Released).await;
    assert!(is_nothing(&batch), "{batch:?}");
    assert_eq!(world.everything().await, before);
    // A process that has not tried yet knows nothing of it.
    let third = world.subject.store().await;
    let batch = takes(&third, &stranger("c"), seen, Cause::Released).await;
    assert_eq!(batch.deferred.len(), 1);
}

pub async fn what_no_worker_learns_to_run_is_failed<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    let impatient = Claimant { unknown_after: Duration::ZERO, ..stranger("b") };
    let seen = world.held(id).await.expect("it is held");
    let batch = takes(&world.b, &impatient, seen, Cause::LeaseExpired).await;
    let reason = "this worker does not know function \"noop\" of step one, and no newer one has \
                  taken it";
    assert!(batch.claims.is_empty() && batch.deferred.is_empty());
    assert_eq!(batch.refused, [(id.clone(), reason.to_owned())]);
    has_failed(&world, &claim, reason).await;
}

/// Ended as failed by `b`, with nothing left open.
async fn has_failed<S: Subject>(world: &World<S>, claim: &Claim, reason: &str) {
    let id = &claim.lease.execution;
    assert_eq!(world.status(id).await, "failed");
    assert_eq!(world.execution(id, "error").await.as_deref(), Some(reason));
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
    for column in ["started_at", "finished_at", "duration"] {
        assert!(world.execution(id, column).await.is_some(), "{column}");
    }
    assert_eq!(world.steps(id, &["one", "two", "last"]).await, ["failed", "failed", "skipped"]);
    for name in ["one", "two", "last"] {
        assert_eq!(world.step(id, name, "error").await.as_deref(), Some(reason));
    }
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("lost/lease_expired/a"));
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
    assert_eq!(world.held(id).await, None);
    is_shut_out(world, claim).await;
}

pub async fn what_cannot_be_read_any_more_is_failed_with_the_reason<S: Subject>() {
    let world = World::<S>::new().await;
    for (sql, reason) in [
        (
            "UPDATE workflow_step_executions SET status='paused' WHERE id='{one}'",
            "step one has an unknown status \"paused\"",
        ),
        ("DELETE FROM ow_plans", "the plan of its first claim is not in ow_plans any more"),
    ] {
        let claim = world.a_claims(fork()).await;
        let id = &claim.lease.execution;
        let sql = sql.replace("{one}", slot(&claim, "one").id.as_str());
        assert_eq!(world.subject.exec(&sql).await, 1);
        let seen = world.held(id).await.expect("it is held");
        // A worker that has been started since.
        let fresh = world.subject.store().await;
        let batch = takes(&fresh, &who("b"), seen, Cause::LeaseExpired).await;
        assert_eq!(batch.refused, [(id.clone(), reason.to_owned())]);
        assert_eq!(world.status(id).await, "failed");
        assert_eq!(world.execution(id, "error").await.as_deref(), Some(reason));
        assert_eq!(world.step(id, "last", "status").await.as_deref(), Some("skipped"));
        assert_eq!(world.step(id, "two", "status").await.as_deref(), Some("failed"));
        assert_eq!(world.attempt(id, "two", 1).await.as_deref(), Some("lost/lease_expired/a"));
        is_shut_out(&world, &claim).await;
    }
}

pub async fn one_that_is_not_admitted_does_not_hurt_the_others<S: Subject>() {
    let world = World::<S>::new().await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(world.a_claims(fork()).await);
    }
    let odd = &all[1];
    let sql = format!(
        "UPDATE workflow_step_executions SET status='paused' WHERE id='{}'",
        slot(odd, "one").id
    );
    assert_eq!(world.subject.exec(&sql).await, 1);
    let survey = world.b.survey().await.expect("a survey");
    let cause = Cause::LeaseExpired;
    let due: Vec<TakeOver> =
        survey.into_iter().map(|seen| TakeOver { seen, cause: cause.clone() }).collect();
    let batch = world.b.take_over(&who("b"), &due).await.expect("a takeover");
    assert_eq!(batch.refused.len(), 1);
    assert_eq!(batch.refused[0].0, odd.lease.execution);
    assert_eq!(batch.claims.len(), 2);
}
