//! Looks at the whole store: who holds what, how much waits.
//!
//! **Invariant:** nothing in here writes an execution; what is held is found by its execution and not
//! by its lock row, which may be gone.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::{
    errors::Fault,
    facts, rows,
    session::{Entrance, Session, fixed, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        id::{Beat, Fence, RELEASED},
        recovery::{Held, Holder, LockSeen},
    },
    ports::executions::Queue,
};

pub(super) async fn survey(lanes: &Lanes<Entrance>) -> Result<Vec<Held>, Fault> {
    run(lanes, WORK_LIMIT, Survey).await
}

struct Survey;

#[async_trait]
impl Work for Survey {
    type Answer = Vec<Held>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<Held>, Fault> {
        let facts = facts::of(session).await?;
        // What another server shows must not be counted together with what this one showed.
        facts::same_primary(session).await?;
        let sql = format!(
            "SELECT e.id, e.status, e.ow_fence, e.ow_owner, l.ow_fence, l.ow_beat, \
             TIMESTAMPDIFF(MICROSECOND, l.updated_at, l.expires_at) \
             FROM workflow_executions e FORCE INDEX (ow_held) \
             LEFT JOIN distributed_locks l ON l.lock_key = {} \
             WHERE e.ow_owner > '' AND e.status IN ('running','cancelled')",
            facts.lock_key_of_e
        );
        session.rows(made(sql).persistent(true)).await?.iter().map(held).collect()
    }
}

fn held(row: &MySqlRow) -> Result<Held, Fault> {
    let owner = rows::name(row, 3)?;
    let lock = match sqlx::Row::try_get::<Option<u64>, _>(row, 4)? {
        None => None,
        Some(fence) => Some(LockSeen {
            fence: Fence(fence),
            beat: Beat(rows::count(row, 5)?),
            ttl: micros(rows::number(row, 6)?),
        }),
    };
    Ok(Held {
        execution: rows::name(row, 0)?.into(),
        fence: Fence(rows::count(row, 2)?),
        by: if owner == RELEASED { Holder::Released } else { Holder::Owner(owner) },
        cancelled: rows::name(row, 1)? == "cancelled",
        lock,
    })
}

fn micros(value: Option<i64>) -> Duration {
    Duration::from_micros(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0))
}

pub(super) async fn queue(lanes: &Lanes<Entrance>) -> Result<Queue, Fault> {
    run(lanes, WORK_LIMIT, Numbers).await
}

struct Numbers;

#[async_trait]
impl Work for Numbers {
    type Answer = Queue;

    /// `ow_fence` as in a claim: what no worker may take does not wait.
    async fn attempt(&mut self, session: &mut Session) -> Result<Queue, Fault> {
        facts::of(session).await?;
        let pending = fixed(
            "SELECT COUNT(*), CAST(COALESCE(SUM(ow_due <= NOW(3) + INTERVAL ? SECOND), 0) AS SIGNED), \
             TIMESTAMPDIFF(MICROSECOND, MIN(ow_due), NOW(3)) \
             FROM workflow_executions FORCE INDEX (ow_poll) \
             WHERE status='pending' AND ow_fence < 9000000000000000000",
        );
        let pending = session.row(pending.bind(Queue::SOON.as_secs())).await?;
        let running = fixed(
            "SELECT COUNT(*) FROM workflow_executions FORCE INDEX (ow_poll) WHERE status='running'",
        );
        let running = session.row(running).await?;
        let (Some(pending), Some(running)) = (pending, running) else {
            return Err(Fault::Unexpected("a count gave no row".into()));
        };
        let number = |row: &MySqlRow, column| -> Result<u64, Fault> {
            Ok(u64::try_from(rows::number(row, column)?.unwrap_or(0)).unwrap_or(0))
        };
        let due = number(&pending, 1)?;
        Ok(Queue {
            due,
            later: number(&pending, 0)?.saturating_sub(due),
            running: number(&running, 0)?,
            oldest_due: micros(rows::number(&pending, 2)?),
        })
    }
}
