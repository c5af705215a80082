//! Spans between their being handed over and their end, whatever that is.
//!
//! **Invariant:** who asks to be told of the end of spans is told after all that were handed over before
//! are gone, and is always told.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::ports::spans::Gone;

#[derive(Default)]
pub struct Way {
    /// Of all that ever were on it.
    entered: AtomicU64,
    left: AtomicU64,
    /// Each with how many had been handed over by then.
    waiting: Mutex<VecDeque<(u64, Gone)>>,
}

impl Way {
    /// One more, if fewer than `most` are on it.
    pub fn enter(&self, most: u64) -> bool {
        // What was read first may be the older: then it is read again.
        let on_it = |entered: u64| entered.saturating_sub(self.left());
        let enter = |entered: u64| (on_it(entered) < most).then_some(entered + 1);
        self.entered.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_ok()
    }

    /// So many are gone, those first that came first.
    pub fn leave(&self, count: u64) {
        self.left.fetch_add(count, Ordering::AcqRel);
        self.tell();
    }

    /// Calls `gone` when all that are on it now are gone.
    pub fn after_these(&self, gone: Gone) {
        let entered = self.entered.load(Ordering::Acquire);
        self.waiting.lock().expect("no panic while it is held").push_back((entered, gone));
        self.tell();
    }

    /// How many are on it.
    pub fn len(&self) -> u64 {
        // Nothing leaves that has not entered: in this order the difference is never negative.
        let left = self.left();
        self.entered.load(Ordering::Acquire) - left
    }

    fn left(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }

    fn tell(&self) {
        let mut waiting = self.waiting.lock().expect("no panic while it is held");
        let left = self.left();
        while waiting.front().is_some_and(|(after, _)| *after <= left) {
            let (_, gone) = waiting.pop_front().expect("it was there");
            gone();
        }
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use super::*;

    #[test]
    fn whoever_asks_is_told_when_all_before_are_gone_and_at_once_if_none_is_there() {
        let way = Way::default();
        let told = Arc::new(AtomicUsize::new(0));
        let gone = || -> Gone {
            let told = told.clone();
            Box::new(move || {
                told.fetch_add(1, Ordering::Relaxed);
            })
        };
        let told_so_far = || told.load(Ordering::Relaxed);
        way.after_these(gone());
        assert_eq!(told_so_far(), 1, "nothing is on its way");
        assert!(way.enter(3) && way.enter(3));
        way.after_these(gone());
        assert!(way.enter(3) && !way.enter(3), "there is room for three");
        way.after_these(gone());
        way.leave(1);
        assert_eq!((told_so_far(), way.len()), (1, 2));
        way.leave(1);
        assert_eq!((told_so_far(), way.len()), (2, 1));
        assert!(way.enter(3), "another has left");
        way.leave(1);
        assert_eq!((told_so_far(), way.len()), (3, 1), "what came later is not waited for");
    }
}
