//! Locks that end.

use tokio::time::{Instant, sleep};

use super::{Ground, LONG, PAUSE, at_least, key, wish};
use crate::ports::lock::{Acquired, Renewed};

pub(super) async fn a_key_goes_to_another_when_its_time_is_past_and_not_before(ground: &Ground) {
    let (key, ttl) = (key("past"), ground.subject.shortest_ttl());
    let sent = Instant::now();
    ground.a().take(&wish(&key, "a", ttl)).await;
    let taken = ground.b().take_when_free(&wish(&key, "b", LONG)).await;
    assert!(at_least(sent, ttl), "it was taken after {:?} of {ttl:?}", sent.elapsed());
    let held = ground.a().inspect(&key).await.expect("it is held");
    assert_eq!((held.owner.as_str(), held.fence), ("b", taken.fence));
    assert!(ground.tells(held.age, |age| age + ttl <= sent.elapsed() + PAUSE), "{held:?}");
}

/// A refusal counts where its answer came before the time of the last renewal was past: a provider
/// that is slow proves nothing, and is waited for.
pub(super) async fn a_key_that_is_renewed_stays_held(ground: &Ground) {
    let (key, ttl) = (key("renewed"), ground.subject.shortest_ttl() * 2);
    let began = Instant::now();
    let lease = ground.a().take(&wish(&key, "a", ttl)).await;
    let mut sent = began;
    while began.elapsed() < ttl * 2 {
        sleep(ttl / 8).await;
        let before = Instant::now();
        match ground.a().renew(&lease, ttl).await {
            Renewed::Held => sent = before,
            lost => assert!(at_least(sent, ttl), "{lost:?} after {:?}", sent.elapsed()),
        }
        if let Acquired::Ours(_) = ground.b().acquire(&wish(&key, "b", LONG)).await {
            assert!(at_least(sent, ttl), "taken {:?} after its renewal", sent.elapsed());
            return;
        }
    }
    let renewed = ground.a().inspect(&key).await;
    assert!(renewed.is_none_or(|held| held.expires_in <= ttl && held.fence == lease.fence));
}

pub(super) async fn what_is_past_its_time_is_not_renewed(ground: &Ground) {
    let (key, ttl) = (key("late"), ground.subject.shortest_ttl());
    let lease = ground.a().take(&wish(&key, "a", ttl)).await;
    // Nobody holds it once the provider says so, though nobody has taken it either.
    while ground.b().inspect(&key).await.is_some() {
        sleep(PAUSE).await;
    }
    let renewed = ground.a().renew(&lease, LONG).await;
    assert_ne!(renewed, Renewed::Held);
    let who = ground.b().is_locked(&key).await;
    assert_eq!(who, None, "a renewal that came too late took it");
}

pub(super) async fn a_former_holder_changes_nothing_of_the_next_one(ground: &Ground) {
    let (key, ttl) = (key("former"), ground.subject.shortest_ttl());
    let former = ground.a().take(&wish(&key, "a", ttl)).await;
    let next = ground.b().take_when_free(&wish(&key, "a", LONG)).await;
    let renewed = ground.a().renew(&former, LONG).await;
    assert_eq!(renewed, Renewed::Gone);
    assert!(!ground.a().release(&former).await);
    let held = ground.a().inspect(&key).await.expect("it is held");
    assert_eq!(held.fence, next.fence);
    assert!(ground.b().release(&next).await);
}
