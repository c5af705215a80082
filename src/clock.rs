//! The one reader of `CLOCK_BOOTTIME`.
//!
//! **Invariant:** local deadlines are measured on a clock that goes on while the machine sleeps
//! and that nobody can set.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::domain::lease::BootTime;

/// Time since boot, sleep included.
pub fn boot_now() -> BootTime {
    let time = clock_gettime(ClockId::Boottime);
    BootTime::since_boot(Duration::new(
        u64::try_from(time.tv_sec).expect("boot time is not negative"),
        u32::try_from(time.tv_nsec).expect("less than a second"),
    ))
}
