//! A lock that was taken and given back for trial, and what nobody needs any more.

use std::time::Duration;

use super::{Finding, Repaired, Rows, counted};

/// How long a plain key took to acquire, to renew and to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    pub acquire: Duration,
    pub renew: Duration,
    pub release: Duration,
}

/// A renewal that takes longer is in danger of coming too late under load.
const SLOW: Duration = Duration::from_secs(1);

pub(super) fn findings(round: &RoundTrip) -> Vec<Finding> {
    let RoundTrip { acquire, renew, release } = *round;
    let millis = |time: Duration| time.as_millis();
    let found = format!(
        "acquired in {} ms, renewed in {} ms, released in {} ms",
        millis(acquire),
        millis(renew),
        millis(release)
    );
    vec![if acquire.max(renew).max(release) < SLOW {
        Finding::ok("lock", found)
    } else {
        Finding::warning(
            "lock",
            found,
            "look for what slows the database or the way to it; until then a longer lock.ttl keeps \
             leases",
        )
    }]
}

pub(super) fn expired(rows: &Rows, repaired: &Repaired) -> Vec<Finding> {
    let left = rows.expired_locks;
    vec![match &repaired.cleaned {
        Some(Err(sentence)) => Finding::of_error("locks", sentence),
        Some(Ok(count)) => {
            Finding::ok("locks", format!("just deleted: {}", counted(*count, "expired lock row")))
        }
        None if left > 0 => Finding::warning(
            "locks",
            format!("{} that nobody needs", counted(left, "expired lock row")),
            "orchestrator-worker locks clean --expired (or `doctor` without --dry-run); a worker \
             does it every minute",
        ),
        None => Finding::ok("locks", "no expired lock row that nobody needs"),
    }]
}
