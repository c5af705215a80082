//! Renewals: what is held, cancelled or lost, and lock rows that are put back.

use std::time::Duration;

use orchestrator_worker::{
    domain::{
        id::{Beat, ExecutionId, Fence},
        lease::{Lease, Renewal},
        recovery::{Cause, LockSeen, TakeOver},
    },
    ports::executions::{Advance, Claim, ExecutionStore},
};

use super::{Subject, world::*, writes::*};

async fn renew(store: &impl ExecutionStore, claim: &Claim, beat: u64) -> Renewal {
    let answers = store.renew(TTL, Beat(beat), std::slice::from_ref(&claim.lease)).await;
    let answers = answers.expect("a renewal");
    assert_eq!(answers.len(), 1, "one answer");
    answers[0]
}

/// Whether an execution's lock row has most of a TTL before it.
async fn is_fresh<S: Subject>(world: &World<S>, id: &ExecutionId) -> bool {
    let fresh = format!("expires_at > {}", S::moved(S::now(), 25_000));
    world.lock(id, &fresh).await.as_deref() == Some("1")
}

pub async fn a_held_lease_has_its_beat_and_its_expiry_moved<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    world.pass(Duration::from_secs(20)).await;
    assert!(!is_fresh(&world, id).await);
    assert_eq!(renew(&world.a, &claim, 7).await, Renewal::Held);
    assert!(is_fresh(&world, id).await);
    let seen = world.held(id).await.expect("it is held").lock;
    assert_eq!(
        seen,
        Some(LockSeen { fence: claim.lease.fence, beat: Beat(7), ttl: TTL, expires_ms: 0 })
    );

    // Another setting of the same worker is told to watchers by its very next renewal.
    let ttl = Duration::from_millis(12_345);
    let answer = world.a.renew(ttl, Beat(8), std::slice::from_ref(&claim.lease)).await;
    assert_eq!(answer, Ok(vec![Renewal::Held]));
    let seen = world.held(id).await.expect("it is held").lock;
    assert_eq!(
        seen,
        Some(LockSeen { fence: claim.lease.fence, beat: Beat(8), ttl, expires_ms: 0 })
    );
}

pub async fn many_leases_are_answered_in_their_order<S: Subject>() {
    let world = World::<S>::new().await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(world.a_claims(chain(&["one"])).await.lease);
    }
    world.edit(&leases[0].execution, "ow_fence=ow_fence+1, ow_owner='b'").await;
    world.edit(&leases[2].execution, "status='cancelled'").await;
    world.drop_lock(&leases[3].execution).await;
    leases.insert(3, Lease { execution: "nobody-knows".into(), ..leases[0].clone() });
    let expected = [
        Renewal::Lost,
        Renewal::Held,
        Renewal::Cancelled,
        Renewal::Lost,
        Renewal::Held,
        Renewal::Held,
    ];
    assert_eq!(world.a.renew(TTL, Beat(2), &leases).await, Ok(expected.to_vec()));
    // Whatever their order, which is not that of their ids.
    let mut turned: Vec<(Lease, Renewal)> = leases.into_iter().zip(expected).collect();
    turned.reverse();
    turned.swap(0, 2);
    let (leases, expected): (Vec<_>, Vec<_>) = turned.into_iter().unzip();
    assert_eq!(world.a.renew(TTL, Beat(3), &leases).await, Ok(expected));
}

pub async fn no_lease_gets_no_answer_and_an_unknown_one_is_lost<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let before = world.everything().await;
    assert_eq!(world.a.renew(TTL, Beat(2), &[]).await, Ok(Vec::new()));
    let unknown = Lease { execution: "nobody-knows".into(), ..claim.lease };
    assert_eq!(world.a.renew(TTL, Beat(2), &[unknown]).await, Ok(vec![Renewal::Lost]));
    assert_eq!(world.everything().await, before);
}

pub async fn a_lease_is_lost_when_its_execution_is_not_held_under_it<S: Subject>() {
    let world = World::<S>::new().await;
    let (lost, ended) = (Renewal::Lost, Renewal::Ended);
    for (set, expected) in [
        ("ow_fence=ow_fence+1", lost),
        ("ow_claim='of another claim'", lost),
        ("ow_owner='b', ow_fence=ow_fence+1, ow_claim='of another claim'", lost),
        ("status='pending', ow_owner=''", lost),
        ("status=NULL", lost),
        // Under our own fence and claim only we ourselves let go of it.
        ("ow_owner='~released'", ended),
        ("status='success', ow_owner=''", ended),
        ("status='failed', ow_owner=''", ended),
        ("status='cancelled', ow_owner=''", ended),
    ] {
        let claim = world.a_claims(chain(&["one"])).await;
        world.edit(&claim.lease.execution, set).await;
        assert_eq!(renew(&world.a, &claim, 2).await, expected, "{set}");
        // Nor is a lock row made for what is not ours.
        world.drop_lock(&claim.lease.execution).await;
        assert_eq!(renew(&world.a, &claim, 3).await, expected, "{set}, without a lock row");
        assert_eq!(world.lock(&claim.lease.execution, "owner").await, None, "{set}");
        world.edit(&claim.lease.execution, "status='failed'").await;
    }
}

pub async fn a_lock_row_of_another_is_left_alone_and_the_lease_is_lost<S: Subject>() {
    let world = World::<S>::new().await;
    for set in [
        "owner='b'",
        "ow_fence=ow_fence+1",
        "ow_fence=ow_fence-1",
        "owner='b', ow_fence=ow_fence+1",
        "owner='go-1', ow_fence=0, ow_beat=0",
        "owner='~released'",
        "owner='~finished'",
    ] {
        let claim = world.a_claims(chain(&["one"])).await;
        world.edit_lock(&claim.lease.execution, set).await;
        let before = world.everything().await;
        let renewed = renew(&world.a, &claim, 2).await;
        // A mark in our place is our own: nobody else leaves one under our fence.
        let is_ours = set.contains('~') && renewed == Renewal::Ended;
        assert!(is_ours || renewed == Renewal::Lost, "{set}: {renewed:?}");
        assert_eq!(world.everything().await, before, "{set}");
    }
}

pub async fn a_cancellation_is_told_and_its_lease_goes_on<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    world.edit(id, "status='cancelled'").await;
    world.pass(Duration::from_secs(20)).await;
    // Its steps are still being stopped: nobody may take it for a dead one.
    assert_eq!(renew(&world.a, &claim, 2).await, Renewal::Cancelled);
    assert_eq!(world.lock(id, "ow_beat").await.as_deref(), Some("2"));
    assert!(is_fresh(&world, id).await);
    world.drop_lock(id).await;
    assert_eq!(renew(&world.a, &claim, 3).await, Renewal::Cancelled);
    assert_eq!(world.lock(id, "ow_beat").await.as_deref(), Some("3"), "put back");
}

pub async fn a_missing_lock_row_is_put_back_with_the_current_beat<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    world.drop_lock(id).await;
    assert_eq!(world.held(id).await.expect("still held").lock, None);
    assert_eq!(renew(&world.a, &claim, 9).await, Renewal::Held);
    let seen = world.held(id).await.expect("it is held").lock;
    assert_eq!(
        seen,
        Some(LockSeen { fence: claim.lease.fence, beat: Beat(9), ttl: TTL, expires_ms: 0 })
    );
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("a"));
    assert!(is_fresh(&world, id).await);
    assert_eq!(renew(&world.a, &claim, 10).await, Renewal::Held);
}

pub async fn a_lock_row_is_not_put_back_for_an_execution_that_another_took<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    only(world.b_takes_over(id, Cause::LeaseExpired).await);
    world.drop_lock(id).await;
    let before = world.everything().await;
    assert_eq!(renew(&world.a, &claim, 2).await, Renewal::Lost);
    assert_eq!(world.everything().await, before);
}

pub async fn an_expiry_in_the_past_loses_no_lease<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    // The database's clock has jumped, for all workers at once.
    world.pass(24 * HOUR).await;
    assert_eq!(renew(&world.a, &claim, 2).await, Renewal::Held);
    assert!(is_fresh(&world, &claim.lease.execution).await);
}

pub async fn a_renewal_touches_no_strangers_row<S: Subject>() {
    let world = World::<S>::new().await;
    let lost = world.a_claims(chain(&["one"])).await;
    only(world.b_takes_over(&lost.lease.execution, Cause::LeaseExpired).await);
    world.foreign_lock(&"of-the-go-service".into(), "go-1", 300).await;
    let now = S::now();
    let plain = format!(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) \
         VALUES ('nightly-report', 'a', {now}, {now}, {now})"
    );
    assert_eq!(world.subject.exec(&plain).await, 1);
    let strangers = world.everything().await;

    let held = world.a_claims(chain(&["one"])).await;
    let leases = [lost.lease, held.lease.clone()];
    let answers = world.a.renew(TTL, Beat(2), &leases).await;
    assert_eq!(answers, Ok(vec![Renewal::Lost, Renewal::Held]));
    let after = world.everything().await;
    for row in strangers {
        assert!(after.contains(&row), "changed: {row}");
    }
}

pub async fn of_two_leases_of_one_name_on_one_execution_the_newer_is_held<S: Subject>() {
    let world = World::<S>::new().await;
    let old = world.a_claims(chain(&["one"])).await;
    let id = &old.lease.execution;
    // A process of the same name: the pod has been started anew.
    let seen = world.held(id).await.expect("it is held");
    let due = [TakeOver { seen, cause: Cause::LeaseExpired }];
    let new = only(world.b.take_over(&who("a"), &due).await.expect("a takeover"));
    assert!(new.lease.fence > old.lease.fence);
    assert_eq!(renew(&world.a, &old, 50).await, Renewal::Lost);
    assert_eq!(world.lock(id, "ow_beat").await.as_deref(), Some("1"), "not by the old one");
    let both = [old.lease, new.lease];
    let answers = world.b.renew(TTL, Beat(2), &both).await;
    assert_eq!(answers, Ok(vec![Renewal::Lost, Renewal::Held]));
}

pub async fn a_lease_of_a_claim_that_was_never_committed_is_lost<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let higher = Fence(claim.lease.fence.0 + 1);
    for lease in [
        Lease { fence: higher, ..claim.lease.clone() },
        Lease { nonce: "of another claim".into(), ..claim.lease.clone() },
    ] {
        let answer = world.a.renew(TTL, Beat(2), std::slice::from_ref(&lease)).await;
        assert_eq!(answer, Ok(vec![Renewal::Lost]), "{lease:?}");
    }
}

pub async fn of_a_renewal_and_a_takeover_at_one_moment_exactly_one_succeeds<S: Subject>() {
    let world = World::<S>::new().await;
    for round in 0..12 {
        let claim = world.a_claims(chain(&["one"])).await;
        let id = &claim.lease.execution;
        // A lock row that stands still in every other round, and none in the rest.
        let cause = if round % 2 == 0 { Cause::LeaseExpired } else { Cause::LeaseMissing };
        if cause == Cause::LeaseMissing {
            world.drop_lock(id).await;
        }
        let due =
            [TakeOver { seen: world.held(id).await.expect("it is held"), cause: cause.clone() }];
        let b = who("b");
        let (renewal, batch) =
            tokio::join!(renew(&world.a, &claim, 2), world.b.take_over(&b, &due));
        // One that met the renewal's own lock has put the execution off.
        let taken = batch.expect("a takeover").claims.len();
        let (held, holder) = match renewal {
            Renewal::Held => (1, "a"),
            // Unanswered: the takeover has the row under its lock.
            Renewal::Lost | Renewal::Unanswered => (0, "b"),
            Renewal::Cancelled | Renewal::Ended => panic!("nobody cancelled it or let go of it"),
        };
        assert_eq!(held + taken, 1, "{renewal:?} with {cause:?}");
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some(holder));
        assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(holder));
        let ended = vec![succeeded(&claim, "one")];
        let end = Advance { ended, finish: Some(success()), ..advance(&claim) };
        let answer = send(&world.a, &end).await;
        assert_eq!(answer.is_ok(), held == 1, "{answer:?}");
    }
}
