//! What happens to a worker, told as events on its own pod by a real client to an API server that answers as
//! badly as it is told; and what `doctor` finds there.
//!
//! **Invariant:** what the server was asked is judged, request by request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kube::Config;
use orchestrator_worker::{
    adapters::{
        kube::{Kube, Trial},
        runners::{Runners, func::FuncRegistry},
    },
    domain::{
        death::{Death, EndedBy, News, PodEnd},
        doctor::Allowed,
        id::{ExecutionId, Owner},
        lease::LeaseTerms,
        notice::{LostBy, Notice, What},
        pod::{OwnPod, PodProcess},
        recovery::{Cause, TakeOver},
        retention::Retention,
        retry::Backoff,
    },
    instruments::Instruments,
    ports::executions::ExecutionStore,
    worker::{Notices, Settings, Shutdown, Worker, health::Health},
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::{JoinSet, block_in_place},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    contract::{
        Subject,
        sqlite::Memory,
        world::{World, chain, only, step, who, workflow},
    },
    http::server::{Act, Seen, Server},
    process::{CEILING, binary, end_of, wait_until},
};

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/jobs/events";

fn json_act(status: &str, body: &Value) -> Act {
    let head = "Content-Type: application/json\r\nConnection: close\r\n";
    Act::answer(status, head, &body.to_string())
}

fn fine() -> Act {
    let event = json!({"kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": {},
        "eventTime": null});
    json_act("200 OK", &event)
}

/// As the API server says no.
fn no(code: u16, reason: &str) -> Act {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{reason}, says the test"), "reason": reason, "code": code});
    json_act(&format!("{code} {reason}"), &body)
}

fn own() -> OwnPod {
    OwnPod { name: "worker-0".into(), uid: "u-1".into() }
}

fn kube(server: &Server, instruments: &Arc<Instruments>) -> Kube {
    let mut config = Config::new(server.url("/").parse().expect("a URL"));
    config.default_namespace = "jobs".into();
    Kube::new(config, instruments.clone()).expect("a client")
}

fn lost(execution: &str) -> Notice {
    Notice { what: What::ClaimLost(LostBy::Deadline), execution: Some(execution.into()) }
}

/// No two of them are alike.
fn reclaimed(count: u64) -> Notice {
    let what =
        What::LeasesReclaimed { from: Some(format!("w-{count}")), cause: "lease_expired".into() };
    Notice { what, execution: Some(format!("e-{count}").as_str().into()) }
}

/// A worker's process, as far as events are concerned.
struct Process {
    server: Server,
    notices: mpsc::Sender<Notice>,
    instruments: Arc<Instruments>,
    telling: JoinSet<()>,
    stop: CancellationToken,
}

impl Process {
    /// Its how-manieth request, counted from 0, is answered so. The first tries out whether it may tell, unless
    /// there is something to tell.
    async fn start(
        answer: impl Fn(usize) -> Act + Send + Sync + 'static,
        first: Vec<Notice>,
    ) -> Self {
        let count = AtomicUsize::new(0);
        let server = Server::start(move |_| answer(count.fetch_add(1, Ordering::AcqRel))).await;
        let instruments = Arc::new(Instruments::new());
        let kube = kube(&server, &instruments);
        let (notices, told) = mpsc::channel(256);
        for notice in first {
            notices.try_send(notice).expect("there is room");
        }
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let mut telling = JoinSet::new();
        let until = stop.child_token();
        telling.spawn(async move {
            kube.tell(&own(), told, until).await;
            drop(stopped);
        });
        Self { server, notices, instruments, telling, stop }
    }

    async fn request(&self, index: usize) -> Seen {
        self.server.has_seen(index + 1).await;
        self.server.seen()[index].clone()
    }

    async fn is_tried_out(&self) {
        let trial = self.request(0).await;
        assert_eq!(trial.line, format!("POST {EVENTS}?&dryRun=All HTTP/1.1"));
        assert_eq!(body(&trial)["regarding"]["uid"], "u-1");
    }

    fn says(&self, line: &str) {
        let said = || self.instruments.encode().contains(line).then_some(());
        block_in_place(|| wait_until(line, said));
    }

    fn is_enabled(&self, enabled: bool) {
        self.says(&format!("k8s_feature_enabled{{feature=\"events\"}} {}", i64::from(enabled)));
    }

    /// Waits until nothing more will be told; all that was asked.
    async fn end(mut self) -> Vec<Seen> {
        self.stop.cancel();
        let ended = timeout(CEILING, self.telling.join_next()).await.expect("it ends in time");
        ended.expect("it was started").expect("no panic");
        self.server.seen()
    }
}

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).expect("JSON")
}

/// An event that is new.
fn created(seen: &Seen) -> Value {
    assert!(seen.line.starts_with(&format!("POST {EVENTS}?")), "{}", seen.line);
    assert!(!seen.line.contains("dryRun"), "{}", seen.line);
    body(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_of_the_own_pod_and_names_the_execution_and_a_repeat_of_it_is_a_patch() {
    let answers = |index| if index == 3 { no(404, "NotFound") } else { fine() };
    let process = Process::start(answers, Vec::new()).await;
    process.is_tried_out().await;
    process.is_enabled(true);
    process.notices.send(lost("e-1")).await.expect("it listens");
    let first = created(&process.request(1).await);
    for (field, value) in [
        ("type", json!("Warning")),
        ("reason", json!("ClaimLost")),
        ("action", json!("StopWork")),
        ("reportingController", json!("orchestrator-worker")),
        ("reportingInstance", json!("worker-0")),
        (
            "regarding",
            json!({"apiVersion": "v1", "kind": "Pod", "name": "worker-0", "namespace": "jobs",
                "uid": "u-1"}),
        ),
        (
            "related",
            json!({"apiVersion": "orchestrator-worker/v1", "kind": "WorkflowExecution",
                "name": "e-1", "namespace": "jobs"}),
        ),
    ] {
        assert_eq!(first[field], value, "{field}");
    }
    let note = first["note"].as_str().expect("a text");
    assert!(note.starts_with("lost execution e-1: the lease could not be renewed"), "{note}");
    let name = first["metadata"]["name"].as_str().expect("a name").to_owned();

    process.notices.send(lost("e-1")).await.expect("it listens");
    let repeat = process.request(2).await;
    assert!(repeat.line.starts_with(&format!("PATCH {EVENTS}/{name}?")), "{}", repeat.line);
    assert_eq!(body(&repeat)["series"]["count"], 2);

    // Somebody has deleted it meanwhile.
    process.notices.send(lost("e-1")).await.expect("it listens");
    assert!(process.request(3).await.line.starts_with("PATCH "));
    assert_eq!(created(&process.request(4).await)["related"]["name"], "e-1");
    process.notices.send(lost("e-2")).await.expect("it listens");
    assert_eq!(created(&process.request(5).await)["related"]["name"], "e-2");
    process.says("k8s_events_total{result=\"written\"} 4");
    assert_eq!(process.end().await.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_off_and_dropped_and_that_is_said_once_it_is_allowed() {
    let answers = |index| if index == 1 { no(403, "Forbidden") } else { fine() };
    let process = Process::start(answers, Vec::new()).await;
    process.is_enabled(true);
    process.notices.send(lost("e-1")).await.expect("it listens");
    process.is_enabled(false);
    process.says("k8s_events_total{result=\"dropped\"} 1");
    process.notices.send(lost("e-2")).await.expect("it listens");
    let asked = process.end().await;
    assert_eq!(asked.len(), 3, "nothing was asked until the end: {asked:?}");
    let note = created(&asked[2])["note"].to_string();
    assert!(note.contains("e-2") && note.contains("(1 thing before this could not be told)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_no_refusal_and_what_it_held_up_is_told_after_it() {
    let answers = |index| match index {
        1 | 2 => no(500, "InternalError"),
        3 => Act::Reset(String::new()),
        4 => Act::Hang,
        _ => fine(),
    };
    let process = Process::start(answers, Vec::new()).await;
    process.is_enabled(true);
    process.notices.send(lost("e-1")).await.expect("it listens");
    process.request(1).await;
    // It waits with the other, and is told with it.
    process.notices.send(lost("e-2")).await.expect("it listens");
    let last = created(&process.request(5).await);
    assert!(last["note"].as_str().is_some_and(|note| note.contains("2 executions (e-1, e-2)")));
    process.is_enabled(true);
    process.says("k8s_events_total{result=\"written\"} 1");
    assert_eq!(process.end().await.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_things_a_burst_is_told_and_what_finds_no_room_is_counted() {
    let process = Process::start(|_| fine(), (1..=40).map(reclaimed).collect()).await;
    process.request(9).await;
    process.says("k8s_events_total{result=\"dropped\"} 8");
    process.says("k8s_events_total{result=\"written\"} 10");
    let asked = process.end().await;
    // Beyond those the end may ask once more for each of a burst.
    assert_eq!(asked.len(), 20);
    let notes: Vec<String> = asked.iter().map(|seen| created(seen)["note"].to_string()).collect();
    let first = "(8 things before this could not be told)";
    assert!(notes[0].contains(first) && !notes[1].contains("before this"), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_holds_no_exit_up() {
    let process = Process::start(|_| Act::Hang, vec![lost("e-1")]).await;
    process.request(0).await;
    let began = Instant::now();
    process.end().await;
    // Two calls at most; the process itself waits for no more than a second.
    assert!(began.elapsed() < CEILING / 4, "{:?}", began.elapsed());
}

/// A worker on these tables that tells its pod's events to this server.
async fn worker(world: &World<Memory>, server: &Server) -> (Told, mpsc::Sender<News>) {
    let instruments = Arc::new(Instruments::new());
    let (tell, told) = mpsc::channel(256);
    let (pods, told_of_pods) = mpsc::channel(1);
    let seconds = Duration::from_secs;
    let settings = Settings {
        owner: Owner::try_new("w").expect("a name"),
        process: PodProcess::default(),
        slots: 4,
        poll_interval: Duration::from_millis(50),
        terms: LeaseTerms::try_new(seconds(8), Duration::from_millis(100)).expect("terms"),
        claim_batch: 4,
        eligibility: Arc::default(),
        unknown_after: seconds(600),
        drain_deadline: Duration::from_millis(100),
        steps_at_once: 8,
        backoff: Backoff { base: seconds(1), cap: seconds(60) },
        poison_claims: 10,
        retention: Retention::default(),
        adopt_orphans: false,
        until_idle: false,
    };
    let kube = kube(server, &instruments);
    let worker = Worker::new(
        Arc::new(world.subject.store().await),
        Arc::new(Runners::new(None, FuncRegistry::default())),
        settings,
        instruments.clone(),
        Health::new(seconds(1)),
    )
    .told_of_pods(Some(told_of_pods))
    .noticed(Notices::to(tell, instruments.clone()));
    let shutdown = Shutdown::default();
    let mut tasks = JoinSet::new();
    let drain = shutdown.clone();
    tasks.spawn(async move { worker.run(drain).await.map(drop).expect("it works to its end") });
    tasks.spawn(async move { kube.tell(&own(), told, CancellationToken::new()).await });
    (Told { shutdown, tasks, instruments }, pods)
}

struct Told {
    shutdown: Shutdown,
    tasks: JoinSet<()>,
    instruments: Arc<Instruments>,
}

impl Told {
    /// Waits until so many steps are under way; what is claimed is not yet that.
    async fn runs(&self, steps: i64) {
        let began = Instant::now();
        while self.instruments.steps_active.get() != steps {
            assert!(began.elapsed() < CEILING, "never {steps}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits for the event of this reason.
async fn event(server: &Server, reason: &str) -> Value {
    let began = Instant::now();
    loop {
        let seen = server.seen();
        let mut events = seen.iter().filter(|seen| !seen.line.contains("dryRun")).map(body);
        if let Some(event) = events.find(|event| event["reason"] == reason) {
            return event;
        }
        assert!(began.elapsed() < CEILING, "no {reason} in {seen:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn is_about(event: &Value, execution: &ExecutionId, note: &str) {
    assert_eq!(event["related"]["name"], execution.as_str(), "{event}");
    assert!(event["note"].as_str().is_some_and(|it| it.contains(note)), "{event}");
}

fn end() -> PodEnd {
    PodEnd { by: EndedBy::OomKill, exit_code: 137, node: Some("n-1".into()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_what_it_holds_back_takes_over_loses_and_cannot_end_in_a_drain() {
    let world = World::<Memory>::new().await;
    let template = world.apply(&workflow("short", chain(&["one"]))).await;
    let begun = world.submit(&template).await;
    let mut claimant = who("w-7");
    claimant.uid = "u-7".into();
    only(world.a.claim(&claimant, 1).await.expect("a claim"));
    let old = world.submit(&template).await;
    let before = Memory::moved(Memory::now(), -400 * 24 * 3_600_000);
    world.edit(&old, &format!("created_at={before}")).await;
    let server = Server::start(|_| fine()).await;
    let (mut told, pods) = worker(&world, &server).await;

    let held = event(&server, "BacklogHeld").await;
    assert!(held["note"].as_str().is_some_and(|it| it.starts_with("1 execution pending")));
    let death = Death { uid: "u-7".into(), end: end() };
    pods.send(News::Ended(death)).await.expect("it listens");
    let reclaimed = event(&server, "LeasesReclaimed").await;
    is_about(&reclaimed, &begun, "of w-7: oom_killed (exit code 137, node n-1)");

    let mut long = step("one");
    long.parameters = Some(r#"{"func":"sleep","seconds":600}"#.into());
    long.timeout = Some(1_000);
    let long = world.apply(&workflow("long", vec![long])).await;
    let taken = world.submit(&long).await;
    steal(&world, &taken).await;
    is_about(&event(&server, "ClaimLost").await, &taken, "there is a newer holder");

    told.runs(0).await;
    let late = world.submit(&long).await;
    told.runs(1).await;
    told.shutdown.drain.cancel();
    is_about(&event(&server, "DrainTimedOut").await, &late, "handed back");
    while let Some(ended) = timeout(CEILING, told.tasks.join_next()).await.expect("in time") {
        ended.expect("no panic");
    }
}

async fn is_running(world: &World<Memory>, execution: &ExecutionId) {
    let began = Instant::now();
    while world.status(execution).await != "running" {
        assert!(began.elapsed() < CEILING, "it does not begin");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Somebody takes an execution over while its holder lives.
async fn steal(world: &World<Memory>, execution: &ExecutionId) {
    is_running(world, execution).await;
    let began = Instant::now();
    loop {
        let survey = world.a.survey().await.expect("an answer");
        let due: Vec<TakeOver> = survey
            .into_iter()
            .filter(|held| held.execution == *execution)
            .map(|seen| TakeOver { seen, cause: Cause::PodEnded(end()) })
            .collect();
        let mut thief = who("thief");
        let functions = ["noop", "sleep"].map(str::to_owned);
        Arc::make_mut(&mut thief.supported).functions.extend(functions);
        if !world.a.take_over(&thief, &due).await.expect("an answer").claims.is_empty() {
            return;
        }
        assert!(began.elapsed() < CEILING, "it is renewed between the two, each time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_a_feature_is_allowed_is_found_out_by_a_call_that_changes_nothing() {
    let own = own();
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {}});
    let pods = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []});
    let read = |all: &str| {
        vec![
            format!("GET {all}?&labelSelector=app%3Dw&limit=1 HTTP/1.1"),
            format!(
                "GET {all}?&watch=true&timeoutSeconds=1&labelSelector=app%3Dw\
                 &allowWatchBookmarks=true&resourceVersion=0 HTTP/1.1"
            ),
        ]
    };
    for (trial, good, lines) in [
        (Trial::Pods("app=w"), json_act("200 OK", &pods), read("/api/v1/namespaces/jobs/pods")),
        (
            Trial::Patch("worker-0"),
            json_act("200 OK", &pod),
            vec!["PATCH /api/v1/namespaces/jobs/pods/worker-0?&dryRun=All HTTP/1.1".to_owned()],
        ),
        (
            Trial::Event(&own),
            fine(),
            vec![
                format!("POST {EVENTS}?&dryRun=All HTTP/1.1"),
                format!("PATCH {EVENTS}/orchestrator-worker-trial?&dryRun=All HTTP/1.1"),
            ],
        ),
        (
            Trial::ReplicaSets("app=w"),
            json_act(
                "200 OK",
                &json!({"kind": "ReplicaSetList", "apiVersion": "apps/v1",
                "metadata": {}, "items": []}),
            ),
            read("/apis/apps/v1/namespaces/jobs/replicasets"),
        ),
        (
            Trial::Node("n-1"),
            json_act(
                "200 OK",
                &json!({"type": "ADDED", "object": {"kind": "Node",
                "apiVersion": "v1", "metadata": {}}}),
            ),
            vec![
                "GET /api/v1/nodes?&watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dn-1\
                 &allowWatchBookmarks=true&resourceVersion=0 HTTP/1.1"
                    .to_owned(),
            ],
        ),
    ] {
        // One of its calls is answered otherwise.
        let answers = |place: usize, act: Act| {
            let (good, count, lines, trial) = (good.clone(), AtomicUsize::new(0), &lines, &trial);
            async move {
                let answer = move |_: &Seen| {
                    let is_it = count.fetch_add(1, Ordering::AcqRel) == place;
                    if is_it { act.clone() } else { good.clone() }
                };
                let server = Server::start(answer).await;
                let instruments = Arc::new(Instruments::new());
                let allowed = kube(&server, &instruments).allows(trial).await;
                let seen: Vec<String> = server.seen().into_iter().map(|seen| seen.line).collect();
                assert_eq!(seen, lines[..lines.len().min(place + 1)]);
                allowed
            }
        };
        assert_eq!(answers(lines.len(), good.clone()).await, Allowed::Yes, "{lines:?}");
        for place in 0..lines.len() {
            let refused = answers(place, no(403, "Forbidden")).await;
            let Allowed::Refused(reason) = refused else { panic!("{lines:?}: {refused:?}") };
            assert!(reason.contains("Forbidden, says the test"), "{reason}");
            let away = answers(place, no(500, "InternalError")).await;
            assert!(matches!(away, Allowed::Unreached(_)), "{lines:?}: {away:?}");
            let silent = answers(place, Act::Hang).await;
            assert_eq!(silent, Allowed::Unreached("no answer within 5s".into()), "{lines:?}");
        }
    }
}

#[test]
fn a_doctor_looks_at_what_is_set_and_is_silent_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("store.db").display());
    let found = |env: &[(&str, &str)]| -> Vec<Value> {
        let mut command = binary();
        command.args(["--database-url", &url, "doctor", "--output", "json"]);
        let ended = end_of(command.envs(env.iter().copied()));
        let all: Vec<Value> = serde_json::from_str(&ended.stdout).expect("JSON");
        all.into_iter().filter(|one| one["check"] == "kubernetes").collect()
    };
    assert_eq!(found(&[]), Vec::<Value>::new());
    let all = found(&[
        ("POD_NAME", "worker-0"),
        ("POD_UID", "u-1"),
        ("ORCHESTRATOR_WORKER__POD__EVENTS", "true"),
        ("ORCHESTRATOR_WORKER__POD__BUSY_MARKS", "true"),
        ("ORCHESTRATOR_WORKER__POD__DEAD_OWNER_WATCH", "app=w"),
        ("NODE_NAME", "n-1"),
        ("ORCHESTRATOR_WORKER__POD__CORDON_WATCH", "true"),
        ("POD_TEMPLATE_HASH", "5d9f"),
        ("ORCHESTRATOR_WORKER__POD__ROLLOUT_AWARE", "app=w"),
    ]);
    let settings = [
        "pod.dead_owner_watch",
        "pod.busy_marks",
        "pod.events",
        "pod.cordon_watch",
        "pod.rollout_aware",
    ];
    assert_eq!(all.len(), settings.len(), "{all:?}");
    for (one, setting) in all.iter().zip(settings) {
        assert_eq!(one["verdict"], "warning");
        let begin = format!("{setting} is off, because the Kubernetes API cannot be asked: ");
        assert!(one["found"].as_str().is_some_and(|it| it.starts_with(&begin)), "{one}");
        let repair = one["repair"].as_str().unwrap_or_default();
        assert!(repair.contains("service account"), "{repair}");
    }
}
