//! Shell steps under their guardian: the real program, real scripts, real signals.
//!
//! **Invariant:** every case has an idempotency key of its own, by which its processes are found
//! in `/proc`, so that cases can run side by side.

mod direct;
mod endings;
mod faults;
mod limits;
mod scripts;
mod worker;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use orchestrator_worker::{
    adapters::runners::shell::{ShellRunner, ShellSettings},
    clock::boot_now,
    domain::{
        id::Fence,
        lease::BootTime,
        step::{Action, Resume, Step},
    },
    ports::runner::{Attempt, Halt, Outcome, StepRunner, TELL_EVERY},
};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// No event of these tests takes this long on the slowest machine.
const CEILING: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_orchestrator-worker");

/// One attempt at a script, and the worker's hand on it.
struct Case {
    settings: ShellSettings,
    key: String,
    stop: CancellationToken,
    kill: CancellationToken,
    deadline: watch::Sender<BootTime>,
    so_far: watch::Sender<String>,
    /// Where the script and the test leave files for each other: `$MEET`.
    meet: TempDir,
    /// Where the attempt's own folder is made.
    state: TempDir,
}

impl Case {
    fn new() -> Self {
        let state = tempfile::tempdir().expect("a folder");
        Self {
            settings: ShellSettings {
                program: PROGRAM.into(),
                state_dir: state.path().to_owned(),
                ..ShellSettings::default()
            },
            key: Uuid::new_v4().to_string(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            deadline: watch::Sender::new(boot_now().plus(CEILING * 2)),
            so_far: watch::Sender::default(),
            meet: tempfile::tempdir().expect("a folder"),
            state,
        }
    }

    fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    fn deadline_in(self, time: Duration) -> Self {
        self.deadline.send_replace(boot_now().plus(time));
        self
    }

    fn attempt(&self, script: &str) -> Attempt {
        let meet = self.meet.path().to_str().expect("UTF-8").to_owned();
        let env = BTreeMap::from([("MEET".to_owned(), meet)]);
        Attempt {
            execution: "execution-1".into(),
            step_execution: "step-execution-1".into(),
            step: Arc::new(Step {
                id: "step-1".into(),
                name: "a script".into(),
                action: Action::Shell { script: script.to_owned(), env },
                timeout: Duration::from_secs(30),
                retries: 0,
                resume: Resume::Rerun,
            }),
            number: 3,
            idempotency_key: self.key.clone(),
            fence: Fence(1_700_000_000_000_001),
            trace: BTreeMap::from([("TRACEPARENT".to_owned(), "00-1-2-01".to_owned())]),
            halt: Halt {
                stop: self.stop.clone(),
                kill: self.kill.clone(),
                deadline: self.deadline.subscribe(),
            },
            so_far: self.so_far.clone(),
        }
    }

    async fn run(&self, script: &str) -> Outcome {
        let runner = ShellRunner::new(self.settings.clone());
        timeout(CEILING, runner.run(self.attempt(script))).await.expect("it ends")
    }

    fn spawn(&self, script: &str) -> JoinHandle<Outcome> {
        let (runner, attempt) = (ShellRunner::new(self.settings.clone()), self.attempt(script));
        #[expect(clippy::disallowed_methods, reason = "each test waits for its task")]
        tokio::spawn(async move { runner.run(attempt).await })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.meet.path().join(name)
    }

    /// Waits until the script has made a file.
    async fn met(&self, name: &str) {
        let file = self.file(name);
        eventually(&format!("the script makes {name}"), || file.exists()).await;
    }

    /// Process ids that the script wrote down, one a line.
    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.file("pids")).expect("written by the script");
        text.lines().map(|line| line.trim().parse().expect("a process id")).collect()
    }

    /// What of the attempt still runs: by its mark, and by the ids that the script wrote down.
    fn living(&self) -> Vec<i32> {
        let mut living = marked(&self.key);
        if self.file("pids").exists() {
            living.extend(self.pids().into_iter().filter(|pid| lives(*pid)));
        }
        living
    }

    /// The guardian and the attempt's folder have gone, and so has all that ran.
    fn assert_nothing_left(&self) {
        assert_eq!(self.living(), [0_i32; 0], "processes are left");
        let folders: Vec<_> = fs::read_dir(self.state.path()).expect("readable").collect();
        assert!(folders.is_empty(), "folders are left: {folders:?}");
    }
}

/// Waits for an event that only looking can tell.
async fn eventually(what: &str, event: impl Fn() -> bool) {
    let start = Instant::now();
    while !event() {
        assert!(start.elapsed() < CEILING, "in vain: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn ended(task: JoinHandle<Outcome>) -> Outcome {
    timeout(CEILING, task).await.expect("it ends").expect("it does not panic")
}

/// Processes whose environment holds the key.
fn marked(key: &str) -> Vec<i32> {
    with_entry(&format!("ORCHESTRATOR_IDEMPOTENCY_KEY={key}"))
}

/// Processes with this entry in their environment.
fn with_entry(mark: &str) -> Vec<i32> {
    let has_mark = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    pids_in(Path::new("/proc")).into_iter().filter(has_mark).collect()
}

fn pids_in(folder: &Path) -> Vec<i32> {
    let entries = fs::read_dir(folder).expect("readable").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A zombie runs no more.
fn lives(pid: i32) -> bool {
    state_of(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn state_of(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn output_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Success { output, .. } => output,
        other => panic!("not a success: {other:?}"),
    }
}

fn failure_of(outcome: Outcome) -> (String, String) {
    match outcome {
        Outcome::Failed { error, output, .. } => (error.to_string(), output.unwrap_or_default()),
        other => panic!("not a failure: {other:?}"),
    }
}

/// Error and output of an attempt that was not begun, or broke off.
fn unanswered_of(outcome: Outcome) -> (String, String) {
    match outcome {
        Outcome::Unanswered { error, output, .. } => {
            (error.to_string(), output.unwrap_or_default())
        }
        other => panic!("not unanswered: {other:?}"),
    }
}

fn output_of_stopped(outcome: Outcome) -> String {
    match outcome {
        Outcome::Stopped { output } => output.unwrap_or_default(),
        other => panic!("not stopped: {other:?}"),
    }
}
