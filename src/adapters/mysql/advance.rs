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
    session::{Entrance, Session, fixed, made},
    shared::Shared,
    steps::{self, Leased, Write},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::{lane::Lanes, texts},
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        lease::Lease,
        plan::Finish,
    },
    ports::executions::{Advance, AdvanceError, Advanced},
};

/// Advances a transaction at most.
const MOST: usize = 50;
/// Skipped steps a transaction at most: an abort of 100,000 steps takes several.
const PIECE: usize = 5_000;

/// One answer an advance, in their order.
pub(super) async fn advance(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    advances: &[Advance],
) -> Vec<Result<Advanced, AdvanceError>> {
    let mut answers = Vec::with_capacity(advances.len());
    for chunk in advances.chunks(MOST) {
        answers.extend(advance_chunk(lanes, shared, chunk).await);
    }
    answers
}

/// All together if they are all plain, else each alone. What met a lock before does not wait for it
/// again, so that it keeps nobody waiting.
async fn advance_chunk(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    advances: &[Advance],
) -> Vec<Result<Advanced, AdvanceError>> {
    let mut waits = !advances.iter().any(|it| shared.locked.contains(&it.lease.execution));
    if advances.len() > 1 && are_plain(advances) {
        match run(lanes, WORK_LIMIT, Together { advances: advances.to_vec(), waits }).await {
            Ok(true) => {
                for advance in advances {
                    shared.locked.remove(&advance.lease.execution);
                }
                return vec![Ok(Advanced::Recorded); advances.len()];
            }
            // One of them is fenced, or cancelled.
            Ok(false) => {}
            // One holds a value that is refused, or meets a lock.
            Err(fault) if fault.may_be_a_rows() && !fault.costs_the_connection() => {
                waits &= !matches!(fault, Fault::LockWait(_));
            }
            Err(fault) => return vec![Err(fault.into()); advances.len()],
        }
    }
    let mut answers = Vec::with_capacity(advances.len());
    for advance in advances {
        let execution = &advance.lease.execution;
        let answer = alone(lanes, advance, waits).await;
        if let Err(Fault::LockWait(_)) = answer {
            shared.locked.add(execution.clone());
            waits = false;
        } else {
            shared.locked.remove(execution);
        }
        answers.push(match answer {
            Ok(recorded) => recorded.ok_or(AdvanceError::Fenced),
            Err(fault) => Err(fault.into()),
        });
    }
    answers
}

/// In pieces, of which the last one holds the end of the execution; `None` if the rows are no longer
/// ours. Should its worker die between two, its successor finds the failure of the first piece, and
/// skips what is left.
async fn alone(
    lanes: &Lanes<Entrance>,
    advance: &Advance,
    waits: bool,
) -> Result<Option<Advanced>, Fault> {
    if advance.is_empty() {
        return Ok(Some(Advanced::Recorded));
    }
    let mut rest = advance.clone();
    while rest.skipped.len() > PIECE {
        let later = rest.skipped.split_off(PIECE);
        let finish = rest.finish.take();
        let piece = std::mem::replace(&mut rest, Advance::new(advance.lease.clone()));
        (rest.skipped, rest.finish) = (later, finish);
        if run(lanes, WORK_LIMIT, Alone { advance: piece, waits }).await?.is_none() {
            return Ok(None);
        }
    }
    run(lanes, WORK_LIMIT, Alone { advance: rest, waits }).await
}

/// Of different executions, few enough steps for one transaction, and none ends as cancelled.
fn are_plain(advances: &[Advance]) -> bool {
    let executions: BTreeSet<_> = advances.iter().map(|it| &it.lease.execution).collect();
    let skipped: usize = advances.iter().map(|it| it.skipped.len()).sum();
    executions.len() == advances.len() && skipped <= PIECE && !advances.iter().any(ends_cancelled)
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
    /// For locks.
    waits: bool,
}

#[async_trait]
impl Work for Together {
    type Answer = bool;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        self.advances.sort_by(|a, b| a.lease.execution.cmp(&b.lease.execution));
        session.begin().await?;
        if !self.waits {
            lock_at_once(session, &self.advances).await?;
        }
        let ending: Vec<_> =
            self.advances.iter().filter_map(|it| Some((it, it.finish.as_ref()?))).collect();
        for alike in ending.chunk_by(|(_, a), (_, b)| a == b) {
            let leases: Vec<_> = alike.iter().map(|(it, _)| &it.lease).collect();
            if !finish_executions(session, &leases, alike[0].1).await? {
                session.rollback().await?;
                return Ok(false);
            }
        }
        let is_alike =
            |a: &Advance, b: &Advance| a.lease.owner == b.lease.owner && a.mark() == b.mark();
        for alike in ending.chunk_by(|(a, _), (b, _)| is_alike(a, b)) {
            let leases: Vec<_> = alike.iter().map(|(it, _)| &it.lease).collect();
            locks::mark(session, &leases, alike[0].0.mark()).await?;
        }
        let leases = || ending.iter().map(|(it, _)| &it.lease);
        locks::free_templates(session, leases()).await?;
        if !steps::write(session, self.advances.iter().flat_map(writes).collect()).await?
            || !are_whole(session, leases()).await?
        {
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
    /// For locks.
    waits: bool,
}

#[async_trait]
impl Work for Alone {
    type Answer = Option<Advanced>;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<Option<Advanced>, Fault> {
        let advance = &self.advance;
        let lease = &advance.lease;
        session.begin().await?;
        if !self.waits {
            lock_at_once(session, std::slice::from_ref(advance)).await?;
        }
        let mut cancelled = None;
        if let Some(finish) = &advance.finish {
            let is_finished =
                !ends_cancelled(advance) && finish_executions(session, &[lease], finish).await?;
            if !is_finished {
                cancelled = cancelled_owner(session, lease).await?;
                if cancelled.is_none() {
                    session.rollback().await?;
                    return Ok(None);
                }
            }
            locks::mark(session, &[lease], advance.mark()).await?;
            locks::free_templates(session, [lease].into_iter()).await?;
        }
        let ending = advance.finish.as_ref().filter(|_| cancelled.is_none()).map(|_| lease);
        if !steps::write(session, writes(advance).collect()).await?
            || !are_whole(session, ending.into_iter()).await?
        {
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

/// Takes the locks of all rows that are to be written, in the order of every transaction, or fails
/// at once.
async fn lock_at_once(session: &mut Session, advances: &[Advance]) -> Result<(), Fault> {
    let ending = || advances.iter().filter(|it| it.finish.is_some()).map(|it| &it.lease);
    for lease in ending() {
        let ask = fixed("SELECT id FROM workflow_executions WHERE id=? FOR UPDATE NOWAIT");
        session.row(ask.bind(lease.execution.as_str())).await?;
    }
    for key in ending().flat_map(Lease::keys).collect::<BTreeSet<_>>() {
        let ask = fixed("SELECT id FROM distributed_locks WHERE lock_key=? FOR UPDATE NOWAIT");
        session.row(ask.bind(key.as_str())).await?;
    }
    steps::lock_at_once(session, advances.iter().flat_map(writes)).await
}

/// Whether these executions may end: not while a step's end is missing that was recorded once. Who
/// takes such an execution over runs that step again.
async fn are_whole<'a>(
    session: &mut Session,
    ending: impl Iterator<Item = &'a Lease>,
) -> Result<bool, Fault> {
    if !session.shared.may_have_lost() {
        return Ok(true);
    }
    for lease in ending {
        if !ending::is_whole(session, &lease.execution).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The guarded ends of executions that end alike; `false` if one of them is not ours, or not running, any
/// more.
async fn finish_executions(
    session: &mut Session,
    leases: &[&Lease],
    finish: &Finish,
) -> Result<bool, Fault> {
    let state = finish.state.as_str();
    let error = finish.error.as_deref().map(texts::reason);
    let filled = rows::filled(leases);
    let sql = format!(
        "UPDATE workflow_executions FORCE INDEX (PRIMARY) SET status=?, error=?, finished_at=NOW(3), \
         duration=TIMESTAMPDIFF(MICROSECOND, started_at, NOW(3)) DIV 1000, updated_at=NOW(3), \
         ow_owner='' WHERE ({}) AND status IN ('running', ?)",
        rows::joined(filled.len(), "(id=? AND ow_fence=? AND ow_claim=?)", " OR ")
    );
    let update = filled.iter().fold(made(sql).bind(state).bind(error), |update, lease| {
        let update = update.bind(lease.execution.as_str());
        update.bind(lease.fence.0).bind(lease.nonce.as_str())
    });
    Ok(session.matched(update.bind(state)).await? == leases.len() as u64)
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
