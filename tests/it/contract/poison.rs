//! Executions that cost their workers their lives: counted, and failed in the end.

use orchestrator_worker::{
    domain::recovery::{Cause, TakeOver},
    ports::executions::{Advance, Advanced, Batch, Claim, ExecutionStore},
};

use super::{Subject, world::*, writes::*};

/// The worker that holds it is dead, and `name` takes it over; [`who`] stands three unclean ends.
async fn next<S: Subject>(world: &World<S>, claim: &Claim, name: &str, cause: Cause) -> Batch {
    let seen = world.held(&claim.lease.execution).await.expect("it is held");
    let due = [TakeOver { seen, cause }];
    world.b.take_over(&who(name), &due).await.expect("a takeover")
}

async fn unclean<S: Subject>(world: &World<S>, claim: &Claim) -> String {
    world.execution(&claim.lease.execution, "ow_claims").await.unwrap_or_default()
}

pub async fn what_kills_its_workers_is_failed_and_they_are_named<S: Subject>() {
    let world = World::<S>::new().await;
    let mut claim = world.a_claims(fork()).await;
    let first = claim.clone();
    for (name, count) in [("b", "1"), ("c", "2"), ("d", "3")] {
        claim = only(next(&world, &claim, name, Cause::LeaseExpired).await);
        assert_eq!(unclean(&world, &claim).await, count);
        // Each names itself by the time at which it began.
        world.pass(std::time::Duration::from_secs(1)).await;
    }
    let id = &claim.lease.execution;
    let batch = next(&world, &claim, "e", Cause::LeaseMissing).await;
    let reason = "its workers were lost 4 times in a row while it made no progress; the last were \
                  d, c, b, a";
    assert_eq!(batch.refused, [(id.clone(), reason.to_owned())]);
    assert!(batch.claims.is_empty() && batch.deferred.is_empty());
    assert_eq!(world.status(id).await, "failed");
    assert_eq!(world.execution(id, "error").await.as_deref(), Some(reason));
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
    assert_eq!(world.steps(id, &["one", "two", "last"]).await, ["failed", "failed", "skipped"]);
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("lost/lease_expired/a"));
    assert_eq!(world.attempt(id, "one", 4).await.as_deref(), Some("lost/lease_missing/d"));
    assert_eq!(world.attempt(id, "one", 5).await, None, "it is not started again");
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
    assert_eq!(world.held(id).await, None);
    for former in [&first, &claim] {
        let finish = Some(success());
        let sent = Advance { finish, ..advance(former) };
        assert!(send(&world.a, &sent).await.is_err());
    }
}

pub async fn progress_begins_the_count_anew<S: Subject>() {
    let world = World::<S>::new().await;
    let mut steps = chain(&["one", "two", "three"]);
    steps[0].on_failure = Some("skip".into());
    let mut claim = world.a_claims(steps).await;
    claim = only(next(&world, &claim, "b", Cause::LeaseExpired).await);
    claim = only(next(&world, &claim, "c", Cause::LeaseExpired).await);
    assert_eq!(unclean(&world, &claim).await, "2");
    // A step that failed for good has come to its end as well as one that succeeded.
    let ended = vec![failed(&claim, "one")];
    let sent = Advance { ended, started: vec![start(&claim, "two")], ..advance(&claim) };
    assert_eq!(send(&world.b, &sent).await, Ok(Advanced::Recorded));
    claim = only(next(&world, &claim, "d", Cause::LeaseExpired).await);
    assert_eq!(unclean(&world, &claim).await, "1");
    claim = only(next(&world, &claim, "e", Cause::LeaseExpired).await);
    assert_eq!(unclean(&world, &claim).await, "2", "of a former fence it counts no more");
    let sent = Advance { ended: vec![succeeded(&claim, "two")], ..advance(&claim) };
    assert_eq!(send(&world.b, &sent).await, Ok(Advanced::Recorded));
    claim = only(next(&world, &claim, "f", Cause::LeaseMissing).await);
    assert_eq!(unclean(&world, &claim).await, "1");
}

pub async fn a_retry_is_no_progress<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let sent = Advance {
        retrying: vec![retry(&claim, "one")],
        started: vec![start_after_retry(&claim, "one")],
        ..advance(&claim)
    };
    assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
    let claim = only(next(&world, &claim, "b", Cause::LeaseExpired).await);
    let claim = only(next(&world, &claim, "c", Cause::LeaseExpired).await);
    assert_eq!(unclean(&world, &claim).await, "2");
}

pub async fn hand_backs_count_nothing<S: Subject>() {
    let world = World::<S>::new().await;
    let mut claim = world.a_claims(fork()).await;
    claim = only(next(&world, &claim, "b", Cause::LeaseExpired).await);
    // Far more than the unclean ends that are allowed: a fleet that is rolled out again and again.
    for _ in 0..6 {
        assert_eq!(hand_back(&world.b, &claim).await, Ok(Advanced::Recorded));
        claim = only(next(&world, &claim, "b", Cause::Released).await);
        assert_eq!(unclean(&world, &claim).await, "1");
    }
    claim = only(next(&world, &claim, "c", Cause::LeaseExpired).await);
    assert_eq!(unclean(&world, &claim).await, "2", "nor do they take anything away");
}

pub async fn an_operators_retry_begins_the_count_anew<S: Subject>() {
    let world = World::<S>::new().await;
    let mut claim = world.a_claims(fork()).await;
    claim = only(next(&world, &claim, "b", Cause::LeaseExpired).await);
    let id = &claim.lease.execution;
    world.edit(id, "status='pending', ow_fence=ow_fence+1, ow_owner='', ow_claim=''").await;
    world.edit_lock(id, "owner='~finished'").await;
    claim = claim_one(&world.a, "a").await;
    assert_eq!(unclean(&world, &claim).await, "0");
}
