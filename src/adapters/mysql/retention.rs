//! Deletes executions that ended long enough ago, with their steps and attempts.
//!
//! **Invariant:** only rows are deleted that are final, that nobody holds, and whose end is known;
//! one that somebody is busy with is left for the next time.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    errors::Fault,
    facts, locks, rows,
    session::{Entrance, Session, fixed, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{execution::ExecutionState, id::ExecutionId},
};

/// Deletes at most `limit` executions that ended as `state` more than `kept` ago; returns how many.
pub(super) async fn expire(
    lanes: &Lanes<Entrance>,
    state: ExecutionState,
    kept: Duration,
    limit: u32,
) -> Result<u64, Fault> {
    run(lanes, WORK_LIMIT, Expire { state, kept, limit }).await
}

struct Expire {
    state: ExecutionState,
    kept: Duration,
    limit: u32,
}

#[async_trait]
impl Work for Expire {
    type Answer = u64;

    async fn attempt(&mut self, session: &mut Session) -> Result<u64, Fault> {
        facts::of(session).await?;
        session.begin().await?;
        facts::settled_primary(session).await?;
        let expired = self.pin(session).await?;
        if expired.is_empty() {
            session.rollback().await?;
            return Ok(0);
        }
        delete(session, "workflow_step_executions", "execution_id", &expired).await?;
        delete(session, "ow_attempts", "execution_id", &expired).await?;
        let deleted = delete(session, "workflow_executions", "id", &expired).await?;
        session.commit().await?;
        Ok(deleted)
    }
}

impl Expire {
    /// In due order: whatever has ended was due before that, so the oldest stand first in the index.
    async fn pin(&self, session: &mut Session) -> Result<Vec<ExecutionId>, Fault> {
        let ask = fixed(
            "SELECT id FROM workflow_executions FORCE INDEX (ow_poll) WHERE status=? \
             AND ow_due < NOW(3) - INTERVAL ? MICROSECOND \
             AND finished_at < NOW(3) - INTERVAL ? MICROSECOND AND ow_owner='' \
             ORDER BY ow_due, id LIMIT ? FOR UPDATE SKIP LOCKED",
        );
        let kept = locks::micros(self.kept);
        let ask = ask.bind(self.state.as_str()).bind(kept).bind(kept);
        let found = session.rows(ask.bind(self.limit)).await?;
        found.iter().map(|row| Ok(rows::name(row, 0)?.into())).collect()
    }
}

async fn delete(
    session: &mut Session,
    table: &str,
    column: &str,
    executions: &[ExecutionId],
) -> Result<u64, Fault> {
    let executions = rows::filled(executions);
    let sql = format!("DELETE FROM {table} WHERE {column} IN ({})", rows::marks(executions.len()));
    session.matched(executions.iter().fold(made(sql), |sql, id| sql.bind(id.as_str()))).await
}
