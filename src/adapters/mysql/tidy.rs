//! Ends of executions that some other worker held: cancelled ones whose owner is gone, and ones that
//! cannot even be taken over.
//!
//! **Invariant:** nothing is ended that is not exactly as it was seen.

use async_trait::async_trait;

use super::{
    apart::Haste,
    ending::{self, ALL, CANCELLED},
    errors::Fault,
    facts,
    locks::{self, Taking},
    rows,
    session::{Entrance, Session, fixed},
    shared::Shared,
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::{lane::Lanes, texts},
    domain::{
        deferral::Deferral,
        execution::AttemptOutcome,
        id::{Beat, ExecutionId, FINISHED, Fence, LockKey, TemplateId},
        lease::Mark,
        recovery::{Held, TakeOver},
    },
};

/// Ends what remains of cancelled executions, one transaction each: they are few. One that cannot be
/// ended now is left alone for a while. Adds those that are.
pub(super) async fn tidy(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    cancelled: Vec<TakeOver>,
    haste: Haste,
    tidied: &mut Vec<ExecutionId>,
) -> Result<(), Fault> {
    for one in cancelled {
        if !haste.has_time() {
            break;
        }
        let execution = one.seen.execution.clone();
        match run(lanes, WORK_LIMIT, TidyWork { one }).await {
            Ok(true) => tidied.push(execution),
            Ok(false) => {}
            Err(fault) if fault.may_be_a_rows() => {
                shared.put_off(&execution, &Deferral::Unwritable(fault.to_string()));
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

struct TidyWork {
    one: TakeOver,
}

#[async_trait]
impl Work for TidyWork {
    /// Whether it has ended by this.
    type Answer = bool;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        session.begin().await?;
        facts::settled_primary(session).await?;
        let TakeOver { seen, cause } = &self.one;
        let Some(template) = pin(session, "cancelled", seen).await? else {
            session.rollback().await?;
            return Ok(false);
        };
        if !bury_locks(session, &self.one, seen.fence, template).await? {
            session.rollback().await?;
            return Ok(false);
        }
        let (execution, fence) = (&seen.execution, seen.fence);
        ending::let_go_of_cancelled(session, execution, fence, seen.by.word()).await?;
        ending::close_steps(session, execution, fence, CANCELLED).await?;
        let lost = AttemptOutcome::Lost;
        ending::close_attempts(session, execution, ALL, lost, Some(&cause.told())).await?;
        session.commit().await?;
        Ok(true)
    }
}

/// Locks the execution if it is still as seen; returns its template.
async fn pin(
    session: &mut Session,
    status: &str,
    seen: &Held,
) -> Result<Option<Option<TemplateId>>, Fault> {
    let pin = fixed(
        "SELECT template_id FROM workflow_executions WHERE id=? AND status=? AND ow_fence=? AND ow_owner=? \
         FOR UPDATE SKIP LOCKED",
    );
    let pin = pin.bind(seen.execution.as_str()).bind(status).bind(seen.fence.0);
    let row = session.row(pin.bind(seen.by.word())).await?;
    row.map(|row| Ok(rows::text(&row, 0)?.map(Into::into))).transpose()
}

/// A tombstone in place of the former owner's lock, nothing in place of its template's; `false` if
/// its lock has moved on.
async fn bury_locks(
    session: &mut Session,
    one: &TakeOver,
    fence: Fence,
    template: Option<TemplateId>,
) -> Result<bool, Fault> {
    let key = LockKey::of_execution(&one.seen.execution);
    locks::clear_seen(session, &key, one.dead_lock()).await?;
    let stone = Taking { owner: FINISHED, fence, ttl: Mark::LINGERS, beat: Beat(0) };
    if !locks::insert(session, &key, &stone).await? {
        return Ok(false);
    }
    if let Some(template) = template {
        let key = LockKey::of_template(&template);
        locks::clear_template(session, &key, &one.seen).await?;
    }
    Ok(true)
}

/// Fails an execution that broke its takeover, with all that is open of it. Its fence and its steps'
/// go up by one, so its former owner is locked out.
pub(super) struct FailHeld {
    pub one: TakeOver,
    pub reason: String,
}

#[async_trait]
impl Work for FailHeld {
    /// Whether it is failed now.
    type Answer = bool;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        let seen = &self.one.seen;
        let fence = Fence(seen.fence.0.saturating_add(1));
        session.begin().await?;
        facts::settled_primary(session).await?;
        let Some(template) = pin(session, "running", seen).await? else {
            session.rollback().await?;
            return Ok(false);
        };
        if !bury_locks(session, &self.one, fence, template).await? {
            session.rollback().await?;
            return Ok(false);
        }
        let fail = fixed(
            "UPDATE workflow_executions SET status='failed', error=?, finished_at=NOW(3), \
             updated_at=NOW(3), ow_fence=?, ow_owner='', ow_claim='' WHERE id=? AND ow_fence < ?",
        );
        let fail = fail.bind(texts::reason(&self.reason)).bind(fence.0);
        let fail = fail.bind(seen.execution.as_str()).bind(fence.0);
        if session.matched(fail).await? != 1 {
            return Err(ending::unexpected(&seen.execution, "failed"));
        }
        ending::stamp(session, &seen.execution, fence).await?;
        ending::close_steps(session, &seen.execution, fence, &self.reason).await?;
        let (lost, cause) = (AttemptOutcome::Lost, self.one.cause.told());
        ending::close_attempts(session, &seen.execution, ALL, lost, Some(&cause)).await?;
        session.commit().await?;
        Ok(true)
    }
}
