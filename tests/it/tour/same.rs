//! Whether two texts are the same but for what differs from run to run.
//!
//! **Invariant:** ids are held to each other one to one; times, durations and ports are only known to
//! be some; everything else is the same to the letter, but for how far apart columns are.

use std::{collections::BTreeMap, iter::zip};

use super::LEFT_OUT;

/// Spaces at the beginning of a line that follow from the width of columns.
const WIDE: usize = 20;

/// What the ids of the page are in this run.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    real: BTreeMap<String, String>,
}

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Id(String),
    Time,
    Took,
    Port,
    Text(String),
}

impl Ids {
    /// A command of the page with this run's ids.
    pub fn real(&self, line: &str) -> String {
        self.real.iter().fold(line.to_owned(), |line, (page, real)| line.replace(page, real))
    }

    /// Ids with those of these lines, if they are the same.
    pub fn like(&self, page: &[String], real: &[String]) -> Option<Self> {
        match page.split_first() {
            None => real.is_empty().then(|| self.clone()),
            Some((first, rest)) if first == LEFT_OUT => {
                (0..=real.len()).find_map(|left_out| self.like(rest, &real[left_out..]))
            }
            Some((first, rest)) => {
                let (line, others) = real.split_first()?;
                self.with(first, line)?.like(rest, others)
            }
        }
    }

    /// Ids with those of this line, if it is the same.
    pub fn with(&self, page: &str, real: &str) -> Option<Self> {
        let (page, real) = (pieces(page), pieces(real));
        let mut ids = self.clone();
        let same = page.len() == real.len() && zip(page, real).all(|pair| ids.is_same(pair));
        same.then_some(ids)
    }

    fn is_same(&mut self, pair: (Piece, Piece)) -> bool {
        let (Piece::Id(page), Piece::Id(real)) = pair else { return pair.0 == pair.1 };
        match self.real.get(&page) {
            Some(known) => *known == real,
            None if self.real.values().any(|known| *known == real) => false,
            None => self.real.insert(page, real).is_none(),
        }
    }
}

fn pieces(line: &str) -> Vec<Piece> {
    let line = line.trim_end();
    let text = line.trim_start();
    let indent = line.len() - text.len();
    let mut pieces = vec![Piece::Text(" ".repeat(indent.min(WIDE)))];
    for word in words(text) {
        let piece = piece(word);
        match &pieces[..] {
            // `5m 10s` is one duration, as `10s` is.
            [.., Piece::Took, Piece::Text(gap)] if gap == " " && piece == Piece::Took => {
                pieces.pop();
            }
            [.., Piece::Text(unit), Piece::Text(is)]
                if unit.ends_with("_ms") && is == "=" && is_number(word) =>
            {
                pieces.push(Piece::Took);
            }
            _ => pieces.push(piece),
        }
    }
    pieces
}

/// Words, spaces between them, and each other character.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            ' ' => rest.find(|c| c != ' '),
            c if is_word(c) => rest.find(|c| !is_word(c)),
            c => Some(c.len_utf8()),
        };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        // What ends a sentence is no part of a word.
        let whole = word.trim_end_matches(['.', ':']).len();
        words.extend([&word[..whole], &word[whole..]].into_iter().filter(|word| !word.is_empty()));
        rest = after;
    }
    words
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_-.:".contains(c)
}

fn piece(word: &str) -> Piece {
    let shape: String = word.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let day = "0000-00-00";
    if is_id(word) {
        Piece::Id(word.to_owned())
    } else if shape == day || shape == "00:00:00" || shape.starts_with(&format!("{day}T00:00:00."))
    {
        Piece::Time
    } else if is_duration(word) {
        Piece::Took
    } else if word.strip_prefix("127.0.0.1:").is_some_and(is_number) {
        Piece::Port
    } else if word.starts_with("  ") {
        Piece::Text("  ".into())
    } else {
        Piece::Text(word.to_owned())
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
}

fn is_id(word: &str) -> bool {
    let parts: Vec<&str> = word.split('-').collect();
    let of_a_row = || zip(&parts, [8, 4, 4, 4, 12]).all(|(part, length)| is_hex(part, length));
    (parts.len() == 5 && of_a_row()) || is_hex(word, 32)
}

fn is_duration(word: &str) -> bool {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let starts_with_a_digit = word.starts_with(|c: char| c.is_ascii_digit());
    starts_with_a_digit && ["ms", "s", "m", "h"].contains(&unit)
}

#[test]
fn only_what_differs_from_run_to_run_may_differ() {
    let id = |digit: &str| format!("{}-0000-4000-8000-000000000000", digit.repeat(8));
    let (a, b, x, y) = (id("a"), id("b"), id("1"), id("2"));
    let same = |pairs: &[(String, String)]| {
        let first = Some(Ids::default());
        pairs.iter().fold(first, |ids, (page, real)| ids?.with(page, real)).is_some()
    };
    let line = |page: &str, real: &str| same(&[(page.into(), real.into())]);
    assert!(line("a  14ms  ok", "a  1h 2m 3s    ok") && line("in 2.", "in 2."));
    assert!(line("at 2026-07-31T12:00:03.045Z", "at 2027-01-01T00:00:00.000001Z"));
    assert!(line("on 127.0.0.1:9400 duration_ms=3", "on 127.0.0.1:1 duration_ms=44"));
    for (page, real) in [
        ("a 14ms", "a 14"),
        ("a  b", "a b"),
        ("  a", "    a"),
        ("slots=3", "slots=4"),
        ("step", "steps"),
        ("a", "a."),
        ("release-1", "release-2"),
    ] {
        assert!(!line(page, real), "{page:?} {real:?}");
    }
    assert!(same(&[(a.clone(), x.clone()), (b.clone(), y.clone()), (a.clone(), x.clone())]));
    assert!(!same(&[(a.clone(), x.clone()), (a.clone(), y.clone())]), "one id, two real ones");
    assert!(!same(&[(a.clone(), x.clone()), (b, x)]), "two ids, one real one");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let like = |page: &str, real: &str| Ids::default().like(&lines(page), &lines(real)).is_some();
    assert!(like("a\n…\nd", "a\nb\nc\nd") && like("a\n…", "a") && like("…\na", "b\na"));
    assert!(!like("a\n…\nd", "a\nb") && !like("a", "a\nb") && !like("a\nb", "a"));
}
