//! A claim's batch while its commit is under way, and what becomes of it if nobody answers.
//!
//! **Invariant:** a claim whose commit went unanswered is returned only after a locking read has found
//! its nonce on the row, when nothing of the old transaction can be in flight any more.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;

use super::{
    errors::Fault,
    rows,
    session::{Ended, Entrance, Session, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::id::ExecutionId,
    ports::executions::{Batch, Claim},
};

/// Shared by the job that claims and the caller that waits for it.
#[derive(Clone, Default)]
pub(super) struct Draft(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    pinned: Vec<ExecutionId>,
    committing: Option<(Batch, Ended)>,
}

impl Draft {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while it is held")
    }

    /// A new try begins.
    pub fn begin(&self) {
        *self.state() = State::default();
    }

    /// These rows are in the transaction.
    pub fn pin(&self, executions: Vec<ExecutionId>) {
        self.state().pinned = executions;
    }

    /// The rows of the last transaction, if one of them may have broken it with `fault`: none once
    /// its commit was begun.
    pub fn suspects(&self, fault: &Fault) -> Vec<ExecutionId> {
        let pinned = self.state().pinned.clone();
        if fault.may_be_a_rows() { pinned } else { Vec::new() }
    }

    /// Commits what made `batch`, and returns it.
    pub async fn commit(&self, session: &mut Session, batch: Batch) -> Result<Batch, Fault> {
        *self.state() = State { pinned: Vec::new(), committing: Some((batch, session.as_ended())) };
        let committed = session.commit().await;
        let mut state = self.state();
        match committed {
            Ok(()) => Ok(state.committing.take().map(|(batch, _)| batch).unwrap_or_default()),
            Err(fault) => {
                if !matches!(fault, Fault::Unknown(_)) {
                    state.committing = None;
                }
                Err(fault)
            }
        }
    }

    /// What was claimed, or not, by a job that failed with `fault`.
    pub async fn resolve(&self, lanes: &Lanes<Entrance>, fault: Fault) -> Result<Batch, Fault> {
        let Some((batch, connection)) = self.state().committing.take() else {
            // Without a commit under way everything was rolled back.
            return Err(match fault {
                Fault::Unknown(text) => Fault::Disconnected(text),
                other => other,
            });
        };
        if batch.claims.is_empty() {
            return Err(fault);
        }
        let executions = batch.claims.iter().map(|claim| claim.lease.execution.clone()).collect();
        let work = Find { connection, executions };
        let found = run(lanes, WORK_LIMIT, work).await.map_err(|_| fault.clone())?;
        adopt(batch, &found).ok_or_else(|| {
            Fault::Disconnected(format!("the claim was not committed before this: {fault}"))
        })
    }
}

/// The part of `batch` whose nonce and fence are on the rows; `None` if that is nothing.
fn adopt(mut batch: Batch, found: &BTreeSet<(ExecutionId, u64, String)>) -> Option<Batch> {
    let is_ours = |claim: &Claim| {
        let lease = &claim.lease;
        found.contains(&(lease.execution.clone(), lease.fence.0, lease.nonce.to_string()))
    };
    batch.claims.retain(is_ours);
    (!batch.claims.is_empty()).then_some(batch)
}

/// Ends the silent connection, then asks who holds the executions. The locking read waits until the
/// old transaction is gone; a plain one was seen to be stale.
struct Find {
    connection: Ended,
    executions: BTreeSet<ExecutionId>,
}

#[async_trait]
impl Work for Find {
    type Answer = BTreeSet<(ExecutionId, u64, String)>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        session.end(&self.connection).await?;
        session.begin().await?;
        let executions = rows::filled(&self.executions);
        let sql = format!(
            "SELECT id, ow_fence, ow_claim FROM workflow_executions FORCE INDEX (PRIMARY) \
             WHERE id IN ({}) FOR UPDATE",
            rows::marks(executions.len())
        );
        let ask = executions.iter().fold(made(sql), |ask, id| ask.bind(id.as_str()));
        let found = session.rows(ask).await?;
        session.rollback().await?;
        found
            .iter()
            .map(|row| Ok((rows::name(row, 0)?.into(), rows::count(row, 1)?, rows::name(row, 2)?)))
            .collect()
    }
}
