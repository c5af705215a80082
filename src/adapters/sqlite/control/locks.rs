//! Lock rows as an operator sees them.

use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use super::super::{errors::Failure, rows::Cells};
use crate::ports::control::{LockFilter, LockRow, WorkerRow};

/// What `locks clean` runs, as it would be typed.
pub(in super::super) const CLEAN: &str = "\
DELETE FROM distributed_locks
 WHERE expires_at < strftime('%Y-%m-%d %H:%M:%f', 'now', '-60 seconds')
   AND (substr(owner, 1, 1) = '~' OR (substr(lock_key, 1, 19) <> 'workflow_execution:'
        AND NOT EXISTS (SELECT 1 FROM workflow_executions e WHERE e.ow_owner > ''
                           AND e.status IN ('running', 'cancelled')
                           AND e.ow_fence = distributed_locks.ow_fence
                           AND 'workflow_template:' || e.template_id = lock_key)));";

pub(in super::super) async fn locks(
    connection: &mut SqliteConnection,
    filter: &LockFilter,
) -> Result<Vec<LockRow>, Failure> {
    let rows = sqlx::query(
        "SELECT lock_key, owner, ow_fence, ow_beat,
                CAST((unixepoch(expires_at,'subsec')-unixepoch('now','subsec'))*1000 AS INTEGER)
                    AS expires_in,
                CAST((unixepoch('now','subsec')-unixepoch(updated_at,'subsec'))*1000 AS INTEGER)
                    AS renewed_ago,
                CAST(unixepoch(created_at,'subsec')*1000 AS INTEGER) AS created_ms
           FROM distributed_locks
          WHERE (?1 IS NULL OR lock_key=?1) AND (?2 IS NULL OR owner=?2)
            AND (NOT ?3 OR expires_at<=strftime('%Y-%m-%d %H:%M:%f', 'now'))
          ORDER BY expires_at DESC, lock_key LIMIT ?4",
    )
    .bind(&filter.key)
    .bind(&filter.owner)
    .bind(filter.expired)
    .bind(filter.limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(lock).collect()
}

fn lock(row: &SqliteRow) -> Result<LockRow, Failure> {
    Ok(LockRow {
        key: row.word("lock_key")?,
        owner: row.word("owner")?,
        fence: row.count("ow_fence")?,
        beat: row.count("ow_beat")?,
        expires_in_ms: row.number("expires_in")?.unwrap_or(0),
        renewed_ago_ms: row.number("renewed_ago")?,
        created_at: row.time("created_ms")?,
    })
}

pub(in super::super) async fn count_old(connection: &mut SqliteConnection) -> Result<u64, Failure> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS count FROM distributed_locks
          WHERE expires_at<strftime('%Y-%m-%d %H:%M:%f', 'now', '-60 seconds')
            AND (substr(owner, 1, 1)='~'
                 OR (substr(lock_key, 1, 19)<>'workflow_execution:'
                     AND NOT EXISTS (SELECT 1 FROM workflow_executions e
                                      WHERE e.ow_owner>'' AND e.status IN ('running','cancelled')
                                        AND e.ow_fence=distributed_locks.ow_fence
                                        AND 'workflow_template:'||e.template_id=lock_key)))",
    )
    .fetch_one(connection)
    .await?;
    Ok(row.count("count")?)
}

/// Lock rows of executions that workers hold: those that are renewed, and those whose lease is kept
/// elsewhere.
pub(super) const IS_LIVE: &str = "substr(lock_key, 1, 19)='workflow_execution:'
            AND substr(owner, 1, 1)<>'~' AND ow_fence>0
            AND (expires_at>strftime('%Y-%m-%d %H:%M:%f', 'now') OR lock_key IN (
                SELECT 'workflow_execution:' || e.id FROM workflow_executions e INDEXED BY ow_held
                 WHERE e.ow_owner>'' AND e.status IN ('running','cancelled')
                   AND instr(e.ow_owner_uid, '@')>0))";

pub(in super::super) async fn workers(
    connection: &mut SqliteConnection,
) -> Result<Vec<WorkerRow>, Failure> {
    let sql = format!(
        "SELECT owner, COUNT(*) AS executions,
                CAST((unixepoch('now','subsec')-unixepoch(MAX(updated_at),'subsec'))*1000
                     AS INTEGER) AS renewed_ago,
                CAST((unixepoch('now','subsec')-unixepoch(MIN(created_at),'subsec'))*1000
                     AS INTEGER) AS oldest
           FROM distributed_locks
          WHERE {IS_LIVE} GROUP BY owner ORDER BY owner"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(WorkerRow {
                owner: row.word("owner")?,
                executions: row.count("executions")?,
                renewed_ago_ms: row.number("renewed_ago")?,
                oldest_ms: row.number("oldest")?,
            })
        })
        .collect()
}
