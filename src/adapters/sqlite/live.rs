//! What a running step has printed so far.
//!
//! **Invariant:** it is written to the row of that very attempt while it runs, and never over the
//! output of an end.

use sqlx::SqliteConnection;

use super::{errors::Failure, rows::signed, session::Moment, steps};
use crate::domain::{id::StepExecutionId, lease::Lease};

/// Returns whether it was written.
pub(super) async fn note_output(
    connection: &mut SqliteConnection,
    lease: &Lease,
    step: &StepExecutionId,
    attempt: u32,
    text: &str,
) -> Result<bool, Failure> {
    steps::must_fit(text)?;
    let mut moment = Moment::write(connection).await?;
    let matched = sqlx::query(
        "UPDATE workflow_step_executions SET output=?1
          WHERE id=?2 AND ow_fence=?3 AND ow_attempt=?4 AND status='running'",
    )
    .bind(text)
    .bind(step.as_str())
    .bind(signed(lease.fence.0))
    .bind(attempt)
    .execute(moment.on())
    .await?
    .rows_affected();
    moment.commit().await?;
    Ok(matched == 1)
}
