//! What a watch tells the worker of one reason to stand by.
//!
//! **Invariant:** an outage leaves what was last told alone; a refusal, and the end of the watch, take it back,
//! so that no worker stands by for what nobody watches.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{State, Unanswered};
use crate::{
    domain::{
        retry::Backoff,
        standby::{Reason, Standby},
    },
    instruments::Instruments,
};

/// A watch that has ended, or failed, begins anew.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };
const SHORTEST: Duration = Duration::from_millis(200);

pub struct Reporter {
    reason: Reason,
    standby: watch::Sender<Standby>,
    state: State,
    /// In a row.
    failures: u32,
}

impl Reporter {
    pub fn new(
        feature: &'static str,
        reason: Reason,
        standby: watch::Sender<Standby>,
        instruments: Arc<Instruments>,
    ) -> Self {
        Self { reason, standby, state: State::new(feature, instruments), failures: 0 }
    }

    /// The watch has begun.
    pub fn begun(&mut self) {
        self.failures = 0;
        self.state.answered();
    }

    pub fn report(&self, is_so: bool) {
        self.standby.send_if_modified(|standby| standby.set(self.reason, is_so));
    }

    /// The watch has ended; returns when it is time for the next one.
    pub async fn ended(&mut self, watched: Result<(), Unanswered>) {
        if let Err(error) = watched {
            let is_refused = error.is_refusal();
            if is_refused {
                self.report(false);
            }
            self.state.failed(&error, is_refused);
            self.failures = self.failures.saturating_add(1);
        }
        sleep(AGAIN.delay(self.failures.max(1), rand::random(), Some(SHORTEST))).await;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.report(false);
    }
}
