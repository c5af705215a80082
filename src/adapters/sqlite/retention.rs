//! Deletes executions that ended long enough ago, with their steps and attempts.
//!
//! **Invariant:** only rows are deleted that are final, that nobody holds, and whose end is known.

use std::time::Duration;

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    errors::Failure,
    rows::{Cells, list},
    session::{Moment, earlier},
};
use crate::domain::execution::ExecutionState;

/// Deletes at most `limit` executions that ended as `state` more than `kept` ago; returns how many.
pub(super) async fn expire(
    connection: &mut SqliteConnection,
    state: ExecutionState,
    kept: Duration,
    limit: u32,
) -> Result<u64, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let rows = sqlx::query(
        "SELECT id FROM workflow_executions INDEXED BY ow_poll
          WHERE status=?1 AND ow_due<strftime('%Y-%m-%d %H:%M:%f', ?2, ?3)
            AND finished_at<strftime('%Y-%m-%d %H:%M:%f', ?2, ?3) AND ow_owner=''
          ORDER BY ow_due, id LIMIT ?4",
    )
    .bind(state.as_str())
    .bind(now)
    .bind(earlier(kept))
    .bind(limit)
    .fetch_all(moment.on())
    .await?;
    let expired = list(rows.iter().map(|row| row.word("id")).collect::<Result<Vec<_>, _>>()?);
    let mut deleted = 0;
    for (table, column) in [
        ("workflow_step_executions", "execution_id"),
        ("ow_attempts", "execution_id"),
        ("workflow_executions", "id"),
    ] {
        let sql =
            format!("DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?1))");
        let done = sqlx::query(AssertSqlSafe(sql)).bind(&expired).execute(moment.on()).await?;
        deleted = done.rows_affected();
    }
    moment.commit().await?;
    Ok(deleted)
}
