//! What goes wrong between a provider and its server.
//!
//! **Invariant:** nothing that was told to a caller turns out untrue, and what was not told is found by
//! asking again.

use std::{future::Future, time::Duration};

use orchestrator_worker::ports::lock::{
    Acquire, Acquired, KeyLease, LockError, LockProvider, Renewed,
};
use tokio::time::{Instant, sleep};

use super::{key, ours, wish};
use crate::proxy::{CEILING, Mode, Proxy};

/// For each answer, of a provider whose answers are lost.
pub const PATIENCE: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(600);
/// A call sends so many requests at most.
const REQUESTS: u32 = 4;

/// Asks until there is an answer.
pub async fn answered<T, F: Future<Output = Result<T, LockError>>>(ask: impl Fn() -> F) -> T {
    let since = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(error.is_passing() && since.elapsed() < CEILING, "{error:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

pub async fn taken(provider: &dyn LockProvider, wish: &Acquire) -> KeyLease {
    ours(answered(|| provider.acquire(wish)).await)
}

/// Calls while the answer to the `nth` request is lost; whether it was one that the call waited for.
async fn silenced<T, F: Future<Output = Result<T, LockError>>>(
    proxy: &Proxy,
    nth: u32,
    call: impl FnOnce() -> F,
) -> bool {
    proxy.set(Mode::HoldAnswerOf(nth));
    let answer = call().await;
    proxy.set(Mode::Pass);
    let Err(error) = answer else { return false };
    assert!(matches!(error, LockError::Unknown(_)), "{error:?}");
    true
}

/// `far` is a provider behind the proxy, with [`PATIENCE`]; `near` one on the same table that is not.
pub async fn every_call_survives_the_loss_of_any_answer(
    near: &dyn LockProvider,
    far: &dyn LockProvider,
    proxy: &Proxy,
) {
    for nth in 1..=REQUESTS {
        let wish = wish(&key(&format!("answer {nth}")), "a");
        let (key, mut lost) = (&wish.key, Vec::new());
        lost.push(silenced(proxy, nth, || far.acquire(&wish)).await);
        let lease = taken(far, &wish).await;
        let held = near.inspect(key).await.expect("an answer").expect("it is held");
        assert_eq!((held.owner.as_str(), held.fence), ("a", lease.fence));

        lost.push(silenced(proxy, nth, || far.renew(&lease, LONG)).await);
        assert_eq!(answered(|| far.renew(&lease, LONG)).await, Renewed::Held);

        lost.push(silenced(proxy, nth, || far.inspect(key)).await);
        assert_eq!(answered(|| far.inspect(key)).await.map(|it| it.fence), Some(lease.fence));

        lost.push(silenced(proxy, nth, || far.release(&lease)).await);
        let was_held = near.inspect(key).await.expect("an answer").is_some();
        assert_eq!(answered(|| far.release(&lease)).await, was_held, "it is freed once");
        assert_eq!(near.inspect(key).await, Ok(None));
        assert!(nth > 1 || lost == [true; 4], "each call sends a request: {lost:?}");
    }
}

/// Of a server that cannot be reached, or says nothing any more.
pub async fn a_server_that_is_gone_is_told_and_found_again(far: &dyn LockProvider, proxy: &Proxy) {
    for mode in [Mode::Refuse, Mode::BlackHole] {
        let lease = taken(far, &wish(&key(&format!("{mode:?}")), "a")).await;
        proxy.set(mode);
        let since = Instant::now();
        for _ in 0..2 {
            let error = far.renew(&lease, LONG).await.expect_err("nobody answers");
            assert!(error.is_passing(), "{error:?}");
        }
        assert!(since.elapsed() < PATIENCE * 20, "{:?}", since.elapsed());
        proxy.set(Mode::Pass);
        assert_eq!(answered(|| far.renew(&lease, LONG)).await, Renewed::Held);
    }
}

/// `restart` kills the server and starts it again.
pub async fn locks_and_fences_outlive_a_restart(
    provider: &dyn LockProvider,
    restart: impl FnOnce(),
) {
    let lease = taken(provider, &wish(&key("kept"), "a")).await;
    tokio::task::block_in_place(restart);
    assert_eq!(answered(|| provider.renew(&lease, LONG)).await, Renewed::Held);
    let other = wish(&key("kept"), "b");
    let theirs = answered(|| provider.acquire(&other)).await;
    assert!(matches!(theirs, Acquired::Theirs(held) if held.fence == lease.fence));
    assert!(answered(|| provider.release(&lease)).await);
    assert!(taken(provider, &wish(&key("kept"), "b")).await.fence > lease.fence);
}

/// Of a server that `tests/servers one` calls so; `proxied()` makes a provider near it, one behind a proxy
/// with [`PATIENCE`], and the proxy, `at(url)` settings for it, and `open` a provider.
macro_rules! stories {
    ($server:literal) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn every_call_survives_the_loss_of_any_answer() {
            let (near, far, proxy) = proxied().await;
            faults::every_call_survives_the_loss_of_any_answer(&near, &far, &proxy).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_server_that_is_gone_is_told_and_found_again() {
            let (_, far, proxy) = proxied().await;
            faults::a_server_that_is_gone_is_told_and_found_again(&far, &proxy).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn locks_and_fences_outlive_a_restart() {
            let start = || crate::instance::Instance::start($server);
            let mut server = tokio::task::block_in_place(start);
            let locks = open(&at(&server.url)).await;
            let restart = || {
                server.tell("kill");
                server.tell("start");
            };
            faults::locks_and_fences_outlive_a_restart(&locks, restart).await;
        }
    };
}
pub(super) use stories;
