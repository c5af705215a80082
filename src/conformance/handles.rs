//! What the library makes of a provider: handles that renew themselves, report their loss in time and
//! are counted.

use std::{future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use super::{Ground, LONG, PAUSE, Patient, key, owner, wish};
use crate::{
    domain::lock::PlainKey,
    orchestrator::{LockConfig, LockOptions, Locks},
    ports::lock::{
        Acquire, Acquired, Inspected, KeyLease, LockError, LockErrorKind, LockProvider, Renewed,
    },
};

/// One try, for a long time.
const ONCE: LockOptions =
    LockOptions { ttl: LONG, retry_count: 0, retry_delay: PAUSE, auto_renew: true };
/// Until it is free.
const PATIENT: LockOptions = LockOptions { retry_count: u32::MAX, ..ONCE };

fn locks(Patient(provider): &Patient, who: &str) -> Locks {
    Locks::new(provider.clone(), owner(who), &LockConfig::default()).expect("the defaults are good")
}

async fn is_held_by_another(locks: &Locks, key: &PlainKey) {
    let refused = locks.lock_with(key.as_str(), ONCE).await;
    let is_held = |error: &LockError| error.kind() == LockErrorKind::AlreadyExists;
    assert!(refused.as_ref().is_err_and(is_held), "{refused:?}");
}

/// Somebody takes the key as soon as it is to be had: by then its holder must know.
async fn is_taken_only_after(is_lost: impl Fn() -> bool, taker: &Patient, key: &PlainKey) {
    taker.take_when_free(&wish(key, "b", LONG)).await;
    assert!(is_lost(), "another holds what its former holder still counts on");
}

pub(super) async fn a_handle_renews_itself_for_as_long_as_it_lives(ground: &Ground) {
    let key = key("living");
    let ttl = ground.subject.shortest_ttl() * 3;
    let provider = Patient(ground.subject.provider().await);
    let (a, b) = (locks(&provider, "a"), locks(ground.b(), "b"));
    let handle = a.lock_with(key.as_str(), LockOptions { ttl, ..ONCE }).await.expect("it is free");
    let began = Instant::now();
    while began.elapsed() < ttl * 2 {
        is_held_by_another(&b, &key).await;
        sleep(ttl / 10).await;
    }
    assert_eq!(handle.check(), Ok(()));
    assert!(handle.remaining() < ttl);
    handle.release().await.expect("it was held");
    b.lock_with(key.as_str(), ONCE).await.expect("it is free").release().await.expect("it is held");
}

pub(super) async fn a_handle_that_does_not_renew_itself_is_lost_before_another_takes_its_key(
    ground: &Ground,
) {
    let key = key("mortal");
    let options = LockOptions { ttl: ground.subject.shortest_ttl(), auto_renew: false, ..ONCE };
    let a = locks(ground.a(), "a");
    let handle = a.lock_with(key.as_str(), options).await.expect("it is free");
    let (lost, ()) = tokio::join!(
        handle.lost(),
        is_taken_only_after(|| handle.check().is_err(), ground.b(), &key)
    );
    assert_eq!(lost.kind(), LockErrorKind::Expired);
    let released = handle.release().await.expect_err("it was lost before");
    assert_eq!(released.kind(), LockErrorKind::Expired);
    assert!(ground.b().is_locked(&key).await.is_some(), "it has freed what another holds");
}

/// Acquires, and then never answers again.
struct Silent(Arc<dyn LockProvider>);

#[async_trait]
impl LockProvider for Silent {
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError> {
        self.0.acquire(request).await
    }

    async fn renew(&self, _: &KeyLease, _: Duration) -> Result<Renewed, LockError> {
        pending().await
    }

    async fn release(&self, _: &KeyLease) -> Result<bool, LockError> {
        Err(LockError::Unavailable("it is silent".into()))
    }

    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError> {
        self.0.inspect(key).await
    }

    async fn close(&self) {}
}

pub(super) async fn a_loss_is_reported_in_time_though_the_provider_never_answers(ground: &Ground) {
    let key = key("silent");
    let Patient(provider) = ground.a();
    let a = locks(&Patient(Arc::new(Silent(provider.clone()))), "a");
    let options = LockOptions { ttl: ground.subject.shortest_ttl(), ..ONCE };
    let handle = a.lock_with(key.as_str(), options).await.expect("it is free");
    let (lost, ()) = tokio::join!(
        handle.lost(),
        is_taken_only_after(|| handle.check().is_err(), ground.b(), &key)
    );
    assert_eq!(lost.kind(), LockErrorKind::Expired);
    handle.release().await.expect_err("it was lost before");
}

pub(super) async fn a_lock_is_entered_again_by_its_incarnation_and_the_last_handle_frees_it(
    ground: &Ground,
) {
    let key = key("entered");
    let (a, b) = (locks(ground.a(), "a"), locks(ground.b(), "b"));
    let outer = a.lock_with(key.as_str(), ONCE).await.expect("it is free");
    let inner = a.clone().lock_with(key.as_str(), ONCE).await.expect("it is entered again");
    assert_eq!(outer.fence(), inner.fence());
    // Another incarnation is another one, whatever its name.
    is_held_by_another(&locks(ground.a(), "a"), &key).await;
    outer.release().await.expect("one of two");
    assert!(inner.is_held());
    is_held_by_another(&b, &key).await;
    let fence = inner.fence();
    inner.release().await.expect("the last one");
    let next = b.lock_with(key.as_str(), ONCE).await.expect("it is free");
    assert!(next.fence() > fence);
    next.release().await.expect("it was held");
}

pub(super) async fn a_held_key_is_asked_for_as_often_as_was_said(ground: &Ground) {
    let key = key("retries");
    let (a, b) = (locks(ground.a(), "a"), locks(ground.b(), "b"));
    let handle = a.lock_with(key.as_str(), ONCE).await.expect("it is free");
    is_held_by_another(&b, &key).await;

    let delay = Duration::from_millis(100);
    let began = Instant::now();
    let twice = LockOptions { retry_count: 2, retry_delay: delay, ..ONCE };
    let refused = b.lock_with(key.as_str(), twice).await.expect_err("it is held");
    assert!(began.elapsed() >= delay * 2, "{:?}", began.elapsed());
    assert!(matches!(refused, LockError::Timeout { tries: 3, .. }), "{refused:?}");
    assert!(LockError::is(&refused, LockErrorKind::AlreadyExists), "{refused:?}");

    let (taken, ()) = tokio::join!(b.lock_with(key.as_str(), PATIENT), async {
        sleep(delay).await;
        handle.release().await.expect("it was held");
    });
    taken.expect("it was freed while it was asked for").release().await.expect("it was held");
}

pub(super) async fn a_handle_that_is_dropped_is_released_in_the_background(ground: &Ground) {
    let key = key("dropped");
    let (a, b) = (locks(ground.a(), "a"), locks(ground.b(), "b"));
    drop(a.lock_with(key.as_str(), ONCE).await.expect("it is free"));
    let taken = b.lock_with(key.as_str(), PATIENT).await.expect("it is freed");
    taken.release().await.expect("it was held");
}

pub(super) async fn callers_that_stop_waiting_leave_nothing_locked(ground: &Ground) {
    let key = key("left");
    let (a, b) = (locks(ground.a(), "a"), locks(ground.b(), "b"));
    for turn in 0..30 {
        let patience = Duration::from_micros(100 * turn);
        // What came in time is dropped here, too.
        drop(timeout(patience, a.lock_with(key.as_str(), ONCE)).await);
    }
    let taken = b.lock_with(key.as_str(), PATIENT).await.expect("nobody holds it in the end");
    taken.release().await.expect("it was held");
}
