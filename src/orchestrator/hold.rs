//! A key that this incarnation holds: its renewals, and the moment from which it counts on it no more.
//!
//! **Invariant:** a hold that was lost is never held again; its deadline is counted from before the
//! last successful request was sent, on this machine's own clock, and lies before the provider's.

use std::sync::{Arc, OnceLock};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    clock::boot_now,
    domain::{
        lease::BootTime,
        lock::{LockTerms, PlainKey},
    },
    instruments::LockMetrics,
    ports::lock::{KeyLease, LockError, LockProvider, Renewed},
};

/// Shared by all handles on one acquisition.
pub(super) struct Hold {
    pub lease: KeyLease,
    terms: LockTerms,
    provider: Arc<dyn LockProvider>,
    metrics: LockMetrics,
    since: Instant,
    deadline: watch::Sender<BootTime>,
    lost: OnceLock<LockError>,
    /// Lost, or about to be released: it is renewed no more.
    ended: CancellationToken,
}

impl Hold {
    /// `sent` was read before the request that the provider answered.
    pub fn new(
        lease: KeyLease,
        terms: LockTerms,
        sent: BootTime,
        provider: Arc<dyn LockProvider>,
        metrics: LockMetrics,
    ) -> Self {
        Self {
            lease,
            terms,
            provider,
            metrics,
            since: Instant::now(),
            deadline: watch::Sender::new(terms.local_deadline(sent)),
            lost: OnceLock::new(),
            ended: CancellationToken::new(),
        }
    }

    pub fn key(&self) -> &PlainKey {
        &self.lease.key
    }

    /// Why it may not be counted on, if it may not.
    pub fn check(&self, now: BootTime) -> Result<(), LockError> {
        match self.lost.get() {
            Some(error) => Err(error.clone()),
            None if now < self.deadline() => Ok(()),
            None => Err(self.expired()),
        }
    }

    pub fn deadline(&self) -> BootTime {
        *self.deadline.borrow()
    }

    fn expired(&self) -> LockError {
        LockError::Expired { key: self.key().clone() }
    }

    fn gone(&self) -> LockError {
        LockError::NotFound { key: self.key().clone() }
    }

    /// Waits until it is lost; for ever if it is released before.
    pub async fn lost(&self) -> LockError {
        self.ended.cancelled().await;
        match self.lost.get() {
            Some(error) => error.clone(),
            None => std::future::pending().await,
        }
    }

    /// Renews once.
    pub async fn renew(&self) -> Result<(), LockError> {
        let sent = boot_now();
        match self.provider.renew(&self.lease, self.terms.ttl()).await {
            Ok(Renewed::Held) => {
                self.metrics.renewed("held");
                let deadline = self.terms.local_deadline(sent);
                self.deadline.send_modify(|held| *held = deadline.max(*held));
                self.check(boot_now())
            }
            Ok(Renewed::Expired) => Err(self.lose(self.expired())),
            Ok(Renewed::Gone) => Err(self.lose(self.gone())),
            Err(error) => {
                self.metrics.renewed("error");
                Err(error)
            }
        }
    }

    /// The provider said that it is no longer ours.
    fn lose(&self, why: LockError) -> LockError {
        self.metrics.renewed("lost");
        self.end_by_loss(why, "taken")
    }

    fn end_by_loss(&self, why: LockError, reason: &'static str) -> LockError {
        if !self.ended.is_cancelled() && self.lost.set(why.clone()).is_ok() {
            self.metrics.lost(reason);
            self.metrics.ended(self.since.elapsed());
            let (key, fence) = (self.key().as_str(), self.lease.fence.0);
            error!(event = "lock.lost", lock.key = key, fence, reason, "a lock was lost: {why}");
        }
        self.ended.cancel();
        self.lost.get().cloned().unwrap_or(why)
    }

    /// Watches the deadline until the hold ends, and renews if so wanted: for as long as there is no
    /// answer a failed renewal is tried again.
    pub async fn watch(self: Arc<Self>, auto_renew: bool) {
        let mut deadline = self.deadline.subscribe();
        let mut next = Instant::now() + self.terms.renew_every();
        let mut failures = 0_u32;
        loop {
            let left = deadline.borrow_and_update().since(boot_now());
            if left.is_zero() {
                self.end_by_loss(self.expired(), "deadline");
                return;
            }
            tokio::select! {
                () = self.ended.cancelled() => return,
                () = sleep(left) => continue,
                // It was renewed by hand.
                _ = deadline.changed() => continue,
                () = sleep_until(next), if auto_renew => {}
            }
            let answer = tokio::select! {
                () = self.ended.cancelled() => return,
                // A provider that is silent keeps nobody from the deadline.
                () = sleep(deadline.borrow().since(boot_now())) => continue,
                answer = self.renew() => answer,
            };
            match answer {
                Ok(()) => {
                    failures = 0;
                    next = Instant::now() + self.terms.renew_every();
                }
                Err(error) => {
                    failures += 1;
                    self.tell_of_failure(failures, &error);
                    next = Instant::now() + self.terms.retry_renewal_after();
                }
            }
        }
    }

    fn tell_of_failure(&self, failures: u32, error: &LockError) {
        let key = self.key().as_str();
        if failures == 1 && !self.ended.is_cancelled() {
            warn!(event = "lock.renew_failed", lock.key = key, %error,
                "a lock could not be renewed; trying again until its deadline");
        }
        debug!(lock.key = key, failures, %error, "renewal failed");
    }

    /// Frees the key, for as long as it takes but no longer than until its deadline, or `patience`.
    pub async fn free(&self, patience: std::time::Duration) -> Result<(), LockError> {
        let was_held = self.check(boot_now());
        if !self.ended.is_cancelled() {
            self.metrics.ended(self.since.elapsed());
        }
        self.ended.cancel();
        let began = Instant::now();
        let mut unheard = false;
        loop {
            match self.provider.release(&self.lease).await {
                // What was not heard the first time was done then.
                Ok(freed) if freed || unheard => {
                    debug!(event = "lock.released", lock.key = self.key().as_str(), "released");
                    return was_held;
                }
                Ok(_) => return Err(was_held.err().unwrap_or_else(|| self.gone())),
                Err(error) => {
                    unheard |= matches!(error, LockError::Unknown(_));
                    let gives_up = !error.is_passing() || began.elapsed() >= patience;
                    if gives_up || was_held.is_err() || self.check(boot_now()).is_err() {
                        return Err(error);
                    }
                    sleep(self.terms.retry_renewal_after()).await;
                }
            }
        }
    }
}
