//! Attempts for the unit tests of the runners.
//!
//! **Invariant:** nothing halts an attempt made here but the test that holds its [`Bench`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::boot_now,
    domain::{
        id::Fence,
        lease::BootTime,
        step::{Action, Resume, Step},
    },
    ports::runner::{Attempt, Halt},
};

/// The worker's end of an attempt.
pub struct Bench {
    pub stop: CancellationToken,
    pub kill: CancellationToken,
    pub deadline: watch::Sender<BootTime>,
}

impl Default for Bench {
    fn default() -> Self {
        let far = boot_now().plus(Duration::from_secs(3600));
        Self {
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            deadline: watch::Sender::new(far),
        }
    }
}

impl Bench {
    /// The first attempt, with the key `key` and the fence 7.
    pub fn attempt(&self, action: Action) -> Attempt {
        Attempt {
            execution: "execution".into(),
            step_execution: "step-execution".into(),
            step: Arc::new(Step {
                id: "step".into(),
                name: "a step".into(),
                action,
                timeout: Duration::from_secs(30),
                retries: 0,
                resume: Resume::Rerun,
            }),
            number: 1,
            idempotency_key: "key".into(),
            fence: Fence(7),
            trace: BTreeMap::from([("TRACEPARENT".to_owned(), "00-aa-bb-01".to_owned())]),
            halt: Halt {
                stop: self.stop.clone(),
                kill: self.kill.clone(),
                deadline: self.deadline.subscribe(),
            },
            so_far: watch::Sender::default(),
        }
    }
}
