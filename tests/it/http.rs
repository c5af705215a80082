//! HTTP steps against servers of the tests' own: well-behaved ones, nasty ones, and ones that they
//! may not call.
//!
//! **Invariant:** no test sends anything beyond loopback: other addresses appear only where they
//! must be refused, and a connection that is made is seen by a server of the test.

mod answers;
mod halts;
mod phases;
mod redirects;
mod refused;
pub mod server;
mod tls;
mod whole;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::runners::http::{HttpRunner, HttpSettings, egress::Resolve},
    clock::boot_now,
    domain::{
        id::Fence,
        lease::BootTime,
        request::Request,
        step::{Action, Resume, Step},
    },
    ports::runner::{Attempt, Halt, Outcome, StepRunner},
};
use serde_json::Value;
use tokio::{net::TcpSocket, sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// No event of these tests takes this long on the slowest machine.
const CEILING: Duration = Duration::from_secs(60);
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One attempt at a request, and the worker's hand on it.
struct Case {
    settings: HttpSettings,
    trace: BTreeMap<String, String>,
    stop: CancellationToken,
    kill: CancellationToken,
    deadline: watch::Sender<BootTime>,
}

impl Case {
    fn new() -> Self {
        static SETTINGS: LazyLock<HttpSettings> = LazyLock::new(HttpSettings::default);
        Self {
            settings: SETTINGS.clone(),
            trace: BTreeMap::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            deadline: watch::Sender::new(boot_now().plus(CEILING * 2)),
        }
    }

    /// Names and the answers to each question about them; the last answer stands.
    fn names(mut self, names: &Arc<Names>) -> Self {
        self.settings.resolver = names.clone();
        self
    }

    fn connect_timeout(mut self, within: Duration) -> Self {
        self.settings.connect_timeout = within;
        self
    }

    fn attempt(&self, request: Request) -> Attempt {
        Attempt {
            execution: "execution-1".into(),
            step_execution: "step-execution-1".into(),
            step: Arc::new(Step {
                id: "step-1".into(),
                name: "a request".into(),
                action: Action::Http(Box::new(request)),
                timeout: Duration::from_secs(30),
                retries: 0,
                resume: Resume::Rerun,
            }),
            number: 3,
            idempotency_key: "the-key".into(),
            fence: Fence(1_700_000_000_000_001),
            trace: self.trace.clone(),
            halt: Halt {
                stop: self.stop.clone(),
                kill: self.kill.clone(),
                deadline: self.deadline.subscribe(),
            },
            so_far: watch::Sender::default(),
        }
    }

    async fn run(&self, request: Request) -> Outcome {
        let runner = HttpRunner::new(self.settings.clone());
        timeout(CEILING, runner.run(self.attempt(request))).await.expect("it ends")
    }

    fn spawn(&self, request: Request) -> JoinHandle<Outcome> {
        let (runner, attempt) = (HttpRunner::new(self.settings.clone()), self.attempt(request));
        #[expect(clippy::disallowed_methods, reason = "each test waits for its task")]
        tokio::spawn(async move { runner.run(attempt).await })
    }
}

async fn ended(task: JoinHandle<Outcome>) -> Outcome {
    timeout(CEILING, task).await.expect("it ends").expect("it does not panic")
}

fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Request {
    let headers: Vec<(String, String)> =
        headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Request::try_new(Some(method), Some(url), &headers, Some(body)).expect("a request")
}

fn get(url: &str) -> Request {
    request("GET", url, &[], "")
}

/// A port at which nobody listens, for as long as the socket is held.
fn closed_port() -> (u16, TcpSocket) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    (socket.local_addr().expect("an address").port(), socket)
}

/// The output of a success.
fn output_of(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Success { output, .. } => serde_json::from_str(&output).expect("JSON"),
        other => panic!("not a success: {other:?}"),
    }
}

/// Error and output of a definite failure.
fn failure_of(outcome: Outcome) -> (String, Value) {
    match outcome {
        Outcome::Failed { error, output: Some(output), .. } => {
            (error.to_string(), serde_json::from_str(&output).expect("JSON"))
        }
        other => panic!("not a definite failure: {other:?}"),
    }
}

/// The error of an attempt without a definite answer.
fn unanswered_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Unanswered { error, .. } => error.to_string(),
        other => panic!("not unanswered: {other:?}"),
    }
}

/// Names with the addresses that each question about them brings; the last answer stands.
#[derive(Debug, Default)]
struct Names {
    answers: Mutex<BTreeMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn new(names: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let parse = |text: &&str| text.parse().expect("an address");
        let answers = names.iter().map(|(name, answers)| {
            let answers = answers.iter().map(|answer| answer.iter().map(parse).collect());
            ((*name).to_owned(), answers.collect())
        });
        Arc::new(Self { answers: Mutex::new(answers.collect()), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().expect("no panic").push(name.to_owned());
        let mut answers = self.answers.lock().expect("no panic");
        let answers = answers.get_mut(name.trim_end_matches('.'));
        let answers = answers.ok_or_else(|| io::Error::other("no such name"))?;
        if answers.len() > 1 {
            return Ok(answers.pop_front().expect("more than one"));
        }
        Ok(answers.front().cloned().unwrap_or_default())
    }
}
