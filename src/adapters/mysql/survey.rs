//! Looks at the whole store: who holds what, how much waits.
//!
//! **Invariant:** nothing in here writes an execution; what is held is found by its execution and not
//! by its lock row, which may be gone.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::{
    eligible::{Eligible, is_backlog},
    errors::Fault,
    facts::{self, Facts},
    rows,
    session::{Entrance, Session, Sql, fixed, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        eligibility::{Backlog, Eligibility},
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
            "SELECT e.id, {}, e.ow_fence, e.ow_owner, e.ow_owner_uid, l.ow_fence, l.ow_beat, \
             TIMESTAMPDIFF(MICROSECOND, l.updated_at, l.expires_at), {} \
             FROM workflow_executions e FORCE INDEX (ow_held) \
             LEFT JOIN distributed_locks l ON l.lock_key = {} \
             WHERE e.ow_owner > '' AND e.status IN ('running','cancelled')",
            rows::status("e.status"),
            rows::unix("l.expires_at"),
            facts.lock_key_of_e
        );
        session.rows(made(sql)).await?.iter().map(held).collect()
    }
}

fn held(row: &MySqlRow) -> Result<Held, Fault> {
    let owner = rows::name(row, 3)?;
    let lock = match sqlx::Row::try_get::<Option<u64>, _>(row, 5)? {
        None => None,
        Some(fence) => Some(LockSeen {
            fence: Fence(fence),
            beat: Beat(rows::count(row, 6)?),
            ttl: micros(rows::number(row, 7)?),
            expires_ms: rows::number(row, 8)?.unwrap_or_default(),
        }),
    };
    Ok(Held {
        execution: rows::name(row, 0)?.into(),
        fence: Fence(rows::count(row, 2)?),
        by: if owner == RELEASED { Holder::Released } else { Holder::Owner(owner) },
        uid: rows::name(row, 4)?,
        cancelled: rows::name(row, 1)? == "cancelled",
        lock,
        elsewhere: None,
    })
}

fn micros(value: Option<i64>) -> Duration {
    Duration::from_micros(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0))
}

pub(super) async fn queue(
    lanes: &Lanes<Entrance>,
    eligibility: &Eligibility,
) -> Result<Queue, Fault> {
    run(lanes, WORK_LIMIT, Numbers { eligibility: eligibility.clone() }).await
}

struct Numbers {
    eligibility: Eligibility,
}

#[async_trait]
impl Work for Numbers {
    type Answer = Queue;

    async fn attempt(&mut self, session: &mut Session) -> Result<Queue, Fault> {
        let facts = facts::of(session).await?;
        let mut queue = match Eligible::read(session, &self.eligibility, &facts).await? {
            Some(eligible) => pending(session, &eligible).await?,
            None => Queue::default(),
        };
        let running = fixed(
            "SELECT COUNT(*) FROM workflow_executions FORCE INDEX (ow_held) WHERE ow_owner > '' \
             AND status='running'",
        );
        queue.running = number(&one(session, running).await?, 0)?;
        if self.eligibility.backlog == Backlog::Hold {
            (queue.backlog, queue.oldest_backlog) = backlog(session, &facts).await?;
        }
        Ok(queue)
    }
}

/// `ow_fence` as in a claim: what no worker may take does not wait.
async fn pending(session: &mut Session, eligible: &Eligible) -> Result<Queue, Fault> {
    let ask = made(format!(
        "SELECT COUNT(*), CAST(COALESCE(SUM(ow_due <= NOW(3) + INTERVAL ? SECOND), 0) AS SIGNED), \
         TIMESTAMPDIFF(MICROSECOND, MIN(ow_due), NOW(3)) \
         FROM workflow_executions FORCE INDEX (ow_poll) \
         WHERE status='pending' AND ow_fence < 9000000000000000000{}",
        eligible.sql()
    ));
    let row = one(session, eligible.bind(ask.bind(Queue::SOON.as_secs()))).await?;
    let due = number(&row, 1)?;
    Ok(Queue {
        due,
        later: number(&row, 0)?.saturating_sub(due),
        oldest_due: micros(rows::number(&row, 2)?),
        ..Queue::default()
    })
}

async fn backlog(session: &mut Session, facts: &Facts) -> Result<(u64, Duration), Fault> {
    let ask = made(format!(
        "SELECT COUNT(*), TIMESTAMPDIFF(MICROSECOND, MIN(ow_due), NOW(3)) \
         FROM workflow_executions FORCE INDEX (ow_poll) WHERE status='pending'{}",
        is_backlog()
    ));
    let row = one(session, ask.bind(&facts.backlog_before)).await?;
    Ok((number(&row, 0)?, micros(rows::number(&row, 1)?)))
}

/// The row of numbers.
async fn one(session: &mut Session, ask: Sql<'_>) -> Result<MySqlRow, Fault> {
    let row = session.row(ask).await?;
    row.ok_or_else(|| Fault::Unexpected("a count gave no row".into()))
}

fn number(row: &MySqlRow, column: usize) -> Result<u64, Fault> {
    Ok(u64::try_from(rows::number(row, column)?.unwrap_or(0)).unwrap_or(0))
}
