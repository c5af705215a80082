//! What all sessions of one store share: what was learnt about the tables and the primary, plans,
//! and how often each execution was put back.
//!
//! **Invariant:** nothing in here decides who holds an execution; losing all of it costs some reads
//! and a shorter back-off.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    apart::Suspects, facts::Facts, plain::FenceFloor, server::Server, session::Unfinished,
};
use crate::{
    adapters::plans::Plans,
    domain::{
        deferral::{Deferral, Deferrals},
        id::ExecutionId,
        lock_table::LockTable,
    },
};

/// Shared by the sessions of one store.
pub(super) struct Shared {
    pub lock_table: LockTable,
    pub plans: Plans,
    pub unfinished: Unfinished,
    /// One claim at a time: several of one process would only meet each other's rows.
    pub claiming: Arc<tokio::sync::Mutex<()>>,
    /// Of a batch of claims that broke.
    pub suspects: Suspects,
    /// Of a batch of takeovers that broke.
    pub held_suspects: Suspects,
    /// Whose last advance met a lock.
    pub locked: Suspects,
    /// A renewal met a lock, or was not answered: the next ones go around what is locked.
    pub renewals_wait: AtomicBool,
    pub fence_floor: FenceFloor,
    facts: Mutex<Option<Arc<Facts>>>,
    primary: Mutex<Option<Primary>>,
    /// The first server that was met, and whether it has been another, or started anew, since.
    first_server: Mutex<Option<Server>>,
    has_moved: AtomicBool,
    deferrals: Mutex<Deferrals>,
    started: Instant,
}

/// The primary as this process knows it.
struct Primary {
    identity: String,
    /// Met first, and no other since.
    since: Instant,
    /// It is another than before, and nobody has been told yet.
    is_news: bool,
}

impl Shared {
    pub fn new(lock_table: LockTable) -> Self {
        Self {
            lock_table,
            plans: Plans::default(),
            unfinished: Unfinished::default(),
            claiming: Arc::default(),
            suspects: Suspects::default(),
            held_suspects: Suspects::default(),
            locked: Suspects::default(),
            renewals_wait: AtomicBool::new(false),
            fence_floor: FenceFloor::default(),
            facts: Mutex::default(),
            primary: Mutex::default(),
            first_server: Mutex::default(),
            has_moved: AtomicBool::new(false),
            deferrals: Mutex::default(),
            started: Instant::now(),
        }
    }

    pub fn facts(&self) -> Option<Arc<Facts>> {
        held(&self.facts).clone()
    }

    pub fn learn_facts(&self, facts: Option<Arc<Facts>>) {
        *held(&self.facts) = facts;
    }

    /// To be told of the server at the end of each new connection, before anything is asked of it.
    pub fn meet_server(&self, server: &Server) {
        let mut first = held(&self.first_server);
        let first = first.get_or_insert_with(|| server.clone());
        if !server.lives_on_from(first) {
            self.has_moved.store(true, Ordering::Relaxed);
        }
    }

    /// Whether writes that were acknowledged to this process may be gone: it has met another server
    /// than its first one, or the same after a new start.
    pub fn may_have_lost(&self) -> bool {
        self.has_moved.load(Ordering::Relaxed)
    }

    /// For how long this process has met this primary and no other; `None` until its caller has been
    /// told that it is another than before.
    pub fn met_primary(&self, identity: &str) -> Option<Duration> {
        let mut primary = held(&self.primary);
        let is_changed = match &mut *primary {
            Some(known) if known.identity == identity => known.is_news,
            known => {
                let is_news = known.is_some();
                *known =
                    Some(Primary { identity: identity.to_owned(), since: Instant::now(), is_news });
                is_news
            }
        };
        let since = primary.as_ref().map_or(Duration::ZERO, |known| known.since.elapsed());
        (!is_changed).then_some(since)
    }

    /// A verb answers that the primary has changed: from now on that is no news.
    pub fn tell_of_primary(&self) {
        if let Some(primary) = &mut *held(&self.primary) {
            primary.is_news = false;
        }
    }

    /// Counts one more deferral; returns the back-off, and for how long it has been unknown.
    pub fn defer(&self, execution: &ExecutionId, deferral: &Deferral) -> (Duration, Duration) {
        held(&self.deferrals).defer(execution, deferral, self.started.elapsed())
    }

    pub fn settle(&self, execution: &ExecutionId) {
        held(&self.deferrals).settle(execution);
    }

    /// Counts one more deferral of what is held, and leaves it alone for the back-off.
    pub fn put_off(&self, execution: &ExecutionId, deferral: &Deferral) {
        let (backoff, _) = self.defer(execution, deferral);
        self.leave_alone(execution, backoff);
    }

    /// This process does not take the execution over before its back-off is past; others may.
    pub fn leave_alone(&self, execution: &ExecutionId, backoff: Duration) {
        held(&self.deferrals).leave_alone(execution, self.started.elapsed(), backoff);
    }

    pub fn is_left_alone(&self, execution: &ExecutionId) -> bool {
        held(&self.deferrals).is_left_alone(execution, self.started.elapsed())
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is held")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_is_told_once_that_the_primary_is_another_whoever_has_recorded_it() {
        let shared = Shared::new(LockTable::default());
        let met = |identity| shared.met_primary(identity).is_some();
        assert!(met("a"), "the first one is no news");
        assert!(met("a"));
        assert!(!met("b"));
        assert!(!met("b"), "nobody has been told yet: the answer was given to nobody");
        shared.tell_of_primary();
        assert!(met("b"));
        assert!(!met("a"), "a connection to the former one still stands");
    }
}
