//! What the worker's loops share: slots, leases, observations, and the executions under way.
//!
//! **Invariant:** an execution occupies one slot from the moment it is asked for until its driver
//! has ended, and its lease is forgotten then, whatever became of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use tracing::{Level, debug, enabled, info, warn};

use self::occupied::{Occupied, drive};
use super::{
    Settings, Worker,
    attempts::Tools,
    drain::Drain,
    health::Health,
    keeper::Beats,
    leases::Leases,
    notices::Notices,
    recorder::Recorder,
    spans::{Past, Term, Tracing},
    teller::Untold,
    told::Told,
    unclaimed::{self, Unclaimed},
};
use crate::{
    domain::{
        death::{Death, News},
        deferral::Deferral,
        drain_contract::patience,
        execution::ExecutionState,
        id::{ExecutionId, Fence},
        intake::Supported,
        lease::BootTime,
        marks::Load,
        notice::{Left, Unfit, What},
        recovery::{Held, Observations, TakeOver},
        standby::Standby,
    },
    instruments::{ByState, ByStatus, Instruments, as_seconds},
    ports::{
        executions::{Batch, Claimant, ExecutionStore, Queue, StoreError},
        lock::LockError,
    },
};

mod occupied;

/// An execution that ended in this worker's hands.
#[derive(Clone, Debug)]
pub struct Finished {
    pub execution: ExecutionId,
    pub workflow: String,
    pub state: ExecutionState,
    pub error: Option<String>,
    /// From the claim to the end.
    pub took: Duration,
}

/// What a worker did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The first [`Summary::KEPT`] that ended, in that order.
    pub finished: Vec<Finished>,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub handed_back: u64,
    pub lost: u64,
}

impl Summary {
    pub const KEPT: usize = 1_000;
}

pub struct Shared {
    pub store: Arc<dyn ExecutionStore>,
    pub settings: Settings,
    pub tools: Arc<Tools>,
    pub leases: Arc<Leases>,
    pub beats: Arc<Beats>,
    pub instruments: Arc<Instruments>,
    pub health: Arc<Health>,
    tracing: Option<Tracing>,
    pub untold: Untold,
    supported: Arc<Supported>,
    slots: Arc<Semaphore>,
    owed: AtomicUsize,
    freed: Notify,
    load: watch::Sender<Load>,
    standby: watch::Receiver<Standby>,
    pub notices: Notices,
    pub drivers: TaskTracker,
    observations: Mutex<Observations>,
    summary: Mutex<Summary>,
    /// Met with something that this worker does not know.
    unknown: Told,
    born: Instant,
    failing: Mutex<Option<StoreError>>,
}

impl Shared {
    pub fn new(worker: &Worker, drain: Drain, recorder: Recorder) -> Self {
        let settings = worker.settings.clone();
        let instruments = worker.instruments.clone();
        let total = i64::try_from(settings.slots).unwrap_or(i64::MAX);
        instruments.slots.get_or_create(&ByState { state: "total" }).set(total);
        let drivers = TaskTracker::new();
        drivers.close();
        Self {
            store: worker.store.clone(),
            tools: Arc::new(Tools {
                store: worker.store.clone(),
                runner: worker.runner.clone(),
                recorder,
                backoff: settings.backoff,
                drain,
                instruments: instruments.clone(),
            }),
            leases: Arc::default(),
            beats: Arc::default(),
            instruments,
            health: worker.health.clone(),
            tracing: worker.tracing.clone(),
            untold: Untold::default(),
            supported: Arc::new(worker.runner.supported()),
            slots: Arc::new(Semaphore::new(settings.slots)),
            settings,
            owed: AtomicUsize::new(0),
            freed: Notify::new(),
            load: worker.load.clone(),
            standby: worker.standby.clone(),
            notices: worker.notices.clone(),
            drivers,
            observations: Mutex::default(),
            summary: Mutex::default(),
            unknown: Told::default(),
            born: Instant::now(),
            failing: Mutex::default(),
        }
    }

    /// Of this process.
    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    pub fn claimant(&self) -> Claimant {
        Claimant {
            owner: self.settings.owner.clone(),
            uid: self.settings.process.to_string(),
            ttl: self.settings.terms.ttl(),
            beat: self.beats.now(),
            steps_at_once: self.settings.steps_at_once,
            supported: self.supported.clone(),
            eligibility: self.settings.eligibility.clone(),
            unknown_after: self.settings.unknown_after,
            poison_claims: self.settings.poison_claims,
        }
    }

    /// Whether it stands by, and when that changes.
    pub fn standby(&self) -> watch::Receiver<Standby> {
        self.standby.clone()
    }

    /// Up to `wanted` free slots; `None` if there is none, none is wanted, or this worker stands by.
    pub fn reserve(&self, wanted: usize) -> Option<OwnedSemaphorePermit> {
        self.take_slots(self.slots.available_permits().min(wanted))
    }

    /// Like [`Shared::reserve`], and leaves those free that takeovers wait for: what somebody began
    /// goes before what is new.
    pub fn reserve_for_claims(&self, wanted: usize) -> Option<OwnedSemaphorePermit> {
        let owed = self.owed.load(Ordering::Acquire);
        self.take_slots(self.slots.available_permits().saturating_sub(owed).min(wanted))
    }

    /// So many executions wait for a slot to be taken over.
    pub fn owe(&self, takeovers: usize) {
        self.owed.store(takeovers, Ordering::Release);
    }

    fn take_slots(&self, free: usize) -> Option<OwnedSemaphorePermit> {
        // The watcher and the claim loop may both have seen the same free slot.
        let permits = u32::try_from(free).unwrap_or(u32::MAX);
        let is_free = free > 0 && !self.standby.borrow().is_on();
        is_free.then(|| self.slots.clone().try_acquire_many_owned(permits).ok()).flatten()
    }

    /// Waits until some execution has ended.
    pub async fn slot_freed(&self) {
        self.freed.notified().await;
    }

    /// Executions under way.
    pub fn active(&self) -> usize {
        self.load.borrow().runs()
    }

    /// Nothing more is claimed.
    pub fn tell_of_drain(&self) {
        self.health.set_draining();
        self.instruments.draining.set(1);
        self.load.send_if_modified(Load::drain);
    }

    /// Tells what became of this work, if a drain has not waited for it; whoever has asked to end now knows.
    pub fn tell_if_overdue(&self, execution: &ExecutionId, left: Left) {
        if self.tools.drain.age() >= patience(self.settings.drain_deadline) {
            self.notices.tell_of(execution, What::DrainTimedOut(left));
        }
    }

    pub async fn all_done(&self) {
        self.drivers.wait().await;
    }

    pub fn observe(&self, sent: Duration, replied: Duration, survey: &[Held]) -> Vec<TakeOver> {
        let mine = |execution: &ExecutionId, fence: Fence| self.leases.holds(execution, fence);
        let ttl = self.settings.terms.ttl();
        let mut observations = self.observations.lock().expect("no panic while it is held");
        observations.observe(sent, replied, ttl, &self.settings.process, survey, mine)
    }

    /// What a pod holds that has ended is free from now on.
    pub fn note(&self, news: News) {
        if !self.observations.lock().expect("no panic while it is held").note(news.clone()) {
            return;
        }
        match news {
            News::Ended(Death { uid, end }) => info!(
                event = "pod.ended",
                pod.uid = uid,
                cause = end.by.as_str(),
                exit_code = end.exit_code,
                node = end.node.as_deref(),
                "a worker's pod has ended"
            ),
            News::NodeLost { uid, node } => warn!(
                event = "pod.node_lost",
                pod.uid = uid,
                node = node.as_deref(),
                "nobody hears of the node of a worker's pod: what the pod holds is taken over when its leases \
                 have run out"
            ),
            News::Former(end) => info!(
                event = "pod.restarted",
                cause = end.by.as_str(),
                exit_code = end.exit_code,
                "the process before this one, in the same pod, has ended"
            ),
        }
    }

    pub fn forget_observations(&self) {
        self.observations.lock().expect("no panic while it is held").forget();
    }

    /// Reads the queue and sets its gauges.
    pub async fn count_queue(&self) -> Result<Queue, StoreError> {
        let queue = self.store.queue(&self.settings.eligibility).await?;
        let count = |executions| i64::try_from(executions).unwrap_or(i64::MAX);
        let pending = (ExecutionState::Pending, queue.due.saturating_add(queue.later));
        for (state, depth) in [pending, (ExecutionState::Running, queue.running)] {
            let by = ByStatus { status: state.as_str() };
            self.instruments.queue_depth.get_or_create(&by).set(count(depth));
        }
        self.instruments.not_due_executions.set(count(queue.later));
        self.instruments.queue_oldest_age.set(as_seconds(queue.oldest_due));
        self.instruments.backlog_executions.set(count(queue.backlog));
        self.instruments.backlog_oldest_age.set(as_seconds(queue.oldest_backlog));
        Ok(queue)
    }

    pub fn database_answered(&self) {
        self.health.database_answered();
        if self.failing.lock().expect("no panic while it is held").take().is_some() {
            info!(event = "database.answers", "the database answers again");
        }
    }

    /// Says it once an outage, and again when the reason changes.
    pub fn database_failed(&self, error: &StoreError) {
        self.health.database_failed(error.to_string());
        let mut failing = self.failing.lock().expect("no panic while it is held");
        if failing.as_ref() != Some(error) {
            warn!(event = "database.failed", %error, "looking for work failed; trying again");
            if let StoreError::NotReady(_) = error {
                self.notices.tell(What::SchemaMismatch(Unfit::Unusable, error.to_string()));
            }
            *failing = Some(error.clone());
        }
    }

    /// Whether nothing will be left to do only after a person has mended something.
    pub fn gives_up_on(&self, error: &StoreError) -> bool {
        let is_for_a_person =
            matches!(error, StoreError::NotReady(_) | StoreError::Leases(LockError::NotReady(_)));
        is_for_a_person && self.settings.until_idle && self.active() == 0
    }

    /// Puts claimed executions under way, each with one of the reserved slots. `past`: what a takeover
    /// leaves to be told.
    pub fn admit(
        self: &Arc<Self>,
        batch: Batch,
        sent: BootTime,
        mut slots: OwnedSemaphorePermit,
        past: Option<Vec<Past>>,
    ) {
        let mut unclaimed: Vec<_> =
            batch.deferred.into_iter().filter_map(|(id, why)| self.deferred(id, why)).collect();
        let refused = batch.refused.iter().map(|(execution, _)| execution.clone());
        let past = past.unwrap_or_else(|| refused.map(Past::refused).collect());
        self.tell_of_past(past);
        for (execution, reason) in batch.refused {
            unclaimed.push((execution.clone(), Unclaimed::Refused(reason.clone())));
            self.note_end(Finished {
                execution,
                workflow: String::new(),
                state: ExecutionState::Failed,
                error: Some(reason),
                took: Duration::ZERO,
            });
        }
        unclaimed::say(self, unclaimed);
        let deadline = self.settings.terms.local_deadline(sent);
        for claim in batch.claims {
            let slot = slots.split(1).expect("a store returns no more claims than were asked for");
            let term = Term::begin(self.tracing.as_ref(), &claim, sent);
            let standing = self.leases.add(claim.lease.clone(), deadline, term);
            let occupied = Occupied::new(self.clone(), standing, slot, sent);
            self.drivers.spawn(drive(occupied, claim));
        }
    }

    pub const fn is_traced(&self) -> bool {
        self.tracing.is_some()
    }

    /// The last spans are sent at once.
    pub fn hurry_spans(&self) {
        if let Some(tracing) = &self.tracing {
            tracing.sink.hurry();
        }
    }

    /// Tells the trace what nobody else can tell, beside the work.
    pub fn tell_of_past(self: &Arc<Self>, past: Vec<Past>) {
        let past: Vec<Past> = past.into_iter().filter(|one| !one.is_nothing()).collect();
        let Some(tracing) = self.tracing.clone().filter(|_| !past.is_empty()) else { return };
        let shared = self.clone();
        self.drivers.spawn(async move {
            let of: Vec<_> = past.iter().map(Past::former).collect();
            let remains = match shared.store.remains(&of).await {
                Ok(remains) => remains,
                Err(error) => {
                    debug!(%error, "what was taken over is missing in its trace");
                    return;
                }
            };
            for one in past {
                let gone = one.untold_end().map(|end| shared.untold.add(end));
                let remains = remains.iter().find(|remains| remains.execution == one.execution);
                match (remains, gone) {
                    (Some(remains), gone) => {
                        one.tell(&tracing, remains, shared.settings.owner.as_str(), gone);
                    }
                    // Somebody has deleted it.
                    (None, Some(gone)) => gone(),
                    (None, None) => {}
                }
            }
        });
    }

    /// What there is to say of one that was put back: most are nobody's matter.
    fn deferred(&self, id: ExecutionId, why: Deferral) -> Option<(ExecutionId, Unclaimed)> {
        if matches!(why, Deferral::Unknown(_)) && self.unknown.is_news(&id) {
            return Some((id, Unclaimed::Unknown(why)));
        }
        enabled!(Level::DEBUG).then_some((id, Unclaimed::PutBack(why)))
    }

    pub fn summary(&self) -> Summary {
        self.summary.lock().expect("no panic while it is held").clone()
    }

    fn note_end(&self, finished: Finished) {
        self.instruments.finished(&finished.workflow, finished.state.as_str());
        let mut summary = self.summary.lock().expect("no panic while it is held");
        match finished.state {
            ExecutionState::Success => summary.succeeded += 1,
            ExecutionState::Cancelled => summary.cancelled += 1,
            ExecutionState::Failed | ExecutionState::Pending | ExecutionState::Running => {
                summary.failed += 1;
            }
        }
        if summary.finished.len() < Summary::KEPT {
            summary.finished.push(finished);
        }
    }
}
