//! What a store does whose leases are kept by a provider that loses answers, says nothing, or forgets.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::{external::ExternalLeases, memory::MemoryLocks},
    domain::{
        death::{EndedBy, PodEnd},
        deferral::Deferral,
        id::{Beat, ExecutionId},
        lease::{Lease, Renewal},
        lock::{LockNonce, PlainKey},
        recovery::{Cause, Elsewhere, Held, TakeOver},
    },
    ports::{
        executions::{Advanced, Claimant, ExecutionStore, StoreError},
        lock::{Acquire, Acquired, Inspected, KeyLease, LockError, LockProvider, Renewed},
    },
};
use tokio::{task::yield_now, time::timeout};

use crate::contract::{
    Subject,
    world::*,
    writes::{advance, hand_back, send, succeeded, success},
};

crate::stores::on_every_store! {
    a_lease_is_a_key_and_the_lock_row_of_the_claim_stands_still
    a_key_that_was_forgotten_is_put_back_by_its_holder
    a_key_that_another_has_taken_is_lost_and_so_is_a_row
    what_this_very_process_has_given_up_is_watched_by_it_too
    answers_that_are_lost_cost_nothing
    a_silent_provider_claims_nothing_and_renews_nothing
    what_another_holds_is_put_off_and_keeps_nobody_waiting
    nobody_takes_over_before_the_key_is_free
    what_a_dead_process_has_left_is_free_at_once
    what_was_handed_back_can_be_taken_at_once
}

const CEILING: Duration = Duration::from_secs(60);

/// What happens to requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well = 0,
    /// They are not sent.
    Silent = 1,
    /// They are carried out, and the first answer of each kind of request is lost.
    Forgetful = 2,
}

/// Locks of one server for several stores.
#[derive(Default)]
struct Server {
    locks: Mutex<Arc<MemoryLocks>>,
    mood: AtomicU8,
    lost: Mutex<Vec<&'static str>>,
}

impl Server {
    fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Release);
        self.lost.lock().expect("no panic").clear();
    }

    /// As after a failover to a replica that has got nothing yet.
    fn forget_all(&self) {
        *self.locks.lock().expect("no panic") = Arc::default();
    }

    async fn asked<T>(
        &self,
        verb: &'static str,
        ask: impl AsyncFnOnce(Arc<MemoryLocks>) -> Result<T, LockError>,
    ) -> Result<T, LockError> {
        let locks = self.locks.lock().expect("no panic").clone();
        let mood = self.mood.load(Ordering::Acquire);
        if mood == Mood::Silent as u8 {
            return Err(LockError::Unavailable("it is silent".into()));
        }
        let answer = ask(locks).await;
        let mut lost = self.lost.lock().expect("no panic");
        if mood == Mood::Forgetful as u8 && !lost.contains(&verb) {
            lost.push(verb);
            return Err(LockError::Unknown("the answer was lost".into()));
        }
        answer
    }
}

#[async_trait]
impl LockProvider for Server {
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError> {
        self.asked("acquire", async |locks| locks.acquire(request).await).await
    }

    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Result<Renewed, LockError> {
        self.asked("renew", async |locks| locks.renew(lease, ttl).await).await
    }

    async fn release(&self, lease: &KeyLease) -> Result<bool, LockError> {
        self.asked("release", async |locks| locks.release(lease).await).await
    }

    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError> {
        self.asked("inspect", async |locks| locks.inspect(key).await).await
    }

    async fn close(&self) {}
}

/// Two workers' stores with one lock server.
struct Two<S: Subject> {
    world: World<S>,
    server: Arc<Server>,
    a: ExternalLeases,
    b: ExternalLeases,
}

impl<S: Subject> Two<S> {
    async fn new() -> Self {
        let (world, server) = (World::<S>::new().await, Arc::new(Server::default()));
        let leased = async || {
            let rows = Arc::new(world.subject.store().await);
            ExternalLeases::new(rows, server.clone(), "redis".into())
        };
        let (a, b) = (leased().await, leased().await);
        Self { world, server, a, b }
    }

    async fn holder(&self, execution: &ExecutionId) -> Option<String> {
        let key = PlainKey::of_execution(execution).expect("a key");
        let locks = self.server.locks.lock().expect("no panic").clone();
        locks.is_locked(&key).await.expect("memory answers")
    }

    async fn submit(&self) -> ExecutionId {
        self.world.submit_chain(&["one"]).await
    }

    /// One more of the same template.
    async fn submit_beside(&self, execution: &ExecutionId) -> ExecutionId {
        let template = self.world.execution(execution, "template_id").await;
        self.world.submit(&template.expect("it has one").into()).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, StoreError> {
        let answers = self.a.renew(TTL, Beat(2), std::slice::from_ref(lease)).await?;
        Ok(answers[0])
    }

    async fn seen_by_b(&self) -> Held {
        self.b.survey().await.expect("a survey").remove(0)
    }

    async fn b_takes(&self, seen: Held, cause: Cause) -> bool {
        let batch = self.b.take_over(&who("b"), &[TakeOver { seen, cause }]).await;
        !is_nothing(&batch.expect("an answer"))
    }
}

async fn a_lease_is_a_key_and_the_lock_row_of_the_claim_stands_still<S: Subject>() {
    let two = Two::<S>::new().await;
    let id = two.submit().await;
    let claim = claim_one(&two.a, "a").await;
    assert_eq!(two.holder(&id).await.as_deref(), Some("a"));
    assert_eq!(two.world.execution(&id, "ow_owner_uid").await.as_deref(), Some("@redis"));
    let before = two.world.everything().await;
    assert_eq!(two.renew(&claim.lease).await, Ok(Renewal::Held));
    assert_eq!(two.world.everything().await, before, "the database is not written to");
    let left = |held: Held| match held.elsewhere {
        Some(Elsewhere::Held { ends_in }) => ends_in,
        other => panic!("{other:?}"),
    };
    assert!(left(two.seen_by_b().await) > TTL / 2);

    let mut end = advance(&claim);
    (end.ended, end.finish) = (vec![succeeded(&claim, "one")], Some(success()));
    assert_eq!(send(&two.a, &end).await, Ok(Advanced::Recorded));
    assert_eq!(two.world.lock(&id, "owner").await.as_deref(), Some("~finished"));
    let freed = async {
        while two.holder(&id).await.is_some() {
            yield_now().await;
        }
    };
    timeout(CEILING, freed).await.expect("an execution that has ended is freed");
    assert_eq!(two.renew(&claim.lease).await, Ok(Renewal::Ended));
}

async fn a_key_that_was_forgotten_is_put_back_by_its_holder<S: Subject>() {
    let two = Two::<S>::new().await;
    let id = two.submit().await;
    let claim = claim_one(&two.a, "a").await;
    two.server.forget_all();
    assert_eq!(two.seen_by_b().await.elsewhere, Some(Elsewhere::Free));
    for _ in 0..2 {
        assert_eq!(two.renew(&claim.lease).await, Ok(Renewal::Held));
        assert_eq!(two.holder(&id).await.as_deref(), Some("a"));
    }
}

async fn a_key_that_another_has_taken_is_lost_and_so_is_a_row<S: Subject>() {
    let two = Two::<S>::new().await;
    two.submit().await;
    let claim = claim_one(&two.a, "a").await;
    let seen = two.seen_by_b().await;
    two.server.forget_all();
    assert!(two.b_takes(seen, Cause::LeaseMissing).await);
    assert_eq!(two.renew(&claim.lease).await, Ok(Renewal::Lost));
    assert_eq!(two.holder(&claim.lease.execution).await.as_deref(), Some("b"));

    let two = Two::<S>::new().await;
    let id = two.submit().await;
    let claim = claim_one(&two.a, "a").await;
    two.world.edit(&id, "ow_fence=ow_fence+1").await;
    assert_eq!(two.renew(&claim.lease).await, Ok(Renewal::Lost), "whoever holds the key");
}

async fn what_this_very_process_has_given_up_is_watched_by_it_too<S: Subject>() {
    let two = Two::<S>::new().await;
    two.submit().await;
    claim_one(&two.a, "a").await;
    // It renews no more, and may be the only one that could go on.
    two.server.forget_all();
    let seen = two.a.survey().await.expect("a survey").remove(0);
    assert_eq!(seen.elsewhere, Some(Elsewhere::Free));
    let due = [TakeOver { seen, cause: Cause::LeaseMissing }];
    let batch = two.a.take_over(&who("a"), &due).await.expect("an answer");
    assert_eq!(two.renew(&only(batch).lease).await, Ok(Renewal::Held));
}

async fn answers_that_are_lost_cost_nothing<S: Subject>() {
    let two = Two::<S>::new().await;
    two.server.set(Mood::Forgetful);
    let id = two.submit().await;
    let claim = claim_one(&two.a, "a").await;
    assert_eq!(two.holder(&id).await.as_deref(), Some("a"));
    assert_eq!(two.renew(&claim.lease).await, Ok(Renewal::Held));
    assert_eq!(hand_back(&two.a, &claim).await, Ok(Advanced::Recorded));
    assert_eq!(two.holder(&id).await, None, "what is carried out is done");
}

async fn a_silent_provider_claims_nothing_and_renews_nothing<S: Subject>() {
    let two = Two::<S>::new().await;
    let held = two.submit().await;
    let claim = claim_one(&two.a, "a").await;
    let waits = two.submit_beside(&held).await;
    two.server.set(Mood::Silent);
    let before = two.world.everything().await;
    let is_silent = |error: &StoreError| matches!(error, StoreError::Leases(_));
    assert!(two.renew(&claim.lease).await.is_err_and(|error| is_silent(&error)));
    assert!(two.b.claim(&who("b"), 10).await.is_err_and(|error| is_silent(&error)));
    assert!(two.b.survey().await.is_err_and(|error| is_silent(&error)));
    assert_eq!(two.world.everything().await, before);

    two.server.set(Mood::Well);
    assert_eq!(two.renew(&claim.lease).await, Ok(Renewal::Held));
    assert_eq!(claim_one(&two.b, "b").await.lease.execution, waits);
}

async fn what_another_holds_is_put_off_and_keeps_nobody_waiting<S: Subject>() {
    let two = Two::<S>::new().await;
    let first = two.submit().await;
    let second = two.submit_beside(&first).await;
    for id in [&first, &second] {
        let age = if *id == first { -60_000 } else { -1_000 };
        two.world.edit(id, &format!("created_at={}", S::moved(S::now(), age))).await;
    }
    let key = PlainKey::of_execution(&first).expect("a key");
    let wish = Acquire { key, owner: who("somebody").owner, ttl: TTL, nonce: LockNonce::of(2) };
    two.server.acquire(&wish).await.expect("it is free");

    let batch = two.a.claim(&who("a"), 1).await.expect("an answer");
    assert_eq!(batch.deferred, [(first.clone(), Deferral::Locked)]);
    assert!(batch.claims.is_empty());
    assert_eq!(two.world.status(&first).await, "pending");
    let batch = two.a.claim(&who("a"), 1).await.expect("an answer");
    assert_eq!(only(batch).lease.execution, second);
}

async fn nobody_takes_over_before_the_key_is_free<S: Subject>() {
    let two = Two::<S>::new().await;
    let id = two.submit().await;
    claim_one(&two.a, "a").await;
    let seen = two.seen_by_b().await;
    let before = two.world.everything().await;
    for cause in [Cause::LeaseExpired, Cause::LeaseMissing, Cause::ContainerRestarted] {
        assert!(!two.b_takes(seen.clone(), cause.clone()).await, "{cause:?}");
    }
    assert_eq!(two.world.everything().await, before);
    assert_eq!(two.holder(&id).await.as_deref(), Some("a"));
    two.server.forget_all();
    assert!(two.b_takes(seen, Cause::LeaseExpired).await);
    assert_eq!(two.world.execution(&id, "ow_owner").await.as_deref(), Some("b"));
}

async fn what_a_dead_process_has_left_is_free_at_once<S: Subject>() {
    let killed = Cause::PodEnded(PodEnd { by: EndedBy::OomKill, exit_code: 137, node: None });
    for cause in [Cause::ContainerRestarted, killed] {
        let two = Two::<S>::new().await;
        let id = two.submit().await;
        let former = Claimant { uid: "u-1/00000007.1".into(), ..who("a") };
        assert_eq!(only(two.a.claim(&former, 1).await.expect("a claim")).lease.execution, id);
        let seen = two.seen_by_b().await;
        assert_eq!(seen.uid, "u-1/00000007.1@redis");
        assert!(two.b_takes(seen, cause.clone()).await, "{cause:?}");
        assert_eq!(two.holder(&id).await.as_deref(), Some("b"));
    }
}

async fn what_was_handed_back_can_be_taken_at_once<S: Subject>() {
    let two = Two::<S>::new().await;
    let id = two.submit().await;
    let claim = claim_one(&two.a, "a").await;
    assert_eq!(hand_back(&two.a, &claim).await, Ok(Advanced::Recorded));
    let seen = two.seen_by_b().await;
    assert_eq!(seen.elsewhere, None, "nobody holds it");
    assert!(two.b_takes(seen, Cause::Released).await);
    assert_eq!(two.holder(&id).await.as_deref(), Some("b"));
}
