//! What is held, and what waits.
//!
//! **Invariant:** each is one statement that changes nothing.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::{errors::Failure, rows::Cells};
use crate::{
    domain::{
        id::{Beat, Fence, RELEASED},
        recovery::{Held, Holder, LockSeen},
    },
    ports::executions::Queue,
};

pub(super) async fn survey(connection: &mut SqliteConnection) -> Result<Vec<Held>, Failure> {
    let rows = sqlx::query(
        "SELECT e.id, e.status, e.ow_fence, e.ow_owner, l.id AS lock, l.ow_fence AS lock_fence,
                l.ow_beat, CAST(round((unixepoch(l.expires_at,'subsec')
                                       -unixepoch(l.updated_at,'subsec'))*1000) AS INTEGER) AS ttl
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
                }),
            };
            Ok(Held {
                execution: row.word("id")?.into(),
                fence: Fence(row.count("ow_fence")?),
                by: if owner == RELEASED { Holder::Released } else { Holder::Owner(owner) },
                cancelled: row.word("status")? == "cancelled",
                lock,
            })
        })
        .collect()
}

pub(super) async fn queue(connection: &mut SqliteConnection) -> Result<Queue, Failure> {
    let row = sqlx::query(
        "WITH clock AS (SELECT strftime('%Y-%m-%d %H:%M:%f','now') AS now,
                               strftime('%Y-%m-%d %H:%M:%f','now', ?1) AS soon)
         SELECT (SELECT COUNT(*) FROM workflow_executions
                  WHERE status='pending' AND ow_due<=clock.soon AND ow_fence<?2) AS due,
                (SELECT COUNT(*) FROM workflow_executions
                  WHERE status='pending' AND ow_due>clock.soon AND ow_fence<?2) AS later,
                (SELECT COUNT(*) FROM workflow_executions WHERE status='running') AS running,
                (SELECT CAST((unixepoch(clock.now,'subsec')-unixepoch(MIN(ow_due),'subsec'))*1000
                             AS INTEGER)
                   FROM workflow_executions
                  WHERE status='pending' AND ow_due<=clock.now AND ow_fence<?2) AS oldest
           FROM clock",
    )
    .bind(super::session::later(Queue::SOON))
    .bind(super::rows::signed(Fence::CEILING))
    .fetch_one(connection)
    .await?;
    Ok(Queue {
        due: row.count("due")?,
        later: row.count("later")?,
        running: row.count("running")?,
        oldest_due: row
            .number("oldest")?
            .map_or(Duration::ZERO, |age| Duration::from_millis(u64::try_from(age).unwrap_or(0))),
    })
}
