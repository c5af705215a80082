//! The note that stands where a long text was cut, and what is new in a text that goes on growing
//! after that.
//!
//! **Invariant:** whoever prints what [`since`] gives, look after look, has printed every byte that
//! was stored at one of the looks, none twice, and a note wherever bytes are missing.

const BEFORE: &str = "\n[… ";
const AFTER: &str = " bytes were cut here …]\n";

/// Stands between the beginning and the end of a text.
pub fn note(bytes: u64) -> String {
    format!("{BEFORE}{bytes}{AFTER}")
}

/// What a text holds that an earlier look at it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added<'t> {
    More(&'t str),
    /// So many bytes came and were cut between the two looks.
    Gap {
        bytes: u64,
        then: &'t str,
    },
    /// It is another text.
    Anew(&'t str),
}

/// What `now` adds to `before`. Where bytes that are no UTF-8 were replaced, the place where it goes
/// on is found to within their number.
pub fn since<'t>(before: &str, now: &'t str) -> Added<'t> {
    if let Some(more) = now.strip_prefix(before) {
        return Added::More(more);
    }
    let Some(Parts { start, cut, end }) = parts(now) else { return Added::Anew(now) };
    let fresh = total(now).checked_sub(total(before)).filter(|_| before.starts_with(start));
    match fresh {
        None => Added::Anew(now),
        Some(fresh) if fresh <= end.len() as u64 => {
            let fresh = usize::try_from(fresh).expect("no more than a text is long");
            Added::More(&end[end.ceil_char_boundary(end.len() - fresh)..])
        }
        // Not all that is missing: its beginning may have been seen.
        Some(fresh) => Added::Gap { bytes: cut.min(fresh - end.len() as u64), then: end },
    }
}

struct Parts<'t> {
    start: &'t str,
    cut: u64,
    end: &'t str,
}

/// Both sides of the first note; `None` for a text that is whole.
fn parts(text: &str) -> Option<Parts<'_>> {
    text.match_indices(BEFORE).find_map(|(place, _)| {
        let (number, end) = text[place + BEFORE.len()..].split_once(AFTER)?;
        Some(Parts { start: &text[..place], cut: number.parse().ok()?, end })
    })
}

/// Whether something was cut out of a text.
pub fn is_cut(text: &str) -> bool {
    parts(text).is_some()
}

/// Bytes before anything was cut.
fn total(text: &str) -> u64 {
    match parts(text) {
        None => text.len() as u64,
        Some(Parts { start, cut, end }) => (start.len() + end.len()) as u64 + cut,
    }
}

#[cfg(test)]
mod tests {
    use super::{Added::*, *};

    #[test]
    fn a_text_is_cut_where_the_note_says_so() {
        assert!(is_cut(&format!("a{}b", note(7))));
        assert!(!is_cut("a\n[… many bytes were cut here …]\nb") && !is_cut(""));
    }

    #[test]
    fn what_is_new_is_found_before_and_after_a_cut() {
        let cut = |start: &str, bytes, end: &str| format!("{start}{}{end}", note(bytes));
        for (before, now, expected) in [
            ("", "", More("")),
            ("", "ab", More("ab")),
            ("ab", "ab", More("")),
            ("ab", "abc", More("c")),
            ("ab", "ac", Anew("ac")),
            ("abc", "ab", Anew("ab")),
            // 10 bytes were seen; of 12 the last 4 are kept, so that 2 are new.
            ("0123456789", &cut("012", 5, "89ab"), More("ab")),
            (&cut("012", 5, "89ab"), &cut("012", 7, "abcd"), More("cd")),
            (&cut("012", 5, "89ab"), &cut("012", 5, "89ab"), More("")),
            (&cut("012", 5, "89ab"), &cut("012", 9, "cdef"), More("cdef")),
            (&cut("012", 5, "89ab"), &cut("012", 19, "mnop"), Gap { bytes: 10, then: "mnop" }),
            (&cut("012", 5, "89ab"), &cut("x12", 19, "mnop"), Anew(&cut("x12", 19, "mnop"))),
            (&cut("012", 5, "89ab"), "0123", Anew("0123")),
            // A new character of which a half would be shown is left for nobody to guess.
            ("0123456789", &cut("012", 5, "8\u{e4}b"), More("b")),
            // What looks like a note and is none.
            ("\n[… x\n0123", &cut("\n[… x\n0", 2, "34"), More("4")),
        ] {
            assert_eq!(since(before, now), expected, "{before:?} then {now:?}");
        }
        let first = cut("012", 5, "89ab");
        let seen = since("0", &first);
        assert_eq!(seen, More(&first[1..]), "the note is part of it");
    }
}
