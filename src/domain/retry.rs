//! How long to wait before the next attempt at a step.

use std::time::Duration;

/// Exponential back-off with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// The delay after `failures` failed attempts (1 at the first retry): a random share of
    /// `base * 2^(failures - 1)`, at most `cap`. `random` is in [0, 1). A server's own
    /// `retry_after` is a lower bound and is not cut by the cap.
    pub fn delay(&self, failures: u32, random: f64, retry_after: Option<Duration>) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.base.saturating_mul(1 << doublings).min(self.cap);
        let share = full.as_secs_f64() * random.clamp(0.0, 1.0);
        Duration::try_from_secs_f64(share).unwrap_or(full).max(retry_after.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let bounds: Vec<u64> = (0..=8).map(|n| BACKOFF.delay(n, 1.0, None).as_secs()).collect();
        assert_eq!(bounds, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(BACKOFF.delay(u32::MAX, 1.0, None), BACKOFF.cap);
    }

    #[test]
    fn a_bound_without_reason_is_a_long_wait_and_no_panic() {
        let endless = Backoff { base: Duration::MAX, cap: Duration::MAX };
        assert_eq!(endless.delay(1, 1.0, None), Duration::MAX);
        assert_eq!(endless.delay(u32::MAX, 0.0, None), Duration::ZERO);
    }

    #[test]
    fn a_servers_retry_after_is_respected_even_beyond_the_cap() {
        let asked = Duration::from_secs(90);
        assert_eq!(BACKOFF.delay(1, 0.0, Some(asked)), asked);
        assert_eq!(BACKOFF.delay(1, 0.0, None), Duration::ZERO);
    }
}
