//! What this incarnation holds, by key, and whose turn it is to change that.
//!
//! **Invariant:** of one key one at a time acquires or releases; a key that is not held takes no room.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as Lock, MutexGuard},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::hold::Hold;
use crate::domain::lock::PlainKey;

/// A hold, and how many handles there are on it.
pub(super) struct Held {
    pub hold: Arc<Hold>,
    pub handles: usize,
}

type Slot = Arc<Mutex<Option<Held>>>;

#[derive(Default)]
pub(super) struct Slots {
    by_key: Lock<HashMap<PlainKey, Slot>>,
}

/// The right to change what is held of one key.
pub(super) struct Turn<'s> {
    slots: &'s Slots,
    key: PlainKey,
    /// `None` only while it is dropped.
    held: Option<OwnedMutexGuard<Option<Held>>>,
}

impl Slots {
    /// Waits for those before.
    pub async fn turn(&self, key: &PlainKey) -> Turn<'_> {
        let slot = self.all().entry(key.clone()).or_default().clone();
        let held = slot.lock_owned().await;
        Turn { slots: self, key: key.clone(), held: Some(held) }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<PlainKey, Slot>> {
        self.by_key.lock().expect("no panic while it is held")
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.all().len()
    }
}

impl Turn<'_> {
    pub fn held(&mut self) -> &mut Option<Held> {
        self.held.as_mut().expect("it is there until the drop")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut all = self.slots.all();
        let is_empty = self.held.take().is_some_and(|held| held.is_none());
        // Whoever waits for the turn, or is about to, has the slot too: they take it from the map.
        if is_empty && all.get(&self.key).is_some_and(|slot| Arc::strong_count(slot) == 1) {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_that_is_not_held_takes_no_room_and_one_that_is_waited_for_stays() {
        let (slots, key) = (Slots::default(), PlainKey::try_new("k").expect("a key"));
        let first = slots.turn(&key).await;
        let mut second = std::pin::pin!(slots.turn(&key));
        assert!(futures_util::poll!(&mut second).is_pending(), "it is the first one's turn");
        drop(first);
        assert_eq!(slots.count(), 1, "the second waits for this very slot");
        drop(second.await);
        assert_eq!(slots.count(), 0);
    }
}
