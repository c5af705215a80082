//! How often something may be done.
//!
//! **Invariant:** within any time no more passes than a burst and what is saved in that time.

use std::time::Duration;

use super::lease::BootTime;

/// Lets so many pass at once, and then one each `every`.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    most: Duration,
    every: Duration,
    saved: Duration,
    at: BootTime,
    held_until: BootTime,
}

impl Bucket {
    pub fn full(burst: u32, every: Duration, now: BootTime) -> Self {
        let most = every.saturating_mul(burst);
        Self { most, every, saved: most, at: now, held_until: now }
    }

    /// Nothing passes for so long.
    pub fn hold(&mut self, now: BootTime, pause: Duration) {
        self.held_until = now.plus(pause);
    }

    /// How long until one may pass.
    pub fn wait(&self, now: BootTime) -> Duration {
        let missing = self.every.saturating_sub(self.saved_at(now));
        missing.max(self.held_until.since(now))
    }

    /// Lets one pass, if it may.
    pub fn take(&mut self, now: BootTime) -> bool {
        if !self.wait(now).is_zero() {
            return false;
        }
        self.saved = self.saved_at(now).saturating_sub(self.every);
        self.at = self.at.max(now);
        true
    }

    fn saved_at(&self, now: BootTime) -> Duration {
        self.saved.saturating_add(now.since(self.at)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    const fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn a_burst_passes_and_then_one_each_time() {
        let mut bucket = Bucket::full(3, EVERY, at(100));
        for (now, passes) in [
            (100, true),
            (100, true),
            (101, true),
            (102, false),
            (109, false),
            (110, true),
            (110, false),
            (120, true),
            // It saves no more than a burst.
            (900, true),
            (900, true),
            (900, true),
            (900, false),
            // A clock that stands, or goes back, gives nothing.
            (0, false),
            (909, false),
            (910, true),
        ] {
            assert_eq!(bucket.take(at(now)), passes, "at {now}: {bucket:?}");
        }
        assert_eq!(bucket.wait(at(913)), Duration::from_secs(7));
    }

    #[test]
    fn nothing_passes_while_it_is_held() {
        let mut bucket = Bucket::full(3, EVERY, at(100));
        bucket.hold(at(100), Duration::from_secs(30));
        assert!(!bucket.take(at(129)));
        assert_eq!(bucket.wait(at(129)), Duration::from_secs(1));
        assert!(bucket.take(at(130)) && bucket.take(at(130)) && bucket.take(at(130)));
        assert!(!bucket.take(at(130)));
    }
}
