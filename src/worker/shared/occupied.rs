//! An execution in its slot: from its claim to its end, its hand-back or its loss.
//!
//! **Invariant:** what it occupies is given back once, however its driver ends.

use std::{sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use tracing::{Instrument, info, warn};

use super::{Finished, Shared};
use crate::{
    clock::boot_now,
    domain::{
        execution::ExecutionState,
        lease::BootTime,
        notice::{Left, LostBy, What},
    },
    instruments::{ByCause, ByKind, as_seconds, millis},
    ports::{
        executions::{AdvanceError, Advanced, Claim, ClaimKind, HandBack},
        traced::TracedEnd,
    },
    worker::{
        driver::{Driven, Driver},
        leases::Standing,
    },
};

/// Gives back what an execution occupied, however its driver ends.
pub(super) struct Occupied {
    shared: Arc<Shared>,
    standing: Arc<Standing>,
    slot: Option<OwnedSemaphorePermit>,
    begun: BootTime,
}

impl Occupied {
    pub(super) fn new(
        shared: Arc<Shared>,
        standing: Arc<Standing>,
        slot: OwnedSemaphorePermit,
        begun: BootTime,
    ) -> Self {
        shared.load.send_if_modified(|load| load.begin(begun));
        shared.instruments.executions_active.inc();
        Self { shared, standing, slot: Some(slot), begun }
    }
}

impl Drop for Occupied {
    /// Whoever is told looks again at once, and must not find what has just ended.
    fn drop(&mut self) {
        self.shared.leases.remove(&self.standing.lease);
        self.shared.instruments.executions_active.dec();
        self.slot.take();
        self.shared.load.send_if_modified(|load| load.end(self.begun));
        self.shared.freed.notify_one();
    }
}

pub(super) async fn drive(occupied: Occupied, claim: Claim) {
    let (shared, standing) = (occupied.shared.clone(), occupied.standing.clone());
    let span = standing.term.log().clone();
    drive_and_tell(&shared, standing, claim).instrument(span).await;
    drop(occupied);
}

async fn drive_and_tell(shared: &Arc<Shared>, standing: Arc<Standing>, claim: Claim) {
    let kind = match &claim.kind {
        ClaimKind::Fresh => {
            info!(event = "execution.claimed", "claimed");
            "fresh"
        }
        ClaimKind::TakenOver { from, cause } => {
            let told = cause.told();
            info!(
                event = "execution.taken_over",
                from = from.as_deref().unwrap_or("~released"),
                cause = told,
                "taken over"
            );
            let what = What::LeasesReclaimed { from: from.clone(), cause: told };
            shared.notices.tell_of(&standing.lease.execution, what);
            let by = ByCause { cause: cause.as_str() };
            shared.instruments.takeovers.get_or_create(&by).inc();
            "takeover"
        }
    };
    shared.instruments.claims.get_or_create(&ByKind { kind }).inc();
    let began = shared.age();
    let workflow = claim.workflow.name.clone();
    let tools = shared.tools.clone();
    let driven = Driver::drive(tools, standing.clone(), claim, shared.settings.steps_at_once).await;
    let took = shared.age().saturating_sub(began);
    match driven {
        Driven::Ended { finish, failed_steps } => {
            let told_ms = standing.term.told_ms();
            let gone = told_ms.map(|_| shared.untold.add(TracedEnd::from(&standing.lease)));
            standing.term.ended(finish.state, gone);
            shared.instruments.execution_duration.observe(as_seconds(took));
            info!(
                event = "execution.finished",
                result = finish.state.as_str(),
                error = failed_steps,
                duration_ms = millis(took),
                "finished"
            );
            shared.note_end(Finished {
                execution: standing.lease.execution.clone(),
                workflow,
                state: finish.state,
                error: finish.error,
                took,
            });
        }
        Driven::Drained(hand_back) => give_back(shared, &standing, hand_back).await,
        Driven::Lost => note_lost(shared, &standing),
    }
}

fn note_lost(shared: &Shared, standing: &Standing) {
    warn!(event = "execution.lost", "its lease is lost; nothing more is written");
    let by = standing.lost_by().unwrap_or(LostBy::Deadline);
    shared.notices.tell_of(&standing.lease.execution, What::ClaimLost(by));
    shared.summary.lock().expect("no panic while it is held").lost += 1;
}

/// Hands back until the store has answered or the lease has ended.
async fn give_back(shared: &Shared, standing: &Standing, hand_back: HandBack) {
    const PAUSE: Duration = Duration::from_millis(200);
    let hand_back = [hand_back];
    while standing.may_act(boot_now()) {
        match shared.store.hand_back(&hand_back).await.pop() {
            Some(Ok(advanced)) => {
                match advanced {
                    Advanced::Recorded => {
                        standing.term.drained();
                        shared.tell_if_overdue(&standing.lease.execution, Left::HandedBack);
                    }
                    Advanced::Cancelled => standing.term.ended(ExecutionState::Cancelled, None),
                }
                info!(event = "execution.handed_back", "handed back for the next worker");
                shared.summary.lock().expect("no panic while it is held").handed_back += 1;
                return;
            }
            Some(Err(AdvanceError::Fenced)) | None => {
                standing.refuse(&shared.instruments);
                break;
            }
            Some(Err(AdvanceError::Store(error))) => {
                warn!(event = "execution.hand_back_failed", %error, "trying again");
                sleep(PAUSE).await;
            }
        }
    }
    standing.expire(&shared.instruments);
    note_lost(shared, standing);
}
