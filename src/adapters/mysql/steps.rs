//! Writes to step rows, and the rows of `ow_attempts` that go with them.
//!
//! **Invariant:** every write carries the fence of its row's execution and may be sent twice; rows
//! are taken by (execution, id), those of one statement by id. What meets another order than its own is
//! a deadlock, which is tried again.

use super::{
    errors::Fault,
    rows,
    session::{Session, fixed, made},
};
use crate::{
    adapters::texts,
    domain::{execution::AttemptOutcome, lease::Lease},
    ports::executions::{StepEnd, StepRetry, StepSkip, StepStart},
};

/// Rows a statement at most.
const CHUNK: usize = 256;

/// Ends a statement at most, and what the output of one may have in bytes that has company there: a quarter
/// of what the smallest server takes in one packet.
const ENDS: usize = 64;
const SHORT: usize = 4 * 1024;

/// One write to one step row. In this order where several go to one row.
#[derive(Clone, Copy)]
pub(super) enum Write<'a> {
    Retry(&'a StepRetry),
    Start(&'a StepStart),
    End(&'a StepEnd),
    Skip(&'a StepSkip),
}

fn has_short_output(end: &StepEnd) -> bool {
    end.output.as_ref().is_none_or(|output| output.len() <= SHORT)
}

/// A write under the lease that it is made under.
pub(super) type Leased<'a> = (&'a Lease, Write<'a>);

impl Write<'_> {
    fn step(&self) -> &str {
        match self {
            Self::Retry(retry) => retry.step.as_str(),
            Self::Start(start) => start.step.as_str(),
            Self::End(end) => end.step.as_str(),
            Self::Skip(skip) => skip.step.as_str(),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Retry(_) => 0,
            Self::Start(_) => 1,
            Self::End(_) => 2,
            Self::Skip(_) => 3,
        }
    }

    /// Whether one statement can make both writes.
    fn goes_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Start(a), Self::Start(b)) => {
                (a.attempt, a.key_gen, a.retry_count) == (b.attempt, b.key_gen, b.retry_count)
            }
            (Self::End(a), Self::End(b)) => {
                (a.attempt, a.succeeded, &a.error, a.retry_count)
                    == (b.attempt, b.succeeded, &b.error, b.retry_count)
                    && has_short_output(a)
                    && has_short_output(b)
            }
            (Self::Skip(a), Self::Skip(b)) => a.reason == b.reason,
            _ => false,
        }
    }
}

/// Makes all writes and records their attempts; `false` if any of them matched no row, and then the
/// transaction must not be committed.
pub(super) async fn write(
    session: &mut Session,
    mut writes: Vec<Leased<'_>>,
) -> Result<bool, Fault> {
    writes.sort_by(|(a, x), (b, y)| {
        (&a.execution, x.step(), x.rank()).cmp(&(&b.execution, y.step(), y.rank()))
    });
    for alike in writes.chunk_by(|(_, a), (_, b)| a.goes_with(b)) {
        for chunk in alike.chunks(most(alike)) {
            if write_alike(session, chunk).await? != chunk.len() as u64 {
                return Ok(false);
            }
        }
    }
    record(session, &writes).await?;
    Ok(true)
}

/// Takes the locks of all step rows that `writes` are for, or fails at once.
pub(super) async fn lock_at_once<'a>(
    session: &mut Session,
    writes: impl Iterator<Item = Leased<'a>>,
) -> Result<(), Fault> {
    let mut all: Vec<_> = writes.collect();
    all.sort_by(|(a, x), (b, y)| (&a.execution, x.step()).cmp(&(&b.execution, y.step())));
    for chunk in all.chunks(CHUNK) {
        let chunk = rows::filled(chunk);
        let sql = format!(
            "SELECT COUNT(*) FROM workflow_step_executions FORCE INDEX (PRIMARY) WHERE id IN ({}) \
             FOR UPDATE NOWAIT",
            rows::marks(chunk.len())
        );
        session.row(chunk.iter().fold(made(sql), |ask, (_, write)| ask.bind(write.step()))).await?;
    }
    Ok(())
}

/// Of these a statement.
const fn most(alike: &[Leased<'_>]) -> usize {
    if matches!(alike, [(_, Write::End(_)), ..]) { ENDS } else { CHUNK }
}

/// Writes that [`Write::goes_with`] put together; returns how many rows matched.
async fn write_alike(session: &mut Session, writes: &[Leased<'_>]) -> Result<u64, Fault> {
    match writes[0] {
        (lease, Write::Retry(retry)) => await_retry(session, lease, retry).await,
        (_, Write::End(first)) => end(session, first, writes).await,
        (_, Write::Start(first)) => start(session, first, writes).await,
        (_, Write::Skip(first)) => skip(session, &first.reason, writes).await,
    }
}

async fn end(session: &mut Session, first: &StepEnd, writes: &[Leased<'_>]) -> Result<u64, Fault> {
    let ends = writes.iter().filter_map(|(lease, write)| match write {
        Write::End(end) => Some((lease.fence, *end)),
        _ => None,
    });
    let ends = rows::filled(ends);
    let status = if first.succeeded { "success" } else { "failed" };
    let error = first.error.as_deref().map(texts::reason);
    let sql = format!(
        "UPDATE workflow_step_executions FORCE INDEX (PRIMARY) SET status=?, output={}, error=?, \
         retry_count=?, finished_at=NOW(3), \
         duration=TIMESTAMPDIFF(MICROSECOND, started_at, NOW(3)) DIV 1000, updated_at=NOW(3) \
         WHERE ({}) AND ow_attempt=? AND status IN ('running', ?)",
        match ends.len() {
            1 => "?".into(),
            count => rows::case("id", count, "NULL"),
        },
        id_and_fence(ends.len())
    );
    let update = made(sql).bind(status);
    let update = match &*ends {
        [(_, only)] => update.bind(only.output.as_deref()),
        // The first that matches counts: what fills the list up is never read.
        all => all.iter().enumerate().fold(update, |update, (place, (_, end))| {
            let output = end.output.as_deref().filter(|_| place < writes.len());
            update.bind(end.step.as_str()).bind(output)
        }),
    };
    let update =
        ends.iter().fold(update.bind(error).bind(first.retry_count), |update, (fence, end)| {
            update.bind(end.step.as_str()).bind(fence.0)
        });
    session.matched(update.bind(first.attempt).bind(status)).await
}

/// The step stays `running`; should its worker die now, its successor knows the next key. The row
/// may carry the next attempt already, if its start went with this and both are sent again; but a
/// copy that comes after a later retry must not turn the key back.
async fn await_retry(
    session: &mut Session,
    lease: &Lease,
    retry: &StepRetry,
) -> Result<u64, Fault> {
    let update = fixed(
        "UPDATE workflow_step_executions SET error=?, ow_key_gen=?, retry_count=?, \
         updated_at=NOW(3) WHERE id=? AND ow_fence=? AND status='running' \
         AND (ow_attempt=? OR (ow_attempt=? AND ow_key_gen=? AND retry_count=?))",
    );
    let update = update.bind(texts::reason(&retry.error)).bind(retry.key_gen);
    let update = update.bind(retry.retry_count).bind(retry.step.as_str()).bind(lease.fence.0);
    let update = update.bind(retry.attempt).bind(retry.attempt.saturating_add(1));
    session.matched(update.bind(retry.key_gen).bind(retry.retry_count)).await
}

/// `ow_attempt` stays below the number only until the first time this is sent.
async fn start(
    session: &mut Session,
    first: &StepStart,
    writes: &[Leased<'_>],
) -> Result<u64, Fault> {
    let writes = rows::filled(writes);
    let sql = format!(
        "UPDATE workflow_step_executions FORCE INDEX (PRIMARY) SET status='running', \
         started_at=COALESCE(started_at, NOW(3)), finished_at=NULL, updated_at=NOW(3), \
         ow_attempt=?, ow_key_gen=?, retry_count=? WHERE ({}) \
         AND (status IS NULL OR status NOT IN ('success','failed','skipped')) \
         AND ow_attempt IN (?, ?)",
        id_and_fence(writes.len())
    );
    let update = made(sql).bind(first.attempt).bind(first.key_gen).bind(first.retry_count);
    let update = writes
        .iter()
        .fold(update, |update, (lease, write)| update.bind(write.step()).bind(lease.fence.0));
    session.matched(update.bind(first.attempt.saturating_sub(1)).bind(first.attempt)).await
}

async fn skip(session: &mut Session, reason: &str, writes: &[Leased<'_>]) -> Result<u64, Fault> {
    let writes = rows::filled(writes);
    let sql = format!(
        "UPDATE workflow_step_executions FORCE INDEX (PRIMARY) SET status='skipped', error=?, \
         finished_at=NOW(3), updated_at=NOW(3) WHERE ({}) \
         AND (status IS NULL OR status NOT IN ('success','failed','running'))",
        id_and_fence(writes.len())
    );
    let update = made(sql).bind(texts::reason(reason));
    let update = writes
        .iter()
        .fold(update, |update, (lease, write)| update.bind(write.step()).bind(lease.fence.0));
    session.matched(update).await
}

fn id_and_fence(count: usize) -> String {
    rows::joined(count, "(id=? AND ow_fence=?)", " OR ")
}

/// How an attempt stands after a write.
struct AttemptRow<'a> {
    step: &'a str,
    attempt: u32,
    lease: &'a Lease,
    outcome: Option<AttemptOutcome>,
    cause: Option<&'a str>,
}

impl<'a> AttemptRow<'a> {
    fn of((lease, write): &Leased<'a>) -> Option<Self> {
        let (step, attempt, outcome, cause) = match write {
            Write::Retry(it) => {
                (it.step.as_str(), it.attempt, Some(it.outcome), Some(it.error.as_str()))
            }
            Write::Start(it) => (it.step.as_str(), it.attempt, None, None),
            // An attempt that no worker has started is not in the list.
            Write::End(it) if it.attempt == 0 => return None,
            Write::End(it) => (it.step.as_str(), it.attempt, Some(it.outcome), it.error.as_deref()),
            Write::Skip(_) => return None,
        };
        Some(Self { step, attempt, lease, outcome, cause })
    }
}

/// Writes the attempts' rows. What is recorded first of an attempt stays: a successor may have
/// closed it as lost, and a start that is sent twice knows nothing of its outcome.
async fn record(session: &mut Session, writes: &[Leased<'_>]) -> Result<(), Fault> {
    let mut attempts: Vec<_> = writes.iter().filter_map(AttemptRow::of).collect();
    attempts.sort_by_key(|row| (row.step, row.attempt));
    for chunk in attempts.chunks(CHUNK) {
        let chunk = rows::filled(chunk);
        let sql = format!(
            "INSERT INTO ow_attempts(execution_id, step_execution_id, attempt, fence, owner, \
             started_at, finished_at, outcome, cause) VALUES {} ON DUPLICATE KEY UPDATE \
             finished_at=COALESCE(finished_at, VALUES(finished_at)), \
             outcome=COALESCE(outcome, VALUES(outcome)), cause=COALESCE(cause, VALUES(cause))",
            rows::joined(chunk.len(), "(?, ?, ?, ?, ?, NOW(3), IF(?, NOW(3), NULL), ?, ?)", ", ")
        );
        let insert = chunk.iter().fold(made(sql), |insert, row| {
            let lease = row.lease;
            insert
                .bind(lease.execution.as_str())
                .bind(row.step)
                .bind(row.attempt)
                .bind(lease.fence.0)
                .bind(lease.owner.as_str())
                .bind(row.outcome.is_some())
                .bind(row.outcome.map(AttemptOutcome::as_str))
                .bind(row.cause.map(texts::cause))
        });
        session.matched(insert).await?;
    }
    Ok(())
}
