//! What is held, and what waits.
//!
//! **Invariant:** nothing here changes anything.

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    eligible::{Eligible, is_backlog, is_eligible},
    errors::Failure,
    rows::{Cells, signed},
    session::later,
};
use crate::{
    domain::{
        eligibility::Eligibility,
        id::{Beat, Fence, RELEASED},
        recovery::{Held, Holder, LockSeen},
    },
    ports::executions::Queue,
};

pub(super) async fn survey(connection: &mut SqliteConnection) -> Result<Vec<Held>, Failure> {
    let rows = sqlx::query(
        "SELECT e.id, e.status, e.ow_fence, e.ow_owner, e.ow_owner_uid, l.id AS lock, l.ow_fence AS lock_fence,
                l.ow_beat, CAST(round((unixepoch(l.expires_at,'subsec')
                                       -unixepoch(l.updated_at,'subsec'))*1000) AS INTEGER) AS ttl,
                CAST(unixepoch(l.expires_at,'subsec')*1000 AS INTEGER) AS expires_ms
           FROM workflow_executions e INDEXED BY ow_held
           LEFT JOIN distributed_locks l ON l.lock_key='workflow_execution:' || e.id
          WHERE e.ow_owner>'' AND e.status IN ('running','cancelled')",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let owner = row.word("ow_owner")?;
            let lock = match row.number("lock")? {
                None => None,
                Some(_) => Some(LockSeen {
                    fence: Fence(row.count("lock_fence")?),
                    beat: Beat(row.count("ow_beat")?),
                    ttl: row.millis("ttl")?,
                    expires_ms: row.number("expires_ms")?.unwrap_or_default(),
                }),
            };
            Ok(Held {
                execution: row.word("id")?.into(),
                fence: Fence(row.count("ow_fence")?),
                by: if owner == RELEASED { Holder::Released } else { Holder::Owner(owner) },
                uid: row.word("ow_owner_uid")?,
                cancelled: row.word("status")? == "cancelled",
                lock,
                elsewhere: None,
            })
        })
        .collect()
}

pub(super) async fn queue(
    connection: &mut SqliteConnection,
    eligibility: &Eligibility,
) -> Result<Queue, Failure> {
    let eligible = Eligible::read(connection, eligibility).await?;
    let sql = format!(
        "WITH clock AS (SELECT strftime('%Y-%m-%d %H:%M:%f','now') AS now,
                               strftime('%Y-%m-%d %H:%M:%f','now', ?4) AS soon),
              waiting AS (SELECT ow_due FROM workflow_executions
                           WHERE status='pending' AND ow_fence<?5 AND {}),
              backlog AS (SELECT ow_due FROM workflow_executions WHERE ?1 AND {})
         SELECT (SELECT COUNT(*) FROM waiting WHERE ow_due<=clock.soon) AS due,
                (SELECT COUNT(*) FROM waiting WHERE ow_due>clock.soon) AS later,
                (SELECT COUNT(*) FROM workflow_executions INDEXED BY ow_held
                  WHERE ow_owner>'' AND status='running') AS running,
                (SELECT CAST((unixepoch(clock.now,'subsec')-unixepoch(MIN(ow_due),'subsec'))*1000
                             AS INTEGER)
                   FROM waiting WHERE ow_due<=clock.now) AS oldest_due,
                (SELECT COUNT(*) FROM backlog) AS backlog,
                (SELECT CAST((unixepoch(clock.now,'subsec')-unixepoch(MIN(ow_due),'subsec'))*1000
                             AS INTEGER)
                   FROM backlog) AS oldest_backlog
           FROM clock",
        is_eligible(),
        is_backlog()
    );
    let row = eligible
        .bind(sqlx::query(AssertSqlSafe(sql)))
        .bind(later(Queue::SOON))
        .bind(signed(Fence::CEILING))
        .fetch_one(connection)
        .await?;
    Ok(Queue {
        due: row.count("due")?,
        later: row.count("later")?,
        running: row.count("running")?,
        oldest_due: row.millis("oldest_due")?,
        backlog: row.count("backlog")?,
        oldest_backlog: row.millis("oldest_backlog")?,
    })
}
