//! Pods that tell by events what happens to them, as `kubectl` shows it, and what `doctor` says in a pod.

use std::sync::Arc;

use orchestrator_worker::{
    adapters::kube::Kube,
    domain::{
        id::ExecutionId,
        notice::{LostBy, Notice, What},
        pod::OwnPod,
    },
    instruments::Instruments,
    ports::control::{Control, Start, Submission},
    telemetry,
};
use rustix::process::Signal;
use serde_json::Value;
use sqlx::Row as _;
use tokio::{
    sync::mpsc,
    task::{JoinSet, block_in_place},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    kube::{self as cluster, Pod, seconds, signal},
    marks::as_pod,
    stand::{RELEASE, Stand},
};
use crate::{
    nemesis::{
        say,
        workload::{GATED, ask},
    },
    process::{CEILING, run, wait_until},
};

/// Whatever one of them holds, the others have slots for.
const SETTINGS: &str = "replicas: 3
migrations: {mode: none}
config:
  slots: 4
  drain_deadline: 5s
  lock: {ttl: 10s, renew_every: 2s}
  poison: {claims: 1000}
  database: {tls: insecure}
kubernetes: {events: true, deadOwnerWatch: true}
";
const UNDER_WAY: usize = 4;

/// Waits for an event of this reason that is about this pod, or any, and one of these executions, or none.
fn event(stand: &Stand, reason: &str, pod: Option<&Pod>, about: Option<&[String]>) -> Value {
    let is_it = |event: &Value| {
        let (regarding, related) = (&event["regarding"], &event["related"]);
        let name = related["name"].as_str().unwrap_or_default();
        event["reason"] == reason
            && pod.is_none_or(|pod| regarding["name"] == *pod.name && regarding["uid"] == *pod.uid)
            && about.map_or(related.is_null(), |about| {
                related["kind"] == "WorkflowExecution" && about.iter().any(|it| it == name)
            })
    };
    let began = Instant::now();
    let found = wait_until(reason, || {
        let all = cluster::json(&["-n", stand.name, "get", "events.v1.events.k8s.io"]);
        all["items"].as_array().expect("a list").iter().find(|it| is_it(it)).cloned()
    });
    let note = found["note"].as_str().expect("a note");
    say(&format!("events: {reason} after {}: {note}", seconds(began.elapsed())));
    found
}

fn says(event: &Value, what: &str) {
    assert!(event["note"].as_str().is_some_and(|note| note.contains(what)), "{event}");
}

/// What `kubectl describe pod` shows.
fn is_described(stand: &Stand, pod: &Pod, reason: &str) {
    let described = stand.kubectl(&["describe", "pod", &pod.name]);
    assert!(described.contains(reason), "{described}");
}

/// A pod that works on something, and on what.
async fn at_work(stand: &Stand) -> (Pod, Vec<String>) {
    let began = Instant::now();
    loop {
        let sql = "SELECT e.ow_owner, e.id FROM workflow_executions e WHERE e.status='running' AND EXISTS \
                   (SELECT 1 FROM ow_attempts a WHERE a.execution_id=e.id AND a.fence=e.ow_fence AND \
                    a.outcome IS NULL)";
        let rows = ask(&stand.url(), sql).await.expect("the tables");
        let held = |pod: &Pod| -> Vec<String> {
            let its = rows.iter().filter(|row| row.get::<String, _>(0) == pod.name);
            its.map(|row| row.get(1)).collect()
        };
        let pods = block_in_place(|| stand.pods());
        let mut ready = pods.into_iter().filter(|pod| pod.is_ready && pod.told_to_go.is_none());
        if rows.len() == UNDER_WAY
            && let Some(pod) = ready.find(|pod| !held(pod).is_empty())
        {
            let its = held(&pod);
            return (pod, its);
        }
        assert!(began.elapsed() < CEILING, "nobody works");
        sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// An execution that was old when the tables were made.
async fn submit_old(stand: &Stand) -> ExecutionId {
    let submission = Submission {
        template: GATED.into(),
        created_by: "nemesis".into(),
        start: Start::After(std::time::Duration::from_secs(3600)),
        traceparent: None,
    };
    let old = stand.control().await.submit(&submission).await.expect("it is submitted").execution;
    stand
        .exec(&format!(
            "UPDATE workflow_executions SET created_at=created_at - INTERVAL 400 DAY, \
             ow_not_before=NULL WHERE id='{old}'"
        ))
        .await;
    old
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pod_tells_by_events_what_happens_to_its_worker() {
    telemetry::install_tls();
    let stand = Stand::new("events").await;
    block_in_place(|| {
        stand.install_only(SETTINGS);
        let unfit = event(&stand, "SchemaMismatch", None, None);
        says(&unfit, "run `orchestrator-worker migrate` first");
        assert!(run(&stand.url(), ["migrate"]).status.success());
        stand.ready(3);
    });
    stand.apply_workload().await;
    submit_old(&stand).await;
    for _ in 0..UNDER_WAY {
        assert!(stand.workload.submit(&stand.control().await, GATED).await);
    }

    let (killed, its) = at_work(&stand).await;
    block_in_place(|| {
        signal(&killed, Signal::STOP);
        stand.kubectl(&["delete", "pod", &killed.name, "--grace-period=1", "--wait=false"]);
        let reclaimed = event(&stand, "LeasesReclaimed", None, Some(&its));
        says(&reclaimed, &format!(" of {}: ", killed.name));
        says(&reclaimed, "pod_deleted (exit code 137, node ");
        let held = event(&stand, "BacklogHeld", None, None);
        says(&held, "1 execution pending");
        stand.ready(3);
    });

    let (frozen, its) = at_work(&stand).await;
    block_in_place(|| signal(&frozen, Signal::STOP));
    let all: Vec<String> = its.iter().map(|id| format!("'{id}'")).collect();
    stand
        .until_row(&format!(
            "SELECT 1 FROM workflow_executions WHERE id IN ({}) AND ow_owner NOT IN \
             ('{}', '~released')",
            all.join(","),
            frozen.name
        ))
        .await;
    block_in_place(|| {
        signal(&frozen, Signal::CONT);
        event(&stand, "ClaimLost", Some(&frozen), Some(&its));
        is_described(&stand, &frozen, "ClaimLost");
        // As the chart's notes say it.
        let selected = "involvedObject.kind=Pod,reportingComponent=orchestrator-worker";
        let listed = stand.kubectl(&["get", "events", "--field-selector", selected]);
        assert!(listed.contains("ClaimLost") && !listed.contains("Pulled"), "{listed}");
    });

    let (drained, its) = at_work(&stand).await;
    block_in_place(|| {
        stand.kubectl(&["delete", "pod", &drained.name, "--wait=false"]);
        let cut_short = event(&stand, "DrainTimedOut", Some(&drained), Some(&its));
        says(&cut_short, "handed back");
        stand.workload.open_gate();
        stand.ready(3);
        a_doctor_says_what_is_allowed_and_what_is_not(&stand);
    });
    what_happens_again_is_counted(&stand).await;
    assert_eq!(stand.control().await.release_backlog(None).await.expect("released"), 1);
    stand.judge().await;
}

fn a_doctor_says_what_is_allowed_and_what_is_not(stand: &Stand) {
    let pod = &stand.ready(3)[0];
    let verdicts = || -> Vec<Value> {
        let doctor = ["orchestrator-worker", "doctor", "--dry-run", "--output", "json"];
        let said = stand.kubectl(&[&["exec", &pod.name, "--"][..], &doctor].concat());
        let all: Vec<Value> = serde_json::from_str(&said).expect("JSON");
        all.into_iter().filter(|one| one["check"] == "kubernetes").collect()
    };
    let are = |verdict: &str| {
        wait_until(verdict, || {
            let found = verdicts();
            let all = found.len() == 2 && found.iter().all(|one| one["verdict"] == verdict);
            all.then_some(found)
        })
    };
    are("ok");
    let binding = stand.kubectl(&["get", "rolebinding", RELEASE, "-o", "yaml"]);
    stand.kubectl(&["delete", "rolebinding", RELEASE]);
    let refused = are("warning");
    let repair = refused[1]["repair"].as_str().unwrap_or_default();
    assert!(repair.contains("set kubernetes.events in the chart"), "{refused:?}");
    cluster::apply(&binding);
    are("ok");
    stand.helm(&["test", RELEASE]);
}

/// On the event that is there, with the rights of a worker alone.
async fn what_happens_again_is_counted(stand: &Stand) {
    let pod = block_in_place(|| stand.ready(3).remove(0));
    let instruments = Arc::new(Instruments::new());
    let kube = Kube::new(as_pod(stand, &pod).await, instruments.clone()).expect("a client");
    let own = OwnPod { name: pod.name.clone(), uid: pod.uid.clone() };
    let (tell, told) = mpsc::channel(1);
    let mut telling = JoinSet::new();
    telling.spawn(async move { kube.tell(&own, told, CancellationToken::new()).await });
    for count in 1..=3 {
        let what = What::ClaimLost(LostBy::Unrecordable);
        let again = Notice { what, execution: Some("again".into()) };
        tell.send(again).await.expect("it listens");
        let line = format!("k8s_events_total{{result=\"written\"}} {count}");
        let is_written = || instruments.encode().contains(&line).then_some(());
        block_in_place(|| wait_until(&line, is_written));
    }
    drop(tell);
    telling.join_next().await.expect("it was started").expect("no panic");
    let counted =
        block_in_place(|| event(stand, "ClaimLost", Some(&pod), Some(&["again".to_owned()])));
    assert_eq!(counted["series"]["count"], 3, "{counted}");
}
