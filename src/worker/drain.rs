//! Going away: stop claiming, let running steps end, hand back the rest before the deadline.
//!
//! **Invariant:** the moments only follow each other: draining, then interrupt, then abort; none
//! is ever taken back.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What the operator wants.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Stop claiming, finish within the drain deadline.
    pub drain: CancellationToken,
    /// Now.
    pub abort: CancellationToken,
}

/// How far the drain has come, for all who work.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// When it began.
    since: Arc<OnceLock<Instant>>,
    /// Nothing new starts.
    pub draining: CancellationToken,
    /// What still runs is stopped and handed back.
    pub interrupt: CancellationToken,
    /// What still runs is killed.
    pub abort: CancellationToken,
}

/// Time to stop a step (its grace included) and to hand its execution back.
const MARGIN: Duration = Duration::from_secs(5);

/// How long running steps may go on after the drain began: the deadline less the time to stop and
/// hand back, but at least half of it.
pub fn patience(deadline: Duration) -> Duration {
    deadline.saturating_sub(MARGIN).max(deadline / 2)
}

impl Drain {
    /// Nothing new starts from now on.
    pub fn begin(&self) {
        self.since.get_or_init(Instant::now);
        self.draining.cancel();
    }

    /// Since it began.
    pub fn age(&self) -> Duration {
        self.since.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Follows the operator's wishes; ends when the abort was passed on or `done` is set.
    pub async fn follow(self, wanted: Shutdown, deadline: Duration, done: CancellationToken) {
        tokio::select! {
            () = done.cancelled() => return,
            () = wanted.abort.cancelled() => {}
            () = wanted.drain.cancelled() => {
                info!(event = "drain.started", deadline = ?deadline,
                    "draining: nothing new is claimed, running steps may end");
                self.begin();
                tokio::select! {
                    () = done.cancelled() => return,
                    () = wanted.abort.cancelled() => {}
                    () = sleep(patience(deadline)) => {
                        warn!(event = "drain.interrupting",
                            "drain deadline is near: running steps are stopped and handed back");
                        self.interrupt.cancel();
                        tokio::select! {
                            () = done.cancelled() => return,
                            () = wanted.abort.cancelled() => {}
                        }
                    }
                }
            }
        }
        warn!(event = "drain.aborting", "told to stop now: running steps are killed");
        self.begin();
        self.interrupt.cancel();
        self.abort.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_may_use_the_deadline_but_for_the_time_to_hand_back() {
        let secs = Duration::from_secs;
        assert_eq!(patience(secs(60)), secs(55));
        assert_eq!(patience(secs(6)), secs(3));
        assert_eq!(patience(Duration::ZERO), Duration::ZERO);
    }
}
