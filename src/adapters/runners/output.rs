//! What a step printed, kept to what its column holds: the beginning, the end, and how much is
//! missing between them.
//!
//! **Invariant:** memory is bounded whatever is printed, and the text that comes out is never
//! longer than the limit (as it is, or as JSON writes it), is UTF-8 and holds no NUL.

use std::{char::REPLACEMENT_CHARACTER, collections::VecDeque};

use crate::{adapters::texts::TEXT_BYTES, domain::cut};

/// Most bytes kept of an error that a function gives: it is quoted in further texts.
pub const ERROR_BYTES: usize = 16_384;

/// Room for the note on what was cut.
const NOTE_BYTES: usize = 64;
/// A character whose first byte lies within a part may need this many bytes from beyond it.
const LOOKAHEAD: usize = 3;

/// The first and the last bytes of a stream.
#[derive(Clone, Debug)]
pub struct Kept {
    limit: usize,
    /// Bytes that a character takes; never fewer than it was read from.
    cost: fn(char) -> usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self::with_limit(TEXT_BYTES)
    }
}

impl Kept {
    /// Keeps what fits into `limit` bytes, or into 128 if that is more.
    pub fn with_limit(limit: usize) -> Self {
        Self::new(limit, char::len_utf8)
    }

    /// The same for a text that goes into JSON: the limit is for what it takes between its quotes.
    pub fn for_json(limit: usize) -> Self {
        Self::new(limit, in_json)
    }

    fn new(limit: usize, cost: fn(char) -> usize) -> Self {
        let limit = limit.max(2 * NOTE_BYTES);
        Self { limit, cost, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let free = self.head_capacity() - self.head.len();
        let (first, rest) = bytes.split_at(free.min(bytes.len()));
        self.head.extend_from_slice(first);
        let room = self.limit - self.head_capacity();
        let rest = &rest[rest.len().saturating_sub(room)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(room);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// The text that there is before the end, without the beginning of a character whose rest has
    /// not come yet: what it says stays true.
    pub fn so_far(&self) -> String {
        let mut kept = self.clone();
        for _ in 0..self.unfinished() {
            kept.tail.pop_back().or_else(|| kept.head.pop());
            kept.total -= 1;
        }
        kept.finish()
    }

    /// Bytes at the end that may begin a character.
    fn unfinished(&self) -> usize {
        let mut last: Vec<u8> =
            self.tail.iter().rev().chain(self.head.iter().rev()).take(LOOKAHEAD).copied().collect();
        last.reverse();
        let chunk = last.utf8_chunks().last();
        let open = chunk.map(|chunk| chunk.invalid()).unwrap_or_default();
        if std::str::from_utf8(open).is_err_and(|error| error.error_len().is_none()) {
            open.len()
        } else {
            0
        }
    }

    /// The text: all of it if it fits, else its two ends with a note between them.
    pub fn finish(mut self) -> String {
        let (head_room, tail_room) = self.rooms();
        // By what is there, not by the limit: `so_far` may have taken back what made it too long.
        let is_whole = (self.head.len() + self.tail.len()) as u64 == self.total;
        let tail = if is_whole {
            self.head.extend(&self.tail);
            let whole: String = units(&self.head).map(|(_, character)| character).collect();
            if whole.chars().map(self.cost).sum::<usize>() <= self.limit {
                return whole;
            }
            &*self.head
        } else {
            self.tail.make_contiguous()
        };
        let (start, start_bytes) = first(&self.head, head_room, self.cost);
        let (end, end_bytes) = last(tail, tail_room, self.cost);
        let cut = self.total - (start_bytes + end_bytes) as u64;
        format!("{start}{}{end}", cut::note(cut))
    }

    /// Most bytes of text before and after the note.
    fn rooms(&self) -> (usize, usize) {
        let both = self.limit - NOTE_BYTES;
        (both / 2, both - both / 2)
    }

    fn head_capacity(&self) -> usize {
        self.rooms().0 + LOOKAHEAD
    }
}

/// What a character takes in a text of JSON.
fn in_json(character: char) -> usize {
    match character {
        '"' | '\\' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t' => 2,
        '\0'..' ' => 6,
        other => other.len_utf8(),
    }
}

/// `text` without NUL, its middle cut if it is longer than `limit` bytes.
pub fn fit(text: &str, limit: usize) -> String {
    let mut kept = Kept::with_limit(limit);
    kept.push(text.as_bytes());
    kept.finish()
}

/// Characters with the number of bytes that each was read from; U+FFFD stands for a NUL and for
/// what is not UTF-8. No character is shorter than what it was read from.
fn units(bytes: &[u8]) -> impl Iterator<Item = (usize, char)> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let bad = chunk.invalid().len();
        let valid = chunk.valid().chars().map(|character| match character {
            '\0' => (1, REPLACEMENT_CHARACTER),
            other => (other.len_utf8(), other),
        });
        valid.chain((bad > 0).then_some((bad, REPLACEMENT_CHARACTER)))
    })
}

/// What fits into `room` from the front, and how many bytes it was read from.
fn first(bytes: &[u8], room: usize, cost: fn(char) -> usize) -> (String, usize) {
    let mut text = String::new();
    let (mut read, mut taken) = (0, 0);
    for (length, character) in units(bytes) {
        taken += cost(character);
        if taken > room {
            break;
        }
        text.push(character);
        read += length;
    }
    (text, read)
}

/// What fits into `room` from the back. `bytes` may begin within a character.
fn last(bytes: &[u8], room: usize, cost: fn(char) -> usize) -> (String, usize) {
    let all: usize = units(bytes).map(|(_, character)| cost(character)).sum();
    let mut surplus = all.saturating_sub(room);
    let mut text = String::new();
    let mut read = 0;
    for (length, character) in units(bytes) {
        if surplus > 0 {
            surplus = surplus.saturating_sub(cost(character));
            continue;
        }
        text.push(character);
        read += length;
    }
    (text, read)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const LIMIT: usize = 200;

    fn keep<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut kept = Kept::with_limit(LIMIT);
        chunks.into_iter().for_each(|chunk| kept.push(chunk));
        kept.finish()
    }

    /// Start, number and end of a text that was cut.
    fn parts(text: &str) -> Option<(&str, u64, &str)> {
        let (start, rest) = text.split_once("\n[… ")?;
        let (number, end) = rest.split_once(" bytes were cut here …]\n")?;
        Some((start, number.parse().ok()?, end))
    }

    /// Bytes of all sorts: ASCII, long characters, NUL, and pieces of characters.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => "[a-z ]{0,40}".prop_map(String::into_bytes),
            3 => "[äß€…😀]{0,20}".prop_map(String::into_bytes),
            1 => vec(any::<u8>(), 0..12),
            1 => vec(Just(0_u8), 0..30),
            1 => "[\\x01-\\x1f\"\\\\/\\x7f]{0,30}".prop_map(String::into_bytes),
        ];
        vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_kept_text_fits_and_is_made_of_the_two_ends(bytes in stream()) {
            let text = keep([&*bytes]);
            let whole = String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}");
            prop_assert!(text.len() <= LIMIT, "{} bytes", text.len());
            if whole.len() <= LIMIT {
                prop_assert_eq!(text, whole);
            } else {
                let (start, cut, end) = parts(&text).expect("a note");
                prop_assert!(whole.starts_with(start), "{start:?} does not begin {whole:?}");
                prop_assert!(whole.ends_with(end), "{end:?} does not end {whole:?}");
                prop_assert!(start.len() + 4 > (LIMIT - NOTE_BYTES) / 2, "head is wasted");
                prop_assert!(end.len() + 4 > (LIMIT - NOTE_BYTES) / 2, "tail is wasted");
                prop_assert!(cut >= 1 && cut < bytes.len() as u64);
            }
        }

        #[test]
        fn what_was_cut_is_counted_to_the_byte(text in "[aä€😀]{70,400}") {
            let kept = keep([text.as_bytes()]);
            if let Some((start, cut, end)) = parts(&kept) {
                prop_assert_eq!(start.len() as u64 + cut + end.len() as u64, text.len() as u64);
            } else {
                prop_assert_eq!(kept, text);
            }
        }

        #[test]
        fn a_text_for_json_fits_as_json_and_wastes_little(bytes in stream()) {
            let mut kept = Kept::for_json(LIMIT);
            kept.push(&bytes);
            let text = kept.finish();
            let json = |text: &str| serde_json::to_string(text).expect("a text").len() - 2;
            let whole = String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}");
            prop_assert!(json(&text) <= LIMIT, "{} bytes", json(&text));
            if json(&whole) <= LIMIT {
                prop_assert_eq!(text, whole);
            } else {
                let (start, _, end) = parts(&text).expect("a note");
                prop_assert!(whole.starts_with(start) && whole.ends_with(end));
                prop_assert!(json(start) + 6 > (LIMIT - NOTE_BYTES) / 2, "head is wasted");
                prop_assert!(json(end) + 6 > (LIMIT - NOTE_BYTES) / 2, "tail is wasted");
            }
        }

        #[test]
        fn what_is_told_on_the_way_stays_true(bytes in stream(), size in 1_usize..50) {
            let (mut kept, mut before) = (Kept::with_limit(LIMIT), String::new());
            for chunk in bytes.chunks(size) {
                kept.push(chunk);
                let now = kept.so_far();
                if parts(&now).is_none() {
                    prop_assert!(now.starts_with(&before), "{now:?} does not go on from {before:?}");
                }
                before = now;
            }
            let end = kept.finish();
            prop_assert!(parts(&end).is_some() || end.starts_with(&before));
        }

        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(bytes in stream(), size in 1_usize..50) {
            prop_assert_eq!(keep([&*bytes]), keep(bytes.chunks(size)));
        }
    }

    #[test]
    fn a_flood_is_held_in_little_memory() {
        let mut kept = Kept::default();
        let chunk = [b'x'; 8192];
        for _ in 0..8192 {
            kept.push(&chunk);
        }
        assert!(kept.head.capacity() + kept.tail.capacity() <= 4 * TEXT_BYTES);
        let text = kept.finish();
        assert!(text.len() <= TEXT_BYTES && text.len() > TEXT_BYTES - NOTE_BYTES);
        let (start, cut, end) = parts(&text).expect("a note");
        assert_eq!((start.len() + end.len()) as u64 + cut, 64 << 20);
    }
}
