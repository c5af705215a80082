//! What a store knows of executions for their traces: what a former lease has left untold, and which ends
//! nobody has told of.
//!
//! **Invariant:** an end is told by one: by whoever made it, or by whoever took over from that the telling.

use std::time::Duration;

use crate::domain::{
    execution::AttemptOutcome,
    id::{ExecutionId, Fence, StepExecutionId},
    trace::Origin,
};

/// A lease that has ended, and what of it was told before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    pub execution: ExecutionId,
    /// 0: there was none.
    pub fence: Fence,
    /// Steps that ended by then, in milliseconds since 1970, have been told: with its last renewal, or by
    /// what its holder has left on the lock row.
    pub told_ms: i64,
}

impl Former {
    /// Nothing was ever held.
    pub fn none(execution: ExecutionId) -> Self {
        Self { execution, fence: Fence::default(), told_ms: i64::MAX }
    }
}

/// What is left of an execution's former lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    pub execution: ExecutionId,
    pub state: String,
    pub origin: Origin,
    /// The template's name.
    pub workflow: String,
    /// By the store's clock, in milliseconds since 1970.
    pub now_ms: i64,
    /// When it ended, if it has.
    pub ended_ms: Option<i64>,
    /// Attempts that began under that lease, of steps that did not end under it or only after what
    /// was told.
    pub attempts: Vec<LeftAttempt>,
}

/// An attempt whose span nobody has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAttempt {
    /// Its step ended under that lease.
    pub has_ended: bool,
    pub step: StepExecutionId,
    pub step_name: String,
    /// `http`, `shell`, `func`.
    pub executor: String,
    pub number: u32,
    pub started_ms: i64,
    pub finished_ms: Option<i64>,
    pub outcome: Option<AttemptOutcome>,
}

/// The end of an execution under a lease, as a trace tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TracedEnd {
    pub execution: ExecutionId,
    pub fence: Fence,
}

/// How far an end has been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Its spans are on their way still.
    UnderWay,
    /// They have arrived, or were given up.
    Done,
}

/// An end that whoever made it has not told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    pub end: TracedEnd,
    /// Who held the lease, or took over the telling from its holder.
    pub owner: String,
    /// Of steps that ended by then, in milliseconds since 1970, it has been told.
    pub told_ms: u64,
}

impl Untold {
    /// How long nobody else tells of an end: longer than spans are tried to be sent.
    pub const PATIENCE: Duration = Duration::from_secs(90);
}
