//! How a step's action is run.
//!
//! **Invariant:** when [`StepRunner::run`] returns, nothing of the attempt is running any more.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    id::{ExecutionId, Fence, StepExecutionId},
    intake::Supported,
    lease::BootTime,
    step::Step,
};

/// What a running step has printed is told no more often than this.
pub const TELL_EVERY: Duration = Duration::from_secs(2);

/// Runs one kind of action.
#[async_trait]
pub trait StepRunner: Send + Sync + 'static {
    /// The kinds and functions it runs; never changes.
    fn supported(&self) -> Supported;

    /// Runs one attempt until it is done, stopped or killed. Its own timeout is the caller's
    /// matter, by way of `stop`.
    async fn run(&self, attempt: Attempt) -> Outcome;
}

/// One attempt at a step.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub execution: ExecutionId,
    pub step_execution: StepExecutionId,
    pub step: Arc<Step>,
    /// 1 at the first start of the step.
    pub number: u32,
    /// The same as long as the outcome of the effect is unknown.
    pub idempotency_key: String,
    pub fence: Fence,
    /// The trace, by the names of variables: `TRACEPARENT`, `TRACESTATE`, `BAGGAGE`.
    pub trace: BTreeMap<String, String>,
    pub halt: Halt,
    /// Where a runner tells what the attempt has printed so far, at most every [`TELL_EVERY`] while it
    /// grows, if it knows. For whoever looks on: the outcome holds everything.
    pub so_far: watch::Sender<String>,
}

/// How an attempt is told to end.
#[derive(Clone, Debug)]
pub struct Halt {
    /// End soon: TERM, a moment's grace, KILL.
    pub stop: CancellationToken,
    /// End now: the lease is lost, or nobody waits any more.
    pub kill: CancellationToken,
    /// When the lease ends unless it is renewed; grows with each renewal. What runs outside this
    /// process (a shell) must end by itself at this moment, even if this process is frozen.
    pub deadline: watch::Receiver<BootTime>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success {
        output: String,
        code: Option<Code>,
    },
    /// A definite "no": it was done and failed. The next attempt has another idempotency key.
    Failed {
        error: Reason,
        output: Option<String>,
        /// What the server asked for before the next attempt.
        retry_after: Option<Duration>,
        code: Option<Code>,
    },
    /// It failed without such an answer: it could not begin, or broke off and may have had an
    /// effect. The next attempt has the same idempotency key.
    Unanswered {
        error: Reason,
        output: Option<String>,
        /// What the server asked for before the next attempt.
        retry_after: Option<Duration>,
        code: Option<Code>,
    },
    /// It was stopped or killed before it had ended; whether it had an effect is unknown.
    Stopped {
        output: Option<String>,
    },
}

/// The number with which an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Of an answer over HTTP.
    Status(u16),
    /// Of a process.
    Exit(i32),
}

/// Why an attempt failed; [`fmt::Display`] gives all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What may be logged: nothing that the step holds, prints or was answered.
    pub said: String,
    /// What it was answered, for those who may read its output.
    pub quoted: Option<String>,
}

impl From<String> for Reason {
    fn from(said: String) -> Self {
        Self { said, quoted: None }
    }
}

impl From<&str> for Reason {
    fn from(said: &str) -> Self {
        said.to_owned().into()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)?;
        self.quoted.iter().try_for_each(|quoted| write!(f, ": {quoted}"))
    }
}
