//! Executing one workflow on the caller: the worker's own parts, for one execution.
//!
//! **Invariant:** a caller that stops waiting stops the work: its steps are stopped and the execution is
//! handed back for others.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::database::Opened;
use crate::{
    domain::{
        deferral::Deferral,
        eligibility::{Backlog, Eligibility},
        execution::ExecutionState,
        id::{ExecutionId, Owner},
        lease::{Holding, LeaseTerms},
        lock::PlainKey,
        pod::PodProcess,
        retention::Retention,
        retry::Backoff,
    },
    instruments::Instruments,
    ports::{
        executions::StoreError,
        lock::{LockError, LockProvider},
        runner::StepRunner,
    },
    worker::{Settings, Shutdown, Single, WorkError, Worker, health::Health, poller::Poller},
};

/// What became of [`Orchestrator::execute_workflow`](super::Orchestrator::execute_workflow).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Executed {
    /// It has ended here; `error` names its failed step.
    Ended { state: ExecutionState, error: Option<String> },
    /// It had ended before it was asked for.
    EndedBefore { state: ExecutionState },
    /// Another runs it, or has locked it: nothing was done.
    HeldElsewhere { owner: String },
    /// It cannot begin at this moment: nothing was done.
    NotNow { reason: String },
    /// The program went away before its end: any worker goes on with it.
    HandedBack,
    /// Another has taken it meanwhile, because its lease could not be renewed.
    Lost,
}

/// Why it could not be said what becomes of an execution.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("there is no execution {0:?}")]
    NoExecution(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Work(WorkError),
    #[error("the orchestrator is closed")]
    Closed,
}

impl From<WorkError> for ExecuteError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Store(error) => Self::Store(error),
            other => Self::Work(other),
        }
    }
}

/// The executions under way.
#[derive(Debug, Default)]
pub(super) struct Executions {
    under_way: TaskTracker,
    closed: CancellationToken,
}

/// What every execution is driven with.
pub(super) struct Parts {
    pub owner: Owner,
    pub runner: Arc<dyn StepRunner>,
    pub instruments: Arc<Instruments>,
}

impl Executions {
    /// On a task of its own, which goes on until it has handed back what its caller no longer wants.
    pub async fn execute(
        &self,
        opened: &Opened,
        parts: Parts,
        id: &str,
    ) -> Result<Executed, ExecuteError> {
        if self.closed.is_cancelled() {
            return Err(ExecuteError::Closed);
        }
        let shutdown =
            Shutdown { drain: self.closed.child_token(), abort: CancellationToken::new() };
        let _stops_waiting = shutdown.drain.clone().drop_guard();
        let settings = settings(parts.owner);
        let health = Health::new(Poller::longest_pause(settings.poll_interval));
        let worker = Worker::new(
            opened.executions.clone(),
            parts.runner,
            settings,
            parts.instruments,
            health,
        );
        let (execution, locks) = (ExecutionId::from(id), opened.locks.clone());
        let (answer, answered) = oneshot::channel();
        self.under_way.spawn(async move {
            let executed = match worker.execute(&execution, shutdown).await {
                Ok(single) => told(single, &execution, &*locks).await,
                Err(error) => Err(error.into()),
            };
            // Whoever has stopped waiting wants no answer.
            drop(answer.send(executed));
        });
        answered.await.unwrap_or(Err(ExecuteError::Closed))
    }

    /// Hands back what is under way, and waits for that.
    pub async fn close(&self) {
        self.closed.cancel();
        self.under_way.close();
        self.under_way.wait().await;
    }
}

fn settings(owner: Owner) -> Settings {
    let (ttl, renew_every) = (Duration::from_secs(30), Duration::from_secs(5));
    Settings {
        owner,
        process: PodProcess::default(),
        slots: 1,
        poll_interval: Duration::from_secs(1),
        terms: LeaseTerms::try_new(ttl, renew_every).expect("the worker's own defaults"),
        claim_batch: 1,
        eligibility: Arc::new(Eligibility { backlog: Backlog::Run, ..Eligibility::default() }),
        unknown_after: Duration::from_secs(600),
        // Half of it is for steps to end by themselves.
        drain_deadline: Duration::from_secs(4),
        steps_at_once: 16,
        backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) },
        poison_claims: 10,
        retention: Retention::default(),
        adopt_orphans: false,
        until_idle: true,
    }
}

async fn told(
    single: Single,
    execution: &ExecutionId,
    locks: &dyn LockProvider,
) -> Result<Executed, ExecuteError> {
    Ok(match single {
        Single::Ended(finished) => Executed::Ended { state: finished.state, error: finished.error },
        Single::HandedBack => Executed::HandedBack,
        Single::Lost => Executed::Lost,
        Single::Missing => return Err(ExecuteError::NoExecution(execution.to_string())),
        Single::Deferred(Deferral::Locked | Deferral::TemplateBusy) => {
            held_elsewhere(execution, lock_owner(execution, locks).await?)
        }
        Single::Deferred(why) => Executed::NotNow { reason: why.to_string() },
        Single::Stands(holding) => stands(holding, execution, locks).await?,
    })
}

async fn stands(
    holding: Holding,
    execution: &ExecutionId,
    locks: &dyn LockProvider,
) -> Result<Executed, ExecuteError> {
    Ok(match ExecutionState::parse(&holding.status) {
        Ok(ExecutionState::Running) if holding.by.is_empty() => {
            held_elsewhere(execution, lock_owner(execution, locks).await?)
        }
        Ok(ExecutionState::Running) => held_elsewhere(execution, holding.by),
        Ok(ExecutionState::Pending) => {
            let reason = "its template is paused, or somebody keeps its row locked".into();
            Executed::NotNow { reason }
        }
        Ok(
            state @ (ExecutionState::Success | ExecutionState::Failed | ExecutionState::Cancelled),
        ) => Executed::EndedBefore { state },
        Err(_) => Executed::NotNow { reason: format!("its status is {:?}", holding.status) },
    })
}

fn held_elsewhere(execution: &ExecutionId, owner: String) -> Executed {
    info!(
        event = "execution.held_elsewhere",
        execution.id = %execution,
        lease.owner = owner,
        "another runs this execution: nothing is done here"
    );
    Executed::HeldElsewhere { owner }
}

/// Who has the lock of an execution whose row names no worker.
async fn lock_owner(
    execution: &ExecutionId,
    locks: &dyn LockProvider,
) -> Result<String, ExecuteError> {
    let key = PlainKey::of_execution(execution).map_err(LockError::from)?;
    Ok(locks.is_locked(&key).await?.unwrap_or_else(|| "the orchestrator".into()))
}
