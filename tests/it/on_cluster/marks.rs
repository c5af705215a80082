//! Pods that say whether they are at work: who goes when there are to be fewer, and what a worker's account may
//! patch.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::Row as _;
use tokio::{task::block_in_place, time::Instant};

use super::{
    blows::one_of,
    kube::{self as cluster, Pod, seconds, signal},
    stand::{RELEASE, Stand},
};
use crate::{
    nemesis::{
        say,
        workload::{GATED, ask},
    },
    process::{is_soak, wait_until},
};

/// A worker has one run at most, so that so many runs are in so many pods.
const SETTINGS: &str = "replicas: 8
config:
  slots: 1
  lock: {ttl: 10s, renew_every: 2s}
  database: {tls: insecure}
kubernetes: {busyMarks: true, ownPodPolicy: true}
";
const BUSY: usize = 4;
/// Fewer than are at work.
const FEW: usize = 2;
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const KARPENTER: &str = "karpenter.sh/do-not-disrupt";
const AUTOSCALER: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// The marks of a pod, in the order of the names above.
pub type Marks = [Option<String>; 3];

pub fn idle() -> Marks {
    [Some("0".into()), None, None]
}

/// Of each pod that is there, by its name.
fn marks(stand: &Stand) -> Vec<(String, Marks)> {
    let all = cluster::json(&["-n", stand.name, "get", "pods", "-l", cluster::WORKERS]);
    let of = |pod: &Value| {
        let stands = &pod["metadata"]["annotations"];
        let mark = |name: &str| stands[name].as_str().map(str::to_owned);
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        (name, [COST, KARPENTER, AUTOSCALER].map(mark))
    };
    all["items"].as_array().expect("a list").iter().map(of).collect()
}

/// Waits until the marks of all pods are so; how long that took.
pub fn until(stand: &Stand, what: &str, are: impl Fn(&[(String, Marks)]) -> bool) -> String {
    let began = Instant::now();
    wait_until(what, || are(&marks(stand)).then_some(()));
    seconds(began.elapsed())
}

/// Those that are marked as busy.
pub fn busy(marks: &[(String, Marks)]) -> BTreeSet<String> {
    let is_busy = |[cost, held, free]: &Marks| {
        cost.as_deref().is_some_and(|cost| cost.parse().is_ok_and(|cost: i32| cost > 10))
            && held.as_deref() == Some("true")
            && free.as_deref() == Some("false")
    };
    let busy = marks.iter().filter(|(_, marks)| is_busy(marks));
    busy.map(|(name, _)| name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_pods_the_idle_ones_go_and_each_worker_may_mark_its_own_pod_alone() {
    let stand = Stand::new("marks").await;
    block_in_place(|| {
        stand.install(SETTINGS);
        until(&stand, "all are idle", |pods| pods.iter().all(|(_, marks)| *marks == idle()));
    });
    stand.apply_workload().await;
    submit_to_some(&stand).await;
    let rest = block_in_place(|| the_busy_are_left(&stand));
    a_policy_holds_a_worker_to_its_marks(&stand, &rest[0], &rest[1]).await;
    block_in_place(|| {
        a_drain_takes_marks_off(&stand, &rest[0]);
        stand.workload.open_gate();
    });
    stand.judge().await;
    let attempts = "SELECT COALESCE(outcome, '') FROM ow_attempts";
    let attempts = ask(&stand.url(), attempts).await.expect("the tables");
    assert_eq!(attempts.len(), BUSY, "no run was stopped or begun again");
    block_in_place(|| {
        stand.ready(BUSY);
        let took = until(&stand, "all are idle again", |pods| {
            pods.iter().all(|(_, marks)| *marks == idle())
        });
        say(&format!("marks: all pods marked as idle after {took}"));
        a_process_writes_over_what_the_one_before_it_left(&stand);
    });
    if is_soak() {
        for _ in 0..10 {
            scaled_down_and_up(&stand).await;
        }
        without_marks(&stand).await;
    }
}

/// Work for as many pods, which does not end.
async fn submit_to_some(stand: &Stand) {
    stand.workload.close_gate();
    for _ in 0..BUSY {
        assert!(stand.workload.submit(&stand.control().await, GATED).await);
    }
}

fn ask_for(stand: &Stand, replicas: usize) {
    stand.kubectl(&["scale", "deployment", RELEASE, &format!("--replicas={replicas}")]);
}

fn scale(stand: &Stand, replicas: usize) -> Vec<Pod> {
    ask_for(stand, replicas);
    stand.ready(replicas)
}

/// Takes pods away until as many are left as are at work; none of those is idle.
fn the_busy_are_left(stand: &Stand) -> Vec<Pod> {
    let took = until(stand, "some are busy", |pods| busy(pods).len() == BUSY);
    say(&format!("marks: {BUSY} pods marked as busy after {took}, looks included"));
    let at_work = busy(&marks(stand));
    let began = Instant::now();
    let left = scale(stand, BUSY);
    say(&format!("marks: 8 pods became {BUSY} after {}", seconds(began.elapsed())));
    let names: BTreeSet<String> = left.iter().map(|pod| pod.name.clone()).collect();
    assert_eq!(names, at_work);
    left
}

/// Fewer are left than were at work: each that was at work ends that first.
async fn scaled_down_and_up(stand: &Stand) {
    block_in_place(|| {
        scale(stand, 8);
        until(stand, "all are idle", |pods| pods.iter().all(|(_, marks)| *marks == idle()));
    });
    submit_to_some(stand).await;
    block_in_place(|| {
        until(stand, "some are busy", |pods| busy(pods).len() == BUSY);
        let at_work = busy(&marks(stand));
        ask_for(stand, FEW);
        let stay = wait_until("the others are told to go", || {
            let stay = stand.pods().into_iter().filter(|pod| pod.told_to_go.is_none());
            let stay: BTreeSet<String> = stay.map(|pod| pod.name).collect();
            (stay.len() == FEW).then_some(stay)
        });
        assert!(stay.is_subset(&at_work), "{stay:?} stay of {at_work:?}");
        stand.workload.open_gate();
        stand.ready(FEW);
    });
    stand.judge().await;
    let stopped = "SELECT COUNT(*) FROM ow_attempts WHERE outcome<>'success' OR outcome IS NULL";
    assert_eq!(stand.one::<i64>(stopped).await, 0, "no run was stopped");
    say(&format!("marks: 8 pods became {FEW}, which were busy ones, and no run was stopped"));
}

/// How many of those at work stay by chance.
async fn without_marks(stand: &Stand) {
    block_in_place(|| {
        // Helm leaves alone what somebody else has set, and says so, unless it is what its values want.
        scale(stand, 8);
        stand.install(&SETTINGS.replace("true", "false"));
    });
    submit_to_some(stand).await;
    let holders = "SELECT ow_owner FROM workflow_executions WHERE status='running'";
    stand.until_row(&format!("SELECT 1 FROM ({holders}) h HAVING COUNT(*)={BUSY}")).await;
    let at_work = ask(&stand.url(), holders).await.expect("the tables");
    let at_work: BTreeSet<String> = at_work.iter().map(|row| row.get(0)).collect();
    for count in [BUSY, FEW] {
        let left = block_in_place(|| scale(stand, count));
        let survived = left.iter().filter(|pod| at_work.contains(&pod.name)).count();
        say(&format!("marks: without marks, of {count} pods left of 8, {survived} were at work"));
    }
    stand.workload.open_gate();
    stand.judge().await;
}

fn a_process_writes_over_what_the_one_before_it_left(stand: &Stand) {
    let pod = one_of(stand, None);
    let (cost, held) = (format!("{COST}=999"), format!("{KARPENTER}=true"));
    stand.kubectl(&["annotate", "pod", &pod.name, "--overwrite", &cost, &held]);
    signal(&pod, Signal::KILL);
    until(stand, "they are its own again", |pods| pods.iter().all(|(_, marks)| *marks == idle()));
    wait_until("its container is there again", || {
        stand.pods().into_iter().find(|it| it.uid == pod.uid && it.restarts == 1)
    });
}

/// While its step goes on.
fn a_drain_takes_marks_off(stand: &Stand, pod: &Pod) {
    stand.kubectl(&["delete", "pod", &pod.name, "--wait=false"]);
    let of = |marks: &[(String, Marks)]| {
        let mut all = marks.iter();
        all.find(|(name, _)| *name == pod.name).map(|(_, marks)| marks.clone())
    };
    let took = until(stand, "they are off", |marks| of(marks) == Some([None, None, None]));
    say(&format!("marks: off {took} after a deletion began"));
    let is_there = stand.pods().into_iter().find(|it| it.uid == pod.uid).expect("it drains");
    assert!(is_there.told_to_go.is_some() && is_there.exit.is_none(), "{is_there:?}");
}

/// With the rights of this pod's own process.
pub async fn as_pod(stand: &Stand, pod: &Pod) -> Config {
    let token = block_in_place(|| {
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", &pod.name];
        stand.kubectl(&[&["create", "token", RELEASE][..], &bound].concat())
    });
    let mut config = cluster::config_of(Some(&json!({"token": token.trim()}))).await;
    config.default_namespace = stand.name.into();
    config
}

async fn a_policy_holds_a_worker_to_its_marks(stand: &Stand, own: &Pod, other: &Pod) {
    let client = Client::try_from(as_pod(stand, own).await).expect("a client");
    let pods: Api<v1::Pod> = Api::default_namespaced(client);
    let annotation = |name: &str| json!({"metadata": {"annotations": {name: "77"}}});
    let image = json!({"spec": {"containers": [{"name": "worker", "image": "localhost/other:1"}]}});
    for (what, pod, patch, refusal) in [
        ("a mark of its own pod", own, annotation(COST), None),
        ("another pod's mark", other, annotation(COST), Some("no pod but their own")),
        ("another annotation", own, annotation("example.com/x"), Some("no annotation")),
        ("a label", own, json!({"metadata": {"labels": {"x": "y"}}}), Some("but annotations")),
        ("its image", own, image, Some("but annotations")),
    ] {
        let patch = Patch::Strategic(patch);
        let patched = pods.patch_metadata(&pod.name, &PatchParams::default(), &patch).await;
        match (patched, refusal) {
            (Ok(_), None) => {}
            (Err(kube::Error::Api(said)), Some(refusal)) => {
                assert_eq!(said.code, 403, "{what}: {said:?}");
                assert!(said.message.contains(refusal), "{what}: {said:?}");
            }
            (answer, _) => panic!("{what}: {answer:?}"),
        }
    }
}
