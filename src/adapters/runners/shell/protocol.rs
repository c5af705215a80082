//! What worker and guardian say to each other: one JSON value a line.
//!
//! **Invariant:** the two ends are the same program, so an order that is not understood is a
//! fault and ends the script; a silence is a death.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::limits::Limits;
use crate::domain::lease::BootTime;

/// From the worker, on the guardian's standard input. Its end means that the worker is dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Always the first, and only once.
    Run(Spec),
    /// The lease was renewed.
    Deadline(Boot),
    /// TERM, the grace, KILL.
    Stop,
    Kill,
}

/// What to run, and for how long without further notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub script: String,
    /// All that the script finds in its environment.
    pub environment: BTreeMap<String, String>,
    /// Made for the script, removed after it.
    pub folder: PathBuf,
    pub grace: Duration,
    pub deadline: Boot,
    pub limits: Limits,
}

/// A [`BootTime`] as it is written: nanoseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Boot(u64);

impl From<BootTime> for Boot {
    fn from(time: BootTime) -> Self {
        Self(u64::try_from(time.elapsed_since_boot().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Boot> for BootTime {
    fn from(boot: Boot) -> Self {
        Self::since_boot(Duration::from_nanos(boot.0))
    }
}

/// From the guardian, on its standard output, which it closes when nothing of the script is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Said before the script is started: without it nothing has run.
    Began,
    Ended(End),
}

/// How the script ended. Nothing of it runs any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Exited {
        code: i32,
    },
    Signaled {
        signal: i32,
    },
    /// By an order, by the deadline, or because the worker died.
    Stopped,
    /// It was killed because more processes than these ran.
    TooMany {
        processes: u32,
    },
    NotBegun {
        error: String,
    },
}

impl End {
    /// What a shell adds to the number of the signal that ended a command, for its exit code.
    const BY_SIGNAL: i32 = 128;

    /// Whether this signal has ended the script, or a command of it with whose exit code it ended.
    pub fn is_by(&self, signal: i32) -> bool {
        match *self {
            Self::Signaled { signal: by } => by == signal,
            Self::Exited { code } => code == Self::BY_SIGNAL + signal,
            Self::Stopped | Self::TooMany { .. } | Self::NotBegun { .. } => false,
        }
    }
}

/// `message` as a line.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("texts and numbers have a JSON form");
    line.push(b'\n');
    line
}

/// Puts lines together from what a pipe brings.
#[derive(Debug, Default)]
pub struct Lines {
    unread: Vec<u8>,
}

impl Lines {
    pub fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next whole line, if it is there.
    pub fn take<M: DeserializeOwned>(&mut self) -> Option<serde_json::Result<M>> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        Some(serde_json::from_slice(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_pipe_in_any_pieces() {
        let run = Order::Run(Spec {
            script: "echo 'a\nb'\n".into(),
            environment: BTreeMap::from([("A".into(), "1\n2".into())]),
            folder: "/tmp/x".into(),
            grace: Duration::from_millis(1500),
            deadline: BootTime::since_boot(Duration::new(5, 7)).into(),
            limits: Limits { memory: Some(1 << 40), processes: Some(7), file_size: None },
        });
        let orders = [run, Order::Deadline(Boot(9)), Order::Stop, Order::Kill];
        let bytes: Vec<u8> = orders.iter().flat_map(line).collect();
        for size in [1, 7, bytes.len()] {
            let (mut lines, mut read) = (Lines::default(), Vec::<Order>::new());
            for piece in bytes.chunks(size) {
                lines.push(piece);
                while let Some(order) = lines.take() {
                    read.push(order.expect("an order"));
                }
            }
            assert_eq!(read, orders, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_order_is_an_error() {
        let mut lines = Lines::default();
        lines.push(b"hello\n");
        assert!(lines.take::<Order>().is_some_and(|read| read.is_err()));
        assert!(lines.take::<Order>().is_none());
    }
}
