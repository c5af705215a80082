//! What workers ask of the API server, and hold of what it tells: idle, busy, and beside thousands of pods.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1;
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{
    kube::{Pod, as_admin, memory, requests, seconds},
    marks,
    stand::{RELEASE, Stand},
};
use crate::{
    nemesis::{say, workload::GATED},
    process::{is_soak, wait_until},
};

fn pods() -> usize {
    if is_soak() { 20 } else { 4 }
}

/// What the counts of requests are of: in soak a watch is asked for anew meanwhile.
fn window() -> Duration {
    Duration::from_secs(if is_soak() { 240 } else { 15 })
}

fn others() -> usize {
    if is_soak() { 5_000 } else { 300 }
}

fn settings() -> String {
    format!(
        "replicas: {}
config:
  slots: 1
  lock: {{ttl: 10s, renew_every: 2s}}
  database: {{tls: insecure}}
kubernetes: {{deadOwnerWatch: true, busyMarks: true}}
",
        pods()
    )
}

/// What all pods together ask for within the window, and how often.
async fn asked(stand: &Stand, what: &str) -> BTreeMap<String, usize> {
    let before = block_in_place(|| requests(stand.name));
    let began = Instant::now();
    sleep(window()).await;
    let mut asked = block_in_place(|| requests(stand.name));
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    for (request, count) in &mut asked {
        *count -= before.get(request).copied().unwrap_or(0);
    }
    asked.retain(|_, count| *count > 0);
    let all: usize = asked.values().sum();
    say(&format!(
        "cost: {} {what} pods ask {:.1} times a minute: {asked:?} in {}",
        pods(),
        f64::from(u32::try_from(all).expect("not so many")) / minutes,
        seconds(began.elapsed())
    ));
    asked
}

fn patches(asked: &BTreeMap<String, usize>) -> usize {
    asked.iter().filter(|(what, _)| what.starts_with("patch ")).map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn idle_workers_write_nothing_busy_ones_little_and_none_holds_the_pods_of_others() {
    let stand = Stand::new("cost").await;
    block_in_place(|| {
        stand.install(&settings());
        stand.ready(pods());
        marks::until(&stand, "all are idle", |all| all.iter().all(|(_, it)| *it == marks::idle()));
    });
    stand.apply_workload().await;
    let idle = asked(&stand, "idle").await;
    assert_eq!(patches(&idle), 0, "{idle:?}");
    for _ in 0..pods() {
        assert!(stand.workload.submit(&stand.control().await, GATED).await);
    }
    block_in_place(|| {
        marks::until(&stand, "all are busy", |all| marks::busy(all).len() == pods());
    });
    let until_now = block_in_place(|| requests(stand.name));
    assert!(patches(&until_now) >= 2 * pods(), "as idle, and as busy: {until_now:?}");
    let busy = asked(&stand, "busy").await;
    let most = usize::try_from(window().as_secs() / 30 + 1).expect("not so many") * pods();
    assert!(patches(&busy) <= most, "{busy:?}");
    stand.workload.open_gate();
    stand.judge().await;
    beside_others(&stand).await;
}

/// Pods that nobody runs, with the labels of workers: each worker is told of all of them.
async fn beside_others(stand: &Stand) {
    let there = block_in_place(|| stand.pods());
    let before = block_in_place(|| there.iter().map(memory).max().expect("there are some"));
    let labels = json!({
        "app.kubernetes.io/name": "orchestrator-worker",
        "app.kubernetes.io/instance": RELEASE,
        "app.kubernetes.io/component": "worker",
    });
    let pods: Api<v1::Pod> = Api::namespaced(as_admin().await, stand.name);
    let one = |number: usize| {
        let pod = json!({
            "metadata": {"name": format!("other-{number}"), "labels": labels},
            "spec": {
                "schedulerName": "nobody",
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "c", "image": "localhost/none:1", "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
            },
        });
        let pods = pods.clone();
        async move {
            let pod: v1::Pod = serde_json::from_value(pod).expect("a pod");
            pods.create(&PostParams::default(), &pod).await.map(drop)
        }
    };
    let began = Instant::now();
    let made = stream::iter(0..others()).map(one).buffer_unordered(16).try_collect::<Vec<()>>();
    made.await.expect("they are made");
    say(&format!("cost: {} other pods were made in {}", others(), seconds(began.elapsed())));
    block_in_place(|| {
        // It is told of all of them at once.
        stand.kubectl(&["delete", "pod", &there[0].name, "--wait=false"]);
        let is_new = |pod: &Pod| pod.is_ready && there.iter().all(|it| it.uid != pod.uid);
        let new = wait_until("another pod is ready", || stand.pods().into_iter().find(is_new));
        wait_until("it has heard of all", || {
            stand.log(&new).lines().find(|line| {
                line.contains("\"kubernetes.answers\"") && line.contains("\"dead_owner_watch\"")
            })?;
            Some(())
        });
        let listed = memory(&new);
        let watched = there[1..].iter().map(memory).max().expect("there are some");
        say(&format!(
            "cost: a worker has {} KiB; beside {} other pods {watched} KiB where it saw them come, {listed} KiB \
             where it was told of all at once",
            before,
            others()
        ));
        assert!(listed.max(watched) < before + MORE, "KiB: {before} became {listed} and {watched}");
    });
}

/// In KiB: one page of a list, and what the allocator keeps of it.
const MORE: u64 = 32 * 1024;
