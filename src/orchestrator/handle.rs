//! What a caller has of a lock.
//!
//! **Invariant:** a handle counts once, until it is released or dropped; the last one frees the key.

use std::{fmt, sync::Arc, time::Duration};

use tracing::warn;

use super::{hold::Hold, locks::Inner};
use crate::{
    clock::boot_now,
    domain::id::{Fence, Owner},
    ports::lock::LockError,
};

/// A held lock. It renews itself unless that was not wanted, and is freed by [`LeaseHandle::release`];
/// one that is dropped is freed in the background.
#[must_use = "a handle that is dropped frees the lock"]
pub struct LeaseHandle {
    hold: Arc<Hold>,
    locks: Arc<Inner>,
    is_released: bool,
}

impl LeaseHandle {
    pub(super) fn new(hold: Arc<Hold>, locks: Arc<Inner>) -> Self {
        Self { hold, locks, is_released: false }
    }

    /// The key that is held.
    #[doc(alias = "get_lock_key")]
    pub fn key(&self) -> &str {
        self.hold.key().as_str()
    }

    /// Which acquisition this is: larger than any before it on this key. A receiver that remembers
    /// the largest one refuses whoever has lost the lock and does not know it yet.
    pub fn fence(&self) -> Fence {
        self.hold.lease.fence
    }

    pub fn owner(&self) -> &Owner {
        &self.hold.lease.owner
    }

    /// Whether it may still be counted on: not lost, and its local deadline not past.
    pub fn is_held(&self) -> bool {
        self.check().is_ok()
    }

    /// The same, with the reason: [`LockError::Expired`] past the deadline, [`LockError::NotFound`]
    /// where the provider said that it is gone.
    pub fn check(&self) -> Result<(), LockError> {
        self.hold.check(boot_now())
    }

    /// Until the local deadline; it grows with each renewal.
    pub fn remaining(&self) -> Duration {
        self.hold.deadline().since(boot_now())
    }

    /// Waits until the lock is lost, and says why: before anybody else may take it, there is time to
    /// stop. Does not end while it is held.
    pub async fn lost(&self) -> LockError {
        self.hold.lost().await
    }

    /// Renews now; for those whose handle does not do so itself.
    #[doc(alias = "refresh")]
    pub async fn renew(&self) -> Result<(), LockError> {
        self.hold.renew().await
    }

    /// Gives this handle up; the last one of this incarnation on the key frees it. An error says that
    /// the lock was lost before, or could not be freed: then it ends with its time. Goes on to its end
    /// if the caller stops waiting.
    #[doc(alias = "unlock")]
    pub async fn release(mut self) -> Result<(), LockError> {
        self.is_released = true;
        let released = self.locks.release_in_background(self.hold.clone());
        released.await.unwrap_or(Err(LockError::Closed))
    }
}

impl Drop for LeaseHandle {
    fn drop(&mut self) {
        if !self.is_released {
            warn!(
                event = "lock.dropped",
                lock.key = self.key(),
                "a lock was dropped without a release; it is released in the background"
            );
            drop(self.locks.release_in_background(self.hold.clone()));
        }
    }
}

impl fmt::Debug for LeaseHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseHandle").field("lease", &self.hold.lease).finish_non_exhaustive()
    }
}
