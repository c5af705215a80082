//! The one reader of this machine's clocks.
//!
//! **Invariant:** local deadlines are measured on a clock that goes on while the machine sleeps
//! and that nobody can set; the one that people set decides nothing, and is only compared.

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

/// Milliseconds since 1970, UTC, as somebody has set this machine's clock.
pub fn wall_now_ms() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000)
}
