//! Renews all leases of this process in one statement, and hears of cancellations by the way.
//!
//! **Invariant:** a deadline is counted from before the renewal was sent, and grows only when the
//! store said that the lease is held; a lease is lost only when the store said so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    leases::{Leases, Standing},
    spans::SoFar,
};
use crate::{
    clock::boot_now,
    domain::{
        id::Beat,
        lease::{BootTime, Lease, LeaseTerms, Renewal},
        notice::LostBy,
    },
    instruments::{ByReason, ByResult, Instruments},
    ports::executions::ExecutionStore,
};

/// Between tries of a renewal that failed, at most.
const RETRY: Duration = Duration::from_secs(1);
/// Of a short lease the pause is this part of its time: one lost renewal must not lose it.
const RETRY_PART: u32 = 30;

/// Renews until it is stopped.
pub struct Keeper {
    pub store: Arc<dyn ExecutionStore>,
    pub leases: Arc<Leases>,
    pub terms: LeaseTerms,
    pub beats: Arc<Beats>,
    pub instruments: Arc<Instruments>,
}

/// The process's renewals, counted; never restarts.
#[derive(Debug, Default)]
pub struct Beats(AtomicU64);

impl Beats {
    pub fn now(&self) -> Beat {
        Beat(self.0.load(Ordering::Acquire))
    }

    fn next(&self) -> Beat {
        Beat(self.0.fetch_add(1, Ordering::AcqRel) + 1)
    }
}

impl Keeper {
    pub async fn run(self, stop: CancellationToken) {
        let mut next = Instant::now();
        loop {
            next = (next + self.terms.renew_every()).max(Instant::now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => {}
            }
            self.renew_until_answered(&stop).await;
        }
    }

    async fn renew_until_answered(&self, stop: &CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let standing = self.leases.standing();
            self.instruments.leases_held.set(i64::try_from(standing.len()).unwrap_or(i64::MAX));
            if standing.is_empty() {
                return;
            }
            let leases: Vec<Lease> = standing.iter().map(|s| s.lease.clone()).collect();
            let told: Vec<SoFar> = standing.iter().map(|s| s.term.renewing()).collect();
            let sent = boot_now();
            match self.store.renew(self.terms.ttl(), self.beats.next(), &leases).await {
                Ok(answers) => {
                    if failures > 0 {
                        info!(event = "lease.renewing_again", failures, "leases are renewed again");
                    }
                    for ((standing, answer), told) in standing.iter().zip(answers).zip(told) {
                        if matches!(answer, Renewal::Held | Renewal::Cancelled) {
                            standing.term.renewed(told);
                        }
                        self.take_in(standing, answer, sent);
                    }
                    return;
                }
                Err(error) => {
                    failures += 1;
                    self.instruments.lease_renew.get_or_create(&ByResult { result: "error" }).inc();
                    if failures == 1 {
                        for standing in &standing {
                            standing.term.called_database("renew", sent, Some("unavailable"));
                        }
                        warn!(event = "lease.renew_failed", %error, leases = leases.len(),
                            "leases could not be renewed; trying again until their deadline");
                    }
                    debug!(failures, %error, "renewal failed");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(RETRY.min(self.terms.ttl() / RETRY_PART)) => {}
            }
        }
    }

    fn take_in(&self, standing: &Standing, answer: Renewal, sent: BootTime) {
        let result = match answer {
            Renewal::Held => "held",
            Renewal::Cancelled => "cancelled",
            Renewal::Unanswered => "unanswered",
            Renewal::Ended => "ended",
            Renewal::Lost => "lost",
        };
        self.instruments.lease_renew.get_or_create(&ByResult { result }).inc();
        let _of_execution = standing.term.log().enter();
        match answer {
            Renewal::Held => {
                standing.term.count_renewal();
                standing.extend(self.terms.local_deadline(sent));
            }
            Renewal::Cancelled => {
                standing.term.called_database("renew", sent, None);
                standing.extend(self.terms.local_deadline(sent));
                standing.cancelled().cancel();
            }
            Renewal::Unanswered => {
                standing.term.called_database("renew", sent, Some("rows_locked"));
                warn!(
                    event = "lease.unanswered",
                    "a client keeps the rows of this lease locked: it was not renewed this time"
                );
            }
            // Its driver knows, and the lease is about to be forgotten.
            Renewal::Ended => {}
            Renewal::Lost => {
                if standing.lose(LostBy::Taken) {
                    self.instruments.lease_lost.get_or_create(&ByReason { reason: "taken" }).inc();
                    error!(event = "lease.lost", "lease is held by another: its work is stopped");
                }
            }
        }
    }
}
