//! Executions whose leases are kept by a lock provider of its own: Redis, etcd. The lease is there, the
//! fence is on the rows.
//!
//! An execution is taken in the provider first and on its rows then, and let go of in the opposite
//! order. What the store writes into its lock table at a claim is never renewed: it keeps the
//! orchestrator's hands off for as long as that could be on its way to the execution. The uid column
//! says which provider has the lease, so that no worker takes that row for a dead one's.
//!
//! **Invariant:** nobody drives an execution whose key another holds, for as long as the provider forgets
//! none; where it does (a failover of Redis), its holder puts the key back with its next renewal, and
//! watchers wait for longer than that. Every write is guarded by the rows' own fence all the same.

mod keys;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tracing::debug;

use self::keys::{Keys, Taken};
use crate::{
    domain::{
        deferral::Deferral,
        eligibility::Eligibility,
        execution::ExecutionState,
        id::{Beat, ExecutionId, Owner, StepExecutionId},
        lease::{Lease, Renewal},
        pod::{keeping_in, kept_in},
        recovery::{Held, TakeOver},
    },
    ports::{
        executions::{
            Advance, AdvanceError, Advanced, Batch, Claimant, ExecutionStore, HandBack, Named,
            Queue, StoreError,
        },
        lock::{LockError, LockProvider},
        rows::RowStore,
        traced::{Former, Remains, Telling, TracedEnd, Untold},
    },
};

/// A renewal waits for the rows no longer than this part of a lease's time, which is its key's.
const ROWS_PART: u32 = 15;

/// A store of executions over another one's rows.
pub struct ExternalLeases {
    rows: Arc<dyn RowStore>,
    keys: Keys,
    /// What the uid column calls the provider.
    name: String,
}

impl ExternalLeases {
    /// `name`: 1 to 5 characters; workers on one database that keep their leases in different places
    /// must not have the same.
    pub fn new(rows: Arc<dyn RowStore>, provider: Arc<dyn LockProvider>, name: String) -> Self {
        Self { rows, keys: Keys::new(provider), name }
    }

    fn marked(&self, who: &Claimant) -> Claimant {
        Claimant { uid: keeping_in(&who.uid, &self.name), ..who.clone() }
    }

    fn is_kept_here(&self, held: &Held) -> bool {
        kept_in(&held.uid) == Some(&*self.name) && held.by.name().is_some()
    }
}

/// How a lease stands by its key and by its execution's row.
fn renewal(key: &Result<bool, LockError>, row: Option<Renewal>) -> Renewal {
    match (key, row) {
        (_, Some(over @ (Renewal::Ended | Renewal::Lost))) => over,
        (Ok(true), Some(standing)) => standing,
        // The rows are not to be read: what guards the lease is the key.
        (Ok(true), None) => Renewal::Held,
        (Ok(false), _) => Renewal::Lost,
        (Err(_), _) => Renewal::Unanswered,
    }
}

#[async_trait]
impl ExecutionStore for ExternalLeases {
    async fn claim(&self, as_who: &Claimant, limit: usize) -> Result<Batch, StoreError> {
        let who = self.marked(as_who);
        let due = self.rows.due(&who, limit).await?;
        let Taken { ours, theirs, error } = self.keys.take_all(&who, due).await;
        let executions: Vec<_> = ours.keys().cloned().collect();
        let claimed = match &executions[..] {
            [] => Ok(Batch::default()),
            some => self.rows.claim_these(&who, some).await,
        };
        self.keys.settle(claimed.as_ref().ok(), ours).await;
        let mut batch = claimed?;
        if !theirs.is_empty() {
            if let Err(error) = self.rows.put_off(&theirs).await {
                debug!(%error, "executions that others hold could not be put off");
            }
            batch.deferred.extend(theirs.into_iter().map(|id| (id, Deferral::Locked)));
        }
        match error {
            Some(error) if batch.claims.is_empty() => Err(StoreError::Leases(error)),
            _ => Ok(batch),
        }
    }

    async fn claim_named(
        &self,
        as_who: &Claimant,
        execution: &ExecutionId,
    ) -> Result<Named, StoreError> {
        let who = self.marked(as_who);
        let Taken { ours, theirs, error } = self.keys.take_all(&who, vec![execution.clone()]).await;
        if let Some(error) = error {
            return Err(StoreError::Leases(error));
        }
        if !theirs.is_empty() {
            let deferred = theirs.into_iter().map(|id| (id, Deferral::Locked)).collect();
            return Ok(Named::Met(Batch { deferred, ..Batch::default() }));
        }
        let named = self.rows.claim_named(&who, execution).await;
        let batch = if let Ok(Named::Met(batch)) = &named { Some(batch) } else { None };
        self.keys.settle(batch, ours).await;
        named
    }

    async fn renew(
        &self,
        ttl: Duration,
        _: Beat,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        let keys = self.keys.keep_all(leases, ttl).await;
        let rows = self.rows.standing(ttl / ROWS_PART, leases).await;
        if let Err(error) = &rows {
            debug!(%error, "leases are renewed, and their executions' rows could not be read");
        }
        if let Some(Err(error)) = keys.first()
            && keys.iter().all(Result::is_err)
        {
            return Err(StoreError::Leases(error.clone()));
        }
        let row = |place: usize| rows.as_ref().ok().map(|rows| rows[place]);
        let answers: Vec<Renewal> =
            keys.iter().enumerate().map(|(place, key)| renewal(key, row(place))).collect();
        let mut ended = Vec::new();
        for (lease, answer) in leases.iter().zip(&answers) {
            match answer {
                // It may have been put back just after it was freed.
                Renewal::Ended => ended.extend(self.keys.forget(lease)),
                // What was lost is being stopped: its key ends by itself.
                Renewal::Lost => drop(self.keys.forget(lease)),
                Renewal::Held | Renewal::Cancelled | Renewal::Unanswered => {}
            }
        }
        self.keys.free_soon(ended);
        Ok(answers)
    }

    async fn advance(&self, advances: &[Advance]) -> Vec<Result<Advanced, AdvanceError>> {
        let answers = self.rows.advance(advances).await;
        let has_ended = |advance: &Advance, answer: &Result<Advanced, AdvanceError>| match answer {
            Ok(Advanced::Recorded) => advance.finish.is_some(),
            Ok(Advanced::Cancelled) => true,
            Err(_) => false,
        };
        let ended = advances.iter().zip(&answers).filter(|(it, answer)| has_ended(it, answer));
        self.keys.free_soon(ended.filter_map(|(it, _)| self.keys.forget(&it.lease)).collect());
        answers
    }

    async fn note_output(
        &self,
        lease: &Lease,
        step: &StepExecutionId,
        attempt: u32,
        text: &str,
    ) -> Result<bool, StoreError> {
        self.rows.note_output(lease, step, attempt, text).await
    }

    /// Waits for the keys to be free, so that others can go on at once.
    async fn hand_back(&self, returns: &[HandBack]) -> Vec<Result<Advanced, AdvanceError>> {
        let answers = self.rows.hand_back(returns).await;
        let back = returns.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        let keys = back.filter_map(|(it, _)| self.keys.forget(&it.lease)).collect();
        self.keys.free(keys).await;
        answers
    }

    async fn survey(&self) -> Result<Vec<Held>, StoreError> {
        self.keys.forget_old();
        let mut all = self.rows.survey().await?;
        // Those of this process, too: it may have given one up, and be the only one to go on with it.
        let kept: Vec<&mut Held> = all.iter_mut().filter(|held| self.is_kept_here(held)).collect();
        let executions = kept.iter().map(|held| held.execution.clone()).collect();
        for (held, seen) in kept.into_iter().zip(self.keys.look_all(executions).await) {
            match seen {
                Ok(seen) => held.elsewhere = Some(seen),
                Err(error) if error.is_passing() => return Err(StoreError::Leases(error)),
                Err(error) => debug!(execution = %held.execution, %error, "its key says nothing"),
            }
        }
        Ok(all)
    }

    async fn take_over(&self, as_who: &Claimant, due: &[TakeOver]) -> Result<Batch, StoreError> {
        let who = self.marked(as_who);
        for one in due.iter().filter(|one| one.cause.is_a_proved_death()) {
            self.keys.free_former(&one.seen).await.map_err(StoreError::Leases)?;
        }
        let executions = due.iter().map(|one| one.seen.execution.clone()).collect();
        let Taken { ours, error, .. } = self.keys.take_all(&who, executions).await;
        if let Some(error) = error.filter(|_| ours.is_empty()) {
            return Err(StoreError::Leases(error));
        }
        let due: Vec<TakeOver> =
            due.iter().filter(|one| ours.contains_key(&one.seen.execution)).cloned().collect();
        if due.is_empty() {
            return Ok(Batch::default());
        }
        let taken = self.rows.take_over(&who, &due).await;
        self.keys.settle(taken.as_ref().ok(), ours).await;
        taken
    }

    async fn remains(&self, of: &[Former]) -> Result<Vec<Remains>, StoreError> {
        self.rows.remains(of).await
    }

    async fn note_told(
        &self,
        owner: &Owner,
        ends: &[TracedEnd],
        telling: Telling,
    ) -> Result<(), StoreError> {
        self.rows.note_told(owner, ends, telling).await
    }

    async fn take_untold(&self, owner: &Owner, limit: u32) -> Result<Vec<Untold>, StoreError> {
        self.rows.take_untold(owner, limit).await
    }

    async fn reap(&self, limit: u32) -> Result<u64, StoreError> {
        self.rows.reap(limit).await
    }

    async fn orphans(&self) -> Result<Vec<Held>, StoreError> {
        self.rows.orphans().await
    }

    async fn fail_unknown(
        &self,
        after: Duration,
    ) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.rows.fail_unknown(after).await
    }

    async fn expire(
        &self,
        state: ExecutionState,
        kept: Duration,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.rows.expire(state, kept, limit).await
    }

    async fn queue(&self, eligibility: &Eligibility) -> Result<Queue, StoreError> {
        self.rows.queue(eligibility).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_by_its_key_unless_its_row_says_that_it_is_over() {
        let (ours, theirs) = (Ok(true), Ok(false));
        let silent = Err(LockError::Closed);
        for (key, row, expected) in [
            (&ours, Some(Renewal::Held), Renewal::Held),
            (&ours, Some(Renewal::Cancelled), Renewal::Cancelled),
            (&ours, None, Renewal::Held),
            (&ours, Some(Renewal::Lost), Renewal::Lost),
            (&theirs, Some(Renewal::Held), Renewal::Lost),
            (&theirs, Some(Renewal::Ended), Renewal::Ended),
            (&theirs, None, Renewal::Lost),
            (&silent, Some(Renewal::Held), Renewal::Unanswered),
            (&silent, Some(Renewal::Cancelled), Renewal::Unanswered),
            (&silent, Some(Renewal::Lost), Renewal::Lost),
            (&silent, None, Renewal::Unanswered),
        ] {
            assert_eq!(renewal(key, row), expected, "{key:?} {row:?}");
        }
    }
}
