//! One holder at a time, in a known order.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Ground, LONG, PAUSE, Patient, key, wish};
use crate::{
    domain::{
        id::{Fence, Owner},
        lock::LockNonce,
    },
    ports::lock::{Acquired, Inspected, KeyLease, LockError, Renewed},
};

pub(super) async fn a_free_key_is_taken_and_seen(ground: &Ground) {
    let key = key("seen");
    let free = ground.b().inspect(&key).await;
    assert_eq!(free, None, "nobody holds it yet");
    let sent = Instant::now();
    let lease = ground.a().take(&wish(&key, "a", LONG)).await;
    assert!(lease.fence > Fence(0), "0 is the fence of those who count none");
    for provider in [ground.a(), ground.b()] {
        let held = provider.inspect(&key).await.expect("it is held");
        assert_eq!((held.owner.as_str(), held.fence), ("a", lease.fence));
        assert!(held.expires_in <= LONG, "{held:?}");
        assert!(at_least_left(&held, sent), "{held:?}");
        assert!(ground.tells(held.age, |age| age <= sent.elapsed() + PAUSE), "{held:?}");
        let who = provider.is_locked(&key).await;
        assert_eq!(who.as_deref(), Some("a"));
    }
}

fn at_least_left(held: &Inspected, sent: Instant) -> bool {
    held.expires_in + sent.elapsed() + PAUSE >= LONG
}

pub(super) async fn a_held_key_is_refused_and_its_holder_named(ground: &Ground) {
    let key = key("refused");
    let lease = ground.a().take(&wish(&key, "a", LONG)).await;
    // A second wish of the same owner is another one: its processes may share a name.
    for (provider, who) in [(ground.b(), "b"), (ground.a(), "c"), (ground.a(), "a")] {
        match provider.acquire(&wish(&key, who, LONG)).await {
            Acquired::Theirs(held) => {
                assert_eq!((held.owner.as_str(), held.fence), ("a", lease.fence));
            }
            Acquired::Ours(second) => panic!("{who} holds beside a: {second:?}"),
        }
    }
}

pub(super) async fn of_many_at_one_moment_one_takes_a_key(ground: &Ground) {
    let contenders = ground.subject.contenders();
    let (key, barrier) = (key("moment"), Arc::new(Barrier::new(contenders)));
    let mut all = JoinSet::new();
    for contender in 0..contenders {
        let (provider, barrier) = (ground.of(contender), barrier.clone());
        let wish = wish(&key, &format!("c{contender}"), LONG);
        all.spawn(async move {
            barrier.wait().await;
            provider.acquire(&wish).await
        });
    }
    let answers = all.join_all().await;
    let taken = answers.iter().filter(|answer| matches!(answer, Acquired::Ours(_))).count();
    assert_eq!(taken, 1, "{answers:?}");
}

pub(super) async fn of_many_contenders_one_at_a_time_holds_a_key(ground: &Ground) {
    let key = key("contended");
    let inside = Arc::new(AtomicUsize::new(0));
    let fences = Arc::new(Mutex::new(Vec::new()));
    let mut all = JoinSet::new();
    let contenders = ground.subject.contenders();
    for contender in 0..contenders {
        let (provider, wish) = (ground.of(contender), wish(&key, &format!("c{contender}"), LONG));
        let (inside, fences) = (inside.clone(), fences.clone());
        all.spawn(async move {
            let lease = provider.take_beside(&wish, contenders).await;
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
            fences.lock().expect("no panic while it is held").push(lease.fence);
            tokio::task::yield_now().await;
            inside.fetch_sub(1, Ordering::SeqCst);
            assert!(provider.release(&lease).await, "its holder frees it");
        });
    }
    all.join_all().await;
    let fences = fences.lock().expect("no panic while it is held");
    assert_eq!(fences.len(), contenders);
    assert!(fences.is_sorted_by(|earlier, later| earlier < later), "{fences:?}");
}

pub(super) async fn a_fence_grows_with_every_acquisition(ground: &Ground) {
    let key = key("fence");
    let mut last = Fence(0);
    let mut check = |lease: &KeyLease| {
        assert!(lease.fence > last, "{} after {last}", lease.fence);
        last = lease.fence;
    };
    for turn in 0..20 {
        let provider = ground.of(turn);
        let lease = provider.take(&wish(&key, "a", LONG)).await;
        check(&lease);
        provider.release(&lease).await;
    }
    // Nor is it forgotten when a time is past instead of a key freed.
    check(&ground.a().take(&wish(&key, "a", ground.subject.shortest_ttl())).await);
    check(&ground.b().take_when_free(&wish(&key, "b", LONG)).await);
}

pub(super) async fn a_release_frees_at_once_and_sent_twice_frees_once(ground: &Ground) {
    let key = key("release");
    let first = ground.a().take(&wish(&key, "a", LONG)).await;
    assert!(ground.a().release(&first).await);
    assert!(!ground.a().release(&first).await, "there was nothing left to free");
    let second = ground.b().take(&wish(&key, "b", LONG)).await;
    assert!(!ground.a().release(&first).await, "it frees what another holds");
    let held = ground.a().inspect(&key).await.expect("it is held");
    assert_eq!(held.fence, second.fence);
}

pub(super) async fn a_wish_sent_twice_is_one_acquisition(ground: &Ground) {
    let key = key("twice");
    let wish_a = wish(&key, "a", LONG);
    let first = ground.a().take(&wish_a).await;
    let again = ground.b().take(&wish_a).await;
    assert_eq!(first, again);
    assert!(ground.a().release(&again).await);
    let anew = ground.a().take(&wish_a).await;
    assert!(anew.fence > first.fence, "after its release it is another acquisition");
}

pub(super) async fn nothing_is_done_under_another_lease(ground: &Ground) {
    let key = key("others");
    let lease = ground.a().take(&wish(&key, "a", LONG)).await;
    let strangers = [
        KeyLease { owner: Owner::try_new("b").expect("a name"), ..lease.clone() },
        KeyLease { fence: Fence(lease.fence.0 - 1), ..lease.clone() },
        KeyLease { fence: Fence(lease.fence.0 + 1), ..lease.clone() },
        KeyLease { nonce: LockNonce::of(!(lease.nonce.get() << 1)), ..lease.clone() },
    ];
    for stranger in strangers {
        let renewed = ground.b().renew(&stranger, LONG).await;
        assert_eq!(renewed, Renewed::Gone, "{stranger:?}");
        assert!(!ground.b().release(&stranger).await, "{stranger:?}");
    }
    let renewed = ground.a().renew(&lease, LONG).await;
    assert_eq!(renewed, Renewed::Held, "the holder's own still stands");
}

pub(super) async fn a_closed_provider_refuses_and_frees_nothing(ground: &Ground) {
    let key = key("closed");
    let provider = Patient(ground.subject.provider().await);
    let lease = provider.take(&wish(&key, "a", LONG)).await;
    let Patient(provider) = provider;
    provider.close().await;
    provider.close().await;
    assert_eq!(provider.acquire(&wish(&key, "b", LONG)).await, Err(LockError::Closed));
    assert_eq!(provider.renew(&lease, LONG).await, Err(LockError::Closed));
    assert_eq!(provider.release(&lease).await, Err(LockError::Closed));
    assert_eq!(provider.inspect(&key).await, Err(LockError::Closed));
    // Others go on, and see what is held.
    sleep(PAUSE).await;
    let held = ground.b().inspect(&key).await.expect("it is held");
    assert_eq!(held.fence, lease.fence);
    assert!(ground.b().release(&lease).await, "whoever knows the lease may free it");
}
