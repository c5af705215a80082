//! Locks on keys for one incarnation: tries and retries, re-entry, release.
//!
//! **Invariant:** whatever a caller does, what was acquired is a handle, or is freed: each request goes
//! to its end on a task of its own.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{
    config::{Checked, LockConfig, LockConfigError},
    handle::LeaseHandle,
    hold::Hold,
    slots::{Held, Slots},
};
use crate::{
    clock::boot_now,
    domain::{
        id::{ExecutionId, Owner, TemplateId},
        lock::{LockNonce, LockTerms, PlainKey, Retries},
    },
    instruments::LockMetrics,
    ports::lock::{Acquire, Acquired, Inspected, LockError, LockProvider, Renewed},
};

/// How one lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockOptions {
    /// `1s` to `24h`; in whole milliseconds.
    pub ttl: Duration,
    /// How often a key that another holds is asked for again; 0 asks once.
    pub retry_count: u32,
    /// Before each retry.
    pub retry_delay: Duration,
    /// Whether the handle renews itself.
    pub auto_renew: bool,
}

impl LockOptions {
    /// Those of [`Locks::lock_workflow_template`]: 10 minutes, two retries of 5 seconds.
    pub const TEMPLATE: Self = Self {
        ttl: Duration::from_secs(10 * 60),
        retry_count: 2,
        retry_delay: Duration::from_secs(5),
        auto_renew: true,
    };
}

/// Locks for one incarnation: two of them are two, also in one process; clones are the same one.
///
/// ```
/// # use std::sync::Arc;
/// use orchestrator_worker::{
///     adapters::memory::MemoryLocks,
///     domain::id::Owner,
///     orchestrator::{LockConfig, Locks},
///     ports::lock::{LockError, LockErrorKind},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let table = MemoryLocks::default();
/// let config = LockConfig { default_retry_count: 0, ..LockConfig::default() };
/// let a = Locks::new(Arc::new(table.beside()), Owner::try_new("a")?, &config)?;
/// let b = Locks::new(Arc::new(table), Owner::try_new("b")?, &config)?;
///
/// let handle = a.lock("reports:daily").await?;
/// assert_eq!(b.is_locked("reports:daily").await?, Some("a".into()));
/// let refused = b.lock("reports:daily").await.unwrap_err();
/// assert!(LockError::is(&refused, LockErrorKind::AlreadyExists));
/// handle.release().await?;
/// b.lock("reports:daily").await?.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Locks {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    provider: Arc<dyn LockProvider>,
    owner: Owner,
    checked: Checked,
    metrics: LockMetrics,
    slots: Slots,
    /// Asking and releasing: what is waited for before the end.
    requests: TaskTracker,
    /// One a hold; it ends with the hold.
    watches: TaskTracker,
    runtime: Handle,
    closed: CancellationToken,
}

impl Locks {
    /// Must be called within a tokio runtime, which renews and releases. Of the configuration the
    /// defaults of a lock are used; the provider is given.
    pub fn new(
        provider: Arc<dyn LockProvider>,
        owner: Owner,
        config: &LockConfig,
    ) -> Result<Self, LockConfigError> {
        Ok(Self::of_checked(provider, owner, config.check()?, LockMetrics::default()))
    }

    pub(super) fn of_checked(
        provider: Arc<dyn LockProvider>,
        owner: Owner,
        checked: Checked,
        metrics: LockMetrics,
    ) -> Self {
        let inner = Inner {
            provider,
            owner,
            checked,
            metrics,
            slots: Slots::default(),
            requests: TaskTracker::new(),
            watches: TaskTracker::new(),
            runtime: Handle::current(),
            closed: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// As configured: what [`Locks::lock`] asks with.
    pub fn options(&self) -> LockOptions {
        let Checked { terms, retries, .. } = &self.inner.checked;
        LockOptions {
            ttl: terms.ttl(),
            retry_count: retries.count,
            retry_delay: retries.delay,
            auto_renew: true,
        }
    }

    pub fn metrics(&self) -> &LockMetrics {
        &self.inner.metrics
    }

    /// Takes a lock as configured. A key that this incarnation holds already is entered again.
    ///
    /// Fails with [`LockError::Timeout`] where the key was held at every try, and with
    /// [`LockError::AlreadyExists`] where there was to be one try only.
    pub async fn lock(&self, key: &str) -> Result<LeaseHandle, LockError> {
        self.lock_with(key, self.options()).await
    }

    /// Takes a lock on one's own terms.
    pub async fn lock_with(
        &self,
        key: &str,
        options: LockOptions,
    ) -> Result<LeaseHandle, LockError> {
        self.ask(PlainKey::try_new(key)?, options).await
    }

    /// Takes the lock that the orchestrator and the workers run this execution under, as configured.
    /// [`LockError::WorkflowAlreadyRunning`] where another has it.
    pub async fn lock_workflow_execution(&self, id: &str) -> Result<LeaseHandle, LockError> {
        let key = PlainKey::of_execution(&ExecutionId::from(id))?;
        self.ask(key, self.options()).await.map_err(|error| match error {
            held @ (LockError::AlreadyExists { .. } | LockError::Timeout { .. }) => {
                LockError::WorkflowAlreadyRunning { execution: id.into(), source: Box::new(held) }
            }
            other => other,
        })
    }

    /// Takes the lock of a template, by [`LockOptions::TEMPLATE`].
    pub async fn lock_workflow_template(&self, id: &str) -> Result<LeaseHandle, LockError> {
        let key = PlainKey::of_template(&TemplateId::from(id))?;
        self.ask(key, LockOptions::TEMPLATE).await
    }

    /// Who holds a key now, whoever that is.
    pub async fn inspect(&self, key: &str) -> Result<Option<Inspected>, LockError> {
        self.inner.provider.inspect(&PlainKey::try_new(key)?).await
    }

    /// Whether somebody holds a key, and who.
    pub async fn is_locked(&self, key: &str) -> Result<Option<String>, LockError> {
        self.inner.provider.is_locked(&PlainKey::try_new(key)?).await
    }

    /// Takes no more locks, waits for releases under way, and closes the provider. What is held then
    /// is not renewed any more: release it before.
    pub async fn close(&self) {
        self.inner.closed.cancel();
        self.inner.requests.close();
        self.inner.requests.wait().await;
        self.inner.provider.close().await;
    }

    /// On a task of its own: a caller that stops waiting loses no lock that it does not know of.
    async fn ask(&self, key: PlainKey, options: LockOptions) -> Result<LeaseHandle, LockError> {
        let request = Request {
            terms: LockTerms::try_new(options.ttl)?,
            retries: Retries { count: options.retry_count, delay: options.retry_delay },
            auto_renew: options.auto_renew,
            wish: Acquire {
                key,
                owner: self.inner.owner.clone(),
                ttl: options.ttl,
                nonce: LockNonce::of(rand::random()),
            },
            gone: CancellationToken::new(),
        };
        if self.inner.closed.is_cancelled() {
            return Err(LockError::Closed);
        }
        let _stops_waiting = request.gone.clone().drop_guard();
        let (inner, (answer, answered)) = (self.inner.clone(), oneshot::channel());
        let asked = async move {
            // A handle that nobody waits for is dropped, and so freed.
            drop(answer.send(request.carry_out(&inner).await));
        };
        self.inner.requests.spawn_on(asked, &self.inner.runtime);
        answered.await.unwrap_or(Err(LockError::Closed))
    }
}

impl Inner {
    /// How long a release is tried.
    const RELEASED_WITHIN: Duration = Duration::from_secs(10);

    /// The answer may be waited for or not.
    pub fn release_in_background(
        self: &Arc<Self>,
        hold: Arc<Hold>,
    ) -> oneshot::Receiver<Result<(), LockError>> {
        let (inner, (answer, answered)) = (self.clone(), oneshot::channel());
        let released = async move {
            // Whoever has dropped a handle does not ask what became of it.
            drop(answer.send(inner.release(&hold).await));
        };
        self.requests.spawn_on(released, &self.runtime);
        answered
    }

    async fn release(&self, hold: &Arc<Hold>) -> Result<(), LockError> {
        let mut turn = self.slots.turn(hold.key()).await;
        let held = turn.held();
        // Where it is another by now, this one was lost before.
        if let Some(ours) = held.as_mut().filter(|held| Arc::ptr_eq(&held.hold, hold)) {
            ours.handles -= 1;
            if ours.handles > 0 {
                return hold.check(boot_now());
            }
            *held = None;
        } else {
            return hold.check(boot_now());
        }
        hold.free(Self::RELEASED_WITHIN).await
    }
}

/// One call for a lock.
struct Request {
    wish: Acquire,
    terms: LockTerms,
    retries: Retries,
    auto_renew: bool,
    /// Its caller has stopped waiting.
    gone: CancellationToken,
}

impl Request {
    async fn carry_out(&self, inner: &Arc<Inner>) -> Result<LeaseHandle, LockError> {
        let began = Instant::now();
        let taken = self.try_and_retry(inner).await;
        let result = match &taken {
            Ok((_, result)) => result,
            Err(LockError::AlreadyExists { .. } | LockError::Timeout { .. }) => "held",
            Err(_) => "error",
        };
        inner.metrics.acquired(result, began.elapsed());
        let key = self.wish.key.as_str();
        match &taken {
            Ok((handle, _)) => debug!(
                event = "lock.acquired",
                lock.key = key,
                fence = handle.fence().0,
                result,
                "acquired"
            ),
            Err(error) => debug!(event = "lock.refused", lock.key = key, %error, "not acquired"),
        }
        Ok(taken?.0)
    }

    async fn try_and_retry(
        &self,
        inner: &Arc<Inner>,
    ) -> Result<(LeaseHandle, &'static str), LockError> {
        let mut unheard = false;
        let mut tries = 0_u32;
        loop {
            tries = tries.saturating_add(1);
            let error = match self.try_once(inner, &mut unheard).await {
                Ok(taken) => return Ok(taken),
                Err(error) => error,
            };
            let Some(pause) = self.retries.pause_after(tries).filter(|_| may_change(&error)) else {
                return Err(self.given_up(tries, error));
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.gone.cancelled() => return Err(error),
                () = inner.closed.cancelled() => return Err(LockError::Closed),
            }
        }
    }

    async fn try_once(
        &self,
        inner: &Arc<Inner>,
        unheard: &mut bool,
    ) -> Result<(LeaseHandle, &'static str), LockError> {
        let mut turn = inner.slots.turn(&self.wish.key).await;
        if let Some(held) = turn.held()
            && held.hold.check(boot_now()).is_ok()
        {
            held.handles += 1;
            return Ok((LeaseHandle::new(held.hold.clone(), inner.clone()), "reentered"));
        }
        let mut sent = boot_now();
        let lease = match inner.provider.acquire(&self.wish).await {
            Ok(Acquired::Ours(lease)) => lease,
            Ok(Acquired::Theirs(held)) => {
                let key = self.wish.key.clone();
                return Err(LockError::AlreadyExists { key, owner: held.owner });
            }
            Err(error) => {
                *unheard |= matches!(error, LockError::Unknown(_));
                return Err(error);
            }
        };
        if *unheard {
            // It may be what an earlier try took, whose time runs since then.
            sent = boot_now();
            match inner.provider.renew(&lease, self.wish.ttl).await? {
                Renewed::Held => {}
                Renewed::Expired | Renewed::Gone => {
                    return Err(LockError::Expired { key: self.wish.key.clone() });
                }
            }
        }
        let (provider, metrics) = (inner.provider.clone(), inner.metrics.clone());
        let hold = Arc::new(Hold::new(lease, self.terms, sent, provider, metrics));
        inner.watches.spawn_on(hold.clone().watch(self.auto_renew), &inner.runtime);
        *turn.held() = Some(Held { hold: hold.clone(), handles: 1 });
        Ok((LeaseHandle::new(hold, inner.clone()), "acquired"))
    }

    fn given_up(&self, tries: u32, error: LockError) -> LockError {
        match error {
            held @ LockError::AlreadyExists { .. } if self.retries.count > 0 => {
                let key = self.wish.key.clone();
                LockError::Timeout { key, tries, source: Box::new(held) }
            }
            other => other,
        }
    }
}

/// Whether the next try may end otherwise.
fn may_change(error: &LockError) -> bool {
    let is_held = matches!(error, LockError::AlreadyExists { .. } | LockError::Expired { .. });
    is_held || error.is_passing()
}
