//! Writes on step rows and their attempts, each under the fence of a lease.
//!
//! **Invariant:** each statement names the fence on the very row that it changes, each may be sent
//! twice, and each tells how many rows it matched.

use serde::Serialize;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{
    errors::Failure,
    rows::{list, signed},
};
use crate::{
    adapters::texts::{self, TEXT_BYTES},
    domain::{
        execution::AttemptOutcome,
        id::{ExecutionId, Owner, StepExecutionId},
        intake::StepSlot,
        lease::Lease,
    },
    ports::executions::{StepEnd, StepRetry, StepSkip, StepStart, StoreError},
};

#[derive(Serialize)]
struct Start<'a> {
    execution: &'a ExecutionId,
    step: StepExecutionId,
    attempt: u32,
    key_gen: u32,
    retries: u32,
}

/// Starts steps of executions that are all held by `owner` under `fence`. Returns how many step
/// rows matched.
pub(super) async fn start(
    connection: &mut SqliteConnection,
    now: &str,
    owner: &Owner,
    fence: u64,
    starts: impl IntoIterator<Item = (&ExecutionId, StepStart)>,
) -> Result<u64, Failure> {
    let starts = list(starts.into_iter().map(|(execution, start)| Start {
        execution,
        step: start.step,
        attempt: start.attempt,
        key_gen: start.key_gen,
        retries: start.retry_count,
    }));
    let matched = sqlx::query(
        "UPDATE workflow_step_executions
            SET status='running', started_at=COALESCE(started_at, ?1), finished_at=NULL,
                updated_at=?1, ow_attempt=s.attempt, ow_key_gen=s.key_gen, retry_count=s.retries
           FROM (SELECT value->>'step' AS step, value->>'attempt' AS attempt,
                        value->>'key_gen' AS key_gen, value->>'retries' AS retries
                   FROM json_each(?2)) AS s
          WHERE id=s.step AND ow_fence=?3
            AND (status IS NULL OR status NOT IN ('success','failed','skipped'))
            AND ow_attempt IN (s.attempt-1, s.attempt)",
    )
    .bind(now)
    .bind(&starts)
    .bind(signed(fence))
    .execute(&mut *connection)
    .await?
    .rows_affected();
    sqlx::query(
        "INSERT INTO ow_attempts(execution_id, step_execution_id, attempt, fence, owner, started_at)
         SELECT value->>'execution', value->>'step', value->>'attempt', ?3, ?4, ?1
           FROM json_each(?2) WHERE true
         ON CONFLICT(step_execution_id, attempt) DO NOTHING",
    )
    .bind(now)
    .bind(&starts)
    .bind(signed(fence))
    .bind(owner.as_str())
    .execute(connection)
    .await?;
    Ok(matched)
}

/// Refuses an output that no column of MySQL's would take.
pub(super) fn must_fit(output: &str) -> Result<(), Failure> {
    if output.len() <= TEXT_BYTES {
        return Ok(());
    }
    let length = output.len();
    let what = format!("an output has {length} bytes, and at most {TEXT_BYTES} are kept");
    Err(StoreError::Data(what).into())
}

/// A step is final. More output than a column of MySQL's takes is refused here too.
pub(super) async fn end(
    connection: &mut SqliteConnection,
    now: &str,
    lease: &Lease,
    end: &StepEnd,
) -> Result<u64, Failure> {
    must_fit(end.output.as_deref().unwrap_or_default())?;
    let matched = sqlx::query(
        "UPDATE workflow_step_executions
            SET status=?1, output=?2, error=?3, retry_count=?4, finished_at=?5, updated_at=?5,
                duration=CAST(round((unixepoch(?5,'subsec')-unixepoch(started_at,'subsec'))*1000)
                              AS INTEGER)
          WHERE id=?6 AND ow_fence=?7 AND ow_attempt=?8 AND status IN ('running', ?1)",
    )
    .bind(if end.succeeded { "success" } else { "failed" })
    .bind(end.output.as_deref())
    .bind(end.error.as_deref().map(texts::reason))
    .bind(end.retry_count)
    .bind(now)
    .bind(end.step.as_str())
    .bind(signed(lease.fence.0))
    .bind(end.attempt)
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let cause = end.error.as_deref();
    end_attempt(connection, now, lease, &end.step, end.attempt, end.outcome, cause).await?;
    Ok(matched)
}

/// An attempt has failed and another will follow. The row may carry the next attempt already, if its
/// start went with this and both are sent again; but a copy that comes after a later retry must not
/// turn the key back.
pub(super) async fn retry(
    connection: &mut SqliteConnection,
    now: &str,
    lease: &Lease,
    retry: &StepRetry,
) -> Result<u64, Failure> {
    let matched = sqlx::query(
        "UPDATE workflow_step_executions
            SET error=?1, ow_key_gen=?2, retry_count=?3, updated_at=?4
          WHERE id=?5 AND ow_fence=?6 AND status='running'
            AND (ow_attempt=?7 OR (ow_attempt=?7+1 AND ow_key_gen=?2 AND retry_count=?3))",
    )
    .bind(texts::reason(&retry.error))
    .bind(retry.key_gen)
    .bind(retry.retry_count)
    .bind(now)
    .bind(retry.step.as_str())
    .bind(signed(lease.fence.0))
    .bind(retry.attempt)
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let cause = Some(retry.error.as_str());
    end_attempt(connection, now, lease, &retry.step, retry.attempt, retry.outcome, cause).await?;
    Ok(matched)
}

/// What is recorded first of an attempt stays: a successor may have closed it as lost.
async fn end_attempt(
    connection: &mut SqliteConnection,
    now: &str,
    lease: &Lease,
    step: &StepExecutionId,
    attempt: u32,
    outcome: AttemptOutcome,
    cause: Option<&str>,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE ow_attempts SET finished_at=?1, outcome=?2, cause=?3
          WHERE step_execution_id=?4 AND attempt=?5 AND fence=?6 AND outcome IS NULL",
    )
    .bind(now)
    .bind(outcome.as_str())
    .bind(cause.map(texts::cause))
    .bind(step.as_str())
    .bind(attempt)
    .bind(signed(lease.fence.0))
    .execute(connection)
    .await?;
    Ok(())
}

/// A step will never start.
pub(super) async fn skip(
    connection: &mut SqliteConnection,
    now: &str,
    lease: &Lease,
    skip: &StepSkip,
) -> Result<u64, Failure> {
    let done = sqlx::query(
        "UPDATE workflow_step_executions
            SET status='skipped', error=?1, finished_at=?2, updated_at=?2
          WHERE id=?3 AND ow_fence=?4
            AND (status IS NULL OR status NOT IN ('success','failed','running'))",
    )
    .bind(texts::reason(&skip.reason))
    .bind(now)
    .bind(skip.step.as_str())
    .bind(signed(lease.fence.0))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Ends every step of an execution that is not final, because the execution is: what runs has
/// failed, what never started is skipped.
pub(super) async fn close(
    connection: &mut SqliteConnection,
    now: &str,
    execution: &ExecutionId,
    fence: u64,
    reason: &str,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE workflow_step_executions
            SET status=CASE status WHEN 'running' THEN 'failed' ELSE 'skipped' END,
                duration=CASE status WHEN 'running'
                    THEN CAST(round((unixepoch(?2,'subsec')-unixepoch(started_at,'subsec'))*1000)
                              AS INTEGER)
                    ELSE duration END,
                error=?1, finished_at=?2, updated_at=?2
          WHERE execution_id=?3 AND ow_fence=?4
            AND (status IS NULL OR status NOT IN ('success','failed','skipped'))",
    )
    .bind(texts::reason(reason))
    .bind(now)
    .bind(execution.as_str())
    .bind(signed(fence))
    .execute(connection)
    .await?;
    Ok(())
}

/// Stamps every step that is not final with the fence of a new claim: from here on no former
/// claim's write matches it.
pub(super) async fn stamp(
    connection: &mut SqliteConnection,
    fence: u64,
    executions: impl IntoIterator<Item = &ExecutionId>,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE workflow_step_executions SET ow_fence=?1
          WHERE execution_id IN (SELECT value FROM json_each(?2))
            AND (status IS NULL OR status NOT IN ('success','failed','skipped'))",
    )
    .bind(signed(fence))
    .bind(list(executions))
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends the attempts of an execution that are still open.
pub(super) async fn close_attempts(
    connection: &mut SqliteConnection,
    now: &str,
    execution: &ExecutionId,
    outcome: AttemptOutcome,
    cause: Option<&str>,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE ow_attempts SET finished_at=?1, outcome=?2, cause=?3
          WHERE execution_id=?4 AND finished_at IS NULL",
    )
    .bind(now)
    .bind(outcome.as_str())
    .bind(cause)
    .bind(execution.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Inserts a step row that is missing.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    now: &str,
    execution: &ExecutionId,
    step: &str,
    fence: u64,
) -> Result<StepSlot, Failure> {
    let id = Uuid::new_v4().to_string();
    sqlx::query(
        "INSERT INTO workflow_step_executions(id, execution_id, step_id, status, created_at,
                                              updated_at, ow_fence)
         VALUES (?1, ?2, ?3, 'pending', ?4, ?4, ?5)",
    )
    .bind(&id)
    .bind(execution.as_str())
    .bind(step)
    .bind(now)
    .bind(signed(fence))
    .execute(connection)
    .await?;
    Ok(StepSlot { id: id.into(), attempt: 0, key_gen: 0, retry_count: 0 })
}
