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

use crate::domain::drain_contract::patience;

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
