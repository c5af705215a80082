//! Texts made to fit their columns, the same ones in every store.
//!
//! **Invariant:** a text is cut between characters, and one that fits is left as it is.

use std::borrow::Cow;

/// Most bytes in a `text` column, for `output` and for `error`.
pub const TEXT_BYTES: usize = 65_535;
/// Most characters in `ow_attempts.cause`.
const CAUSE_CHARS: usize = 255;
/// Stands for what was cut from a cause.
const MORE: &str = " ...";

/// What an `error` column holds of a reason: its beginning.
pub fn reason(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES)]
}

/// What `ow_attempts.cause` holds of a reason: its beginning, with a sign if more is missing.
pub fn cause(text: &str) -> Cow<'_, str> {
    if text.chars().nth(CAUSE_CHARS).is_none() {
        return Cow::Borrowed(text);
    }
    let kept = text.chars().take(CAUSE_CHARS - MORE.len());
    Cow::Owned(kept.chain(MORE.chars()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        let long = "ä".repeat(TEXT_BYTES);
        assert_eq!(reason(&long).len(), TEXT_BYTES - 1);
        assert_eq!(reason("aä"), "aä");
    }

    #[test]
    fn a_cause_has_at_most_255_characters_and_says_when_it_had_more() {
        for (length, kept) in [(0, 0), (255, 255), (256, 251), (1_000, 251)] {
            let whole = "ä".repeat(length);
            let cut = cause(&whole);
            let begins = cut.strip_suffix(MORE).unwrap_or(&cut);
            assert_eq!(begins, "ä".repeat(kept));
            assert_eq!(cut.ends_with(MORE), length > 255);
        }
    }
}
