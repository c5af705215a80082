//! Executions that broke a batch are tried one by one; the one that breaks its own transaction too is
//! failed or put off, so that it stands in nobody's way.
//!
//! A batch meets many rows, and any client may keep one of them locked for hours. No fault of a batch
//! says whose row it was, so all of its executions are suspects.
//!
//! **Invariant:** going one by one waits for no lock of a row, and it ends while what it has brought
//! can still be renewed in time; what is left over waits for the next call.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    errors::Fault,
    facts::Facts,
    locks,
    session::{Entrance, Session, fixed, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::{lane::Lanes, texts},
    domain::id::{ExecutionId, LockKey},
    ports::executions::Batch,
};

/// How long a row that can neither be claimed nor failed is left alone.
const UNREADABLE: Duration = Duration::from_secs(60);
/// How long a pending one whose rows cannot be written now is put off: somebody holds their locks.
const UNWRITABLE: Duration = Duration::from_secs(15);

/// How much of a lease's time a call may use up before its caller can renew it.
#[derive(Clone, Copy)]
pub(super) struct Haste {
    began: Instant,
    ttl: Duration,
}

impl Haste {
    pub fn begin(ttl: Duration) -> Self {
        Self { began: Instant::now(), ttl }
    }

    /// A lease's local deadline is counted from the beginning of the call that brought it.
    pub fn has_time(&self) -> bool {
        self.began.elapsed() < self.ttl / 4
    }

    /// For one transaction, once `so_far` is in hand: it is not risked for the sake of a slow one.
    pub fn limit(&self, so_far: &Batch) -> Duration {
        let share = if so_far.claims.is_empty() { self.ttl / 2 } else { self.ttl / 4 };
        share.min(WORK_LIMIT)
    }

    /// A transaction that had only `within` was not given the time that it may take, and shows
    /// nothing of its execution.
    pub fn cuts_short(&self, within: Duration, fault: &Fault) -> bool {
        matches!(fault, Fault::Disconnected(_)) && within < self.limit(&Batch::default())
    }
}

/// Executions that are dealt with apart from the others, in their order.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<VecDeque<ExecutionId>>);

impl Suspects {
    fn all(&self) -> MutexGuard<'_, VecDeque<ExecutionId>> {
        self.0.lock().expect("no panic while it is held")
    }

    pub fn are_none(&self) -> bool {
        self.all().is_empty()
    }

    pub fn set(&self, suspects: impl IntoIterator<Item = ExecutionId>) {
        *self.all() = suspects.into_iter().collect();
    }

    /// Of more than so many the first are forgotten.
    const MOST: usize = 1_000;

    pub fn add(&self, suspect: ExecutionId) {
        let mut all = self.all();
        if !all.contains(&suspect) {
            all.push_back(suspect);
        }
        if all.len() > Self::MOST {
            all.pop_front();
        }
    }

    pub fn contains(&self, execution: &ExecutionId) -> bool {
        self.all().contains(execution)
    }

    pub fn remove(&self, execution: &ExecutionId) {
        self.all().retain(|suspect| suspect != execution);
    }

    /// The next one, which is none any more.
    pub fn take(&self) -> Option<ExecutionId> {
        self.all().pop_front()
    }

    /// It could not be tried after all.
    pub fn put_back(&self, execution: ExecutionId) {
        self.all().push_front(execution);
    }
}

/// Takes the locks of an execution's lock rows and unfinished step rows, or fails at once: whoever
/// goes one by one must not wait two seconds for each.
pub(super) async fn lock_at_once(
    session: &mut Session,
    facts: &Facts,
    execution: &ExecutionId,
    template_key: Option<LockKey>,
) -> Result<(), Fault> {
    for key in [LockKey::of_execution(execution)].into_iter().chain(template_key) {
        let lock = made(format!(
            "SELECT id FROM distributed_locks FORCE INDEX ({}) WHERE lock_key=? FOR UPDATE NOWAIT",
            facts.lock_key_index
        ));
        session.row(lock.bind(key.as_str())).await?;
    }
    let steps = fixed(
        "SELECT COUNT(*) FROM workflow_step_executions WHERE execution_id=? \
         AND (status IS NULL OR status NOT IN ('success','failed','skipped')) FOR UPDATE NOWAIT",
    );
    session.row(steps.bind(execution.as_str())).await?;
    Ok(())
}

/// What became of a pending execution that cannot be claimed.
pub(super) enum Fate {
    Failed(String),
    PutOff(String),
}

/// Fails a pending execution whose claim broke with `fault`, or puts it off for a while. Its own row
/// is all that is written, and if even that cannot be, the next C1 skips or meets it again.
pub(super) async fn deal_with(
    lanes: &Lanes<Entrance>,
    execution: &ExecutionId,
    fault: &Fault,
) -> Result<Fate, Fault> {
    let execution = execution.clone();
    let done = if let Fault::Data(reason) = fault {
        let reason = refused(reason);
        match run(lanes, WORK_LIMIT, Fail { execution, reason: reason.clone() }).await {
            Ok(true) => return Ok(Fate::Failed(reason)),
            other => other,
        }
    } else {
        run(lanes, WORK_LIMIT, PutOff { execution }).await
    };
    match done {
        Err(fault) if !fault.may_be_a_rows() => Err(fault),
        Ok(_) | Err(_) => Ok(Fate::PutOff(fault.to_string())),
    }
}

/// Why an execution is failed whose row the database refused.
pub(super) fn refused(reason: &str) -> String {
    format!("the database refused a value of this execution: {reason}")
}

/// Fails an execution without a claim; if even that is refused, puts it off.
struct Fail {
    execution: ExecutionId,
    reason: String,
}

#[async_trait]
impl Work for Fail {
    /// Whether it is failed now.
    type Answer = bool;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        let id = self.execution.as_str();
        let fail = fixed(
            "UPDATE workflow_executions SET status='failed', error=?, finished_at=NOW(3), \
             updated_at=NOW(3), ow_fence=ow_fence+1, ow_owner='', ow_claim='' \
             WHERE id=? AND status='pending' AND ow_fence < 9000000000000000000",
        );
        let fail = fail.bind(texts::reason(&self.reason)).bind(id);
        match session.matched_alone(fail).await {
            Ok(matched) => return Ok(matched == 1),
            Err(Fault::Data(_)) => {}
            Err(fault) => return Err(fault),
        }
        put_off(session, &self.execution, UNREADABLE).await?;
        Ok(false)
    }
}

struct PutOff {
    execution: ExecutionId,
}

#[async_trait]
impl Work for PutOff {
    /// Never failed.
    type Answer = bool;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        put_off(session, &self.execution, UNWRITABLE).await?;
        Ok(false)
    }
}

pub(super) async fn put_off(
    session: &mut Session,
    execution: &ExecutionId,
    by: Duration,
) -> Result<(), Fault> {
    let update = fixed(
        "UPDATE workflow_executions SET ow_not_before=NOW(3)+INTERVAL ? MICROSECOND \
         WHERE id=? AND status='pending'",
    );
    // Another worker may have it by now.
    session.matched_alone(update.bind(locks::micros(by)).bind(execution.as_str())).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_was_cut_short_shows_nothing_of_its_execution() {
        let gone = Fault::Disconnected("no answer".into());
        for (ttl, first) in [(8, 4), (30, 10), (60, 10)] {
            let haste = Haste::begin(Duration::from_secs(ttl));
            let whole = haste.limit(&Batch::default());
            assert_eq!(whole, Duration::from_secs(first));
            assert!(!haste.cuts_short(whole, &gone));
            assert!(haste.cuts_short(whole / 2, &gone));
            assert!(!haste.cuts_short(whole / 2, &Fault::LockWait("1205".into())));
        }
    }
}
