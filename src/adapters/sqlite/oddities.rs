//! Rows that no claim and no survey meets: executions that the orchestrator left running, and those
//! whose status no version writes.
//!
//! **Invariant:** an execution of the orchestrator's is only reported, and taken over like any other.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::{
    errors::Failure,
    rows::Cells,
    session::{Moment, earlier},
};
use crate::domain::{
    execution::unknown_status,
    id::{ExecutionId, Fence},
    recovery::{Held, Holder, ORCHESTRATOR_SILENT},
};

/// Rows a look at most.
const MOST: u32 = 100;

/// What the orchestrator itself runs, or ran, without a live lock. Without a lock row only its age
/// speaks for its being dead.
pub(super) async fn orphans(connection: &mut SqliteConnection) -> Result<Vec<Held>, Failure> {
    let rows = sqlx::query(
        "SELECT e.id, e.ow_fence FROM workflow_executions e INDEXED BY ow_poll
           LEFT JOIN distributed_locks l ON l.lock_key='workflow_execution:' || e.id
          WHERE e.ow_owner='' AND e.status='running'
            AND CASE WHEN l.id IS NULL
                     THEN e.updated_at<strftime('%Y-%m-%d %H:%M:%f', 'now', ?1)
                     ELSE l.ow_fence=0 AND l.expires_at<=strftime('%Y-%m-%d %H:%M:%f', 'now') END
          LIMIT ?2",
    )
    .bind(earlier(ORCHESTRATOR_SILENT))
    .bind(MOST)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Held {
                execution: row.word("id")?.into(),
                fence: Fence(row.count("ow_fence")?),
                by: Holder::Orchestrator,
                uid: String::new(),
                cancelled: false,
                lock: None,
                elsewhere: None,
            })
        })
        .collect()
}

/// Fails executions whose status is none, and that nobody has touched for `after`; returns which, and
/// why.
pub(super) async fn fail_unknown(
    connection: &mut SqliteConnection,
    after: Duration,
) -> Result<Vec<(ExecutionId, String)>, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let rows = sqlx::query(
        "SELECT id, status FROM workflow_executions
          WHERE (status IS NULL
                 OR status NOT IN ('pending','running','success','failed','cancelled'))
            AND COALESCE(updated_at, created_at, '2000-01-01')
                <strftime('%Y-%m-%d %H:%M:%f', ?1, ?2)
          LIMIT ?3",
    )
    .bind(&now)
    .bind(earlier(after))
    .bind(MOST)
    .fetch_all(moment.on())
    .await?;
    let mut failed = Vec::new();
    for row in &rows {
        let (id, reason) = (row.word("id")?, unknown_status(row.text("status")?.as_deref()));
        sqlx::query(
            "UPDATE workflow_executions
                SET status='failed', error=?1, finished_at=?2, updated_at=?2,
                    ow_fence=ow_fence+1, ow_owner='', ow_claim=''
              WHERE id=?3",
        )
        .bind(&reason)
        .bind(&now)
        .bind(&id)
        .execute(moment.on())
        .await?;
        failed.push((id.into(), reason));
    }
    moment.commit().await?;
    Ok(failed)
}
