//! The last of an execution that somebody has cancelled: its holder lets go of it, or a watcher does
//! for a holder that is gone.
//!
//! **Invariant:** after it every step and attempt is final, nobody holds the execution, and a
//! tombstone stands in place of its lock.

use super::{
    errors::Failure,
    locks::{self, Taking},
    rows::{Cells, signed},
    session::Moment,
    steps,
};
use crate::domain::{
    execution::AttemptOutcome,
    id::{Beat, FINISHED, LockKey, TemplateId},
    lease::{Lease, Mark},
    recovery::TakeOver,
};

/// Why the steps of a cancelled execution are what they are.
const CANCELLED: &str = "stopped because the execution was cancelled";

/// Lets go of an execution of ours; `false` if it is not ours or was not cancelled. [`close`] must
/// follow once all that is known of its steps is recorded. Whoever cancelled it by a statement of his own
/// may not have said when it ended.
pub(super) async fn let_go(moment: &mut Moment<'_>, lease: &Lease) -> Result<bool, Failure> {
    let now = moment.now.clone();
    let matched = sqlx::query(
        "UPDATE workflow_executions
            SET ow_owner='', updated_at=?1,
                duration=COALESCE(duration, CAST(round((unixepoch(?1,'subsec')
                    -unixepoch(started_at,'subsec'))*1000) AS INTEGER)),
                finished_at=COALESCE(finished_at, ?1)
          WHERE id=?2 AND ow_fence=?3 AND ow_claim=?4 AND status='cancelled'",
    )
    .bind(&now)
    .bind(lease.execution.as_str())
    .bind(signed(lease.fence.0))
    .bind(lease.nonce.as_str())
    .execute(moment.on())
    .await?
    .rows_affected();
    Ok(matched == 1)
}

/// Ends what is still open.
pub(super) async fn close(
    moment: &mut Moment<'_>,
    lease: &Lease,
    mark: Mark,
) -> Result<(), Failure> {
    let (now, id) = (moment.now.clone(), &lease.execution);
    locks::mark(moment.on(), &now, lease, mark).await?;
    steps::close(moment.on(), &now, id, lease.fence.0, CANCELLED).await?;
    steps::close_attempts(moment.on(), &now, id, AttemptOutcome::Cancelled, None).await
}

/// Ends what a dead owner has left of a cancelled execution; `false` if it or its lock has moved on.
pub(super) async fn tidy(moment: &mut Moment<'_>, take_over: &TakeOver) -> Result<bool, Failure> {
    let Some(template) = template_as_seen(moment, take_over).await? else { return Ok(false) };
    if !bury_lock(moment, take_over).await? {
        return Ok(false);
    }
    let (now, id) = (moment.now.clone(), &take_over.seen.execution);
    if let Some(template) = template {
        locks::clear_template(moment.on(), &now, &template, &take_over.seen).await?;
    }
    sqlx::query(
        "UPDATE workflow_executions
            SET ow_owner='', updated_at=?1,
                duration=COALESCE(duration, CAST(round((unixepoch(?1,'subsec')
                    -unixepoch(started_at,'subsec'))*1000) AS INTEGER)),
                finished_at=COALESCE(finished_at, ?1)
          WHERE id=?2",
    )
    .bind(&now)
    .bind(id.as_str())
    .execute(moment.on())
    .await?;
    steps::close(moment.on(), &now, id, take_over.seen.fence.0, CANCELLED).await?;
    let cause = take_over.cause.told();
    steps::close_attempts(moment.on(), &now, id, AttemptOutcome::Lost, Some(&cause)).await?;
    Ok(true)
}

/// The template of an execution that still is as it was seen.
async fn template_as_seen(
    moment: &mut Moment<'_>,
    take_over: &TakeOver,
) -> Result<Option<Option<TemplateId>>, Failure> {
    let seen = &take_over.seen;
    let row = sqlx::query(
        "SELECT template_id FROM workflow_executions
          WHERE id=?1 AND status='cancelled' AND ow_fence=?2 AND ow_owner=?3",
    )
    .bind(seen.execution.as_str())
    .bind(signed(seen.fence.0))
    .bind(seen.by.word())
    .fetch_optional(moment.on())
    .await?;
    row.map(|row| Ok(row.text("template_id")?.map(Into::into))).transpose()
}

/// A tombstone in place of the dead owner's lock; `false` if its lock has moved on.
async fn bury_lock(moment: &mut Moment<'_>, take_over: &TakeOver) -> Result<bool, Failure> {
    let (now, seen) = (moment.now.clone(), &take_over.seen);
    locks::clear_as_seen(moment.on(), &now, [take_over]).await?;
    let stone = Taking { owner: FINISHED, fence: seen.fence.0, ttl: Mark::LINGERS, beat: Beat(0) };
    let key = LockKey::of_execution(&seen.execution);
    Ok(!locks::insert(moment.on(), &now, &stone, &[key]).await?.is_empty())
}
