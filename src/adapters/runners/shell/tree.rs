//! The processes of one script, from the guardian's side.
//!
//! **Invariant:** a [`Tree`] that is gone, by whatever way out, has left no process behind. The
//! guardian is a subreaper, so whoever loses its parent becomes the guardian's own child: no child
//! left means no descendant left.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, wait},
};
use signal_hook::consts::SIGCHLD;

use super::{
    processes::{Stat, are_more_than, descendants, send},
    protocol::Spec,
};

/// Fixed, so that no variable of a step chooses another.
const SHELL: &str = "/bin/sh";
/// Becomes the script when it is told that the limits are set. If it is never told, it ends.
const AT_THE_GATE: &str = r#"read -r go && exec /bin/sh -c "$1" </dev/null"#;
/// Ends that are taken note of in one go: where children end faster than that, there is more to do.
const ENDS_AT_ONCE: usize = 256;
/// Between two rounds of killing, where no child tells of its end.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A running script and all that comes from it.
#[derive(Debug)]
pub struct Tree {
    /// The guardian itself.
    root: Pid,
    script: Pid,
    status: Option<WaitStatus>,
    empty: bool,
    /// More children may have ended than were taken note of.
    unreaped: bool,
    /// A byte for every child that ended.
    ends: UnixStream,
}

impl Tree {
    /// Starts the script, in a process group of its own. Its standard output and error are the
    /// guardian's standard error.
    pub fn start(spec: &Spec) -> io::Result<Self> {
        let (ends, sender) = UnixStream::pair()?;
        ends.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, sender)?;
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        let mut shell = Command::new(SHELL);
        if spec.limits.are_imposed() {
            shell.args(["-c", AT_THE_GATE, SHELL, &spec.script]).stdin(Stdio::piped());
        } else {
            shell.args(["-c", &spec.script]).stdin(Stdio::null());
        }
        let mut child = shell
            .env_clear()
            .envs(&spec.environment)
            .current_dir(&spec.folder)
            .process_group(0)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let script = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let script = script.expect("a child has a process id");
        let tree =
            Self { root: getpid(), script, status: None, empty: false, unreaped: false, ends };
        if let Some(mut gate) = child.stdin.take() {
            spec.limits.impose(script)?;
            gate.write_all(b"go\n")?;
        }
        Ok(tree)
    }

    /// How the script itself ended.
    pub const fn status(&self) -> Option<WaitStatus> {
        self.status
    }

    /// Whether nothing of it runs any more.
    pub const fn is_empty(&self) -> bool {
        self.empty
    }

    /// Whether more than `most` processes of it run.
    pub fn is_more_than(&self, most: u32) -> bool {
        are_more_than(most as usize, self.root)
    }

    /// Becomes readable when a child has ended.
    pub fn ends(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }

    /// Whether [`Tree::reap`] has left something to do.
    pub const fn is_unreaped(&self) -> bool {
        self.unreaped
    }

    /// Takes note of children that have ended.
    pub fn reap(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64];
        while matches!(self.ends.read(&mut bytes), Ok(1..)) {}
        self.unreaped = false;
        for _ in 0..ENDS_AT_ONCE {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.script => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return Ok(()),
                Err(Errno::CHILD) => {
                    self.empty = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.unreaped = true;
        Ok(())
    }

    /// Asks all to end, parents first: a script must not go on to its next line because the
    /// command before it was ended. CONT wakes who is stopped.
    pub fn terminate(&self) {
        let all = descendants(self.root);
        for signal in [Signal::TERM, Signal::CONT] {
            for pid in &all {
                send(*pid, signal);
            }
        }
    }

    /// Kills all until none is left.
    pub fn kill(&mut self) -> io::Result<()> {
        let mut pause = FIRST_PAUSE;
        while !self.empty {
            self.kill_all();
            let mut ends = [PollFd::new(&self.ends, PollFlags::IN)];
            let timeout = if self.unreaped { Duration::ZERO } else { pause };
            let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
            match poll(&mut ends, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => self.reap()?,
                Err(error) => return Err(error.into()),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// First the script's whole group, in one stroke that no fork escapes: one by one, who forks
    /// faster than they are found would never end. The group's number belongs to it as long as the
    /// script is not reaped, or any of them is left.
    fn kill_all(&self) {
        let kill_group = || kill_process_group(self.script, Signal::KILL).ok();
        if self.status.is_none() {
            kill_group();
        }
        let all = descendants(self.root);
        let number = self.script.as_raw_nonzero().get();
        let in_group = |pid: &Pid| Stat::of(*pid).is_some_and(|stat| stat.group == number);
        if self.status.is_some() && all.iter().any(in_group) {
            kill_group();
        }
        for pid in all {
            send(pid, Signal::KILL);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("cannot end what the script left behind: {error}");
        }
    }
}
