//! The process between a worker and a script. It is this program again, started by hidden word,
//! in a session of its own: small, single-threaded, and with a clock and a deadline of its own.
//!
//! **Invariant:** when its orders end (the worker is dead), when the deadline passes (the worker
//! is frozen), or when it is told so, every descendant of the script is killed; it ends only when
//! none is left.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::OwnedFd,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read},
    process::{WaitStatus, getpid, set_child_subreaper, setsid},
    stdio::{dup2_stdout, stdin},
    thread::set_name,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::{
    folder::Folder,
    limits::COUNT_EVERY,
    processes::all,
    protocol::{End, Lines, Order, Report, Spec, line},
    tree::Tree,
};
use crate::{
    clock::boot_now,
    domain::{lease::BootTime, pod::Life},
};

/// First argument of a process that stands guard.
pub const WORD: &str = "__guardian";
/// Its name in lists of processes: not the worker's, so that killing workers by name spares it.
pub const NAME: &str = "ow-guardian";
/// Why no shell step can be run in a program that does not call [`guardian`].
pub const NOT_CALLED: &str = "shell steps need a guardian: begin `main` with \
    `if let Some(code) = orchestrator_worker::guardian() { return code; }`";

static CALLED: AtomicBool = AtomicBool::new(false);

/// To be called first thing in `main`, which returns the exit code if there is one: then this
/// process was started to guard a shell step, and has done so. In any other process it returns
/// `None` at once, and shell steps can be run from then on.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     if let Some(code) = orchestrator_worker::guardian() {
///         return code;
///     }
///     // the program itself
///     std::process::ExitCode::SUCCESS
/// }
/// ```
pub fn guardian() -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|word| word != WORD) {
        CALLED.store(true, Ordering::Relaxed);
        return None;
    }
    match stand_guard() {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("the guardian of a shell step failed: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// Whether somebody still stands guard for a process before the one of this `life`.
pub fn is_guarded_before(life: &Life) -> bool {
    all().into_iter().any(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        guards_for(&line).is_some_and(|other| life.comes_after(&other))
    })
}

/// Of a guardian's arguments, as `/proc` has them.
fn guards_for(line: &[u8]) -> Option<Life> {
    let mut arguments = line.split(|byte| *byte == 0).skip(1);
    if arguments.next()? != WORD.as_bytes() {
        return None;
    }
    str::from_utf8(arguments.next()?).ok()?.parse().ok()
}

/// Whether this process has called [`guardian`].
pub(super) fn was_called() -> bool {
    CALLED.load(Ordering::Relaxed)
}

fn stand_guard() -> io::Result<()> {
    step_aside()?;
    let mut orders = Orders::default();
    let Some(spec) = orders.first()? else { return Ok(()) };
    // Removed last, when the worker knows already that nothing runs any more.
    let _folder;
    let end = if boot_now() >= spec.deadline.into() {
        End::Stopped
    } else {
        match Folder::create(&spec.folder) {
            Ok(folder) => {
                _folder = folder;
                run(&spec, &mut orders)?
            }
            Err(error) => {
                let folder = spec.folder.display();
                End::NotBegun { error: format!("cannot make the folder {folder}: {error}") }
            }
        }
    };
    report(&Report::Ended(end));
    dup2_stdout(File::open("/dev/null")?)?;
    Ok(())
}

/// Out of reach of what is sent to the worker's group, and in the place of every lost parent.
fn step_aside() -> io::Result<()> {
    // Handlers, not SIG_IGN: a script starts with the defaults again.
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    // Refused to the leader of a group; then it was started apart already.
    match setsid() {
        Ok(_) | Err(Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    set_child_subreaper(Some(getpid()))?;
    Ok(set_name(c"ow-guardian")?)
}

fn run(spec: &Spec, orders: &mut Orders) -> io::Result<End> {
    report(&Report::Began);
    let mut tree = match Tree::start(spec) {
        Ok(tree) => tree,
        Err(error) => return Ok(End::NotBegun { error: format!("cannot start sh: {error}") }),
    };
    let end = watch(spec, orders, &mut tree)?;
    tree.kill()?;
    Ok(end)
}

/// Until the script has ended or must end.
fn watch(spec: &Spec, orders: &mut Orders, tree: &mut Tree) -> io::Result<End> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
    let mut deadline = BootTime::from(spec.deadline);
    let mut grace_end: Option<BootTime> = None;
    let mut next_count = boot_now();
    loop {
        let end = grace_end.map_or(deadline, |grace_end| grace_end.min(deadline));
        if boot_now() >= end {
            return Ok(End::Stopped);
        }
        let mut until = end;
        if let Some(processes) = spec.limits.processes {
            if boot_now() >= next_count {
                if tree.is_more_than(processes) {
                    return Ok(End::TooMany { processes });
                }
                next_count = boot_now().plus(COUNT_EVERY);
            }
            until = until.min(next_count);
        }
        if tree.is_unreaped() {
            until = boot_now();
        }
        let ordered = wait_for(tree, &timer, until)?;
        tree.reap()?;
        match (grace_end, tree.status()) {
            (None, Some(status)) => return Ok(end_of(status)),
            // The whole tree has the grace, not only the script itself.
            (Some(_), _) if tree.is_empty() => return Ok(End::Stopped),
            (None, None) | (Some(_), _) => {}
        }
        if ordered {
            orders.read()?;
        }
        while let Some(order) = orders.next()? {
            match order {
                Order::Deadline(later) => deadline = later.into(),
                Order::Stop if grace_end.is_none() => {
                    tree.terminate();
                    grace_end = Some(boot_now().plus(spec.grace));
                }
                Order::Stop => {}
                Order::Kill => return Ok(End::Stopped),
                Order::Run(_) => return Err(io::Error::other("it was told to run twice")),
            }
        }
    }
}

/// Waits for orders, for the end of a child, or for `until`; returns whether there are orders.
/// The timer counts the machine's sleep too, which the timeout of poll does not.
fn wait_for(tree: &Tree, timer: &OwnedFd, until: BootTime) -> io::Result<bool> {
    let it_value = Timespec::try_from(until.elapsed_since_boot()).map_err(io::Error::other)?;
    let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
    let orders = stdin();
    let ends = tree.ends();
    let mut events = [
        PollFd::new(&orders, PollFlags::IN),
        PollFd::new(&ends, PollFlags::IN),
        PollFd::new(timer, PollFlags::IN),
    ];
    match poll(&mut events, None) {
        Ok(_) => Ok(!events[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn end_of(status: WaitStatus) -> End {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => End::Exited { code },
        (None, Some(signal)) => End::Signaled { signal },
        // Only asked for children that ended: there is no third way to end.
        (None, None) => End::Stopped,
    }
}

/// A worker that is dead reads no report; the end of its orders tells the same.
fn report(report: &Report) {
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line(report)).and_then(|()| stdout.flush()).ok();
}

/// What arrives on standard input.
#[derive(Default)]
struct Orders {
    lines: Lines,
    over: bool,
}

impl Orders {
    /// What to run; `None` if the worker ended before it had said so.
    fn first(&mut self) -> io::Result<Option<Spec>> {
        loop {
            match self.next()? {
                Some(Order::Run(spec)) => return Ok(Some(spec)),
                Some(_) => return Ok(None),
                None => self.read()?,
            }
        }
    }

    /// The next one that has arrived; the end of orders is an order to kill.
    fn next(&mut self) -> io::Result<Option<Order>> {
        match self.lines.take() {
            Some(order) => order.map(Some).map_err(io::Error::other),
            None => Ok(self.over.then_some(Order::Kill)),
        }
    }

    /// Waits for more.
    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match read(stdin(), &mut bytes) {
            Ok(0) => self.over = true,
            Ok(count) => self.lines.push(&bytes[..count]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_guardian_is_known_by_whom_it_guards_for_until_it_has_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(WORD), "echo; read line").expect("written");
        let mut stands_in = Command::new("sh")
            .args([WORD, "5eadbeef.2"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut echo = [0];
        io::Read::read_exact(stands_in.stdout.as_mut().expect("a pipe"), &mut echo)
            .expect("it runs");
        let is_guarded = |life: &str| is_guarded_before(&life.parse().expect("a life"));
        assert!(is_guarded("5eadbeef.3"));
        assert!(!is_guarded("5eadbeef.2") && !is_guarded("5eadbeee.3"));
        drop(stands_in.stdin.take());
        stands_in.wait().expect("its end");
        assert!(!is_guarded("5eadbeef.3"));
    }
}
