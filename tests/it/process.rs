//! Real worker processes, driven as an operator would, watched through their logs.
//!
//! **Invariant:** a process started here is killed and reaped when its handle is dropped.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread::{JoinHandle, spawn},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// No test waits longer than this for anything: it only bounds a hang.
pub const CEILING: Duration = Duration::from_secs(120);

/// Whether tests are asked for large numbers.
#[expect(clippy::disallowed_methods, reason = "tests/run speaks to tests by its environment")]
pub fn is_soak() -> bool {
    std::env::var("ORCHESTRATOR_TEST_SCALE").is_ok_and(|scale| scale == "soak")
}

/// The binary under test, with an environment of its own.
pub fn binary() -> Command {
    program(env!("CARGO_BIN_EXE_orchestrator-worker"))
}

/// Any program with such an environment.
pub fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// What was printed as if a line were endless.
pub fn unbroken(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a process to its end.
pub fn end_of(command: &mut Command) -> Ended {
    let began = tokio::time::Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program starts");
    let pid = pid_of(&child);
    let (sender, ended) = mpsc::channel();
    let waiter = spawn(move || sender.send(child.wait_with_output()).expect("the test waits"));
    let output = ended.recv_timeout(CEILING).unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).expect("it still runs");
        let output = ended.recv().expect("a killed process ends");
        panic!("{command:?} did not end: {output:?}")
    });
    waiter.join().expect("no panic");
    let output = output.expect("it can be waited for");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    eprint!("{stderr}");
    Ended { code: output.status.code(), stdout, stderr, took: began.elapsed() }
}

fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid")
}

/// Runs a command of the binary to its end.
pub fn run<I: AsRef<OsStr>>(database: &str, args: impl IntoIterator<Item = I>) -> Output {
    let output = binary()
        .args(["--database-url", database])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a command that must succeed and answers JSON.
pub fn json<I: AsRef<OsStr>>(database: &str, args: impl IntoIterator<Item = I>) -> Value {
    let args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
    let output = run(
        database,
        args.iter().map(std::ffi::OsString::as_os_str).chain([OsStr::new("--output=json")]),
    );
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"))
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<Value>, bool)>,
    grew: Condvar,
}

/// A running `orchestrator-worker run`.
pub struct Worker {
    pub name: String,
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker with short times: TTL 8 s, renewals every second, a poll every 200 ms.
    pub fn start(database: &str, name: &str, more: &[(&str, &str)]) -> Self {
        Self::start_with(database, name, more, &[])
    }

    pub fn start_with(database: &str, name: &str, more: &[(&str, &str)], flags: &[&str]) -> Self {
        let mut command = binary();
        command
            .args(["--database-url", database, "--log-format", "json", "run", "--name", name])
            .args(flags)
            .env("ORCHESTRATOR_WORKER__LOCK__TTL", "8s")
            .env("ORCHESTRATOR_WORKER__LOCK__RENEW_EVERY", "1s")
            .env("ORCHESTRATOR_WORKER__POLL_INTERVAL", "200ms")
            .env("ORCHESTRATOR_WORKER__ADMIN__LISTEN", "127.0.0.1:0")
            .envs(more.iter().copied());
        Self::spawn(name, &mut command)
    }

    /// Starts a command that runs until it is stopped.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::new(Log::default());
        let (said, who) = (log.clone(), name.to_owned());
        let reader = spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{who}: {line}");
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                said.lines.lock().expect("no panic").0.push(value);
                said.grew.notify_all();
            }
            said.lines.lock().expect("no panic").1 = true;
            said.grew.notify_all();
        });
        Self { name: name.to_owned(), child, log, reader: Some(reader) }
    }

    /// Waits until it has logged the event; returns that line.
    pub fn wait_for(&self, event: &str) -> Value {
        self.wait_for_line(event, |_| true)
    }

    /// Waits until it has logged the event in such a line; returns that.
    pub fn wait_for_line(&self, event: &str, is: impl Fn(&Value) -> bool) -> Value {
        let found = |lines: &[Value]| lines.iter().find(|l| l["event"] == event && is(l)).cloned();
        let lines = self.log.lines.lock().expect("no panic");
        let (lines, _) = self
            .log
            .grew
            .wait_timeout_while(lines, CEILING, |(lines, ended)| found(lines).is_none() && !*ended)
            .expect("no panic");
        found(&lines.0).unwrap_or_else(|| panic!("{} never logged such {event}", self.name))
    }

    /// Where its admin port listens: `127.0.0.1:4711`.
    pub fn admin(&self) -> String {
        self.wait_for("admin.listening")["address"].as_str().expect("an address").to_owned()
    }

    pub fn logged(&self, event: &str) -> usize {
        let lines = self.log.lines.lock().expect("no panic");
        lines.0.iter().filter(|line| line["event"] == event).count()
    }

    /// All that it has logged so far.
    pub fn lines(&self) -> Vec<Value> {
        self.log.lines.lock().expect("no panic").0.clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(pid_of(&self.child), signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_until("the worker ends", || self.child.try_wait().expect("a child"));
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        status
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

/// A process that prints lines for as long as there is something to tell.
pub struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        spawn(move || {
            // Whoever wants no more lines has the test behind it.
            BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .all(|line| sender.send(line).is_ok())
        });
        Self { child, lines }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(pid_of(&self.child), signal).expect("it runs");
    }

    pub fn line(&self) -> String {
        self.lines.recv_timeout(CEILING).expect("one more line")
    }

    /// The lines that are left, and the exit code.
    pub fn end(mut self) -> (Vec<String>, Option<i32>) {
        let status = wait_until("it ends", || self.child.try_wait().expect("a child"));
        (self.lines.iter().collect(), status.code())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Asks again and again until there is an answer.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < CEILING, "waited too long until {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
