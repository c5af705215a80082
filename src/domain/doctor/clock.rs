//! The store's clock beside ours, and beside that of the orchestrator, which writes local time.

use std::time::Duration;

use super::{Finding, View, counted};
use crate::domain::explain::shown;

/// Times, all by the store's own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// The store's clock less that of this machine.
    pub ahead_ms: i64,
    /// The time on the newest lock row that the orchestrator wrote, less the store's now.
    pub orchestrator_ms: Option<i64>,
    /// Pending executions that were created later than now.
    pub future: u64,
    /// Until the last of them.
    pub farthest: Duration,
}

/// A difference that a log's reader stumbles over.
const NOTABLE_MS: i64 = 2_000;
const MINUTE_MS: i64 = 60_000;
const HALF_HOUR_MS: i64 = 30 * MINUTE_MS;
/// A lock row of the orchestrator is about as old, as long as it is alive.
const NEAR_MS: i64 = 5 * MINUTE_MS;
/// No zone is farther from UTC, in minutes.
const ZONES: std::ops::RangeInclusive<i64> = -12 * 60..=14 * 60;

pub(super) fn findings(clock: &Clock) -> Vec<Finding> {
    let apart = Duration::from_millis(clock.ahead_ms.unsigned_abs());
    let direction = if clock.ahead_ms < 0 { "behind" } else { "ahead of" };
    let found = format!("the database's clock is {} {direction} this machine's", shown(apart));
    vec![if clock.ahead_ms.abs() < NOTABLE_MS {
        Finding::ok("clock", found)
    } else {
        Finding::warning(
            "clock",
            found,
            "synchronise both (NTP): leases do not go by it, but times in logs and rows differ",
        )
    }]
}

pub(super) fn zone_findings(clock: &Clock, view: &View) -> Vec<Finding> {
    let Some(offset) = &view.time_offset else {
        return vec![Finding::ok("zone", "times are kept in UTC")];
    };
    let mut found = vec![zone(clock.orchestrator_ms, offset)];
    if clock.future > 0 {
        found.push(Finding::warning(
            "zone",
            format!(
                "{} created in the future, up to {} from now",
                counted(clock.future, "pending execution"),
                shown(clock.farthest)
            ),
            "they are claimed when their time comes; if it is local time, set database.time_offset \
             to the offset of whoever writes it",
        ));
    }
    found
}

/// Why times at this offset are none of the orchestrator's, if they seem to be so, in a sentence;
/// the first number is [`Clock::orchestrator_ms`].
pub fn wrong_zone(orchestrator_ms: Option<i64>, offset: &str) -> Option<String> {
    let Finding { found, repair, .. } = zone(orchestrator_ms, offset);
    repair.map(|repair| format!("{found}; {repair}"))
}

fn zone(orchestrator_ms: Option<i64>, offset: &str) -> Finding {
    let Some(difference) = orchestrator_ms else {
        let found = format!("times at {offset}; no lock row of the orchestrator to compare with");
        return Finding::ok("zone", found);
    };
    let away = Duration::from_millis(difference.unsigned_abs());
    let when = if difference > 0 { "from now" } else { "ago" };
    let found = format!(
        "times at {offset}; the orchestrator's newest lock row is of {} {when}",
        shown(away)
    );
    match real_offset(difference, offset) {
        None => Finding::ok("zone", found),
        Some(real) => Finding::problem(
            "zone",
            found,
            format!(
                "set database.time_offset to {real} for every worker, unless nothing but an \
                 old row stands there"
            ),
        ),
    }
}

/// The offset that would explain the difference, if it is near a whole number of half hours.
fn real_offset(difference_ms: i64, offset: &str) -> Option<String> {
    let halves = (difference_ms + HALF_HOUR_MS / 2).div_euclid(HALF_HOUR_MS);
    let rest = difference_ms - halves * HALF_HOUR_MS;
    if halves == 0 || rest.abs() > NEAR_MS {
        return None;
    }
    let minutes = minutes_of(offset)? + halves * 30;
    ZONES.contains(&minutes).then(|| offset_of(minutes))
}

fn minutes_of(offset: &str) -> Option<i64> {
    let (hours, minutes) = offset.strip_prefix(['+', '-'])?.split_once(':')?;
    let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
    Some(if offset.starts_with('-') { -minutes } else { minutes })
}

fn offset_of(minutes: i64) -> String {
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}
