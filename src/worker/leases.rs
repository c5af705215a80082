//! The leases that this process holds, shared by all who renew them, watch them or act on them.
//!
//! **Invariant:** a lease that was lost is never standing again, and a deadline only grows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::spans::Term;
use crate::{
    domain::{
        id::{ExecutionId, Fence},
        lease::{BootTime, Lease},
        notice::LostBy,
    },
    instruments::{ByReason, Instruments},
};

/// One lease as its holder sees it.
pub struct Standing {
    pub lease: Lease,
    pub term: Arc<Term>,
    deadline: watch::Sender<BootTime>,
    lost: CancellationToken,
    lost_by: OnceLock<LostBy>,
    cancelled: CancellationToken,
}

impl Standing {
    fn new(lease: Lease, deadline: BootTime, term: Arc<Term>) -> Self {
        Self {
            lease,
            term,
            deadline: watch::Sender::new(deadline),
            lost: CancellationToken::new(),
            lost_by: OnceLock::new(),
            cancelled: CancellationToken::new(),
        }
    }

    /// Whether anything may still be done under the lease.
    pub fn may_act(&self, now: BootTime) -> bool {
        !self.lost.is_cancelled() && now < *self.deadline.borrow()
    }

    pub fn extend(&self, deadline: BootTime) {
        self.deadline.send_if_modified(|held| {
            let later = deadline > *held;
            *held = deadline.max(*held);
            later
        });
    }

    /// Follows the deadline.
    pub fn deadline(&self) -> watch::Receiver<BootTime> {
        self.deadline.subscribe()
    }

    /// Returns whether it was standing until now.
    pub fn lose(&self, by: LostBy) -> bool {
        let first = self.lost_by.set(by).is_ok();
        self.lost.cancel();
        first
    }

    /// It was not renewed before its deadline: tells of it, whoever of several notices that first.
    pub fn expire(&self, instruments: &Instruments) {
        if self.lose(LostBy::Deadline) {
            self.tell_expired(instruments);
        }
    }

    /// As [`Standing::expire`], of one that is lost by its deadline already.
    pub fn tell_expired(&self, instruments: &Instruments) {
        instruments.lease_lost.get_or_create(&ByReason { reason: "deadline" }).inc();
        let _of_execution = self.term.log().enter();
        error!(
            event = "lease.lost",
            "lease could not be renewed before its deadline: its work is stopped"
        );
    }

    /// The database has refused a write because there is a newer holder: counts it, and tells of it, whoever of
    /// several notices that first.
    pub fn refuse(&self, instruments: &Instruments) {
        instruments.fenced_writes.inc();
        if self.lose(LostBy::Taken) {
            instruments.lease_lost.get_or_create(&ByReason { reason: "fenced" }).inc();
            let _of_execution = self.term.log().enter();
            warn!(
                event = "lease.fenced",
                "a write was refused because the execution has a newer holder"
            );
        }
    }

    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Why it is lost, if it is.
    pub fn lost_by(&self) -> Option<LostBy> {
        self.lost_by.get().copied()
    }

    /// Somebody cancelled the execution.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }
}

/// All leases of this process.
#[derive(Default)]
pub struct Leases {
    held: Mutex<BTreeMap<ExecutionId, Arc<Standing>>>,
}

impl Leases {
    /// An earlier lease on the same execution is lost by it.
    pub fn add(&self, lease: Lease, deadline: BootTime, term: Arc<Term>) -> Arc<Standing> {
        let standing = Arc::new(Standing::new(lease.clone(), deadline, term));
        if let Some(former) = self.held().insert(lease.execution, standing.clone()) {
            former.lose(LostBy::Taken);
        }
        standing
    }

    /// Forgets this very lease; a later one on the same execution stays.
    pub fn remove(&self, lease: &Lease) {
        let mut held = self.held();
        if held.get(&lease.execution).is_some_and(|standing| standing.lease == *lease) {
            held.remove(&lease.execution);
        }
    }

    pub fn holds(&self, execution: &ExecutionId, fence: Fence) -> bool {
        self.held().get(execution).is_some_and(|standing| standing.lease.fence == fence)
    }

    /// Those not lost, in the order of their keys.
    pub fn standing(&self) -> Vec<Arc<Standing>> {
        self.held().values().filter(|s| !s.lost.is_cancelled()).cloned().collect()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ExecutionId, Arc<Standing>>> {
        self.held.lock().expect("no panic while it is held")
    }
}
