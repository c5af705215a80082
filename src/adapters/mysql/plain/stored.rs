//! How a key stands in the lock table.
//!
//! The table is the orchestrator's, and compares keys as its collation says: in most, `A` is `a`, `é`
//! is `e`, and a space at the end is nothing. So of a key all but what every collation tells apart is
//! written as `%` and two hexadecimal digits a byte.
//!
//! **Invariant:** two keys stand as two texts that no collation takes for one, each within the
//! column; the keys of executions and templates stand as the orchestrator writes them.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::domain::lock::{PlainKey, Purpose};

/// What a text may hold in the column, in characters.
const COLUMN: usize = 255;
/// Of a text that does not fit so much is kept for people to read.
const READABLE: usize = 180;

pub(super) fn stored(key: &PlainKey) -> String {
    let text = key.as_str();
    match key.purpose() {
        Purpose::Execution(_) | Purpose::Template(_) => return text.into(),
        Purpose::Other => {}
    }
    let mut stored = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' | b'/' | b'@' => {
                stored.push(char::from(byte));
            }
            _ => write!(stored, "%{byte:02x}").expect("a String takes everything"),
        }
    }
    if stored.len() > COLUMN {
        stored.truncate(READABLE);
        // No byte is written so: a text with this in it is that of a long key.
        stored.push_str("%#");
        for byte in Sha256::digest(text) {
            write!(stored, "{byte:02x}").expect("a String takes everything");
        }
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str) -> String {
        stored(&PlainKey::try_new(key).expect("a key"))
    }

    #[test]
    fn a_key_that_every_collation_reads_alike_stands_as_it_is() {
        for key in
            ["jobs:nightly/2026-01-01@eu_1.0", "workflow_execution:ABC", "workflow_template:é"]
        {
            assert_eq!(of(key), key);
        }
    }

    #[test]
    fn what_a_collation_may_take_for_something_else_is_written_in_digits() {
        for (key, stored) in [("Jobs", "%4aobs"), ("a ", "a%20"), ("%4a", "%254a"), ("é", "%c3%a9")]
        {
            assert_eq!(of(key), stored);
        }
    }

    #[test]
    fn long_keys_that_differ_in_their_last_byte_stand_as_two_texts_that_fit() {
        let long = |last: &str| of(&format!("{}{last}", "X".repeat(254)));
        assert_ne!(long("a"), long("b"));
        assert_eq!(long("a").len(), READABLE + 2 + 64);
        assert!(long("a").starts_with("%58%58"));
        // What needs no digits fits as it is.
        assert_eq!(of(&"x".repeat(255)).len(), COLUMN);
    }
}
