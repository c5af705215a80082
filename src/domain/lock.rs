//! Plain keys: locks that somebody takes by name, without an execution behind them.
//!
//! **Invariant:** the local deadline of a lock lies before the moment at which anybody else may take
//! its key, for clock *rates* within 0.1 %; what a table can hold as a key was checked once, here.

use std::{fmt, time::Duration};

use super::{
    id::{ExecutionId, LockKey, TemplateId},
    lease::{BootTime, LeaseTerms},
};

/// A key of 1 to [`PlainKey::MAX_BYTES`] bytes. Keys are the same only byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainKey(LockKey);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlainKeyError {
    #[error("a lock key must not be empty")]
    Empty,
    #[error("a lock key may have at most 255 bytes, this one has {0}")]
    TooLong(usize),
}

/// What a key is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'k> {
    /// The key that the orchestrator and the workers take for the execution of this id.
    Execution(&'k str),
    /// The same for the template of this id.
    Template(&'k str),
    /// Whatever its users agree on.
    Other,
}

impl PlainKey {
    pub const MAX_BYTES: usize = 255;

    pub fn try_new(key: &str) -> Result<Self, PlainKeyError> {
        match key.len() {
            0 => Err(PlainKeyError::Empty),
            1..=Self::MAX_BYTES => Ok(Self(key.into())),
            bytes => Err(PlainKeyError::TooLong(bytes)),
        }
    }

    /// `workflow_execution:{id}`
    pub fn of_execution(id: &ExecutionId) -> Result<Self, PlainKeyError> {
        Self::try_new(LockKey::of_execution(id).as_str())
    }

    /// `workflow_template:{id}`
    pub fn of_template(id: &TemplateId) -> Result<Self, PlainKeyError> {
        Self::try_new(LockKey::of_template(id).as_str())
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn purpose(&self) -> Purpose<'_> {
        let key = self.as_str();
        if let Some(id) = key.strip_prefix("workflow_execution:") {
            return Purpose::Execution(id);
        }
        key.strip_prefix("workflow_template:").map_or(Purpose::Other, Purpose::Template)
    }
}

impl fmt::Display for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Marks one acquisition, so that one whose answer was lost is recognised when it is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockNonce(u64);

impl LockNonce {
    /// Of a random number, of which a bit goes: databases hold signed numbers.
    pub const fn of(random: u64) -> Self {
        Self(random >> 1)
    }

    /// Less than 2^63.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// How long a lock lasts, and what follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockTerms {
    ttl: Duration,
}

/// Why a time is none for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lock cannot last for {0:?}; give between 1s and 24h")]
pub struct LockTermsError(pub Duration);

impl LockTerms {
    pub const SHORTEST_TTL: Duration = Duration::from_secs(1);
    pub const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
    /// Clock rates may differ by one part in this many.
    const RATE_PARTS: u32 = 1000;
    /// Of a short time this part is kept back for whoever works under the lock to stop.
    const STOP_PART: u32 = 5;
    /// A lock is renewed so many times before it would end.
    const RENEWALS: u32 = 3;
    /// Between two tries of a renewal that failed, as a part of the time.
    const RETRY_PART: u32 = 30;

    pub fn try_new(ttl: Duration) -> Result<Self, LockTermsError> {
        if !(Self::SHORTEST_TTL..=Self::LONGEST_TTL).contains(&ttl) {
            return Err(LockTermsError(ttl));
        }
        Ok(Self { ttl })
    }

    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A third of the time.
    pub fn renew_every(&self) -> Duration {
        self.ttl / Self::RENEWALS
    }

    /// Before a renewal that failed is tried again: a second, less of a short time.
    pub fn retry_renewal_after(&self) -> Duration {
        (self.ttl / Self::RETRY_PART).min(Duration::from_secs(1))
    }

    /// Until when its holder may count on the lock: `sent + ttl * (1 - rho) - time to stop`, where
    /// `sent` was read *before* the last successful acquisition or renewal was sent. The time to
    /// stop is that of an execution's lease, or a fifth of a shorter time.
    pub fn local_deadline(&self, sent: BootTime) -> BootTime {
        let stop = (LeaseTerms::KILL + LeaseTerms::NOTICE).min(self.ttl / Self::STOP_PART);
        sent.plus(self.ttl.saturating_sub(self.ttl / Self::RATE_PARTS + stop))
    }
}

/// How often a key that another holds is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// After the first try; 0 asks once.
    pub count: u32,
    /// Before each of them.
    pub delay: Duration,
}

impl Retries {
    /// How long to wait after so many tries (1 or more) that found the key held; `None`: no more.
    pub fn pause_after(&self, tries: u32) -> Option<Duration> {
        (tries <= self.count).then_some(self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_byte_at_least_and_no_more_than_its_column() {
        assert_eq!(PlainKey::try_new(""), Err(PlainKeyError::Empty));
        assert!(PlainKey::try_new("k").is_ok());
        assert!(PlainKey::try_new(&"k".repeat(255)).is_ok());
        assert_eq!(PlainKey::try_new(&"ü".repeat(128)), Err(PlainKeyError::TooLong(256)));
    }

    #[test]
    fn a_key_says_what_it_is_taken_for() {
        for (key, purpose) in [
            ("workflow_execution:e1", Purpose::Execution("e1")),
            ("workflow_template:t1", Purpose::Template("t1")),
            ("workflow_execution", Purpose::Other),
            ("Workflow_execution:e1", Purpose::Other),
            ("jobs:1", Purpose::Other),
        ] {
            assert_eq!(PlainKey::try_new(key).expect("a key").purpose(), purpose, "{key}");
        }
        let key = PlainKey::of_execution(&"e1".into()).expect("a key");
        assert_eq!(key.purpose(), Purpose::Execution("e1"));
        let key = PlainKey::of_template(&"t1".into()).expect("a key");
        assert_eq!(key.purpose(), Purpose::Template("t1"));
        let long = ExecutionId::from("x".repeat(300));
        assert_eq!(PlainKey::of_execution(&long), Err(PlainKeyError::TooLong(319)));
    }

    #[test]
    fn a_holder_stops_counting_on_a_lock_before_anybody_else_may_take_it() {
        let sent = BootTime::since_boot(Duration::from_secs(100));
        for (ttl, counted_on) in [(300_000, 295_700), (30_000, 25_970), (1_000, 799)] {
            let terms = LockTerms::try_new(Duration::from_millis(ttl)).expect("a good time");
            let deadline = terms.local_deadline(sent).since(sent);
            assert_eq!(deadline, Duration::from_millis(counted_on), "{ttl}");
            assert!(terms.renew_every() * 2 < deadline, "one lost renewal loses no lock");
        }
    }

    #[test]
    fn a_lock_lasts_from_a_second_to_a_day() {
        for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(86_401)] {
            assert_eq!(LockTerms::try_new(ttl), Err(LockTermsError(ttl)));
        }
        assert!(LockTerms::try_new(LockTerms::SHORTEST_TTL).is_ok());
        assert!(LockTerms::try_new(LockTerms::LONGEST_TTL).is_ok());
    }

    #[test]
    fn no_retries_ask_once_and_three_ask_four_times() {
        let delay = Duration::from_secs(1);
        for (count, pauses) in [(0, [None; 4]), (3, [Some(delay), Some(delay), Some(delay), None])]
        {
            let retries = Retries { count, delay };
            assert_eq!([1, 2, 3, 4].map(|tries| retries.pause_after(tries)), pauses, "{count}");
        }
    }

    #[test]
    fn a_nonce_fits_a_signed_number() {
        assert_eq!(LockNonce::of(u64::MAX).get(), i64::MAX as u64);
    }
}
