//! Signals: the first TERM or INT drains, the second aborts, HUP reloads.
//!
//! **Invariant:** a signal that arrives after [`Signals::listen`] is never lost and never ends the
//! process by itself.

use std::{io, pin::pin};

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio_util::sync::CancellationToken;

/// What signals ask for.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub drain: CancellationToken,
    pub abort: CancellationToken,
}

/// Signals of this process, caught from now on.
pub struct Signals(signal_hook_tokio::Signals);

impl Signals {
    pub fn listen() -> io::Result<Self> {
        signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Self)
    }

    /// Turns signals into wishes until `stop`; calls `reload` at each HUP.
    pub async fn obey(self, wishes: Wishes, reload: impl Fn(), stop: CancellationToken) {
        let mut signals = pin!(self.0.take_until(stop.cancelled_owned()));
        while let Some(signal) = signals.next().await {
            match signal {
                SIGHUP => reload(),
                _ if wishes.drain.is_cancelled() => {
                    tracing::warn!(
                        event = "drain.aborted",
                        signal = name(signal),
                        "second signal: running steps are killed, what is held is left to others"
                    );
                    wishes.abort.cancel();
                }
                _ => {
                    tracing::info!(
                        event = "drain.requested",
                        signal = name(signal),
                        "going away: no new work, running steps may end; once more to end now"
                    );
                    wishes.drain.cancel();
                }
            }
        }
    }
}

fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("signal")
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    /// One test for all: signals reach every listener of the process.
    #[tokio::test]
    async fn the_first_signal_drains_the_second_aborts_and_a_hangup_reloads() {
        let signals = Signals::listen().expect("signals can be caught");
        let (wishes, stop) = (Wishes::default(), CancellationToken::new());
        let reloads = Arc::new(AtomicU32::new(0));
        let (count, (reloaded, mut seen)) =
            (reloads.clone(), tokio::sync::mpsc::unbounded_channel());
        let reload = move || {
            count.fetch_add(1, Ordering::Relaxed);
            reloaded.send(()).expect("the test listens");
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(signals.obey(wishes.clone(), reload, stop.clone()));
        let raise = |signal| signal_hook::low_level::raise(signal).expect("it is caught");
        let soon = Duration::from_secs(30);

        raise(SIGHUP);
        timeout(soon, seen.recv()).await.expect("in time");
        assert!(!wishes.drain.is_cancelled());

        raise(SIGTERM);
        timeout(soon, wishes.drain.cancelled()).await.expect("in time");
        assert!(!wishes.abort.is_cancelled());

        raise(SIGINT);
        timeout(soon, wishes.abort.cancelled()).await.expect("in time");
        stop.cancel();
        timeout(soon, tasks.join_all()).await.expect("in time");
        assert_eq!(reloads.load(Ordering::Relaxed), 1);
    }
}
