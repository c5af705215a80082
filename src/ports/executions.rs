//! The store of executions as a worker sees it. Each verb is one transaction over executions,
//! locks, steps and plans.
//!
//! **Invariant:** every write of a verb is guarded by fence and nonce of the lease it is made
//! under; each may be sent twice. A "no" is a value, silence is an error.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    lock::LockError,
    traced::{Former, Remains, Telling, TracedEnd, Untold},
};
use crate::domain::{
    deferral::{Deferral, Deferrals},
    eligibility::Eligibility,
    execution::{AttemptOutcome, ExecutionState},
    id::{Beat, ExecutionId, Fence, Owner, StepExecutionId},
    intake::{StepSlot, Supported},
    lease::{Holding, Lease, Mark, Renewal},
    plan::{Finish, Plan, Progress, Recorded, plan},
    recovery::{Cause, Held, TakeOver},
    trace::Origin,
    workflow::Workflow,
};

/// A database as the worker's source of work.
#[async_trait]
pub trait ExecutionStore: Send + Sync + 'static {
    /// Claims up to `limit` pending, due executions, oldest first, and starts their first steps.
    async fn claim(&self, as_who: &Claimant, limit: usize) -> Result<Batch, StoreError>;

    /// Claims this very execution if it is pending, whether it is due or backlog, and starts its first
    /// steps; one whose template is paused is left alone.
    async fn claim_named(
        &self,
        as_who: &Claimant,
        execution: &ExecutionId,
    ) -> Result<Named, StoreError>;

    /// Renews all leases in one statement; one answer a lease, in their order. A lock row that is
    /// missing while its execution still carries the lease is re-asserted. Rows that somebody keeps
    /// locked leave their own leases [`Renewal::Unanswered`], and no other.
    async fn renew(
        &self,
        ttl: Duration,
        beat: Beat,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError>;

    /// Records what happened in some executions, each in full or not at all; one answer each, in
    /// their order. May be sent again after [`StoreError::Unknown`]. Of very many skipped steps some
    /// may be recorded before the rest, together with what ended, and never after the finish.
    async fn advance(&self, advances: &[Advance]) -> Vec<Result<Advanced, AdvanceError>>;

    /// Stores what a running attempt has printed so far; `false`, and nothing is written, if the step
    /// has another holder or attempt by now, or does not run any more.
    async fn note_output(
        &self,
        lease: &Lease,
        step: &StepExecutionId,
        attempt: u32,
        text: &str,
    ) -> Result<bool, StoreError>;

    /// Gives executions back, still `running`, for anyone to take at once; one that somebody has
    /// cancelled is ended instead ([`Advanced::Cancelled`]). One answer each.
    async fn hand_back(&self, returns: &[HandBack]) -> Vec<Result<Advanced, AdvanceError>>;

    /// What workers hold now, this one included, and what was handed back.
    async fn survey(&self) -> Result<Vec<Held>, StoreError>;

    /// Takes over what is still as seen. Cancelled executions are tidied and not claimed.
    async fn take_over(&self, as_who: &Claimant, due: &[TakeOver]) -> Result<Batch, StoreError>;

    /// What a trace has to tell of executions that were not driven to where they are now, and of the
    /// former lease on each; those that are gone are left out. To be asked for after the lease has
    /// ended.
    async fn remains(&self, of: &[Former]) -> Result<Vec<Remains>, StoreError>;

    /// Puts a common tombstone in place of those that say that `owner` has yet to tell of these ends, or,
    /// where they are not [`Telling::Done`], lets it have [`Untold::PATIENCE`] anew.
    async fn note_told(
        &self,
        owner: &Owner,
        ends: &[TracedEnd],
        telling: Telling,
    ) -> Result<(), StoreError>;

    /// Takes over the telling of at most `limit` ends that nobody has told of within
    /// [`Untold::PATIENCE`], those first that have waited longest.
    async fn take_untold(&self, owner: &Owner, limit: u32) -> Result<Vec<Untold>, StoreError>;

    /// Deletes tombstones a minute past their expiry, at most `limit`; returns how many.
    async fn reap(&self, limit: u32) -> Result<u64, StoreError>;

    /// Executions that the orchestrator itself has left running, its lock on them expired: what may be
    /// taken over where somebody has said so, although their process may be alive.
    async fn orphans(&self) -> Result<Vec<Held>, StoreError>;

    /// Fails executions whose status is NULL or none that there is, and that nobody has touched for
    /// `after`; returns which, and why.
    async fn fail_unknown(&self, after: Duration)
    -> Result<Vec<(ExecutionId, String)>, StoreError>;

    /// Deletes at most `limit` executions that ended as `state` more than `kept` ago, with all that
    /// belongs to them; returns how many.
    async fn expire(
        &self,
        state: ExecutionState,
        kept: Duration,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// What waits for workers of this eligibility, and what they run, in the whole store.
    async fn queue(&self, eligibility: &Eligibility) -> Result<Queue, StoreError>;
}

/// Who claims, and on what terms.
#[derive(Clone, Debug)]
pub struct Claimant {
    pub owner: Owner,
    /// Which process of which pod ([`PodProcess`](crate::domain::pod::PodProcess)), as it is written.
    pub uid: String,
    pub ttl: Duration,
    /// This process's renewals so far.
    pub beat: Beat,
    /// Most steps of one execution at one time.
    pub steps_at_once: usize,
    pub supported: Arc<Supported>,
    /// Which pending executions are claimed; a takeover asks for nothing.
    pub eligibility: Arc<Eligibility>,
    /// How long an unknown function or executor type is left for newer workers.
    pub unknown_after: Duration,
    /// Unclean ends in a row after which an execution is failed.
    pub poison_claims: u32,
}

/// What a claim or a takeover brought.
#[derive(Debug, Default)]
pub struct Batch {
    pub claims: Vec<Claim>,
    /// Put back for a while.
    pub deferred: Vec<(ExecutionId, Deferral)>,
    /// Failed with a reason: what is recorded cannot be run, or kills its workers.
    pub refused: Vec<(ExecutionId, String)>,
    /// Had been cancelled, and were ended for an owner who is gone.
    pub tidied: Vec<ExecutionId>,
}

impl Batch {
    /// Adds what another transaction brought.
    pub fn extend(&mut self, other: Self) {
        self.claims.extend(other.claims);
        self.deferred.extend(other.deferred);
        self.refused.extend(other.refused);
        self.tidied.extend(other.tidied);
    }
}

/// What became of the claim of one execution.
#[derive(Debug)]
pub enum Named {
    /// It was pending: it is claimed, put back for a while, or failed.
    Met(Batch),
    /// It is not pending; or it is, and its template is paused or somebody keeps its row locked.
    Stands(Holding),
    Missing,
}

/// An execution that this process now holds.
#[derive(Clone, Debug)]
pub struct Claim {
    pub lease: Lease,
    pub workflow: Arc<Workflow>,
    /// One a node.
    pub slots: Vec<StepSlot>,
    pub progress: Progress,
    /// The first plan. Its `start` is committed with the claim and counted in `slots`; the rest
    /// of it is still to be recorded.
    pub plan: Plan,
    pub kind: ClaimKind,
    /// Since its creation, by the store's clock.
    pub age: Duration,
    pub origin: Origin,
    /// The claim before this one, where a worker made it.
    pub former: Option<Fence>,
}

impl Claim {
    /// Plans what an admitted execution does first. The caller commits [`Claim::starts`].
    pub fn begin(
        lease: Lease,
        workflow: Arc<Workflow>,
        recorded: &[Recorded],
        mut slots: Vec<StepSlot>,
        steps_at_once: usize,
        background: Background,
    ) -> Self {
        let mut progress = Progress::new(&workflow, recorded);
        let plan = plan(&workflow, &mut progress, steps_at_once);
        for id in &plan.start {
            slots[id.index()].count_attempt();
        }
        let Background { kind, age, origin, former } = background;
        Self { lease, workflow, slots, progress, plan, kind, age, origin, former }
    }

    /// The first steps' starts, to be committed with the claim.
    pub fn starts(&self) -> impl Iterator<Item = StepStart> + '_ {
        self.plan.start.iter().map(|id| StepStart::of(&self.slots[id.index()]))
    }
}

/// What there is to say of an execution besides its steps.
#[derive(Clone, Debug)]
pub struct Background {
    pub kind: ClaimKind,
    pub age: Duration,
    pub origin: Origin,
    pub former: Option<Fence>,
}

/// How an execution was come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    Fresh,
    TakenOver { from: Option<String>, cause: Cause },
}

/// What one execution has to record at one time.
#[derive(Clone, Debug)]
pub struct Advance {
    pub lease: Lease,
    pub ended: Vec<StepEnd>,
    pub retrying: Vec<StepRetry>,
    pub started: Vec<StepStart>,
    pub skipped: Vec<StepSkip>,
    pub finish: Option<Finish>,
    /// With `finish`: its trace is told of this lease later ([`ExecutionStore::note_told`]), and has been
    /// told of what ended by this time, in milliseconds since 1970.
    pub told_ms: Option<u64>,
}

impl Advance {
    /// Nothing to record yet.
    pub fn new(lease: Lease) -> Self {
        Self {
            lease,
            ended: Vec::new(),
            retrying: Vec::new(),
            started: Vec::new(),
            skipped: Vec::new(),
            finish: None,
            told_ms: None,
        }
    }

    /// What it leaves on the lock row if it ends the execution.
    pub fn mark(&self) -> Mark {
        self.told_ms.map_or(Mark::Finished, |told_ms| Mark::Untold { told_ms })
    }

    pub fn is_empty(&self) -> bool {
        self.ended.is_empty()
            && self.retrying.is_empty()
            && self.started.is_empty()
            && self.skipped.is_empty()
            && self.finish.is_none()
    }
}

/// A started step is final.
#[derive(Clone, Debug)]
pub struct StepEnd {
    pub step: StepExecutionId,
    /// The attempt that ended it.
    pub attempt: u32,
    pub succeeded: bool,
    pub outcome: AttemptOutcome,
    pub output: Option<String>,
    pub error: Option<String>,
    pub retry_count: u32,
}

/// An attempt failed and another will follow: the step stays `running`.
#[derive(Clone, Debug)]
pub struct StepRetry {
    pub step: StepExecutionId,
    pub attempt: u32,
    /// `Failed`, `Unanswered` or `Timeout`.
    pub outcome: AttemptOutcome,
    pub error: String,
    /// Key generation of the next attempt.
    pub key_gen: u32,
    /// This retry included.
    pub retry_count: u32,
}

/// An attempt starts; committed before its effect begins.
#[derive(Clone, Debug)]
pub struct StepStart {
    pub step: StepExecutionId,
    /// One more than the attempt before.
    pub attempt: u32,
    pub key_gen: u32,
    pub retry_count: u32,
}

impl StepStart {
    /// The start that a slot already counts in its `attempt`.
    pub fn of(slot: &StepSlot) -> Self {
        Self {
            step: slot.id.clone(),
            attempt: slot.attempt,
            key_gen: slot.key_gen,
            retry_count: slot.retry_count,
        }
    }
}

/// A step will never start.
#[derive(Clone, Debug)]
pub struct StepSkip {
    pub step: StepExecutionId,
    pub reason: String,
}

/// What became of an [`Advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advanced {
    Recorded,
    /// Somebody had cancelled the execution: it has ended as `cancelled`.
    Cancelled,
}

/// An execution given back.
#[derive(Clone, Debug)]
pub struct HandBack {
    pub lease: Lease,
    /// Attempts that were stopped for it; they do not use up retries.
    pub drained: Vec<(StepExecutionId, u32)>,
}

/// Numbers of executions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Pending and due within [`Queue::SOON`].
    pub due: u64,
    /// Pending and due later.
    pub later: u64,
    /// In the hands of workers, or handed back by them. What the orchestrator itself runs, or left
    /// behind when it died, is not theirs.
    pub running: u64,
    /// Since the oldest due one became due.
    pub oldest_due: Duration,
    /// Pending and held as backlog; 0 where the backlog is run.
    pub backlog: u64,
    /// Since the oldest of those was created.
    pub oldest_backlog: Duration,
}

impl Queue {
    /// Longer than any back-off of an execution that a worker may run.
    pub const SOON: Duration = Deferrals::OVER;
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was done; try again after a moment.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// It may have been done: ask again, or send it again.
    #[error("the database did not answer: {0}")]
    Unknown(String),
    /// Another primary than before answers; what was observed on the former one proves nothing.
    #[error("another database server answers than before")]
    PrimaryChanged,
    /// The primary has not been the same for long enough.
    #[error("waiting until the database server has been the same for 60 s")]
    Unsettled,
    /// It needs a person: a missing table, right, or setting.
    #[error("the database cannot be used: {0}")]
    NotReady(String),
    /// The database refused a value.
    #[error("the database refused a value: {0}")]
    Data(String),
    /// Leases are kept elsewhere, and that gave no answer, or no good one.
    #[error("leases cannot be kept: {0}")]
    Leases(LockError),
}

/// Why an execution's own write was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvanceError {
    /// The rows are no longer ours: stop, write nothing more.
    #[error("the execution is no longer held under this claim")]
    Fenced,
    #[error(transparent)]
    Store(#[from] StoreError),
}
