//! Values as people and programs read them.
//!
//! **Invariant:** what a step printed reaches a terminal without its control characters.

use std::{char::REPLACEMENT_CHARACTER, time::Duration};

use jiff::Timestamp;

use crate::{
    domain::trace::{TraceParent, TraceParentError},
    ports::control::UnixMillis,
};

/// `2026-07-31 12:00:03`, UTC; a time that no calendar has is given as its number.
pub fn seconds(time: UnixMillis) -> String {
    Timestamp::from_millisecond(time.0)
        .map_or_else(|_| time.to_string(), |known| known.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Between two times of the store; never negative.
pub fn between(from: UnixMillis, to: UnixMillis) -> Duration {
    Duration::from_millis(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or_default())
}

/// A time with its unit, as an argument.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "give a time with its unit, such as 90s, 10m, 2h or 7d".into())
}

/// A moment, as an argument.
pub fn moment(text: &str) -> Result<UnixMillis, String> {
    let time: Result<Timestamp, _> = text.parse();
    time.map(|time| UnixMillis(time.as_millisecond()))
        .map_err(|_| "give a moment with its offset, such as 2026-08-01T06:30:00Z".into())
}

/// A place in a trace, as an argument.
pub fn traceparent(text: &str) -> Result<TraceParent, TraceParentError> {
    text.parse()
}

/// `12ms`, `3.4s`, `5m 10s`.
pub fn took(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ ..1_000 => format!("{millis}ms"),
        millis @ ..60_000 => format!("{}.{}s", millis / 1_000, millis % 1_000 / 100),
        _ => humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string(),
    }
}

/// As it is, but for its control characters; lines and tabs stay.
pub fn plain(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() && !matches!(c, '\n' | '\t') { REPLACEMENT_CHARACTER } else { c }
    };
    text.chars().map(plain).collect()
}

/// For a cell: control characters are taken out, a long text is cut in its middle.
pub fn cell(text: &str, most_chars: usize) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' { REPLACEMENT_CHARACTER } else { c };
    let text: Vec<char> = text.trim_end().chars().map(plain).collect();
    if text.len() <= most_chars {
        return text.into_iter().collect();
    }
    let half = most_chars / 2;
    let (head, tail) = (&text[..half], &text[text.len() - half..]);
    head.iter().chain(&[' ', '…', ' ']).chain(tail).collect()
}

/// For a sentence: as in a cell, without its ends of lines.
pub fn one_line(text: &str, most_chars: usize) -> String {
    cell(text, most_chars).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds_and_never_fail() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_785_499_203_045, "2026-07-31T12:00:03.045Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "9223372036854775807 ms"),
        ] {
            assert_eq!(UnixMillis(millis).to_string(), expected);
        }
        assert_eq!(seconds(UnixMillis(1_785_499_203_045)), "2026-07-31 12:00:03");
        assert_eq!(between(UnixMillis(5), UnixMillis(3)), Duration::ZERO);
    }

    #[test]
    fn durations_are_short() {
        for (millis, expected) in
            [(0, "0ms"), (999, "999ms"), (1_000, "1.0s"), (3_456, "3.4s"), (310_000, "5m 10s")]
        {
            assert_eq!(took(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn a_plain_text_keeps_its_lines_and_nothing_that_steers_a_terminal() {
        assert_eq!(plain("a\x1b[31mb\tc\r\n\u{9b}d\n"), "a\u{fffd}[31mb\tc\u{fffd}\n\u{fffd}d\n");
    }

    #[test]
    fn a_cell_holds_no_control_characters_and_keeps_both_ends() {
        assert_eq!(cell("a\x1b[31mb\nc\n", 99), "a\u{fffd}[31mb\nc");
        assert_eq!(cell("abcdefghij", 6), "abc … hij");
        assert_eq!(cell("äöü", 3), "äöü");
    }
}
