//! One attempt under its guardian, from the worker's side.
//!
//! **Invariant:** the orders' pipe lives as long as somebody waits here; whoever stops waiting
//! closes it, and the guardian kills.

use std::{
    future::pending,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::process::Pid;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    process::{Child, ChildStdin, ChildStdout, Command},
    select,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    super::output::Kept,
    guardian::{NAME, WORD},
    processes::{descendants, send},
    protocol::{End, Lines, Order, Report, Spec, line},
};
use crate::{
    domain::pod::Life,
    ports::runner::{Halt, TELL_EVERY},
};

/// `fs.pipe-max-size` where nobody has changed it.
const LARGEST_PIPE: usize = 1024 * 1024;
/// How long a guardian may take to kill before it is killed itself, with all below it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A guardian that was started, and what leads to and from it.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    pid: Pid,
    orders: Orders,
    reports: ChildStdout,
    output: pipe::Receiver,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub guardian: Pid,
    /// How the guardian itself ended.
    pub status: String,
    /// `None`: it was killed, and something of the script may be left.
    pub end: Option<End>,
    /// Whether the script may have run at all.
    pub began: bool,
    /// Whether it was told to stop or kill.
    pub halted: bool,
    pub output: String,
}

impl Guarded {
    /// Starts `program` as guardian for the process of that `life`, with an empty environment. Its
    /// three standard streams are the orders, the reports and the script's output.
    pub fn start(program: &Path, life: Option<&Life>, spec: &Spec) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        let mut child = Command::new(program)
            .arg0(NAME)
            .arg(WORD)
            .args(life.map(Life::to_string))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(OwnedFd::from(writer))
            .spawn()?;
        let lost = || io::Error::other("it ended at once");
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self {
            pid: pid.ok_or_else(lost)?,
            orders: Orders::new(child.stdin.take().ok_or_else(lost)?, spec),
            reports: child.stdout.take().ok_or_else(lost)?,
            output: pipe::Receiver::from_owned_fd(output.into())?,
            child,
        })
    }

    /// Hands on what `halt` says and collects the output until the guardian has ended.
    /// Without `so_far` nobody is told what it prints meanwhile.
    pub async fn until_ended(
        self,
        mut halt: Halt,
        grace: Duration,
        so_far: Option<watch::Sender<String>>,
    ) -> Ended {
        let Self { mut child, pid, mut orders, reports, mut output } = self;
        let reports = read_all(reports);
        tokio::pin!(reports);
        let mut kept = Kept::default();
        let mut teller = Teller::new(so_far);
        let mut chunk = vec![0; 16 * 1024];
        let (mut stopped, mut killed) = (false, false);
        let (mut renewing, mut reading) = (true, true);
        let mut give_up: Option<Instant> = None;
        let reports = loop {
            select! {
                biased;
                () = halt.kill.cancelled(), if !killed => {
                    killed = true;
                    orders.push(&Order::Kill);
                    give_up = Some(Instant::now() + PATIENCE);
                }
                () = halt.stop.cancelled(), if !stopped && !killed => {
                    stopped = true;
                    orders.push(&Order::Stop);
                    give_up = Some(Instant::now() + grace + PATIENCE);
                }
                changed = halt.deadline.changed(), if renewing => {
                    renewing = changed.is_ok();
                    let deadline = *halt.deadline.borrow_and_update();
                    orders.push(&Order::Deadline(deadline.into()));
                }
                // Before the output, which a script may never let be empty.
                () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => {
                    give_up = None;
                    kill_by_force(&mut child, pid);
                }
                () = orders.send_some(), if orders.are_waiting() => {}
                reports = &mut reports => break reports,
                () = teller.is_due() => teller.tell(&kept),
                read = output.read(&mut chunk), if reading => match read {
                    Ok(count @ 1..) => {
                        kept.push(&chunk[..count]);
                        teller.grown = true;
                    }
                    Ok(0) | Err(_) => reading = false,
                },
            }
        };
        // It may still be removing a large folder, which nobody has to wait for.
        let status = timeout(PATIENCE, child.wait()).await.map_or_else(
            |_| "it has not ended yet".into(),
            |status| status.map_or_else(|error| error.to_string(), |status| status.to_string()),
        );
        drain(&output, &mut chunk, &mut kept);
        let (began, end) = read_reports(&reports);
        let halted = stopped || killed;
        Ended { guardian: pid, status, end, began, halted, output: kept.finish() }
    }
}

/// Tells what the script has printed so far.
struct Teller {
    to: Option<watch::Sender<String>>,
    /// Since it told last.
    grown: bool,
    next: Instant,
}

impl Teller {
    fn new(to: Option<watch::Sender<String>>) -> Self {
        Self { to, grown: false, next: Instant::now() + TELL_EVERY }
    }

    async fn is_due(&self) {
        if self.to.is_none() || !self.grown {
            return pending().await;
        }
        sleep_until(self.next).await;
    }

    fn tell(&mut self, kept: &Kept) {
        if let Some(to) = &self.to {
            to.send_replace(kept.so_far());
        }
        self.grown = false;
        self.next = Instant::now() + TELL_EVERY;
    }
}

/// What is to be written to the guardian. It is written bit by bit while other things go on,
/// because a guardian that is frozen reads nothing.
#[derive(Debug)]
struct Orders {
    pipe: Option<ChildStdin>,
    unsent: Vec<u8>,
}

impl Orders {
    fn new(pipe: ChildStdin, spec: &Spec) -> Self {
        let mut orders = Self { pipe: Some(pipe), unsent: Vec::new() };
        orders.push(&Order::Run(spec.clone()));
        orders
    }

    fn push(&mut self, order: &Order) {
        self.unsent.extend(line(order));
    }

    fn are_waiting(&self) -> bool {
        self.pipe.is_some() && !self.unsent.is_empty()
    }

    /// Nothing is lost if it is cancelled. A guardian that does not read has ended, which its
    /// reports will tell.
    async fn send_some(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.write(&self.unsent).await {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(_) => self.pipe = None,
        }
    }
}

/// What a guardian says in its life: two short lines, then the end of the pipe.
async fn read_all(reports: ChildStdout) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error counts; a report that is missing is treated as such.
    reports.take(64 * 1024).read_to_end(&mut bytes).await.ok();
    bytes
}

fn read_reports(bytes: &[u8]) -> (bool, Option<End>) {
    let mut lines = Lines::default();
    lines.push(bytes);
    let mut began = false;
    while let Some(Ok(report)) = lines.take() {
        match report {
            Report::Began => began = true,
            Report::Ended(end) => return (began, Some(end)),
        }
    }
    (began, None)
}

/// For a guardian that does not do its duty: a script can stop its parent.
fn kill_by_force(child: &mut Child, guardian: Pid) {
    tracing::warn!(pid = guardian.as_raw_nonzero(), "a guardian does not answer: killing it");
    for pid in descendants(guardian) {
        send(pid, rustix::process::Signal::KILL);
    }
    // An error means that it has ended meanwhile.
    child.start_kill().ok();
}

/// Takes what is still in the pipe, without waiting for more. Not through tokio, whose knowledge
/// of what is there may be older than the guardian's end. Whoever survived a killed guardian may still
/// be writing, so no more is taken than a pipe can hold.
fn drain(output: &pipe::Receiver, chunk: &mut [u8], kept: &mut Kept) {
    let mut left = LARGEST_PIPE;
    while left > 0
        && let Ok(count @ 1..) = rustix::io::read(output.as_fd(), &mut *chunk)
    {
        kept.push(&chunk[..count]);
        left = left.saturating_sub(count);
    }
}
