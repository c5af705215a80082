//! What a script may use.
//!
//! **Invariant:** the kernel's limits hold before the first line of a script, and it cannot raise them.
//! The number of processes is counted by the guardian: the kernel's own limit counts all that a user
//! runs, other scripts and the worker too, and holds for no process of root.

use std::{io, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGXFSZ;

use super::protocol::End;

/// Between two counts of a script's processes, where they are limited.
pub const COUNT_EVERY: Duration = Duration::from_millis(50);

/// `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of address space that each process may have.
    pub memory: Option<u64>,
    /// Processes at one time, the shell itself among them. Threads do not count.
    pub processes: Option<u32>,
    /// Bytes that a file may be made long by writing to it.
    pub file_size: Option<u64>,
}

impl Limits {
    /// Whether there are any that [`Limits::impose`] sets.
    pub const fn are_imposed(&self) -> bool {
        self.memory.is_some() || self.file_size.is_some()
    }

    /// Sets those that the kernel keeps, for a process and all that it will start. What was lower
    /// already stays.
    pub fn impose(&self, script: Pid) -> io::Result<()> {
        for (resource, limit) in [(Resource::As, self.memory), (Resource::Fsize, self.file_size)] {
            let Some(limit) = limit else { continue };
            let most = getrlimit(resource).maximum.map_or(limit, |held| held.min(limit));
            prlimit(Some(script), resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        Ok(())
    }

    /// What to add to the error of a script that ended like this, where a limit is known to be why.
    pub fn reason(&self, end: &End) -> Option<String> {
        let limit = self.file_size.filter(|_| end.is_by(SIGXFSZ))?;
        let said = match end {
            End::Exited { .. } => "SIGXFSZ ended a command of it, ",
            _ => "",
        };
        Some(format!(": {said}a file reached {limit} bytes (shell.limits.file_size)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_blamed_only_where_it_is_known_to_be_why() {
        let limits = Limits { file_size: Some(1024), ..Limits::default() };
        let reason = |end: End| limits.reason(&end);
        let blamed = ": a file reached 1024 bytes (shell.limits.file_size)";
        assert_eq!(reason(End::Signaled { signal: 25 }).as_deref(), Some(blamed));
        let blamed =
            ": SIGXFSZ ended a command of it, a file reached 1024 bytes (shell.limits.file_size)";
        assert_eq!(reason(End::Exited { code: 153 }).as_deref(), Some(blamed));
        for end in [End::Signaled { signal: 9 }, End::Exited { code: 1 }, End::Stopped] {
            assert_eq!(reason(end), None);
        }
        assert_eq!(Limits::default().reason(&End::Signaled { signal: 25 }), None);
    }
}
