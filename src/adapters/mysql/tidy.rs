//! Ends of executions that some other worker held: cancelled ones whose owner is gone, and ones that
//! cannot even be taken over.
//!
//! **Invariant:** nothing is ended that is not exactly as it was seen.

use async_trait::async_trait;

use super::{
    ending::{self, ALL, CANCELLED},
    errors::Fault,
    facts,
    locks::{self, Taking},
    session::{Entrance, Session, fixed},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::{lane::Lanes, texts},
    domain::{
        execution::AttemptOutcome,
        id::{Beat, FINISHED, LockKey},
        recovery::{Held, TakeOver},
    },
};

/// How long a tombstone stands.
const LINGER: std::time::Duration = std::time::Duration::from_secs(60);

/// Ends what remains of cancelled executions, one transaction each: they are few.
pub(super) async fn tidy(lanes: &Lanes<Entrance>, cancelled: Vec<TakeOver>) -> Result<(), Fault> {
    for one in cancelled {
        run(lanes, WORK_LIMIT, TidyWork { one }).await?;
    }
    Ok(())
}

struct TidyWork {
    one: TakeOver,
}

#[async_trait]
impl Work for TidyWork {
    type Answer = ();

    async fn attempt(&mut self, session: &mut Session) -> Result<(), Fault> {
        session.begin().await?;
        facts::settled_primary(session).await?;
        if !self.is_as_seen(session).await? || !self.bury_lock(session).await? {
            return session.rollback().await;
        }
        let TakeOver { seen, cause } = &self.one;
        let (execution, fence) = (&seen.execution, seen.fence);
        ending::let_go_of_cancelled(session, execution, fence, seen.by.word()).await?;
        ending::close_steps(session, execution, fence, CANCELLED).await?;
        let lost = AttemptOutcome::Lost;
        ending::close_attempts(session, execution, ALL, lost, Some(cause.as_str())).await?;
        session.commit().await
    }
}

impl TidyWork {
    async fn is_as_seen(&self, session: &mut Session) -> Result<bool, Fault> {
        let seen = &self.one.seen;
        let pin = fixed(
            "SELECT id FROM workflow_executions WHERE id=? AND status='cancelled' AND ow_fence=? \
             AND ow_owner=? FOR UPDATE SKIP LOCKED",
        );
        let pin = pin.bind(seen.execution.as_str()).bind(seen.fence.0).bind(seen.by.word());
        Ok(session.row(pin).await?.is_some())
    }

    /// A tombstone in place of the dead owner's lock; `false` if its lock has moved on.
    async fn bury_lock(&self, session: &mut Session) -> Result<bool, Fault> {
        let seen = &self.one.seen;
        let key = LockKey::of_execution(&seen.execution);
        locks::clear_seen(session, &key, self.one.dead_lock()).await?;
        let stone = Taking { owner: FINISHED, fence: seen.fence, ttl: LINGER, beat: Beat(0) };
        locks::insert(session, &key, &stone).await
    }
}

/// Fails an execution that broke its takeover. Its fence goes up by one, so its former owner is
/// locked out.
pub(super) struct FailHeld {
    pub seen: Held,
    pub reason: String,
}

#[async_trait]
impl Work for FailHeld {
    /// Whether it is failed now.
    type Answer = bool;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        let fail = fixed(
            "UPDATE workflow_executions SET status='failed', error=?, finished_at=NOW(3), \
             updated_at=NOW(3), ow_fence=ow_fence+1, ow_owner='', ow_claim='' \
             WHERE id=? AND status='running' AND ow_fence=? AND ow_owner=?",
        );
        let fail = fail
            .bind(texts::reason(&self.reason))
            .bind(self.seen.execution.as_str())
            .bind(self.seen.fence.0)
            .bind(self.seen.by.word());
        Ok(session.matched_alone(fail).await? == 1)
    }
}
