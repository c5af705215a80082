//! Ends leases whose local deadline has passed, on a thread of its own.
//!
//! **Invariant:** it depends on no runtime, no lock held across a wait, and no wall clock: however
//! busy or stuck the rest is, a lease that was not renewed is lost within
//! [`LeaseTerms::NOTICE`] of its deadline.
//!
//! [`LeaseTerms::NOTICE`]: crate::domain::lease::LeaseTerms::NOTICE

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle, park_timeout},
    time::Duration,
};

use super::leases::{Leases, Standing};
use crate::{
    clock::boot_now,
    domain::notice::LostBy,
    instruments::{Instruments, as_seconds},
};

/// Between looks while there are leases.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between looks while there are none; the shortest deadline of a new one is longer.
const IDLE: Duration = Duration::from_secs(1);

/// The running thread; ends when dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub fn start(leases: Arc<Leases>, instruments: Arc<Instruments>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = Builder::new().name("watchdog".into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                park_timeout(look(&leases, &instruments));
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

/// Returns how long to wait for the next look.
fn look(leases: &Leases, instruments: &Instruments) -> Duration {
    let now = boot_now();
    let standing = leases.standing();
    // All are lost before the first is told of: whoever reads our logs may keep us waiting.
    let is_over = |it: &&Arc<Standing>| !it.may_act(now) && it.lose(LostBy::Deadline);
    let lost: Vec<_> = standing.iter().filter(is_over).collect();
    let deadlines = standing.iter().map(|it| it.deadline().borrow().since(now));
    let nearest = deadlines.min().unwrap_or_default();
    for standing in lost {
        standing.tell_expired(instruments);
    }
    if standing.is_empty() {
        instruments.lease_remaining.set(0.0);
        return IDLE;
    }
    instruments.lease_remaining.set(as_seconds(nearest));
    LOOK_EVERY
}
