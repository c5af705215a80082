//! Workers that are told to stand by: by a test, and by a real client whose API server answers as badly as it is
//! told.
//!
//! **Invariant:** whether a worker claims is judged by what it asks its store for, while it goes on looking at
//! what others hold.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::{BoxFuture, FutureExt};
use kube::Config;
use orchestrator_worker::{
    adapters::{kube::Kube, sqlite::SqliteStore},
    domain::{
        id::ExecutionId,
        marks::Load,
        standby::{Reason, Standby},
    },
    instruments::Instruments,
    ports::executions::{Advanced, ExecutionStore, HandBack},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::{JoinSet, block_in_place},
    time::{Instant, timeout},
};

use crate::{
    contract::world::claim_one,
    http::server::{Act, Seen, Server},
    marks::no,
    process::{CEILING, wait_until},
    worker::{Mischief, Running, memory, states, submit, succeed},
};

/// What a worker asks its store for.
#[derive(Clone, Default)]
struct Asked {
    claims: Arc<AtomicUsize>,
    surveys: watch::Sender<usize>,
}

impl Mischief for Asked {
    fn claim(&self) -> BoxFuture<'_, ()> {
        self.claims.fetch_add(1, Ordering::AcqRel);
        async {}.boxed()
    }

    fn survey(&self) {
        self.surveys.send_modify(|count| *count += 1);
    }
}

impl Asked {
    /// Waits until it has looked so often from now on.
    async fn has_looked(&self, times: usize) {
        let before = *self.surveys.borrow();
        self.has_looked_in_all(before + times).await;
    }

    async fn has_looked_in_all(&self, times: usize) {
        let mut surveys = self.surveys.subscribe();
        let looked = timeout(CEILING, surveys.wait_for(|count| *count >= times)).await;
        looked.expect("it looks in time").expect("it is there");
    }

    /// Looks go on, and none of them claims.
    async fn claims_nothing(&self) {
        // A claim may have been under way.
        self.has_looked(2).await;
        let before = self.claims.load(Ordering::Acquire);
        self.has_looked(5).await;
        assert_eq!(self.claims.load(Ordering::Acquire), before);
    }
}

fn set(standby: &watch::Sender<Standby>, reason: Reason, is_so: bool) {
    standby.send_if_modified(|standby| standby.set(reason, is_so));
}

/// Waits until its metric says so, in the order of the reasons.
fn counted(worker: &Running, expected: [i64; 2]) {
    let samples = Reason::ALL.into_iter().zip(expected).map(|(reason, value)| {
        format!("orchestrator_worker_standing_by{{reason=\"{}\"}} {value}\n", reason.as_str())
    });
    let samples: Vec<String> = samples.collect();
    let is_so = |said: &str| samples.iter().all(|sample| said.contains(sample));
    let said = || is_so(&worker.instruments.encode()).then_some(());
    block_in_place(|| wait_until(&samples.concat(), said));
}

/// One that somebody had begun, and handed back.
async fn handed_back(store: &SqliteStore) -> Vec<ExecutionId> {
    let begun = submit(store, "noop", 1).await;
    let lease = claim_one(store, "gone").await.lease;
    let returned = [HandBack { lease, drained: Vec::new() }];
    assert_eq!(store.hand_back(&returned).await, [Ok(Advanced::Recorded)]);
    begun
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stands_by_claims_and_takes_over_nothing_until_no_reason_is_left() {
    let store = memory().await;
    let begun = handed_back(&store).await;
    let new = submit(&store, "echo", 3).await;
    let (standby, asked) = (watch::Sender::default(), Asked::default());
    set(&standby, Reason::Cordoned, true);
    let told = standby.subscribe();
    let worker = Running::start_as(&store, asked.clone(), 4, |worker| worker.standing_by(told));
    asked.claims_nothing().await;
    counted(&worker, [1, 0]);
    set(&standby, Reason::Superseded, true);
    set(&standby, Reason::Cordoned, false);
    asked.claims_nothing().await;
    counted(&worker, [0, 1]);
    assert_eq!(asked.claims.load(Ordering::Acquire), 0);
    assert_eq!(states(&store, &new).await, ["pending"; 3]);
    assert_eq!(states(&store, &begun).await, ["running"], "nobody has it");
    set(&standby, Reason::Superseded, false);
    succeed(&store, &[begun, new].concat()).await;
    counted(&worker, [0, 0]);
    let summary = worker.drain().await;
    assert_eq!((summary.succeeded, summary.lost), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_need_not_stand_by_any_more_claims_and_takes_over_at_once() {
    let store = memory().await;
    let begun = handed_back(&store).await;
    let (standby, asked) = (watch::Sender::default(), Asked::default());
    set(&standby, Reason::Superseded, true);
    let told = standby.subscribe();
    // It looks when it begins, and then not until it is told something.
    let worker = Running::start_looking(&store, asked.clone(), 4, CEILING, |worker| {
        worker.standing_by(told)
    });
    asked.has_looked_in_all(1).await;
    set(&standby, Reason::Cordoned, true);
    asked.has_looked_in_all(2).await;
    set(&standby, Reason::Superseded, false);
    // What is to be taken over is known by now, and has its slot.
    asked.has_looked_in_all(3).await;
    let new = submit(&store, "echo", 3).await;
    let resumed = Instant::now();
    set(&standby, Reason::Cordoned, false);
    succeed(&store, &[begun, new].concat()).await;
    assert!(resumed.elapsed() < CEILING / 4, "{:?}", resumed.elapsed());
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_holds_goes_on_while_it_stands_by() {
    let store = memory().await;
    let (standby, asked) = (watch::Sender::default(), Asked::default());
    let (told, load) = (standby.subscribe(), watch::Sender::<Load>::default());
    let mut at_work = load.subscribe();
    let worker = Running::start_as(&store, asked.clone(), 4, |worker| {
        worker.standing_by(told).telling(load)
    });
    let held = submit(&store, "sleep", 1).await;
    let begun = timeout(CEILING, at_work.wait_for(|load| load.runs() > 0)).await;
    begun.expect("it begins in time").expect("it is there");
    set(&standby, Reason::Cordoned, true);
    asked.has_looked(2).await;
    let new = submit(&store, "echo", 1).await;
    succeed(&store, &held).await;
    asked.claims_nothing().await;
    assert_eq!(states(&store, &new).await, ["pending"]);
    // A drain waits for no word.
    let summary = worker.drain().await;
    assert_eq!((summary.succeeded, summary.handed_back), (1, 0));
}

/// What the API server has, and how it answers.
#[derive(Clone, Default)]
struct Cluster {
    mood: Mood,
    /// So many requests were answered badly.
    failed: usize,
    /// The spec of the node.
    node: Value,
    /// Name (and hash), revision, and how many pods are ready.
    sets: Vec<(&'static str, &'static str, u32)>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Mood {
    #[default]
    Fine,
    Refuses,
    RefusesToWatch,
    Fails,
    Resets,
    Silent,
}

const NODE: &str =
    "GET /api/v1/nodes?&watch=true&timeoutSeconds=120&fieldSelector=metadata.name%3Dnode-7&";
const SETS: &str = "GET /apis/apps/v1/namespaces/jobs/replicasets?&";
const LABELS: &str = "labelSelector=app%3Dworker";

impl Cluster {
    fn answer(&mut self, seen: &Seen) -> Act {
        let is_watch = seen.line.contains("watch=true");
        self.failed += 1;
        match self.mood {
            Mood::Refuses => return no(403, "Forbidden"),
            Mood::RefusesToWatch if is_watch => return no(403, "Forbidden"),
            Mood::Fails => return no(500, "InternalError"),
            Mood::Resets => return Act::Reset(String::new()),
            Mood::Silent => return Act::Hang,
            Mood::Fine | Mood::RefusesToWatch => self.failed -= 1,
        }
        if seen.line.starts_with(NODE) {
            let node = json!({"metadata": {"name": "node-7"}, "spec": self.node});
            // It ends at once; the next one is asked for soon.
            return said(&event("ADDED", &node));
        }
        assert!(seen.line.starts_with(SETS) && seen.line.contains(LABELS), "{}", seen.line);
        if is_watch {
            assert!(seen.line.contains("resourceVersion=7"), "{}", seen.line);
            return said("");
        }
        let sets: Vec<Value> = self
            .sets
            .iter()
            .map(|(hash, revision, ready)| replica_set(hash, revision, *ready))
            .collect();
        said(
            &json!({"kind": "ReplicaSetList", "apiVersion": "apps/v1",
            "metadata": {"resourceVersion": "7"}, "items": sets})
            .to_string(),
        )
    }
}

fn replica_set(hash: &str, revision: &str, ready: u32) -> Value {
    let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "w", "uid": "d", "controller": true});
    json!({
        "metadata": {
            "name": format!("w-{hash}"),
            "labels": {"pod-template-hash": hash},
            "annotations": {"deployment.kubernetes.io/revision": revision},
            "ownerReferences": [owner],
        },
        "status": {"replicas": 3, "readyReplicas": ready},
    })
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn said(body: &str) -> Act {
    let head = "Content-Type: application/json\r\nConnection: close\r\n";
    Act::answer("200 OK", head, body)
}

/// A worker whose API server a test holds in its hands.
struct Process {
    cluster: Arc<Mutex<Cluster>>,
    _server: Server,
    instruments: Arc<Instruments>,
    standby: watch::Receiver<Standby>,
    feature: &'static str,
    store: Arc<SqliteStore>,
    asked: Asked,
    worker: Running,
    _watching: JoinSet<()>,
}

impl Process {
    async fn start(feature: &'static str, cluster: Cluster) -> Self {
        let cluster = Arc::new(Mutex::new(cluster));
        let now = cluster.clone();
        let answer = move |seen: &Seen| now.lock().expect("no panic").answer(seen);
        let server = Server::start(answer).await;
        let (watching, instruments, standby) = watch_at(&server, feature);
        let (store, asked) = (memory().await, Asked::default());
        let told = standby.clone();
        let worker = Running::start_as(&store, asked.clone(), 4, |worker| worker.standing_by(told));
        Self {
            cluster,
            _server: server,
            instruments,
            standby,
            feature,
            store,
            asked,
            worker,
            _watching: watching,
        }
    }

    fn becomes(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster.lock().expect("no panic"));
    }

    async fn claims(&mut self) {
        stands(&mut self.standby, false).await;
        succeed(&self.store, &submit(&self.store, "echo", 2).await).await;
    }

    async fn stands_by(&mut self) {
        stands(&mut self.standby, true).await;
        self.asked.has_looked(2).await;
        let new = submit(&self.store, "echo", 1).await;
        self.asked.claims_nothing().await;
        assert_eq!(states(&self.store, &new).await, ["pending"]);
    }

    fn is_enabled(&self, enabled: bool) {
        let feature = self.feature;
        let line = format!("k8s_feature_enabled{{feature=\"{feature}\"}} {}", i64::from(enabled));
        let said = || self.instruments.encode().contains(&line).then_some(());
        block_in_place(|| wait_until(&line, said));
    }

    /// Whatever goes wrong short of a refusal.
    fn goes_through_an_outage(&self) {
        for mood in [Mood::Fails, Mood::Resets, Mood::Silent] {
            self.becomes(|cluster| (cluster.mood, cluster.failed) = (mood, 0));
            let failed = || self.cluster.lock().expect("no panic").failed > 0;
            block_in_place(|| wait_until(&format!("{mood:?}"), || failed().then_some(())));
            self.is_enabled(true);
        }
    }

    async fn end(self) {
        let summary = self.worker.drain().await;
        assert_eq!((summary.failed, summary.lost), (0, 0));
    }
}

type Watching = (JoinSet<()>, Arc<Instruments>, watch::Receiver<Standby>);

/// A real client of that server.
fn watch_at(server: &Server, feature: &'static str) -> Watching {
    let mut config = Config::new(server.url("/").parse().expect("a URL"));
    config.default_namespace = "jobs".into();
    let instruments = Arc::new(Instruments::new());
    let kube = Kube::new(config, instruments.clone()).expect("a client");
    let (tell, told) = watch::channel(Standby::default());
    let mut watching = JoinSet::new();
    watching.spawn(async move {
        match feature {
            "cordon_watch" => kube.watch_node("node-7", tell).await,
            _ => kube.watch_rollout("app=worker", "a", tell).await,
        }
    });
    (watching, instruments, told)
}

/// Waits until it is told so.
async fn stands(standby: &mut watch::Receiver<Standby>, by: bool) {
    let told = timeout(CEILING, standby.wait_for(|standby| standby.is_on() == by)).await;
    told.expect("it is told in time").expect("it is watched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_stands_by_while_its_node_is_cordoned_through_outages_and_not_when_refused() {
    let mut process = Process::start("cordon_watch", Cluster::default()).await;
    process.is_enabled(true);
    process.claims().await;
    process.becomes(|cluster| cluster.node = json!({"unschedulable": true}));
    process.stands_by().await;
    process.becomes(|cluster| cluster.node = json!({}));
    process.claims().await;
    let taint = json!({"key": "karpenter.sh/disrupted", "effect": "NoSchedule"});
    process.becomes(|cluster| cluster.node = json!({"taints": [taint]}));
    process.stands_by().await;
    process.goes_through_an_outage();
    process.stands_by().await;
    process.becomes(|cluster| cluster.mood = Mood::Refuses);
    process.is_enabled(false);
    process.claims().await;
    process.becomes(|cluster| cluster.mood = Mood::Fine);
    process.stands_by().await;
    process.is_enabled(true);
    process.becomes(|cluster| cluster.node = json!({}));
    process.claims().await;
    process.goes_through_an_outage();
    process.claims().await;
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_stands_by_while_pods_of_a_newer_set_are_ready_and_claims_when_it_is_rolled_back()
{
    let own = ("a", "1", 3);
    let alone = Cluster { sets: vec![own], ..Cluster::default() };
    let mut process = Process::start("rollout_aware", alone).await;
    process.is_enabled(true);
    process.claims().await;
    process.becomes(|cluster| cluster.sets = vec![own, ("b", "2", 0)]);
    process.claims().await;
    process.becomes(|cluster| cluster.sets = vec![own, ("b", "2", 1)]);
    process.stands_by().await;
    process.becomes(|cluster| cluster.sets = vec![own, ("b", "2", 0)]);
    process.claims().await;
    process.becomes(|cluster| cluster.sets = vec![("b", "2", 1), own]);
    process.stands_by().await;
    process.goes_through_an_outage();
    process.stands_by().await;
    process.becomes(|cluster| (cluster.mood, cluster.sets) = (Mood::Fine, vec![own]));
    process.claims().await;
    process.becomes(|cluster| cluster.sets = vec![own, ("b", "2", 3)]);
    process.stands_by().await;
    for mood in [Mood::RefusesToWatch, Mood::Refuses] {
        process.becomes(|cluster| cluster.mood = mood);
        process.is_enabled(false);
        process.claims().await;
        process.becomes(|cluster| cluster.mood = Mood::Fine);
        process.stands_by().await;
        process.is_enabled(true);
    }
    process.becomes(|cluster| cluster.sets = vec![("a", "3", 1), ("b", "2", 3)]);
    process.claims().await;
    process.end().await;
}

/// One watch that goes on, and says this again and again.
fn goes_on(first: &str, then: String) -> Act {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{first}");
    Act::Repeat { head, piece: then, every: std::time::Duration::from_millis(20) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_during_a_watch_is_told_at_once() {
    let node = |spec| json!({"metadata": {"name": "node-7"}, "spec": spec});
    let first = event("ADDED", &node(json!({})));
    let then = event("MODIFIED", &node(json!({"unschedulable": true})));
    let server = Server::always(goes_on(&first, then)).await;
    let (_watching, _, mut standby) = watch_at(&server, "cordon_watch");
    stands(&mut standby, true).await;
    assert_eq!(server.seen().len(), 1);

    let gone = event("DELETED", &replica_set("b", "2", 0));
    for (first, then, by) in [
        (vec![], event("ADDED", &replica_set("b", "2", 1)), true),
        (vec![], event("MODIFIED", &replica_set("b", "2", 1)), true),
        (vec![("b", "2", 1)], gone, false),
    ] {
        let cluster = Cluster { sets: [vec![("a", "1", 3)], first].concat(), ..Cluster::default() };
        let server = Server::start(move |seen| {
            let is_watch = seen.line.contains("watch=true");
            if is_watch { goes_on("", then.clone()) } else { cluster.clone().answer(seen) }
        })
        .await;
        let (_watching, _, mut standby) = watch_at(&server, "rollout_aware");
        // Where it begins with that, it is told so first.
        server.has_seen(2).await;
        if !by {
            let told = timeout(CEILING, standby.changed()).await.expect("it is told in time");
            told.expect("it is watched");
        }
        stands(&mut standby, by).await;
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_stands_by_for_what_is_not_watched_any_more() {
    let cluster = Cluster { node: json!({"unschedulable": true}), ..Cluster::default() };
    let server = Server::start(move |seen| cluster.clone().answer(seen)).await;
    let (mut watching, _, mut standby) = watch_at(&server, "cordon_watch");
    stands(&mut standby, true).await;
    watching.abort_all();
    while watching.join_next().await.is_some() {}
    assert!(!standby.borrow().is_on());
}
