//! When to look for work, and for how much.
//!
//! **Invariant:** an idle fleet never asks more often than `poll_interval` a worker, and a found
//! backlog is taken without a pause.

use std::time::Duration;

/// What the last look brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// So many executions were claimed or refused.
    Work(usize),
    Failed,
}

/// Decides the pause before the next look.
#[derive(Clone, Debug)]
pub struct Poller {
    interval: Duration,
    failures: u32,
}

impl Poller {
    /// Longest pause after failures.
    const LONGEST: Duration = Duration::from_secs(10);

    /// No pause is longer.
    pub fn longest_pause(interval: Duration) -> Duration {
        2 * Self::LONGEST.max(interval)
    }

    pub fn new(interval: Duration) -> Self {
        Self { interval, failures: 0 }
    }

    /// At once after a hit; else one to two intervals; after failures twice as long each time.
    /// `random` is in [0, 1).
    pub fn pause(&mut self, found: Found, random: f64) -> Duration {
        match found {
            Found::Work(1..) => {
                self.failures = 0;
                Duration::ZERO
            }
            Found::Work(0) => {
                self.failures = 0;
                self.interval.mul_f64(1.0 + random)
            }
            Found::Failed => {
                self.failures = (self.failures + 1).min(16);
                let doubled = self.interval.saturating_mul(1 << (self.failures - 1));
                doubled.min(Self::LONGEST.max(self.interval)).mul_f64(1.0 + random)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_is_followed_at_once_and_silence_by_one_to_two_intervals() {
        let mut poller = Poller::new(Duration::from_secs(1));
        assert_eq!(poller.pause(Found::Work(1), 0.5), Duration::ZERO);
        let idle = Found::Work(0);
        assert_eq!(poller.pause(idle, 0.0), Duration::from_secs(1));
        assert_eq!(poller.pause(idle, 0.5), Duration::from_millis(1500));
    }

    #[test]
    fn failures_double_the_pause_up_to_ten_seconds_until_an_answer_comes() {
        let mut poller = Poller::new(Duration::from_secs(1));
        let pauses: Vec<u64> = (0..6).map(|_| poller.pause(Found::Failed, 0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        poller.pause(Found::Work(0), 0.0);
        assert_eq!(poller.pause(Found::Failed, 0.0), Duration::from_secs(1));
    }
}
