//! Giving things up: executions handed back, tombstones that have stood long enough.
//!
//! **Invariant:** a handed-back execution stays `running`, so that the orchestrator keeps its hands
//! off; the lease row of a living execution is never deleted by time.

use async_trait::async_trait;

use super::{
    advance::{cancelled_owner, end_cancelled},
    ending::{self, ALL},
    errors::Fault,
    facts, locks, rows,
    session::{Entrance, Session, fixed, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        execution::AttemptOutcome,
        id::RELEASED,
        lease::{Lease, Mark},
    },
    ports::executions::{AdvanceError, Advanced, HandBack},
};

/// Executions a transaction at most.
const MOST: usize = 50;

/// One answer an execution, in their order.
pub(super) async fn hand_back(
    lanes: &Lanes<Entrance>,
    returns: &[HandBack],
) -> Vec<Result<Advanced, AdvanceError>> {
    let mut answers = Vec::with_capacity(returns.len());
    for chunk in returns.chunks(MOST) {
        let leases: Vec<Lease> = chunk.iter().map(|one| one.lease.clone()).collect();
        match run(lanes, WORK_LIMIT, HandBackWork { leases }).await {
            Ok(fates) => {
                answers.extend(fates.into_iter().map(|fate| fate.ok_or(AdvanceError::Fenced)));
            }
            Err(fault) => answers.extend(chunk.iter().map(|_| Err(fault.clone().into()))),
        }
    }
    answers
}

struct HandBackWork {
    leases: Vec<Lease>,
}

/// What becomes of one of them.
enum Fate {
    Released,
    /// Somebody had cancelled it: it ends here. What stood in its owner column.
    Cancelled(String),
    Fenced,
}

#[async_trait]
impl Work for HandBackWork {
    /// How each has left our hands; `None`: it was not in them.
    type Answer = Vec<Option<Advanced>>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let mut order: Vec<usize> = (0..self.leases.len()).collect();
        order.sort_by_key(|place| &self.leases[*place].execution);
        session.begin().await?;
        let mut fates = Vec::with_capacity(order.len());
        for place in order {
            let lease = &self.leases[place];
            fates.push((place, lease, fate(session, lease).await?));
        }
        for (_, lease, fate) in &fates {
            match fate {
                Fate::Released => locks::mark(session, &[*lease], Mark::Released).await?,
                Fate::Cancelled(_) => locks::mark(session, &[*lease], Mark::Finished).await?,
                Fate::Fenced => {}
            }
        }
        let ours = fates.iter().filter(|(.., fate)| !matches!(fate, Fate::Fenced));
        locks::free_templates(session, ours.map(|(_, lease, _)| *lease)).await?;
        let mut answers = vec![None; self.leases.len()];
        for (place, lease, fate) in &fates {
            answers[*place] = match fate {
                Fate::Released => {
                    let drained = AttemptOutcome::Drained;
                    ending::close_attempts(session, &lease.execution, ALL, drained, None).await?;
                    Some(Advanced::Recorded)
                }
                Fate::Cancelled(owner) => {
                    end_cancelled(session, lease, owner).await?;
                    Some(Advanced::Cancelled)
                }
                Fate::Fenced => None,
            };
        }
        session.commit().await?;
        Ok(answers)
    }
}

async fn fate(session: &mut Session, lease: &Lease) -> Result<Fate, Fault> {
    let update = fixed(
        "UPDATE workflow_executions SET ow_owner=?, updated_at=NOW(3) WHERE id=? AND ow_fence=? \
         AND ow_claim=? AND status='running'",
    );
    let update = update.bind(RELEASED).bind(lease.execution.as_str()).bind(lease.fence.0);
    if session.matched(update.bind(lease.nonce.as_str())).await? == 1 {
        return Ok(Fate::Released);
    }
    Ok(cancelled_owner(session, lease).await?.map_or(Fate::Fenced, Fate::Cancelled))
}

/// Deletes what has been past its expiry for a minute, marked rows and plain keys, those of templates
/// that are locked for a held execution excepted; returns how many.
/// Keys are told by their beginning: under `NO_BACKSLASH_ESCAPES` a LIKE with an escape means
/// something else, and leases of the living would go.
pub(super) async fn reap(lanes: &Lanes<Entrance>, limit: u32) -> Result<u64, Fault> {
    run(lanes, WORK_LIMIT, Reap { limit }).await
}

struct Reap {
    limit: u32,
}

#[async_trait]
impl Work for Reap {
    type Answer = u64;

    async fn attempt(&mut self, session: &mut Session) -> Result<u64, Fault> {
        let facts = facts::of(session).await?;
        let ask = fixed(
            "SELECT lock_key FROM distributed_locks l FORCE INDEX (ow_expires) \
             WHERE expires_at < NOW(3) - INTERVAL 1 MINUTE \
             AND (owner LIKE '~%' OR (LEFT(lock_key, 19) <> 'workflow_execution:' \
             AND NOT EXISTS (SELECT 1 FROM workflow_executions e FORCE INDEX (ow_held) \
             WHERE e.ow_owner > '' AND e.status IN ('running','cancelled') \
             AND e.ow_fence=l.ow_fence AND CONCAT('workflow_template:', e.template_id)=\
             CONVERT(l.lock_key USING utf8mb4) COLLATE utf8mb4_bin))) \
             ORDER BY expires_at LIMIT ?",
        );
        let found = session.rows(ask.bind(self.limit)).await?;
        if found.is_empty() {
            return Ok(0);
        }
        let mut keys = found.iter().map(|row| rows::name(row, 0)).collect::<Result<Vec<_>, _>>()?;
        keys.sort();
        let keys = rows::filled(keys);
        let sql = format!(
            "DELETE l FROM distributed_locks l FORCE INDEX ({}) WHERE lock_key IN ({}) \
             AND (owner LIKE '~%' OR LEFT(lock_key, 19) <> 'workflow_execution:') \
             AND expires_at < NOW(3) - INTERVAL 1 MINUTE",
            facts.lock_key_index,
            rows::marks(keys.len())
        );
        session.matched_alone(keys.iter().fold(made(sql), sqlx::query::Query::bind)).await
    }
}
