//! Leases: who holds an execution, and until when its holder may act on it.
//!
//! **Invariant:** the local deadline of a lease lies before the moment at which anybody else may
//! take it, with time left to kill what runs under it, for clock *rates* within 0.1 %.

use std::time::Duration;

use super::{
    execution::ExecutionState,
    id::{ExecutionId, FINISHED, Fence, LockKey, Nonce, Owner, RELEASED, TemplateId, UNTOLD},
};

/// A claim on one execution, as written on its rows. Every write carries fence and nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub execution: ExecutionId,
    pub owner: Owner,
    pub fence: Fence,
    pub nonce: Nonce,
    /// Its template, where the lock of that is held with it (`claim.one_per_template`).
    pub template: Option<TemplateId>,
}

/// What a renewal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Held,
    /// Held, and somebody set the execution to `cancelled`.
    Cancelled,
    /// Somebody keeps its rows locked: it was neither renewed nor is it lost.
    Unanswered,
    /// We have ended the execution, or handed it back, since we asked.
    Ended,
    /// No longer ours: stop, write nothing more.
    Lost,
}

/// What is left on the lock row of an execution that was let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Anyone may take it at once.
    Released,
    Finished,
    /// It has ended, and its holder has yet to tell the trace what came after this time, in milliseconds
    /// since 1970.
    Untold {
        told_ms: u64,
    },
}

impl Mark {
    /// How long the mark stands, so that nobody takes a row that is just gone for one that was never there.
    pub const LINGERS: Duration = Duration::from_secs(60);
    /// How long one stands that nobody has told of.
    pub const UNTOLD: Duration = Duration::from_secs(600);

    /// What it writes in the owner's place.
    pub fn word(self, owner: &Owner) -> String {
        match self {
            Self::Released => RELEASED.to_owned(),
            Self::Finished => FINISHED.to_owned(),
            Self::Untold { .. } => owner.untold(),
        }
    }

    pub const fn stands(self) -> Duration {
        match self {
            Self::Released | Self::Finished => Self::LINGERS,
            Self::Untold { .. } => Self::UNTOLD,
        }
    }

    /// What it writes in place of the beat, if anything.
    pub const fn told_ms(self) -> Option<u64> {
        match self {
            Self::Released | Self::Finished => None,
            Self::Untold { told_ms } => Some(told_ms),
        }
    }

    /// Whether one of these marks stands in an owner's place.
    pub fn is_in(owner: &str) -> bool {
        matches!(owner, RELEASED | FINISHED) || owner.starts_with(UNTOLD)
    }
}

/// What the row of an execution says about who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub status: String,
    pub fence: Fence,
    pub nonce: String,
    /// The owner column.
    pub by: String,
}

impl Lease {
    /// The keys of its lock rows, in their order.
    pub fn keys(&self) -> impl Iterator<Item = LockKey> {
        let template = self.template.as_ref().map(LockKey::of_template);
        [LockKey::of_execution(&self.execution)].into_iter().chain(template)
    }

    /// How the lease stands by its execution's row alone; `None` if there is no such row.
    ///
    /// Only the claim that a row carries changes its owner column, so if that is no longer ours
    /// while the claim is, we have let go of the execution ourselves (or, of a cancelled one, a
    /// watcher has after our time).
    pub fn standing(&self, row: Option<&Holding>) -> Renewal {
        let Some(row) = row else { return Renewal::Lost };
        if row.fence != self.fence || row.nonce != self.nonce.as_str() {
            return Renewal::Lost;
        }
        let is_ours = row.by == self.owner.as_str();
        match (ExecutionState::parse(&row.status), is_ours) {
            (Ok(ExecutionState::Running), true) => Renewal::Held,
            (Ok(ExecutionState::Cancelled), true) => Renewal::Cancelled,
            (Ok(ExecutionState::Running), false) => Renewal::Ended,
            (Ok(state), false) if state.is_final() => Renewal::Ended,
            (Ok(_) | Err(_), _) => Renewal::Lost,
        }
    }
}

/// A reading of `CLOCK_BOOTTIME`: time since boot, sleep included. Monotonic, never set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    pub const fn since_boot(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    pub const fn elapsed_since_boot(self) -> Duration {
        self.0
    }

    /// Zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// How long a lease lasts and how often it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    ttl: Duration,
    renew_every: Duration,
}

/// Why two durations are no lease terms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseTermsError {
    #[error("lock.ttl is {0:?}; it must be between 8s and 60s")]
    Ttl(Duration),
    #[error("lock.renew_every is zero; give a time such as 5s")]
    ZeroRenewal,
    #[error(
        "lock.ttl ({ttl:?}) must be at least three times lock.renew_every ({renew_every:?}), so \
         that a lost renewal does not lose the lease"
    )]
    TooFewRenewals { ttl: Duration, renew_every: Duration },
}

impl LeaseTerms {
    pub const SHORTEST_TTL: Duration = Duration::from_secs(8);
    pub const LONGEST_TTL: Duration = Duration::from_secs(60);
    /// Time to kill what runs under a lease (K in PROTOCOL).
    pub const KILL: Duration = Duration::from_secs(3);
    /// Time to notice that a deadline has passed (W).
    pub const NOTICE: Duration = Duration::from_secs(1);
    /// Clock rates may differ by one part in this many (1 / rho).
    const RATE_PARTS: u32 = 1000;

    pub fn try_new(ttl: Duration, renew_every: Duration) -> Result<Self, LeaseTermsError> {
        if !(Self::SHORTEST_TTL..=Self::LONGEST_TTL).contains(&ttl) {
            return Err(LeaseTermsError::Ttl(ttl));
        }
        if renew_every.is_zero() {
            return Err(LeaseTermsError::ZeroRenewal);
        }
        if renew_every.saturating_mul(3) > ttl {
            return Err(LeaseTermsError::TooFewRenewals { ttl, renew_every });
        }
        Ok(Self { ttl, renew_every })
    }

    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    pub const fn renew_every(&self) -> Duration {
        self.renew_every
    }

    /// Until when the holder may act: `sent + ttl * (1 - rho) - K - W`, where `sent` was read
    /// *before* the last successful claim or renewal was sent.
    pub fn local_deadline(&self, sent: BootTime) -> BootTime {
        let margin = self.ttl / Self::RATE_PARTS + Self::KILL + Self::NOTICE;
        sent.plus(self.ttl.saturating_sub(margin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_deadline_leaves_time_to_notice_and_to_kill() {
        let terms = LeaseTerms::try_new(secs(30), secs(5)).expect("the defaults");
        let sent = BootTime::since_boot(secs(100));
        assert_eq!(terms.local_deadline(sent).since(sent), Duration::from_millis(25_970));
    }

    #[test]
    fn what_we_have_let_go_of_ourselves_is_ended_and_all_else_that_is_not_ours_is_lost() {
        let lease = Lease {
            execution: "e".into(),
            owner: Owner::try_new("a").expect("a name"),
            fence: Fence(7),
            nonce: "n".into(),
            template: None,
        };
        for (status, fence, nonce, by, expected) in [
            ("running", 7, "n", "a", Renewal::Held),
            ("cancelled", 7, "n", "a", Renewal::Cancelled),
            ("running", 7, "n", "~released", Renewal::Ended),
            ("success", 7, "n", "", Renewal::Ended),
            ("failed", 7, "n", "", Renewal::Ended),
            ("cancelled", 7, "n", "", Renewal::Ended),
            // Somebody else ended it under our hands.
            ("success", 7, "n", "a", Renewal::Lost),
            ("running", 8, "n", "a", Renewal::Lost),
            ("running", 7, "m", "a", Renewal::Lost),
            ("failed", 8, "", "", Renewal::Lost),
            ("pending", 7, "n", "", Renewal::Lost),
            ("nonsense", 7, "n", "a", Renewal::Lost),
        ] {
            let holding = Holding {
                status: status.into(),
                fence: Fence(fence),
                nonce: nonce.into(),
                by: by.into(),
            };
            assert_eq!(lease.standing(Some(&holding)), expected, "{holding:?}");
        }
        assert_eq!(lease.standing(None), Renewal::Lost);
    }

    #[test]
    fn terms_that_cannot_be_kept_are_refused() {
        assert_eq!(LeaseTerms::try_new(secs(7), secs(1)), Err(LeaseTermsError::Ttl(secs(7))));
        assert_eq!(LeaseTerms::try_new(secs(61), secs(1)), Err(LeaseTermsError::Ttl(secs(61))));
        assert_eq!(
            LeaseTerms::try_new(secs(30), Duration::ZERO),
            Err(LeaseTermsError::ZeroRenewal)
        );
        assert_eq!(
            LeaseTerms::try_new(secs(30), secs(11)),
            Err(LeaseTermsError::TooFewRenewals { ttl: secs(30), renew_every: secs(11) })
        );
        assert_eq!(
            LeaseTerms::try_new(secs(30), Duration::MAX),
            Err(LeaseTermsError::TooFewRenewals { ttl: secs(30), renew_every: Duration::MAX })
        );
        assert!(LeaseTerms::try_new(secs(30), secs(10)).is_ok());
    }
}
