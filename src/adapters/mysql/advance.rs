//! Advances: what happened in some executions, in one transaction.
//!
//! **Invariant:** each advance is recorded in full or not at all, and may be sent again. The order is
//! that of every transaction here: executions by id, lock rows by key, step rows.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{
    ending::{self, ALL, CANCELLED},
    errors::Fault,
    locks, rows,
    session::{Entrance, Session, fixed},
    steps::{self, Leased, Write},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::{lane::Lanes, texts},
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        id::FINISHED,
        lease::Lease,
        plan::Finish,
    },
    ports::executions::{Advance, AdvanceError, Advanced},
};

/// Advances a transaction at most.
const MOST: usize = 50;

/// One answer an advance, in their order.
pub(super) async fn advance(
    lanes: &Lanes<Entrance>,
    advances: &[Advance],
) -> Vec<Result<Advanced, AdvanceError>> {
    let mut answers = Vec::with_capacity(advances.len());
    for chunk in advances.chunks(MOST) {
        answers.extend(advance_chunk(lanes, chunk).await);
    }
    answers
}

/// All together if they are all plain, else each alone.
async fn advance_chunk(
    lanes: &Lanes<Entrance>,
    advances: &[Advance],
) -> Vec<Result<Advanced, AdvanceError>> {
    if advances.len() > 1 && are_plain(advances) {
        match run(lanes, WORK_LIMIT, Together { advances: advances.to_vec() }).await {
            Ok(true) => return vec![Ok(Advanced::Recorded); advances.len()],
            // One of them is fenced, cancelled, or holds a value that is refused.
            Ok(false) | Err(Fault::Data(_)) => {}
            Err(fault) => return vec![Err(fault.into()); advances.len()],
        }
    }
    let mut answers = Vec::with_capacity(advances.len());
    for advance in advances {
        answers.push(alone(lanes, advance).await);
    }
    answers
}

async fn alone(lanes: &Lanes<Entrance>, advance: &Advance) -> Result<Advanced, AdvanceError> {
    if advance.is_empty() {
        return Ok(Advanced::Recorded);
    }
    let recorded = run(lanes, WORK_LIMIT, Alone { advance: advance.clone() }).await?;
    recorded.ok_or(AdvanceError::Fenced)
}

/// Of different executions, and none ends as cancelled.
fn are_plain(advances: &[Advance]) -> bool {
    let executions: BTreeSet<_> = advances.iter().map(|it| &it.lease.execution).collect();
    executions.len() == advances.len() && !advances.iter().any(ends_cancelled)
}

fn ends_cancelled(advance: &Advance) -> bool {
    advance.finish.as_ref().is_some_and(|finish| finish.state == ExecutionState::Cancelled)
}

fn writes(advance: &Advance) -> impl Iterator<Item = Leased<'_>> {
    let retries = advance.retrying.iter().map(Write::Retry);
    let starts = advance.started.iter().map(Write::Start);
    let ends = advance.ended.iter().map(Write::End);
    let skips = advance.skipped.iter().map(Write::Skip);
    retries.chain(starts).chain(ends).chain(skips).map(|write| (&advance.lease, write))
}

/// Several plain advances: all are recorded, or none (`false`).
struct Together {
    advances: Vec<Advance>,
}

#[async_trait]
impl Work for Together {
    type Answer = bool;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        self.advances.sort_by(|a, b| a.lease.execution.cmp(&b.lease.execution));
        session.begin().await?;
        let ending =
            || self.advances.iter().filter_map(|it| Some((&it.lease, it.finish.as_ref()?)));
        for (lease, finish) in ending() {
            if !finish_execution(session, lease, finish).await? {
                session.rollback().await?;
                return Ok(false);
            }
        }
        for (lease, _) in ending() {
            locks::mark(session, lease, FINISHED).await?;
        }
        if !steps::write(session, self.advances.iter().flat_map(writes).collect()).await? {
            session.rollback().await?;
            return Ok(false);
        }
        session.commit().await?;
        Ok(true)
    }
}

/// One advance; `None` if the rows are no longer ours.
struct Alone {
    advance: Advance,
}

#[async_trait]
impl Work for Alone {
    type Answer = Option<Advanced>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Option<Advanced>, Fault> {
        let advance = &self.advance;
        let lease = &advance.lease;
        session.begin().await?;
        let mut cancelled = None;
        if let Some(finish) = &advance.finish {
            let is_finished =
                !ends_cancelled(advance) && finish_execution(session, lease, finish).await?;
            if !is_finished {
                cancelled = cancelled_owner(session, lease).await?;
                if cancelled.is_none() {
                    session.rollback().await?;
                    return Ok(None);
                }
            }
            locks::mark(session, lease, FINISHED).await?;
        }
        if !steps::write(session, writes(advance).collect()).await? {
            session.rollback().await?;
            return Ok(None);
        }
        if let Some(owner) = &cancelled {
            end_cancelled(session, lease, owner).await?;
        }
        session.commit().await?;
        Ok(Some(cancelled.map_or(Advanced::Recorded, |_| Advanced::Cancelled)))
    }
}

/// The guarded end of an execution; `false` if it is not ours, or not running, any more.
async fn finish_execution(
    session: &mut Session,
    lease: &Lease,
    finish: &Finish,
) -> Result<bool, Fault> {
    let state = finish.state.as_str();
    let error = finish.error.as_deref().map(texts::reason);
    let update = fixed(
        "UPDATE workflow_executions SET status=?, error=?, finished_at=NOW(3), \
         duration=TIMESTAMPDIFF(MICROSECOND, started_at, NOW(3)) DIV 1000, updated_at=NOW(3), \
         ow_owner='' WHERE id=? AND ow_fence=? AND ow_claim=? AND status IN ('running', ?)",
    );
    let update = update.bind(state).bind(error).bind(lease.execution.as_str());
    let update = update.bind(lease.fence.0).bind(lease.nonce.as_str()).bind(state);
    Ok(session.matched(update).await? == 1)
}

/// If somebody has cancelled this execution of ours: what stands in its owner column. The row stays
/// locked.
pub(super) async fn cancelled_owner(
    session: &mut Session,
    lease: &Lease,
) -> Result<Option<String>, Fault> {
    let ask = fixed(
        "SELECT ow_owner FROM workflow_executions WHERE id=? AND status='cancelled' AND ow_fence=? \
         AND ow_claim=? FOR UPDATE",
    );
    let ask = ask.bind(lease.execution.as_str()).bind(lease.fence.0).bind(lease.nonce.as_str());
    session.row(ask).await?.map(|row| rows::name(&row, 0)).transpose()
}

/// What is left of a cancelled execution, once its lock row has its mark.
pub(super) async fn end_cancelled(
    session: &mut Session,
    lease: &Lease,
    owner_seen: &str,
) -> Result<(), Fault> {
    let execution = &lease.execution;
    ending::let_go_of_cancelled(session, execution, lease.fence, owner_seen).await?;
    ending::close_steps(session, execution, lease.fence, CANCELLED).await?;
    ending::close_attempts(session, execution, ALL, AttemptOutcome::Cancelled, None).await
}
