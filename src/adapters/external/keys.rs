//! The keys of executions in a lock provider.
//!
//! **Invariant:** a wish or a renewal whose answer was lost is sent once more as it was, so that it finds
//! what it did; a key is freed only by whoever holds it, or by the process after it in its pod.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug};

use crate::{
    domain::{
        id::{ExecutionId, Fence, Owner},
        lease::{Lease, LeaseTerms},
        lock::{LockNonce, PlainKey},
        recovery::{Elsewhere, Held, Holder},
    },
    ports::{
        executions::{Batch, Claimant},
        lock::{Acquire, Acquired, KeyLease, LockError, LockProvider, Renewed},
    },
};

/// Requests to the provider at one time, of one call.
const AT_ONCE: usize = 32;

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
pub(super) struct Taken {
    pub ours: BTreeMap<ExecutionId, KeyLease>,
    /// Others hold these.
    pub theirs: Vec<ExecutionId>,
    /// Of the last request that failed.
    pub error: Option<LockError>,
}

/// The provider, and the keys that this process has in it.
pub(super) struct Keys {
    provider: Arc<dyn LockProvider>,
    kept: Mutex<HashMap<Hold, Kept>>,
    freeing: TaskTracker,
}

impl Keys {
    pub fn new(provider: Arc<dyn LockProvider>) -> Self {
        Self { provider, kept: Mutex::default(), freeing: TaskTracker::new() }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Hold, Kept>> {
        self.kept.lock().expect("no panic while it is held")
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

    pub async fn take_all(&self, who: &Claimant, executions: Vec<ExecutionId>) -> Taken {
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
    pub async fn settle(&self, batch: Option<&Batch>, mut ours: BTreeMap<ExecutionId, KeyLease>) {
        let touched = Instant::now();
        for claim in batch.into_iter().flat_map(|batch| &batch.claims) {
            let (execution, fence) = (&claim.lease.execution, claim.lease.fence);
            if let Some(lease) = ours.remove(execution) {
                self.kept().insert((execution.clone(), fence), Kept { lease, touched });
            }
        }
        self.free(ours.into_values().collect()).await;
    }

    pub async fn free(&self, keys: Vec<KeyLease>) {
        free(&*self.provider, keys).await;
    }

    /// Without anybody's waiting for it: a key that is not freed ends by itself.
    pub fn free_soon(&self, keys: Vec<KeyLease>) {
        if keys.is_empty() {
            return;
        }
        let provider = self.provider.clone();
        let free = async move { free(&*provider, keys).await };
        self.freeing.spawn(free.in_current_span());
    }

    pub fn forget(&self, lease: &Lease) -> Option<KeyLease> {
        let kept = self.kept().remove(&(lease.execution.clone(), lease.fence));
        kept.map(|kept| kept.lease)
    }

    /// Keys of what this process has given up without a word are past their time by now.
    pub fn forget_old(&self) {
        let now = Instant::now();
        let is_old = |kept: &Kept| now.duration_since(kept.touched) > 2 * LeaseTerms::LONGEST_TTL;
        self.kept().retain(|_, kept| !is_old(kept));
    }

    /// [`Keys::keep`] of each, in their order.
    pub async fn keep_all(&self, leases: &[Lease], ttl: Duration) -> Vec<Result<bool, LockError>> {
        let keep = async |lease: &Lease| self.keep(lease, ttl).await;
        stream::iter(leases).map(keep).buffered(AT_ONCE).collect().await
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

    /// Frees the key of a process that is dead.
    pub async fn free_former(&self, gone: &Held) -> Result<(), LockError> {
        let Holder::Owner(name) = &gone.by else { return Ok(()) };
        let Ok(owner) = Owner::try_new(name) else { return Ok(()) };
        let wish = Self::wish(&owner, &gone.uid, LeaseTerms::LONGEST_TTL, &gone.execution)?;
        let Some(found) = self.provider.inspect(&wish.key).await? else { return Ok(()) };
        let Acquire { key, owner, nonce, .. } = wish;
        // Whoever else holds it is not hit: it has another nonce.
        self.provider.release(&KeyLease { key, owner, fence: found.fence, nonce }).await.map(drop)
    }

    /// How the keys of executions stand, in their order.
    pub async fn look_all(
        &self,
        executions: Vec<ExecutionId>,
    ) -> Vec<Result<Elsewhere, LockError>> {
        let look = async |execution| self.look(&execution).await;
        stream::iter(executions).map(look).buffered(AT_ONCE).collect().await
    }

    async fn look(&self, execution: &ExecutionId) -> Result<Elsewhere, LockError> {
        let found = self.provider.inspect(&PlainKey::of_execution(execution)?).await?;
        Ok(found.map_or(Elsewhere::Free, |it| Elsewhere::Held { ends_in: it.expires_in }))
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
