//! The marks of a worker's own pod, written by a real client to an API server that answers as badly as it is
//! told.
//!
//! **Invariant:** what the server was asked is judged, request by request.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use kube::Config;
use orchestrator_worker::{
    adapters::kube::Kube,
    clock::boot_now,
    domain::{lease::BootTime, marks::Load},
    instruments::Instruments,
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::{JoinSet, block_in_place},
    time::{Instant, timeout},
};

use crate::{
    http::server::{Act, Server},
    process::{CEILING, wait_until},
};

fn fine() -> Act {
    let body =
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {}});
    Act::answer(
        "200 OK",
        "Content-Type: application/json\r\nConnection: close\r\n",
        &body.to_string(),
    )
}

/// As the API server says no.
pub fn no(code: u16, reason: &str) -> Act {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{reason}, says the test"), "reason": reason, "code": code});
    let head = "Content-Type: application/json\r\nConnection: close\r\n";
    Act::answer(&format!("{code} {reason}"), head, &body.to_string())
}

/// What stands on a pod of these marks; null is taken off.
fn marks(cost: Option<&str>, held: Option<&str>, free: Option<&str>) -> Value {
    json!({"metadata": {"annotations": {
        "controller.kubernetes.io/pod-deletion-cost": cost,
        "karpenter.sh/do-not-disrupt": held,
        "cluster-autoscaler.kubernetes.io/safe-to-evict": free,
    }}})
}

fn idle() -> Value {
    marks(Some("0"), None, None)
}

/// With one run, in its first minute.
fn busy() -> Value {
    marks(Some("11"), Some("true"), Some("false"))
}

fn off() -> Value {
    marks(None, None, None)
}

/// A worker's process, as far as marks are concerned.
struct Process {
    server: Server,
    load: watch::Sender<Load>,
    instruments: Arc<Instruments>,
    marking: JoinSet<()>,
}

impl Process {
    /// Its how-manieth request, counted from 0, is answered so.
    async fn start(answer: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let count = AtomicUsize::new(0);
        let server = Server::start(move |_| answer(count.fetch_add(1, Ordering::AcqRel))).await;
        let mut config = Config::new(server.url("/").parse().expect("a URL"));
        config.default_namespace = "jobs".into();
        let instruments = Arc::new(Instruments::new());
        let kube = Kube::new(config, instruments.clone()).expect("a client");
        let load = watch::Sender::<Load>::default();
        let told = load.subscribe();
        let mut marking = JoinSet::new();
        marking.spawn(async move { kube.mark("worker-0", told).await });
        Self { server, load, instruments, marking }
    }

    /// What that request asked for, once it has come.
    async fn request(&self, index: usize) -> Value {
        self.server.has_seen(index + 1).await;
        let seen = &self.server.seen()[index];
        assert!(
            seen.line.starts_with("PATCH /api/v1/namespaces/jobs/pods/worker-0?"),
            "{}",
            seen.line
        );
        assert_eq!(seen.header("content-type"), Some("application/merge-patch+json"));
        serde_json::from_slice(&seen.body).expect("JSON")
    }

    fn is_enabled(&self, enabled: bool) {
        let line = format!("k8s_feature_enabled{{feature=\"busy_marks\"}} {}", i64::from(enabled));
        let said = || self.instruments.encode().contains(&line).then_some(());
        block_in_place(|| wait_until(&line, said));
    }

    fn begin(&self) -> BootTime {
        let begun = boot_now();
        self.load.send_if_modified(|load| load.begin(begun));
        begun
    }

    fn end(&self, begun: BootTime) {
        self.load.send_if_modified(|load| load.end(begun));
    }

    /// Waits until nothing more will be written; all that was.
    async fn drain(mut self) -> Vec<Value> {
        self.load.send_if_modified(Load::drain);
        let ended = timeout(CEILING, self.marking.join_next()).await.expect("it ends in time");
        ended.expect("it was started").expect("no panic");
        let seen = self.server.seen();
        seen.iter().map(|seen| serde_json::from_slice(&seen.body).expect("JSON")).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_are_written_when_work_begins_and_ends_and_are_gone_once_it_drains() {
    let process = Process::start(|_| fine()).await;
    assert_eq!(process.request(0).await, idle(), "over what a former process has left");
    process.is_enabled(true);
    let first = process.begin();
    assert_eq!(process.request(1).await, busy());
    // Another run is no news yet, and the end of one of two is none.
    let second = process.begin();
    process.end(first);
    process.end(second);
    assert_eq!(process.request(2).await, idle());
    process.begin();
    assert_eq!(process.request(3).await, busy());
    let written = process.drain().await;
    assert_eq!((written.len(), written.last()), (5, Some(&off())), "{written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_off_until_an_edge_finds_it_allowed() {
    let refused = [(401, "Unauthorized"), (403, "Forbidden"), (404, "NotFound"), (422, "Invalid")];
    let story = async |(code, reason)| {
        let answers = move |index| if index == 1 { no(code, reason) } else { fine() };
        let process = Process::start(answers).await;
        assert_eq!(process.request(0).await, idle());
        process.is_enabled(true);
        let begun = process.begin();
        assert_eq!(process.request(1).await, busy(), "{reason}");
        process.is_enabled(false);
        process.end(begun);
        assert_eq!(process.request(2).await, idle(), "{reason}");
        process.is_enabled(true);
        assert_eq!(process.drain().await, [idle(), busy(), idle(), off()], "{reason}");
    };
    join_all(refused.map(story)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_no_refusal_and_what_it_swallowed_is_written_after_it() {
    let answers = |index| match index {
        1 | 2 => no(500, "InternalError"),
        3 => Act::Reset(String::new()),
        4 => Act::Hang,
        _ => fine(),
    };
    let process = Process::start(answers).await;
    assert_eq!(process.request(0).await, idle());
    process.is_enabled(true);
    process.begin();
    for index in 1..=5 {
        assert_eq!(process.request(index).await, busy(), "{index}");
        process.is_enabled(true);
    }
    assert_eq!(process.drain().await.last(), Some(&off()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_holds_no_drain_up() {
    let process = Process::start(|_| Act::Hang).await;
    process.begin();
    process.server.has_seen(1).await;
    let began = Instant::now();
    process.drain().await;
    assert!(began.elapsed() < CEILING / 4, "{:?}", began.elapsed());
}
