//! A block of lines on a terminal that is drawn over itself.
//!
//! **Invariant:** what is drawn is never higher than the terminal, or its beginning could not be
//! reached any more; each draw leaves the terminal as it was set.

use std::io::{self, IsTerminal};

use rustix::termios::tcgetwinsize;

use crate::cli::{OutputWord, exit::Failure, output};

/// Rows where the terminal does not say.
const ROWS: usize = 24;

/// What was drawn last.
#[derive(Debug, Default)]
pub struct Block {
    lines: usize,
}

impl Block {
    /// `None` where the output is not a terminal, or is for programs.
    pub fn on_terminal(word: OutputWord) -> Option<Self> {
        (word == OutputWord::Table && io::stdout().is_terminal()).then(Self::default)
    }

    /// Returns whether anybody reads on.
    pub fn draw(&mut self, text: &str) -> Result<bool, Failure> {
        let frame = self.frame(text, rows());
        output::piece(&frame)
    }

    /// Goes up to the first line, clears all below, and draws without breaking long lines.
    fn frame(&mut self, text: &str, rows: usize) -> String {
        let up = if self.lines == 0 { String::new() } else { format!("\x1b[{}A", self.lines) };
        let lines: Vec<&str> = text.lines().take(rows).collect();
        self.lines = lines.len();
        let drawn: String = lines.into_iter().flat_map(|line| [line, "\n"]).collect();
        format!("{up}\r\x1b[J\x1b[?7l{drawn}\x1b[?7h")
    }
}

/// Lines that can be drawn now; the last one is the cursor's.
pub fn rows() -> usize {
    let told = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    (if told == 0 { ROWS } else { told }) - 1
}

/// Which of many steps are drawn where there is room for so many: those that run, then the first.
pub fn in_view(running: &[bool], room: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..running.len()).collect();
    places.sort_by_key(|place| !running[*place]);
    places.truncate(room);
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_drawn_over_the_one_before_and_never_higher_than_the_terminal() {
        let mut block = Block::default();
        for (text, rows, expected) in [
            ("a\nb", 9, "\r\x1b[J\x1b[?7la\nb\n\x1b[?7h"),
            ("a\nb\nc\nd", 3, "\x1b[2A\r\x1b[J\x1b[?7la\nb\nc\n\x1b[?7h"),
            ("", 3, "\x1b[3A\r\x1b[J\x1b[?7l\x1b[?7h"),
            ("e", 3, "\r\x1b[J\x1b[?7le\n\x1b[?7h"),
        ] {
            assert_eq!(block.frame(text, rows), expected);
        }
    }

    #[test]
    fn what_runs_is_in_view_and_everything_keeps_its_order() {
        let running = [false, false, true, false, true];
        for (room, expected) in [(9, &[0, 1, 2, 3, 4][..]), (3, &[0, 2, 4]), (1, &[2]), (0, &[])] {
            assert_eq!(in_view(&running, room), expected, "{room}");
        }
    }
}
