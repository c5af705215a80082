//! What a trace has to tell of a lease that somebody else held.
//!
//! **Invariant:** a step that ended under the lease before its last renewal is none of it: its holder has
//! told of it.

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::{
    admit,
    errors::Fault,
    facts, rows,
    session::{Entrance, Session, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::execution::AttemptOutcome,
    ports::traced::{Former, LeftAttempt, Remains as Answer},
};

pub(super) async fn remains(lanes: &Lanes<Entrance>, of: &[Former]) -> Result<Vec<Answer>, Fault> {
    run(lanes, WORK_LIMIT, Remains { of: of.to_vec() }).await
}

struct Remains {
    of: Vec<Former>,
}

#[async_trait]
impl Work for Remains {
    type Answer = Vec<Answer>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        let mut all = Vec::with_capacity(self.of.len());
        for former in &self.of {
            all.extend(of_one(session, former).await?);
        }
        Ok(all)
    }
}

async fn of_one(session: &mut Session, former: &Former) -> Result<Option<Answer>, Fault> {
    let execution = &former.execution;
    let ask = made(format!(
        "SELECT {}, {}, \
         (SELECT name FROM workflow_templates t WHERE t.id=workflow_executions.template_id), {}, {} \
         FROM workflow_executions WHERE id=?",
        rows::status("status"),
        rows::unix("NOW(3)"),
        rows::unix("finished_at"),
        admit::select_origin()
    ));
    let Some(row) = session.row(ask.bind(execution.as_str())).await? else { return Ok(None) };
    Ok(Some(Answer {
        execution: execution.clone(),
        state: rows::name(&row, 0)?,
        now_ms: rows::number(&row, 1)?.unwrap_or_default(),
        workflow: rows::name(&row, 2)?,
        ended_ms: rows::number(&row, 3)?,
        origin: admit::origin(&row, 4)?,
        attempts: attempts(session, former).await?,
    }))
}

/// Whoever takes an execution over stamps those of its steps that have not ended.
async fn attempts(session: &mut Session, former: &Former) -> Result<Vec<LeftAttempt>, Fault> {
    let ask = made(format!(
        "SELECT a.step_execution_id, s.name, s.executor_type, a.attempt, {}, {}, a.outcome, \
         x.ow_fence=a.fence AND a.outcome<>'lost' \
         FROM ow_attempts a JOIN workflow_step_executions x ON x.id=a.step_execution_id \
         LEFT JOIN steps s ON s.id=x.step_id WHERE a.execution_id=? AND a.fence=? \
         AND (x.ow_fence<>a.fence OR a.outcome='lost' OR {}>?) \
         ORDER BY a.step_execution_id, a.attempt",
        rows::unix("a.started_at"),
        rows::unix("a.finished_at"),
        rows::unix("x.finished_at"),
    ));
    let found = session
        .rows(ask.bind(former.execution.as_str()).bind(former.fence.0).bind(former.told_ms))
        .await?;
    found.iter().map(attempt).collect()
}

fn attempt(row: &MySqlRow) -> Result<LeftAttempt, Fault> {
    Ok(LeftAttempt {
        step: rows::name(row, 0)?.into(),
        step_name: rows::name(row, 1)?,
        executor: rows::name(row, 2)?,
        number: u32::try_from(rows::count(row, 3)?).unwrap_or(u32::MAX),
        started_ms: rows::number(row, 4)?.unwrap_or_default(),
        finished_ms: rows::number(row, 5)?,
        outcome: rows::text(row, 6)?.as_deref().and_then(AttemptOutcome::parse),
        has_ended: rows::number(row, 7)? == Some(1),
    })
}
