//! Locks in this process's memory, for tests and for programs of one process.
//!
//! **Invariant:** a fence is given out once, and grows whatever the key.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    domain::{id::Fence, lock::PlainKey},
    ports::lock::{Acquire, Acquired, Inspected, KeyLease, LockError, LockProvider, Renewed},
};

/// A table of locks.
#[derive(Debug, Default)]
pub struct MemoryLocks {
    table: Arc<Mutex<Table>>,
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<PlainKey, Row>,
    fence: Fence,
    /// Beyond so many rows those are swept that are past their time.
    sweep_at: usize,
}

#[derive(Debug)]
struct Row {
    lease: KeyLease,
    taken: Instant,
    expires: Instant,
}

impl Row {
    fn is_live(&self, now: Instant) -> bool {
        now < self.expires
    }

    fn seen(&self, now: Instant) -> Inspected {
        Inspected {
            owner: self.lease.owner.to_string(),
            fence: self.lease.fence,
            age: Some(now.saturating_duration_since(self.taken)),
            expires_in: self.expires.saturating_duration_since(now),
        }
    }
}

impl Table {
    const FEWEST_SWEPT: usize = 64;

    fn acquire(&mut self, request: &Acquire, now: Instant) -> Acquired {
        if let Some(row) = self.held.get(&request.key).filter(|row| row.is_live(now)) {
            let is_same = row.lease.owner == request.owner && row.lease.nonce == request.nonce;
            return if is_same {
                Acquired::Ours(row.lease.clone())
            } else {
                Acquired::Theirs(row.seen(now))
            };
        }
        self.fence = Fence(self.fence.0 + 1);
        let lease = KeyLease {
            key: request.key.clone(),
            owner: request.owner.clone(),
            fence: self.fence,
            nonce: request.nonce,
        };
        let row = Row { lease: lease.clone(), taken: now, expires: now + request.ttl };
        self.held.insert(request.key.clone(), row);
        self.sweep(now);
        Acquired::Ours(lease)
    }

    /// Each row is looked at once for each one added, taken over many.
    fn sweep(&mut self, now: Instant) {
        if self.held.len() > self.sweep_at.max(Self::FEWEST_SWEPT) {
            self.held.retain(|_, row| row.is_live(now));
            self.sweep_at = self.held.len() * 2;
        }
    }
}

impl MemoryLocks {
    /// Another provider on the same table, closed or not by itself.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { table: self.table.clone(), is_closed: AtomicBool::new(false) }
    }

    fn table(&self) -> Result<MutexGuard<'_, Table>, LockError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(LockError::Closed);
        }
        Ok(self.table.lock().expect("no panic while it is held"))
    }
}

#[async_trait]
impl LockProvider for MemoryLocks {
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError> {
        Ok(self.table()?.acquire(request, Instant::now()))
    }

    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Result<Renewed, LockError> {
        let (mut table, now) = (self.table()?, Instant::now());
        let ours = table.held.get_mut(&lease.key).filter(|row| row.lease == *lease);
        Ok(match ours {
            Some(row) if row.is_live(now) => {
                row.expires = now + ttl;
                Renewed::Held
            }
            Some(_) => Renewed::Expired,
            None => Renewed::Gone,
        })
    }

    async fn release(&self, lease: &KeyLease) -> Result<bool, LockError> {
        let mut table = self.table()?;
        let is_ours = table.held.get(&lease.key).is_some_and(|row| row.lease == *lease);
        if is_ours {
            table.held.remove(&lease.key);
        }
        Ok(is_ours)
    }

    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError> {
        let (table, now) = (self.table()?, Instant::now());
        Ok(table.held.get(key).filter(|row| row.is_live(now)).map(|row| row.seen(now)))
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{id::Owner, lock::LockNonce};

    #[test]
    fn what_is_past_its_time_is_swept_and_what_is_held_stays() {
        let wish = |n: usize, seconds| Acquire {
            key: PlainKey::try_new(&format!("k{n}")).expect("a key"),
            owner: Owner::try_new("a").expect("a name"),
            ttl: Duration::from_secs(seconds),
            nonce: LockNonce::of(0),
        };
        let (mut table, mut now) = (Table::default(), Instant::now());
        let first = wish(0, 3_600);
        table.acquire(&first, now);
        for n in 1..1_000 {
            table.acquire(&wish(n, 1), now);
            now += Duration::from_secs(1);
        }
        assert!(table.held.len() <= Table::FEWEST_SWEPT + 1, "{}", table.held.len());
        assert!(table.held.contains_key(&first.key));
    }
}
