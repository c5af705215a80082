//! Locks on plain keys: what the library, and whoever keeps leases elsewhere, asks of a lock table.
//!
//! A provider has a clock of its own, by which locks expire, and counts its fences itself: each
//! acquisition of a key gets a larger one than all before it, through releases, expiries and restarts.
//! [`conformance`](crate::conformance) holds one to that.
//!
//! **Invariant:** each verb may be sent twice. A "no" is a value, silence is an error.

use std::{error::Error, fmt, io, time::Duration};

use async_trait::async_trait;

use super::executions::StoreError;
use crate::domain::{
    id::{Fence, Owner},
    lock::{LockNonce, LockTermsError, PlainKey, PlainKeyError},
};

/// A table of locks.
#[async_trait]
pub trait LockProvider: Send + Sync + 'static {
    /// Takes a key that nobody holds, or whose holder's time is past by the provider's clock. One
    /// try. After [`LockError::Unknown`] the same request, nonce and all, finds what it took.
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError>;

    /// Has a lock end `ttl` from now, by the provider's clock. One that is past its time already is
    /// not renewed, though nobody has taken its key.
    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Result<Renewed, LockError>;

    /// Frees a key; `false` if it was not held under this lease: it was freed or taken before.
    async fn release(&self, lease: &KeyLease) -> Result<bool, LockError>;

    /// Who holds a key now; `None` if nobody does.
    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError>;

    /// Whether somebody holds a key, and who.
    async fn is_locked(&self, key: &PlainKey) -> Result<Option<String>, LockError> {
        Ok(self.inspect(key).await?.map(|held| held.owner))
    }

    /// Takes no more requests: each further one is answered with [`LockError::Closed`]. What is held
    /// stays held until its time is past.
    async fn close(&self);
}

/// A wish for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    pub key: PlainKey,
    pub owner: Owner,
    /// In whole milliseconds; what is less is cut.
    pub ttl: Duration,
    /// A new one each time that the key is wished for, the same one when a wish is sent again.
    pub nonce: LockNonce,
}

/// A key that is held: what its holder shows to renew and to release it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLease {
    pub key: PlainKey,
    pub owner: Owner,
    pub fence: Fence,
    pub nonce: LockNonce,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    Ours(KeyLease),
    /// Another holds the key; it may be a lease of this very owner, taken by another wish.
    Theirs(Inspected),
}

/// What a renewal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    Held,
    /// It is there, and past its time: anybody may take the key.
    Expired,
    /// It is not there: freed, cleaned up, or taken by another.
    Gone,
}

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Whoever wrote it: it need not be one of ours.
    pub owner: String,
    /// 0 where its holder counts none, as the orchestrator itself.
    pub fence: Fence,
    /// Since it was taken, by the provider's clock; `None` where nobody wrote that down.
    pub age: Option<Duration>,
    /// Until it ends; zero for the lease of an execution that waits to be taken over.
    pub expires_in: Duration,
}

/// Why a lock is not had, or not any more. The kinds that are told from each other by
/// [`LockError::is`] go through every error that wraps another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockError {
    /// Another runs this execution, or has locked it.
    WorkflowAlreadyRunning {
        execution: String,
        source: Box<LockError>,
    },
    /// The key was held at every try.
    Timeout {
        key: PlainKey,
        tries: u32,
        source: Box<LockError>,
    },
    /// The key is held.
    AlreadyExists {
        key: PlainKey,
        owner: String,
    },
    /// Nothing is held under this lease.
    NotFound {
        key: PlainKey,
    },
    /// Its time is past.
    Expired {
        key: PlainKey,
    },
    Key(PlainKeyError),
    Terms(LockTermsError),
    /// Nothing was done; try again after a moment.
    Unavailable(String),
    /// It may have been done: send it again.
    Unknown(String),
    /// It needs a person: a missing table, right, or setting.
    NotReady(String),
    Closed,
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkflowAlreadyRunning { execution, .. } => {
                write!(f, "execution {execution} is run by another")
            }
            Self::Timeout { key, tries, .. } => {
                write!(f, "lock {key} was not free in {tries} tries")
            }
            Self::AlreadyExists { key, owner } => write!(f, "lock {key} is held by {owner}"),
            Self::NotFound { key } => write!(f, "lock {key} is not held here any more"),
            Self::Expired { key } => write!(f, "lock {key} is past its time"),
            Self::Key(error) => error.fmt(f),
            Self::Terms(error) => error.fmt(f),
            Self::Unavailable(why) => write!(f, "the lock table cannot be reached: {why}"),
            Self::Unknown(why) => write!(f, "the lock table did not answer: {why}"),
            Self::NotReady(why) => write!(f, "the lock table cannot be used: {why}"),
            Self::Closed => f.write_str("the locks are closed"),
        }
    }
}

/// By hand: a derived one would show the box around a source, and not what is in it.
impl Error for LockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::WorkflowAlreadyRunning { source, .. } | Self::Timeout { source, .. } => {
                Some(&**source)
            }
            Self::AlreadyExists { .. }
            | Self::NotFound { .. }
            | Self::Expired { .. }
            | Self::Key(_)
            | Self::Terms(_)
            | Self::Unavailable(_)
            | Self::Unknown(_)
            | Self::NotReady(_)
            | Self::Closed => None,
        }
    }
}

impl From<PlainKeyError> for LockError {
    fn from(error: PlainKeyError) -> Self {
        Self::Key(error)
    }
}

impl From<LockTermsError> for LockError {
    fn from(error: LockTermsError) -> Self {
        Self::Terms(error)
    }
}

/// Of a database that keeps executions and locks.
impl From<StoreError> for LockError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Unavailable(why),
            StoreError::Unknown(why) => Self::Unknown(why),
            StoreError::PrimaryChanged | StoreError::Unsettled => {
                Self::Unavailable(error.to_string())
            }
            StoreError::NotReady(why) => Self::NotReady(why),
            StoreError::Data(_) => Self::NotReady(error.to_string()),
            StoreError::Leases(error) => error,
        }
    }
}

/// A kind of [`LockError`], by the name that the guide has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockErrorKind {
    WorkflowAlreadyRunning,
    Timeout,
    AlreadyExists,
    NotFound,
    Expired,
    /// A key or a time that cannot be used.
    Invalid,
    /// The provider gave no answer, or no good one.
    Provider,
}

impl LockError {
    pub const fn kind(&self) -> LockErrorKind {
        match self {
            Self::WorkflowAlreadyRunning { .. } => LockErrorKind::WorkflowAlreadyRunning,
            Self::Timeout { .. } => LockErrorKind::Timeout,
            Self::AlreadyExists { .. } => LockErrorKind::AlreadyExists,
            Self::NotFound { .. } => LockErrorKind::NotFound,
            Self::Expired { .. } => LockErrorKind::Expired,
            Self::Key(_) | Self::Terms(_) => LockErrorKind::Invalid,
            Self::Unavailable(_) | Self::Unknown(_) | Self::NotReady(_) | Self::Closed => {
                LockErrorKind::Provider
            }
        }
    }

    /// Whether an error is of this kind, or has one of it anywhere among its sources.
    ///
    /// ```
    /// use orchestrator_worker::{
    ///     domain::lock::PlainKey,
    ///     ports::lock::{LockError, LockErrorKind},
    /// };
    ///
    /// let key = PlainKey::try_new("k").expect("a key");
    /// let held = LockError::AlreadyExists { key: key.clone(), owner: "pod-1".into() };
    /// let late = LockError::Timeout { key, tries: 4, source: Box::new(held) };
    /// let wrapped = std::io::Error::other(late);
    /// assert!(LockError::is(&wrapped, LockErrorKind::Timeout));
    /// assert!(LockError::is(&wrapped, LockErrorKind::AlreadyExists));
    /// assert!(!LockError::is(&wrapped, LockErrorKind::Expired));
    /// ```
    pub fn is(error: &(dyn Error + 'static), kind: LockErrorKind) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if of_ours(error).is_some_and(|ours| ours.kind() == kind) {
                return true;
            }
            next = error.source();
        }
        false
    }

    /// Whether the same request may have another answer in a moment.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }
}

/// The error itself, or one inside an error of the standard library, which shows the sources of what
/// it wraps and not that.
fn of_ours<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e LockError> {
    let wrapped = |io: &'e io::Error| io.get_ref().and_then(|inner| inner.downcast_ref());
    error.downcast_ref().or_else(|| error.downcast_ref().and_then(wrapped))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PlainKey {
        PlainKey::try_new("k").expect("a key")
    }

    fn held() -> LockError {
        LockError::AlreadyExists { key: key(), owner: "b".into() }
    }

    #[test]
    fn a_kind_is_found_through_every_wrapping() {
        #[derive(Debug, thiserror::Error)]
        #[error("the nightly job did not run")]
        struct Nightly(#[source] LockError);

        let late = LockError::Timeout { key: key(), tries: 2, source: Box::new(held()) };
        let running =
            LockError::WorkflowAlreadyRunning { execution: "e".into(), source: Box::new(late) };
        let ours: Box<dyn Error> = Box::new(Nightly(running));
        for (kind, is) in [
            (LockErrorKind::WorkflowAlreadyRunning, true),
            (LockErrorKind::Timeout, true),
            (LockErrorKind::AlreadyExists, true),
            (LockErrorKind::NotFound, false),
            (LockErrorKind::Expired, false),
        ] {
            assert_eq!(LockError::is(&*ours, kind), is, "{kind:?}");
        }
    }

    #[test]
    fn a_chain_of_sources_tells_each_thing_once() {
        let late = LockError::Timeout { key: key(), tries: 2, source: Box::new(held()) };
        let source = late.source().and_then(|source| source.downcast_ref());
        assert_eq!(source, Some(&held()));
        assert_eq!(held().to_string(), "lock k is held by b");
        assert_eq!(late.to_string(), "lock k was not free in 2 tries");
    }

    #[test]
    fn of_what_a_provider_says_only_what_passes_is_asked_again() {
        assert!(LockError::Unavailable(String::new()).is_passing());
        assert!(LockError::Unknown(String::new()).is_passing());
        for error in [held(), LockError::NotReady(String::new()), LockError::Closed] {
            assert!(!error.is_passing(), "{error}");
        }
    }
}
