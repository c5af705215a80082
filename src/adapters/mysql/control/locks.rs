//! Lock rows as an operator sees them.

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            errors::Fault,
            facts::{self, Facts},
            rows,
            session::{Entrance, Session, fixed, made},
            work::{WORK_LIMIT, Work, run},
        },
    },
    ports::control::{LockFilter, LockRow, WorkerRow},
};

/// What `locks clean` runs, as it would be typed.
pub(in crate::adapters::mysql) const CLEAN: &str = "\
DELETE FROM distributed_locks
 WHERE expires_at < NOW(3) - INTERVAL 1 MINUTE
   AND (LEFT(owner, 1) = '~' OR (LEFT(lock_key, 19) <> 'workflow_execution:'
        AND NOT EXISTS (SELECT 1 FROM workflow_executions e WHERE e.ow_owner > ''
                           AND e.status IN ('running', 'cancelled')
                           AND e.ow_fence = distributed_locks.ow_fence
                           AND CONCAT('workflow_template:', e.template_id)
                             = CONVERT(lock_key USING utf8mb4) COLLATE utf8mb4_bin)));";

pub(in crate::adapters::mysql) async fn locks(
    lanes: &Lanes<Entrance>,
    filter: &LockFilter,
) -> Result<Vec<LockRow>, Fault> {
    run(lanes, WORK_LIMIT, List { filter: filter.clone() }).await
}

struct List {
    filter: LockFilter,
}

#[async_trait]
impl Work for List {
    type Answer = Vec<LockRow>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<LockRow>, Fault> {
        facts::of(session).await?;
        let LockFilter { key, owner, expired, limit } = &self.filter;
        let mut conditions = vec!["TRUE"];
        conditions.extend(key.as_ref().map(|_| "lock_key=?"));
        conditions.extend(owner.as_ref().map(|_| "owner=?"));
        conditions.extend(expired.then_some("expires_at <= NOW(3)"));
        let ask = made(format!(
            "SELECT lock_key, owner, ow_fence, ow_beat, \
             TIMESTAMPDIFF(MICROSECOND, NOW(3), expires_at) DIV 1000, \
             TIMESTAMPDIFF(MICROSECOND, updated_at, NOW(3)) DIV 1000, {} FROM distributed_locks \
             WHERE {} ORDER BY expires_at DESC, lock_key LIMIT ?",
            rows::unix("created_at"),
            conditions.join(" AND ")
        ));
        let ask = key.iter().chain(owner).fold(ask, sqlx::query::Query::bind);
        session.rows(ask.bind(limit)).await?.iter().map(lock).collect()
    }
}

fn lock(row: &MySqlRow) -> Result<LockRow, Fault> {
    Ok(LockRow {
        key: rows::name(row, 0)?,
        owner: rows::name(row, 1)?,
        fence: rows::count(row, 2)?,
        beat: rows::count(row, 3)?,
        expires_in_ms: rows::number(row, 4)?.unwrap_or(0),
        renewed_ago_ms: rows::number(row, 5)?,
        created_at: rows::time(row, 6)?,
    })
}

pub(in crate::adapters::mysql) async fn count_old(lanes: &Lanes<Entrance>) -> Result<u64, Fault> {
    run(lanes, WORK_LIMIT, CountOld).await
}

struct CountOld;

#[async_trait]
impl Work for CountOld {
    type Answer = u64;

    async fn attempt(&mut self, session: &mut Session) -> Result<u64, Fault> {
        facts::of(session).await?;
        let ask = fixed(
            "SELECT COUNT(*) FROM distributed_locks WHERE expires_at < NOW(3) - INTERVAL 1 MINUTE \
             AND (LEFT(owner, 1)='~' OR (LEFT(lock_key, 19)<>'workflow_execution:' \
             AND NOT EXISTS (SELECT 1 FROM workflow_executions e FORCE INDEX (ow_held) \
             WHERE e.ow_owner > '' AND e.status IN ('running','cancelled') \
             AND e.ow_fence=distributed_locks.ow_fence \
             AND CONCAT('workflow_template:', e.template_id)=\
             CONVERT(lock_key USING utf8mb4) COLLATE utf8mb4_bin)))",
        );
        let row = session.row(ask).await?;
        let row = row.ok_or_else(|| Fault::Unexpected("a count gave no row".into()))?;
        Ok(u64::try_from(rows::number(&row, 0)?.unwrap_or(0)).unwrap_or(0))
    }
}

pub(in crate::adapters::mysql) async fn workers(
    lanes: &Lanes<Entrance>,
) -> Result<Vec<WorkerRow>, Fault> {
    run(lanes, WORK_LIMIT, Workers).await
}

/// Lock rows of executions that workers hold: those that are renewed, and those whose lease is kept
/// elsewhere.
pub(super) fn is_live(facts: &Facts) -> String {
    format!(
        "LEFT(lock_key, 19)='workflow_execution:' AND LEFT(owner, 1)<>'~' AND ow_fence > 0 \
         AND (expires_at > NOW(3) OR lock_key IN (SELECT {} FROM workflow_executions e \
         FORCE INDEX (ow_held) WHERE e.ow_owner > '' AND e.status IN ('running','cancelled') \
         AND LOCATE('@', e.ow_owner_uid) > 0))",
        facts.lock_key_of_e
    )
}

struct Workers;

#[async_trait]
impl Work for Workers {
    type Answer = Vec<WorkerRow>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<WorkerRow>, Fault> {
        let facts = facts::of(session).await?;
        let ask = made(format!(
            "SELECT owner, COUNT(*), \
             TIMESTAMPDIFF(MICROSECOND, MAX(updated_at), NOW(3)) DIV 1000, \
             TIMESTAMPDIFF(MICROSECOND, MIN(created_at), NOW(3)) DIV 1000 FROM distributed_locks \
             WHERE {} GROUP BY owner ORDER BY owner",
            is_live(&facts)
        ));
        let worker = |row: &MySqlRow| {
            Ok(WorkerRow {
                owner: rows::name(row, 0)?,
                executions: u64::try_from(rows::number(row, 1)?.unwrap_or(0)).unwrap_or(0),
                renewed_ago_ms: rows::number(row, 2)?,
                oldest_ms: rows::number(row, 3)?,
            })
        };
        session.rows(ask).await?.iter().map(worker).collect()
    }
}
