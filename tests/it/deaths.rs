//! Ends of pods, told by a real client of an API server that answers as badly as it is told.
//!
//! **Invariant:** whatever the server answers, what it tells afterwards is heard.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kube::Config;
use orchestrator_worker::{
    adapters::kube::Kube,
    domain::{
        death::{Death, EndedBy, News, PodEnd},
        pod::{Life, PodProcess},
    },
    instruments::Instruments,
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    sync::mpsc::{self, Receiver},
    task::{JoinSet, block_in_place},
    time::timeout,
};

use crate::{
    http::server::{Act, Seen, Server},
    marks::no,
    process::{CEILING, wait_until},
};

const HEAD: &str = "Content-Type: application/json\r\nConnection: close\r\n";
const LABELS: &str = "app.kubernetes.io/instance=w";

/// A container that was killed; of a pod that has ended for good, or will start it again.
fn pod(uid: &str, phase: &str) -> Value {
    let killed = json!({"terminated": {"reason": "OOMKilled", "exitCode": 137,
        "finishedAt": "2026-11-01T10:00:00Z"}});
    let (state, last, restarts) = match phase {
        "Failed" => (killed, json!({}), 0),
        _ => (json!({"running": {}}), killed, 1),
    };
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": uid, "uid": uid, "resourceVersion": "7"},
        "spec": {"nodeName": "n-1", "containers": []},
        "status": {"phase": phase, "containerStatuses": [{"name": "worker", "image": "i",
            "imageID": "", "ready": false, "restartCount": restarts, "state": state,
            "lastState": last}]}})
}

fn list(pods: &[Value]) -> Act {
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
        "items": pods});
    Act::answer("200 OK", HEAD, &list.to_string())
}

/// A watch that tells this and ends.
fn watch(events: &[(&str, Value)]) -> Act {
    let line =
        |(kind, object): &(&str, Value)| format!("{}\n", json!({"type": kind, "object": object}));
    let lines: String = events.iter().map(line).collect();
    Act::answer("200 OK", HEAD, &lines)
}

fn is_watch(seen: &Seen) -> bool {
    seen.line.contains("watch=true")
}

fn oom_kill() -> PodEnd {
    PodEnd { by: EndedBy::OomKill, exit_code: 137, node: Some("n-1".into()) }
}

fn death(uid: &str) -> News {
    News::Ended(Death { uid: uid.into(), end: oom_kill() })
}

/// A process that listens.
struct Process {
    told: Receiver<News>,
    instruments: Arc<Instruments>,
    server: Server,
    _watching: JoinSet<()>,
}

impl Process {
    /// Its how-manieth list, or watch, is answered so; each counted from 0.
    async fn start(answer: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::start_with(|_| {}, answer).await
    }

    async fn start_with(
        configure: impl FnOnce(&mut Config),
        answer: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let server = Server::start(move |seen| {
            let count = &counts[usize::from(is_watch(seen))];
            answer(seen, count.fetch_add(1, Ordering::AcqRel))
        })
        .await;
        let mut config = Config::new(server.url("/").parse().expect("a URL"));
        config.default_namespace = "jobs".into();
        configure(&mut config);
        let instruments = Arc::new(Instruments::new());
        let kube = Kube::new(config, instruments.clone()).expect("a client");
        let (tell, told) = mpsc::channel(4);
        let own = PodProcess::try_new("own").expect("a UID");
        let own = own.with_life(Life::first_on(7).next().expect("a number"));
        let mut watching = JoinSet::new();
        watching.spawn(async move { kube.watch_deaths(LABELS, &own, tell).await });
        Self { told, instruments, server, _watching: watching }
    }

    async fn is_told(&mut self, expected: News) {
        let told = timeout(2 * CEILING, self.told.recv()).await.expect("it is told in time");
        assert_eq!(told, Some(expected));
    }

    fn is_enabled(&self, enabled: bool) {
        let feature = "k8s_feature_enabled{feature=\"dead_owner_watch\"}";
        let line = format!("{feature} {}", i64::from(enabled));
        let said = || self.instruments.encode().contains(&line).then_some(());
        block_in_place(|| wait_until(&line, said));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_told_whether_it_is_listed_or_watched_and_so_is_how_the_own_pods_former_process_ended()
 {
    let mut process = Process::start(|seen, count| match (is_watch(seen), count) {
        (false, _) => list(&[pod("a", "Failed"), pod("b", "Running"), pod("own", "Running")]),
        (true, 0) => watch(&[("MODIFIED", pod("b", "Running")), ("DELETED", pod("b", "Failed"))]),
        (true, _) => Act::Hang,
    })
    .await;
    process.is_told(death("a")).await;
    process.is_told(News::Former(oom_kill())).await;
    process.is_told(death("b")).await;
    process.is_enabled(true);
    for seen in process.server.seen() {
        assert!(seen.line.starts_with("GET /api/v1/namespaces/jobs/pods?"), "{}", seen.line);
        assert!(
            seen.line.contains("labelSelector=app.kubernetes.io%2Finstance%3Dw"),
            "{}",
            seen.line
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_fails_or_has_fallen_behind_misses_no_end() {
    let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410});
    let mut process = Process::start(move |seen, count| match (is_watch(seen), count) {
        (false, 0) | (true, 1) => no(500, "InternalError"),
        (false, 1) | (true, 0) => Act::Reset(String::new()),
        (false, 2) => list(&[]),
        (false, _) => list(&[pod("a", "Failed")]),
        (true, 2) => watch(&[("ERROR", gone.clone())]),
        (true, 3) => watch(&[("MODIFIED", pod("b", "Failed"))]),
        (true, _) => Act::Hang,
    })
    .await;
    process.is_enabled(false);
    process.is_told(death("a")).await;
    process.is_enabled(true);
    process.is_told(death("b")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verb_that_is_refused_turns_the_watch_off_until_it_is_allowed() {
    for refuses_watch in [false, true] {
        let mut process = Process::start(move |seen, count| match (is_watch(seen), count) {
            (watches, 0) if watches == refuses_watch => no(403, "Forbidden"),
            (false, _) => list(&[pod("a", "Failed")]),
            (true, 0 | 1) => watch(&[("MODIFIED", pod("b", "Failed"))]),
            (true, _) => Act::Hang,
        })
        .await;
        if refuses_watch {
            process.is_told(death("a")).await;
            process.is_enabled(false);
        } else {
            process.is_enabled(false);
            process.is_told(death("a")).await;
        }
        process.is_told(death("b")).await;
        process.is_enabled(true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_has_expired_is_read_again_from_its_file() {
    let mut token = NamedTempFile::new().expect("a file");
    write!(token, "first").expect("written");
    let path = token.path().to_str().expect("a text").to_owned();
    let mut process = Process::start_with(
        |config| config.auth_info.token_file = Some(path),
        |seen, count| match (seen.header("authorization"), is_watch(seen), count) {
            (Some("Bearer second"), true, _) => watch(&[("MODIFIED", pod("a", "Failed"))]),
            (Some("Bearer first"), false, 0) => list(&[]),
            _ => no(401, "Unauthorized"),
        },
    )
    .await;
    process.is_enabled(false);
    token.as_file().set_len(0).expect("emptied");
    std::fs::write(token.path(), "second").expect("written");
    process.is_told(death("a")).await;
    process.is_enabled(true);
}
