//! Rows that no claim and no survey meets: executions that the orchestrator left running, and those
//! whose status no version writes.
//!
//! **Invariant:** an execution of the orchestrator's is only reported, and taken over like any other; a
//! row is failed only while its status is still the one that was read.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    errors::Fault,
    facts, locks, rows,
    session::{Entrance, Session, fixed, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        id::{ExecutionId, Fence},
        recovery::{Held, Holder, ORCHESTRATOR_SILENT},
    },
};

/// Rows a look at most.
const MOST: u32 = 100;

/// What the orchestrator itself runs, or ran, without a live lock.
pub(super) async fn orphans(lanes: &Lanes<Entrance>) -> Result<Vec<Held>, Fault> {
    run(lanes, WORK_LIMIT, Orphans).await
}

struct Orphans;

#[async_trait]
impl Work for Orphans {
    type Answer = Vec<Held>;

    /// Without a lock row only its age speaks for its being dead: whoever cleans expired rows away
    /// does it while their owner may be alive.
    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<Held>, Fault> {
        let facts = facts::of(session).await?;
        facts::same_primary(session).await?;
        let ask = made(format!(
            "SELECT e.id, e.ow_fence FROM workflow_executions e FORCE INDEX (ow_held) \
             LEFT JOIN distributed_locks l ON l.lock_key = {} \
             WHERE e.ow_owner='' AND e.status='running' \
             AND IF(l.lock_key IS NULL, e.updated_at < NOW(3) - INTERVAL ? MICROSECOND, \
             l.ow_fence=0 AND l.expires_at <= NOW(3)) LIMIT ?",
            facts.lock_key_of_e
        ));
        let ask = ask.bind(locks::micros(ORCHESTRATOR_SILENT)).bind(MOST);
        let held = |row| {
            Ok(Held {
                execution: rows::name(row, 0)?.into(),
                fence: Fence(rows::count(row, 1)?),
                by: Holder::Orchestrator,
                uid: String::new(),
                cancelled: false,
                lock: None,
                elsewhere: None,
            })
        };
        session.rows(ask).await?.iter().map(held).collect()
    }
}

/// Fails executions whose status is none, and that nobody has touched for `after`; returns which, and
/// why.
pub(super) async fn fail_unknown(
    lanes: &Lanes<Entrance>,
    after: Duration,
) -> Result<Vec<(ExecutionId, String)>, Fault> {
    run(lanes, WORK_LIMIT, FailUnknown { after }).await
}

struct FailUnknown {
    after: Duration,
}

#[async_trait]
impl Work for FailUnknown {
    type Answer = Vec<(ExecutionId, String)>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        let ask = fixed(
            "SELECT id, status FROM workflow_executions FORCE INDEX (ow_poll) WHERE (status IS NULL \
             OR status NOT IN ('pending','running','success','failed','cancelled')) \
             AND COALESCE(updated_at, created_at, '2000-01-01') < NOW(3) - INTERVAL ? MICROSECOND \
             LIMIT ?",
        );
        let mut failed = Vec::new();
        for row in session.rows(ask.bind(locks::micros(self.after)).bind(MOST)).await? {
            let (id, status) = (rows::name(&row, 0)?, rows::text(&row, 1)?);
            let reason = crate::domain::execution::unknown_status(status.as_deref());
            let fail = fixed(
                "UPDATE workflow_executions SET status='failed', error=?, finished_at=NOW(3), \
                 updated_at=NOW(3), ow_fence=ow_fence+1, ow_owner='', ow_claim='' \
                 WHERE id=? AND status <=> ?",
            );
            if session.matched_alone(fail.bind(&reason).bind(&id).bind(status)).await? == 1 {
                failed.push((id.into(), reason));
            }
        }
        Ok(failed)
    }
}
