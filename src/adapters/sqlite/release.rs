//! Gives executions back, and deletes lock rows that nobody needs any more.
//!
//! **Invariant:** a handed-back execution stays `running`, so that only a worker takes it on; a
//! lease row of a living execution is never deleted by time.

use sqlx::SqliteConnection;

use super::{cancelled, errors::Failure, locks, rows::signed, session::Moment, steps};
use crate::{
    domain::{execution::AttemptOutcome, id::RELEASED, lease::Mark},
    ports::executions::{AdvanceError, Advanced, HandBack},
};

pub(super) async fn hand_back(
    connection: &mut SqliteConnection,
    returns: &[HandBack],
) -> Result<Vec<Result<Advanced, AdvanceError>>, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let mut answers = Vec::with_capacity(returns.len());
    for HandBack { lease, .. } in returns {
        let matched = sqlx::query(
            "UPDATE workflow_executions SET ow_owner=?1, updated_at=?2
              WHERE id=?3 AND ow_fence=?4 AND ow_claim=?5 AND status='running'",
        )
        .bind(RELEASED)
        .bind(&now)
        .bind(lease.execution.as_str())
        .bind(signed(lease.fence.0))
        .bind(lease.nonce.as_str())
        .execute(moment.on())
        .await?
        .rows_affected();
        answers.push(if matched == 1 {
            locks::mark(moment.on(), &now, lease, Mark::Released).await?;
            let drained = AttemptOutcome::Drained;
            steps::close_attempts(moment.on(), &now, &lease.execution, drained, None).await?;
            Ok(Advanced::Recorded)
        } else if cancelled::let_go(&mut moment, lease).await? {
            cancelled::close(&mut moment, lease, Mark::Finished).await?;
            Ok(Advanced::Cancelled)
        } else {
            Err(AdvanceError::Fenced)
        });
    }
    moment.commit().await?;
    Ok(answers)
}

/// Deletes marks and plain keys a minute past their expiry, those of templates that are locked for a held
/// execution excepted.
pub(super) async fn reap(connection: &mut SqliteConnection, limit: u32) -> Result<u64, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let deleted = sqlx::query(
        "DELETE FROM distributed_locks WHERE id IN (
            SELECT id FROM distributed_locks
             WHERE expires_at<strftime('%Y-%m-%d %H:%M:%f', ?1, '-60 seconds')
               AND (substr(owner, 1, 1)='~'
                    OR (substr(lock_key, 1, 19)<>'workflow_execution:'
                        AND NOT EXISTS (SELECT 1 FROM workflow_executions e
                                         WHERE e.ow_owner>'' AND e.status IN ('running','cancelled')
                                           AND e.ow_fence=distributed_locks.ow_fence
                                           AND 'workflow_template:'||e.template_id=lock_key)))
             ORDER BY expires_at LIMIT ?2)",
    )
    .bind(now)
    .bind(limit)
    .execute(moment.on())
    .await?
    .rows_affected();
    moment.commit().await?;
    Ok(deleted)
}
