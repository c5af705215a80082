//! What all sessions of one store share: what was learnt about the tables and the primary, plans,
//! and how often each execution was put back.
//!
//! **Invariant:** nothing in here decides who holds an execution; losing all of it costs some reads
//! and a shorter back-off.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicBool},
    time::Duration,
};

use tokio::time::Instant;

use super::{apart::Suspects, facts::Facts, session::Unfinished};
use crate::{
    adapters::plans::Plans,
    domain::{
        id::{ExecutionId, PlanHash},
        intake::Deferrals,
    },
};

/// Shared by the sessions of one store.
pub(super) struct Shared {
    pub plans: Plans,
    pub unfinished: Unfinished,
    /// One claim at a time: several of one process would only meet each other's rows.
    pub claiming: Arc<tokio::sync::Mutex<()>>,
    /// Of a batch of claims that broke.
    pub suspects: Suspects,
    /// Of a batch of takeovers that broke.
    pub held_suspects: Suspects,
    /// Whose last advance met a lock.
    pub locked: Suspects,
    /// A renewal met a lock, or was not answered: the next ones go around what is locked.
    pub renewals_wait: AtomicBool,
    facts: Mutex<Option<Arc<Facts>>>,
    primary: Mutex<Option<(String, Instant)>>,
    stored: Mutex<HashSet<PlanHash>>,
    deferrals: Mutex<Deferrals>,
    started: Instant,
}

impl Shared {
    /// Beyond this many the memory of stored plans starts anew.
    const MOST_STORED: usize = 10_000;

    pub fn new() -> Self {
        Self {
            plans: Plans::default(),
            unfinished: Unfinished::default(),
            claiming: Arc::default(),
            suspects: Suspects::default(),
            held_suspects: Suspects::default(),
            locked: Suspects::default(),
            renewals_wait: AtomicBool::new(false),
            facts: Mutex::default(),
            primary: Mutex::default(),
            stored: Mutex::default(),
            deferrals: Mutex::default(),
            started: Instant::now(),
        }
    }

    pub fn facts(&self) -> Option<Arc<Facts>> {
        held(&self.facts).clone()
    }

    pub fn learn_facts(&self, facts: Option<Arc<Facts>>) {
        *held(&self.facts) = facts;
    }

    /// Since when this process has met this primary and no other.
    pub fn met_primary(&self, identity: &str) -> Duration {
        let mut primary = held(&self.primary);
        match &*primary {
            Some((known, since)) if known == identity => since.elapsed(),
            _ => {
                *primary = Some((identity.to_owned(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    pub fn is_stored(&self, plan: &PlanHash) -> bool {
        held(&self.stored).contains(plan)
    }

    /// These plans stand in `ow_plans`, committed.
    pub fn stored(&self, plans: impl IntoIterator<Item = PlanHash>) {
        let mut stored = held(&self.stored);
        if stored.len() >= Self::MOST_STORED {
            stored.clear();
        }
        stored.extend(plans);
    }

    /// Counts one more deferral; returns the back-off and the time since the first.
    pub fn defer(&self, execution: &ExecutionId) -> (Duration, Duration) {
        held(&self.deferrals).defer(execution, self.started.elapsed())
    }

    pub fn settle(&self, execution: &ExecutionId) {
        held(&self.deferrals).settle(execution);
    }

    /// This process does not take the execution over before its back-off is past; others may.
    pub fn leave_alone(&self, execution: &ExecutionId, backoff: Duration) {
        held(&self.deferrals).leave_alone(execution, self.started.elapsed(), backoff);
    }

    pub fn is_left_alone(&self, execution: &ExecutionId) -> bool {
        held(&self.deferrals).is_left_alone(execution, self.started.elapsed())
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is held")
}
