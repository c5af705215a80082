//! Hand-backs, and lock rows that nobody needs any more.

use std::collections::BTreeSet;

use orchestrator_worker::{
    domain::{
        id::{Fence, Owner},
        lease::Lease,
        recovery::{Cause, Holder},
    },
    ports::executions::{Advance, AdvanceError, Advanced, ClaimKind, ExecutionStore, HandBack},
};

use super::{Subject, world::*, writes::*};

pub async fn a_handed_back_execution_is_free_for_any_worker_at_once<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    let sent = Advance { ended: vec![succeeded(&claim, "one")], ..advance(&claim) };
    assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
    assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Recorded));

    // Still running, so that the Go service keeps its hands off.
    assert_eq!(world.status(id).await, "running");
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some("~released"));
    assert_eq!(world.execution(id, "finished_at").await, None);
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~released"));
    let minute = format!("expires_at > {}", S::moved(S::now(), 50_000));
    assert_eq!(world.lock(id, &minute).await.as_deref(), Some("1"));
    assert_eq!(world.steps(id, &["one", "two", "last"]).await, ["success", "running", "pending"]);
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("success/-/a"));
    assert_eq!(world.attempt(id, "two", 1).await.as_deref(), Some("drained/-/a"));
    assert!(is_nothing(&world.b.claim(&who("b"), 10).await.expect("a claim")));

    assert_eq!(world.held(id).await.expect("it is seen").by, Holder::Released);
    let taken = only(world.b_takes_over(id, Cause::Released).await);
    assert_eq!(taken.kind, ClaimKind::TakenOver { from: None, cause: Cause::Released });
    assert_eq!(started(&taken), ["two"]);
    let two = slot(&taken, "two");
    assert_eq!((two.attempt, two.key_gen, two.retry_count), (2, 0, 0), "the same key");
    assert_eq!(world.execution(id, "ow_claims").await.as_deref(), Some("0"), "it was clean");
    assert_eq!(world.attempt(id, "two", 1).await.as_deref(), Some("drained/-/a"), "it stays");
}

pub async fn a_hand_back_may_be_sent_twice<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Recorded));
    let once = world.everything_but_times().await;
    assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Recorded));
    assert_eq!(world.everything_but_times().await, once);
    // But not over the next worker's head.
    only(world.b_takes_over(&claim.lease.execution, Cause::Released).await);
    let before = world.everything().await;
    assert_eq!(hand_back(&world.a, &claim).await, Err(AdvanceError::Fenced));
    assert_eq!(world.everything().await, before);
}

pub async fn only_the_holder_hands_back<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    for lease in [
        Lease { fence: Fence(claim.lease.fence.0 + 1), ..claim.lease.clone() },
        Lease { fence: Fence(claim.lease.fence.0 - 1), ..claim.lease.clone() },
        Lease { nonce: "of another claim".into(), ..claim.lease.clone() },
        Lease { execution: "nobody-knows".into(), ..claim.lease.clone() },
    ] {
        let before = world.everything().await;
        let answers = world.a.hand_back(&[HandBack { lease, drained: Vec::new() }]).await;
        assert_eq!(answers, [Err(AdvanceError::Fenced)]);
        assert_eq!(world.everything().await, before);
    }
    for set in ["status='success', ow_owner=''", "status='failed', ow_owner=''", "status='pending'"]
    {
        let claim = world.a_claims(fork()).await;
        world.edit(&claim.lease.execution, set).await;
        let before = world.everything().await;
        assert_eq!(hand_back(&world.a, &claim).await, Err(AdvanceError::Fenced), "{set}");
        assert_eq!(world.everything().await, before, "{set}");
        world.edit(&claim.lease.execution, "status='failed'").await;
    }
}

pub async fn many_are_handed_back_each_for_itself<S: Subject>() {
    let world = World::<S>::new().await;
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(world.a_claims(fork()).await);
    }
    world.edit(&all[1].lease.execution, "ow_fence=ow_fence+1").await;
    world.edit(&all[2].lease.execution, "status='cancelled'").await;
    let returns: Vec<HandBack> = all.iter().rev().map(given_back).collect();
    let answers = world.a.hand_back(&returns).await;
    let (released, cancelled) = (Ok(Advanced::Recorded), Ok(Advanced::Cancelled));
    let fenced = Err(AdvanceError::Fenced);
    assert_eq!(answers, [released.clone(), cancelled, fenced, released]);
    let mut owners = Vec::new();
    for claim in &all {
        owners.push(world.execution(&claim.lease.execution, "ow_owner").await.unwrap_or_default());
    }
    assert_eq!(owners, ["~released", "a", "", "~released"]);
    assert_eq!(world.a.hand_back(&[]).await, []);
}

pub async fn a_hand_back_that_meets_a_cancellation_ends_the_execution<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    world.edit(id, "status='cancelled'").await;
    assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Cancelled));
    assert_eq!(world.status(id).await, "cancelled");
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
    assert_eq!(world.steps(id, &["one", "two", "last"]).await, ["failed", "failed", "skipped"]);
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("cancelled/-/a"));
    assert_eq!(world.held(id).await, None);
    let once = world.everything_but_times().await;
    assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Cancelled), "again");
    assert_eq!(world.everything_but_times().await, once);
}

pub async fn a_hand_back_changes_no_lock_row_but_its_own<S: Subject>() {
    let world = World::<S>::new().await;
    let gone = world.a_claims(fork()).await;
    world.drop_lock(&gone.lease.execution).await;
    assert_eq!(hand_back(&world.a, &gone).await, Ok(Advanced::Recorded));
    assert_eq!(world.lock(&gone.lease.execution, "owner").await, None, "none is made");
    only(world.b_takes_over(&gone.lease.execution, Cause::Released).await);

    for set in ["owner='go-1', ow_fence=0", "ow_fence=ow_fence+1", "owner='b'"] {
        let claim = world.a_claims(fork()).await;
        let id = &claim.lease.execution;
        world.edit_lock(id, set).await;
        let before = world.lock(id, "owner").await;
        assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Recorded), "{set}");
        assert_eq!(world.lock(id, "owner").await, before, "{set}");
    }
}

/// A lock row: its key, its owner, and in how many seconds it expires.
async fn put_lock<S: Subject>(world: &World<S>, key: &str, owner: &str, seconds: i64) {
    let (now, expires) = (S::now(), S::moved(S::now(), seconds * 1000));
    let sql = format!(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) \
         VALUES ('{key}', '{owner}', {expires}, {now}, {now})"
    );
    assert_eq!(world.subject.exec(&sql).await, 1);
}

async fn keys<S: Subject>(world: &World<S>) -> BTreeSet<String> {
    let rows = world.subject.rows("SELECT lock_key FROM distributed_locks").await;
    rows.into_iter().flat_map(std::collections::BTreeMap::into_values).flatten().collect()
}

pub async fn marks_and_plain_keys_are_reaped_a_minute_past_their_expiry<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    world.pass(HOUR).await;
    let held = format!("workflow_execution:{}", claim.lease.execution);
    let rows = [
        ("workflow_execution:ended", "~finished", -61, true),
        ("workflow_execution:released", "~released", -61, true),
        ("workflow_execution:ended just now", "~finished", -50, false),
        ("workflow_execution:ends", "~finished", 60, false),
        ("workflow_execution:of the Go service", "go-1", -3600, false),
        ("workflow_execution:no mark", "a~", -3600, false),
        ("workflow_template:t", "go-1", -61, true),
        ("workflow_template:held", "go-1", 60, false),
        ("nightly-report", "go-1", -61, true),
        ("nightly-report just now", "go-1", -50, false),
        // Not of an execution, though much like one.
        ("workflow-execution:x", "go-1", -61, true),
    ];
    for (key, owner, seconds, _) in rows {
        put_lock(&world, key, owner, seconds).await;
    }
    assert_eq!(world.a.reap(100).await, Ok(5));
    let kept = rows.into_iter().filter(|row| !row.3).map(|row| row.0.to_owned());
    let expected: BTreeSet<String> = kept.chain([held]).collect();
    assert_eq!(keys(&world).await, expected, "a living execution's row is only taken over");
    assert_eq!(world.a.reap(100).await, Ok(0));
}

pub async fn no_more_is_reaped_than_asked_and_the_oldest_first<S: Subject>() {
    let world = World::<S>::new().await;
    for (key, seconds) in [("c", -300), ("e", -100), ("a", -500), ("d", -200), ("b", -400)] {
        put_lock(&world, key, "~finished", seconds).await;
    }
    assert_eq!(world.a.reap(0).await, Ok(0));
    assert_eq!(world.a.reap(2).await, Ok(2));
    assert_eq!(keys(&world).await, ["c", "d", "e"].map(str::to_owned).into());
    assert_eq!(world.a.reap(2).await, Ok(2));
    assert_eq!(world.a.reap(2).await, Ok(1));
}

pub async fn a_long_name_is_held_and_handed_back_whole<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let id = world.submit(&template).await;
    let name = "x".repeat(Owner::MAX_BYTES);
    let claim = claim_one(&world.a, &name).await;
    assert_eq!(world.execution(&id, "ow_owner").await.as_ref(), Some(&name));
    assert_eq!(world.lock(&id, "owner").await.as_ref(), Some(&name));
    assert_eq!(world.attempt(&id, "one", 1).await, Some(format!("-/-/{name}")));
    assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Recorded));
    assert_eq!(world.attempt(&id, "one", 1).await, Some(format!("drained/-/{name}")));
}
