//! Executions that are put back: why, for how long, and when one is refused instead.
//!
//! **Invariant:** the back-off never passes its longest; losing the counts costs no more than a shorter
//! back-off and a longer wait for workers that know an execution.

use std::{collections::HashMap, time::Duration};

use super::id::ExecutionId;

/// Why an execution is put back for a while.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Deferral {
    #[error("its lock is held by another")]
    Locked,
    #[error("the lock of its template is held by another")]
    TemplateBusy,
    #[error("its step rows are not all there yet")]
    HalfMade,
    #[error("this worker does not know {0}")]
    Unknown(String),
    #[error("its rows could not be written: {0}")]
    Unwritable(String),
}

impl Deferral {
    /// It was found out by whoever had claimed the execution already.
    pub const fn is_after_a_claim(&self) -> bool {
        match self {
            Self::TemplateBusy | Self::HalfMade | Self::Unknown(_) => true,
            Self::Locked | Self::Unwritable(_) => false,
        }
    }

    /// Why it is failed rather than put back once more, if it is; `unknown_for` is the time for which
    /// this process has met it as unknown.
    pub fn refusal(&self, unknown_for: Duration, unknown_after: Duration) -> Option<String> {
        match self {
            Self::Unknown(_) if unknown_for >= unknown_after => {
                Some(format!("{self}, and no newer one has taken it"))
            }
            Self::Unknown(_)
            | Self::HalfMade
            | Self::Locked
            | Self::TemplateBusy
            | Self::Unwritable(_) => None,
        }
    }
}

/// How often this process has put each execution back, and for how long it has been waiting for a
/// worker that knows it.
#[derive(Debug, Default)]
pub struct Deferrals {
    known: HashMap<ExecutionId, Waiting>,
    alone_until: HashMap<ExecutionId, Duration>,
}

#[derive(Debug)]
struct Waiting {
    deferrals: u32,
    last: Duration,
    /// The first deferral as [`Deferral::Unknown`], none of another kind since.
    unknown_since: Option<Duration>,
}

impl Deferrals {
    /// Longer than any back-off of an execution that a worker may run.
    pub const OVER: Duration = Duration::from_secs(20);
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(5);
    /// An execution that this process has not put back for so long was in other hands meanwhile: its
    /// wait begins anew. Far more than the longest back-off, because the other workers of a fleet
    /// put it back as well.
    const FORGOTTEN: Duration = Duration::from_secs(5 * 60);
    /// Beyond this many the counts start anew; only the back-off gets shorter by it.
    const MOST: usize = 100_000;

    /// Counts one more deferral; returns the back-off (250 ms doubling to 5 s) and for how long the
    /// execution has waited for a worker that knows it. `now` is the age of this process.
    pub fn defer(
        &mut self,
        execution: &ExecutionId,
        deferral: &Deferral,
        now: Duration,
    ) -> (Duration, Duration) {
        if self.known.len() >= Self::MOST && !self.known.contains_key(execution) {
            self.known.clear();
        }
        let anew = || Waiting { deferrals: 0, last: now, unknown_since: None };
        let waiting = self.known.entry(execution.clone()).or_insert_with(anew);
        if now.saturating_sub(waiting.last) > Self::FORGOTTEN {
            *waiting = anew();
        }
        waiting.last = now;
        waiting.unknown_since = match deferral {
            Deferral::Unknown(_) => waiting.unknown_since.or(Some(now)),
            Deferral::Locked
            | Deferral::TemplateBusy
            | Deferral::HalfMade
            | Deferral::Unwritable(_) => None,
        };
        let backoff = (Self::FIRST * (1 << waiting.deferrals.min(5))).min(Self::LONGEST);
        waiting.deferrals = waiting.deferrals.saturating_add(1);
        (backoff, now.saturating_sub(waiting.unknown_since.unwrap_or(now)))
    }

    /// An execution that was deferred after a takeover has no time of its own before which it is not
    /// due: this process does not try again before `backoff` is past, others may.
    pub fn leave_alone(&mut self, execution: &ExecutionId, now: Duration, backoff: Duration) {
        self.alone_until.retain(|_, until| *until > now);
        self.alone_until.insert(execution.clone(), now + backoff);
    }

    pub fn is_left_alone(&self, execution: &ExecutionId, now: Duration) -> bool {
        self.alone_until.get(execution).is_some_and(|until| now < *until)
    }

    /// It was admitted or refused: nothing more to remember.
    pub fn settle(&mut self, execution: &ExecutionId) {
        self.known.remove(execution);
        self.alone_until.remove(execution);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One deferral of `e` after so many seconds of this process: its back-off in milliseconds, and
    /// for how many seconds it has been unknown.
    fn defer(deferrals: &mut Deferrals, deferral: &Deferral, second: u64) -> (u128, u64) {
        let now = Duration::from_secs(second);
        let (backoff, unknown_for) = deferrals.defer(&"e".into(), deferral, now);
        (backoff.as_millis(), unknown_for.as_secs())
    }

    #[test]
    fn a_deferral_backs_off_from_a_quarter_second_to_five() {
        let mut deferrals = Deferrals::default();
        for (second, backoff) in (0..).zip([250, 500, 1000, 2000, 4000, 5000, 5000]) {
            assert_eq!(defer(&mut deferrals, &Deferral::Locked, second), (backoff, 0));
        }
        deferrals.settle(&"e".into());
        assert_eq!(defer(&mut deferrals, &Deferral::Locked, 9), (250, 0));
        assert_eq!(defer(&mut deferrals, &Deferral::Locked, 309), (500, 0));
        assert_eq!(defer(&mut deferrals, &Deferral::Locked, 610), (250, 0), "it was long unseen");
    }

    #[test]
    fn only_the_time_counts_in_which_it_was_unknown_at_every_sight() {
        let unknown = || Deferral::Unknown("function \"brew\"".into());
        let unknown_for = |sightings: &[(u64, Deferral)]| -> Vec<u64> {
            let mut deferrals = Deferrals::default();
            sightings.iter().map(|(at, kind)| defer(&mut deferrals, kind, *at).1).collect()
        };
        let (locked, half) = (Deferral::Locked, Deferral::HalfMade);
        let steady = [(5, unknown()), (65, unknown()), (365, unknown())];
        assert_eq!(unknown_for(&steady), [0, 60, 360]);
        let late = [(0, half), (60, locked.clone()), (120, unknown()), (180, unknown())];
        assert_eq!(unknown_for(&late), [0, 0, 0, 60]);
        let locked_between = [(0, unknown()), (60, unknown()), (90, locked), (120, unknown())];
        assert_eq!(unknown_for(&locked_between), [0, 60, 0, 0]);
        // Another worker had it in between, and has handed it back.
        let elsewhere = [(0, unknown()), (900, unknown()), (960, unknown())];
        assert_eq!(unknown_for(&elsewhere), [0, 0, 60]);
    }

    #[test]
    fn what_was_deferred_after_a_takeover_is_left_alone_until_its_time() {
        let mut deferrals = Deferrals::default();
        let (id, now) = (ExecutionId::from("e"), Duration::from_secs(100));
        let backoff = Duration::from_secs(5);
        assert!(!deferrals.is_left_alone(&id, now));
        deferrals.leave_alone(&id, now, backoff);
        assert!(deferrals.is_left_alone(&id, now + Duration::from_millis(4_999)));
        assert!(!deferrals.is_left_alone(&id, now + backoff));
        deferrals.settle(&id);
        assert!(!deferrals.is_left_alone(&id, now));
    }
}
