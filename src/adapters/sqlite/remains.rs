//! What a trace has to tell of a lease that somebody else held.
//!
//! **Invariant:** a step that ended under the lease before its last renewal is none of it: its holder has
//! told of it.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    claim::{ORIGIN, origin},
    errors::Failure,
    rows::{Cells, signed},
};
use crate::{
    domain::execution::AttemptOutcome,
    ports::traced::{Former, LeftAttempt, Remains},
};

pub(super) async fn remains(
    connection: &mut SqliteConnection,
    of: &[Former],
) -> Result<Vec<Remains>, Failure> {
    let mut all = Vec::with_capacity(of.len());
    for former in of {
        all.extend(of_one(connection, former).await?);
    }
    Ok(all)
}

async fn of_one(
    connection: &mut SqliteConnection,
    former: &Former,
) -> Result<Option<Remains>, Failure> {
    let execution = &former.execution;
    let sql = format!(
        "SELECT status, {ORIGIN}, CAST(unixepoch('subsec')*1000 AS INTEGER) AS now_ms,
                CAST(unixepoch(finished_at,'subsec')*1000 AS INTEGER) AS ended_ms,
                (SELECT name FROM workflow_templates t WHERE t.id=template_id) AS workflow
           FROM workflow_executions WHERE id=?1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(execution.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Remains {
        execution: execution.clone(),
        state: row.word("status")?,
        origin: origin(&row)?,
        workflow: row.word("workflow")?,
        now_ms: row.number("now_ms")?.unwrap_or_default(),
        ended_ms: row.number("ended_ms")?,
        attempts: attempts(connection, former).await?,
    }))
}

/// Whoever takes an execution over stamps those of its steps that have not ended.
async fn attempts(
    connection: &mut SqliteConnection,
    former: &Former,
) -> Result<Vec<LeftAttempt>, Failure> {
    let rows = sqlx::query(
        "SELECT a.step_execution_id, s.name, s.executor_type, a.attempt, a.outcome,
                CAST(unixepoch(a.started_at,'subsec')*1000 AS INTEGER) AS started_ms,
                CAST(unixepoch(a.finished_at,'subsec')*1000 AS INTEGER) AS finished_ms,
                (x.ow_fence=a.fence AND a.outcome<>'lost') AS has_ended
           FROM ow_attempts a
           JOIN workflow_step_executions x ON x.id=a.step_execution_id
           LEFT JOIN steps s ON s.id=x.step_id
          WHERE a.execution_id=?1 AND a.fence=?2 
            AND (x.ow_fence<>a.fence OR a.outcome='lost'
                 OR CAST(unixepoch(x.finished_at,'subsec')*1000 AS INTEGER)>?3)
          ORDER BY a.step_execution_id, a.attempt",
    )
    .bind(former.execution.as_str())
    .bind(signed(former.fence.0))
    .bind(former.told_ms)
    .fetch_all(connection)
    .await?;
    rows.iter().map(attempt).collect()
}

fn attempt(row: &SqliteRow) -> Result<LeftAttempt, Failure> {
    Ok(LeftAttempt {
        step: row.word("step_execution_id")?.into(),
        step_name: row.word("name")?,
        executor: row.word("executor_type")?,
        number: row.small("attempt")?,
        started_ms: row.number("started_ms")?.unwrap_or_default(),
        finished_ms: row.number("finished_ms")?,
        has_ended: row.number("has_ended")? == Some(1),
        outcome: row.text("outcome")?.as_deref().and_then(AttemptOutcome::parse),
    })
}
