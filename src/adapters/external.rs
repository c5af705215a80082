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

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join_all, stream};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug};

use crate::{
    domain::{
        deferral::Deferral,
        eligibility::Eligibility,
        execution::ExecutionState,
        id::{Beat, ExecutionId, Fence, Owner, StepExecutionId},
        lease::{Lease, LeaseTerms, Renewal},
        lock::{LockNonce, PlainKey},
        pod::{keeping_in, kept_in},
        recovery::{Cause, Elsewhere, Held, Holder, TakeOver},
    },
    ports::{
        executions::{
            Advance, AdvanceError, Advanced, Batch, Claimant, ExecutionStore, Former, HandBack,
            Named, Queue, Remains, StoreError,
        },
        lock::{Acquire, Acquired, KeyLease, LockError, LockProvider, Renewed},
        rows::RowStore,
    },
};

/// Requests to the provider at one time, of one call.
const AT_ONCE: usize = 32;

/// A renewal waits for the rows no longer than this part of a lease's time, which is its key's.
const ROWS_PART: u32 = 15;

/// A store of executions over another one's rows.
pub struct ExternalLeases {
    rows: Arc<dyn RowStore>,
    provider: Arc<dyn LockProvider>,
    /// What the uid column calls the provider.
    name: String,
    kept: Mutex<HashMap<Hold, Kept>>,
    freeing: TaskTracker,
}

/// A claim on an execution.
type Hold = (ExecutionId, Fence);

/// The key that goes with it.
#[derive(Clone)]
struct Kept {
    lease: KeyLease,
    /// Since when it was neither taken nor renewed.
    touched: Instant,
}

/// What came of the wish for some keys.
#[derive(Default)]
struct Taken {
    ours: BTreeMap<ExecutionId, KeyLease>,
    theirs: Vec<ExecutionId>,
    error: Option<LockError>,
}

impl ExternalLeases {
    /// `name`: 1 to 5 characters; workers on one database that keep their leases in different places
    /// must not have the same.
    pub fn new(rows: Arc<dyn RowStore>, provider: Arc<dyn LockProvider>, name: String) -> Self {
        Self { rows, provider, name, kept: Mutex::default(), freeing: TaskTracker::new() }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Hold, Kept>> {
        self.kept.lock().expect("no panic while it is held")
    }

    fn marked(&self, who: &Claimant) -> Claimant {
        Claimant { uid: keeping_in(&who.uid, &self.name), ..who.clone() }
    }

    /// The wish for the key of an execution. Where a process is known to be the only one of its name
    /// (it has a life, behind a slash), its wishes for one key are the same, so that the process after
    /// it can free what it has left.
    fn wish(
        owner: &Owner,
        uid: &str,
        ttl: Duration,
        execution: &ExecutionId,
    ) -> Result<Acquire, LockError> {
        let random = if uid.contains('/') {
            let digest = Sha256::digest(format!("{uid} {execution}"));
            u64::from_be_bytes(digest[..8].try_into().expect("eight of its 32 bytes"))
        } else {
            rand::random()
        };
        let key = PlainKey::of_execution(execution)?;
        Ok(Acquire { key, owner: owner.clone(), ttl, nonce: LockNonce::of(random) })
    }

    /// `None`: another holds it.
    async fn acquire(&self, wish: &Acquire) -> Result<Option<KeyLease>, LockError> {
        let mut answer = self.provider.acquire(wish).await;
        if let Err(LockError::Unknown(_)) = answer {
            answer = self.provider.acquire(wish).await;
        }
        Ok(match answer? {
            Acquired::Ours(lease) => Some(lease),
            Acquired::Theirs(_) => None,
        })
    }

    async fn take_all(&self, who: &Claimant, executions: Vec<ExecutionId>) -> Taken {
        let take = async |execution: ExecutionId| {
            let taken = match Self::wish(&who.owner, &who.uid, who.ttl, &execution) {
                Ok(wish) => self.acquire(&wish).await,
                Err(error) => Err(error),
            };
            (execution, taken)
        };
        let mut all = Taken::default();
        let mut answers = stream::iter(executions).map(take).buffered(AT_ONCE);
        while let Some((execution, answer)) = answers.next().await {
            match answer {
                Ok(Some(lease)) => drop(all.ours.insert(execution, lease)),
                // A key that no provider can have, too: the next in the queue must not wait for it.
                Ok(None) | Err(LockError::Key(_)) => all.theirs.push(execution),
                Err(error) => all.error = Some(error),
            }
        }
        all
    }

    /// Remembers the keys of what was claimed, and frees the others: a wish for one of them that follows
    /// must not be met by the end of this one.
    async fn settle(&self, batch: &Batch, mut ours: BTreeMap<ExecutionId, KeyLease>) {
        let touched = Instant::now();
        for claim in &batch.claims {
            let (execution, fence) = (&claim.lease.execution, claim.lease.fence);
            if let Some(lease) = ours.remove(execution) {
                self.kept().insert((execution.clone(), fence), Kept { lease, touched });
            }
        }
        free(&*self.provider, ours.into_values().collect()).await;
    }

    /// Without anybody's waiting for it: a key that is not freed ends by itself.
    fn free_soon(&self, keys: Vec<KeyLease>) {
        if keys.is_empty() {
            return;
        }
        let provider = self.provider.clone();
        let free = async move { free(&*provider, keys).await };
        self.freeing.spawn(free.in_current_span());
    }

    fn forget(&self, lease: &Lease) -> Option<KeyLease> {
        let kept = self.kept().remove(&(lease.execution.clone(), lease.fence));
        kept.map(|kept| kept.lease)
    }

    /// Keys of what this process has given up without a word are past their time by now.
    fn forget_old(&self) {
        let now = Instant::now();
        let is_old = |kept: &Kept| now.duration_since(kept.touched) > 2 * LeaseTerms::LONGEST_TTL;
        self.kept().retain(|_, kept| !is_old(kept));
    }

    /// Whether the key of a lease is ours for its whole time from now on. One that the provider has lost is
    /// put back, unless another was faster.
    async fn keep(&self, lease: &Lease, ttl: Duration) -> Result<bool, LockError> {
        let hold = (lease.execution.clone(), lease.fence);
        let Some(Kept { lease: key, .. }) = self.kept().get(&hold).cloned() else {
            return Ok(false);
        };
        let mut answer = self.provider.renew(&key, ttl).await;
        if let Err(LockError::Unknown(_)) = answer {
            answer = self.provider.renew(&key, ttl).await;
        }
        let key = match answer? {
            Renewed::Held => key,
            Renewed::Expired | Renewed::Gone => {
                let wish = Acquire { key: key.key, owner: key.owner, ttl, nonce: key.nonce };
                let Some(key) = self.acquire(&wish).await? else { return Ok(false) };
                debug!(execution = %lease.execution, "a key that was gone is put back");
                key
            }
        };
        self.kept().insert(hold, Kept { lease: key, touched: Instant::now() });
        Ok(true)
    }

    /// Frees the key of the process before this one, which is dead.
    async fn free_former(&self, gone: &Held) -> Result<(), LockError> {
        let Holder::Owner(name) = &gone.by else { return Ok(()) };
        let Ok(owner) = Owner::try_new(name) else { return Ok(()) };
        let wish = Self::wish(&owner, &gone.uid, LeaseTerms::LONGEST_TTL, &gone.execution)?;
        let Some(found) = self.provider.inspect(&wish.key).await? else { return Ok(()) };
        let Acquire { key, owner, nonce, .. } = wish;
        // Whoever else holds it is not hit: it has another nonce.
        self.provider.release(&KeyLease { key, owner, fence: found.fence, nonce }).await.map(drop)
    }

    async fn look_elsewhere(&self, held: &Held) -> Result<Option<Elsewhere>, LockError> {
        let is_ours = self.kept().contains_key(&(held.execution.clone(), held.fence));
        let is_asked = kept_in(&held.uid) == Some(&*self.name) && held.by.name().is_some();
        if is_ours || !is_asked {
            return Ok(None);
        }
        let found = self.provider.inspect(&PlainKey::of_execution(&held.execution)?).await?;
        Ok(Some(found.map_or(Elsewhere::Free, |it| Elsewhere::Held { ends_in: it.expires_in })))
    }
}

async fn free(provider: &dyn LockProvider, keys: Vec<KeyLease>) {
    let free = async |key: KeyLease| {
        if let Err(error) = provider.release(&key).await {
            debug!(key = %key.key, %error, "a key is left to its end");
        }
    };
    stream::iter(keys).for_each_concurrent(AT_ONCE, free).await;
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
        let Taken { ours, theirs, error } = self.take_all(&who, due).await;
        let mut batch = Batch::default();
        if !ours.is_empty() {
            let executions: Vec<_> = ours.keys().cloned().collect();
            match self.rows.claim_these(&who, &executions).await {
                Ok(claimed) => batch = claimed,
                Err(error) => {
                    self.settle(&batch, ours).await;
                    return Err(error);
                }
            }
            self.settle(&batch, ours).await;
        }
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
        let Taken { ours, theirs, error } = self.take_all(&who, vec![execution.clone()]).await;
        if let Some(error) = error {
            return Err(StoreError::Leases(error));
        }
        if !theirs.is_empty() {
            let deferred = theirs.into_iter().map(|id| (id, Deferral::Locked)).collect();
            return Ok(Named::Met(Batch { deferred, ..Batch::default() }));
        }
        let named = self.rows.claim_named(&who, execution).await;
        let nothing = Batch::default();
        let batch = if let Ok(Named::Met(batch)) = &named { batch } else { &nothing };
        self.settle(batch, ours).await;
        named
    }

    async fn renew(
        &self,
        ttl: Duration,
        _: Beat,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        self.forget_old();
        let keep = async |lease: &Lease| self.keep(lease, ttl).await;
        let keys: Vec<_> = stream::iter(leases).map(keep).buffered(AT_ONCE).collect().await;
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
                Renewal::Ended => ended.extend(self.forget(lease)),
                // What was lost is being stopped: its key ends by itself.
                Renewal::Lost => drop(self.forget(lease)),
                Renewal::Held | Renewal::Cancelled | Renewal::Unanswered => {}
            }
        }
        self.free_soon(ended);
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
        self.free_soon(ended.filter_map(|(it, _)| self.forget(&it.lease)).collect());
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
        let keys = back.filter_map(|(it, _)| self.forget(&it.lease)).collect();
        free(&*self.provider, keys).await;
        answers
    }

    async fn survey(&self) -> Result<Vec<Held>, StoreError> {
        let mut all = self.rows.survey().await?;
        let look = async |held: &Held| self.look_elsewhere(held).await;
        let seen: Vec<_> = stream::iter(&all).map(look).buffered(AT_ONCE).collect().await;
        for (held, seen) in all.iter_mut().zip(seen) {
            match seen {
                Ok(seen) => held.elsewhere = seen,
                Err(error) if error.is_passing() => return Err(StoreError::Leases(error)),
                Err(error) => debug!(execution = %held.execution, %error, "its key says nothing"),
            }
        }
        Ok(all)
    }

    async fn take_over(&self, as_who: &Claimant, due: &[TakeOver]) -> Result<Batch, StoreError> {
        let who = self.marked(as_who);
        let of_former = due.iter().filter(|one| one.cause == Cause::ContainerRestarted);
        for freed in join_all(of_former.map(|one| self.free_former(&one.seen))).await {
            freed.map_err(StoreError::Leases)?;
        }
        let executions = due.iter().map(|one| one.seen.execution.clone()).collect();
        let Taken { ours, error, .. } = self.take_all(&who, executions).await;
        if let Some(error) = error.filter(|_| ours.is_empty()) {
            return Err(StoreError::Leases(error));
        }
        let due: Vec<TakeOver> =
            due.iter().filter(|one| ours.contains_key(&one.seen.execution)).cloned().collect();
        if due.is_empty() {
            return Ok(Batch::default());
        }
        let taken = self.rows.take_over(&who, &due).await;
        let nothing = Batch::default();
        self.settle(taken.as_ref().unwrap_or(&nothing), ours).await;
        taken
    }

    async fn remains(&self, of: &[Former]) -> Result<Vec<Remains>, StoreError> {
        self.rows.remains(of).await
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
