//! Pods whose end their kubelet confirms, and pods of which nobody knows.

use rustix::process::Signal;
use sqlx::Row as _;
use tokio::task::block_in_place;

use super::{
    blows::{SETTINGS, UNDER_WAY, one_of, strike},
    kube::{Pod, evict, signal},
    stand::{RELEASE, Stand},
};
use crate::{
    nemesis::{
        say,
        workload::{LONG, ask},
    },
    process::wait_until,
};

/// What the rows say of the attempts that this pod has lost.
async fn causes(stand: &Stand, pod: &Pod) -> Vec<String> {
    let sql = format!(
        "SELECT DISTINCT cause FROM ow_attempts WHERE owner='{}' AND outcome='lost'",
        pod.name
    );
    let rows = ask(&stand.url(), &sql).await.expect("the tables");
    let its_node = format!("node {}", pod.node);
    rows.iter().map(|row| row.get::<String, _>(0).replace(&its_node, "its node")).collect()
}

/// Strikes a frozen pod that is at work; what its attempts were lost by.
async fn struck(stand: &Stand, what: &str, blow: impl FnOnce(&Pod)) -> Vec<String> {
    let pod = block_in_place(|| one_of(stand, None));
    strike(stand, what, std::slice::from_ref(&pod), || {
        // It hands nothing back, and overruns its grace period.
        signal(&pod, Signal::STOP);
        blow(&pod);
    })
    .await;
    block_in_place(|| stand.ready(4));
    causes(stand, &pod).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_pod_held_goes_on_once_its_kubelet_says_that_it_has_ended_and_never_on_a_guess() {
    let stand = Stand::new("confirmed").await;
    block_in_place(|| {
        // Nobody whose lease has to run out is taken for one whose end is known.
        let settings =
            SETTINGS.replace("{ttl: 10s, renew_every: 2s}", "{ttl: 30s, renew_every: 5s}");
        stand.install(&format!("{settings}kubernetes: {{deadOwnerWatch: true}}\n"));
        for pod in stand.ready(4) {
            said(&stand, &pod, "kubernetes.answers");
        }
    });
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[LONG]).await;

    let deleted = struck(&stand, "a deletion whose grace is overrun", |pod| {
        stand.kubectl(&["delete", "pod", &pod.name, "--grace-period=1", "--wait=false"]);
    })
    .await;
    assert_eq!(deleted, ["pod_deleted (exit code 137, its node)"]);

    let evicted = struck(&stand, "an eviction whose grace is overrun", |pod| {
        evict(stand.name, &pod.name);
    })
    .await;
    assert_eq!(evicted, ["node_drained (exit code 137, its node)"]);

    let forced = struck(&stand, "a forced delete", |pod| {
        stand.kubectl(&["delete", "pod", &pod.name, "--force", "--grace-period=0"]);
    })
    .await;
    assert_eq!(forced, ["lease_expired"], "nobody saw it end");

    block_in_place(|| a_right_that_is_taken_away_is_said_and_comes_back(&stand));
    let submitted = load.end().await;
    say(&format!("confirmed: {submitted} submitted"));
    stand.judge().await;
}

/// Waits for an event in the log of a pod.
fn said(stand: &Stand, pod: &Pod, event: &str) {
    let event = format!("\"{event}\"");
    wait_until(&event, || stand.log(pod).contains(&event).then_some(()));
}

fn a_right_that_is_taken_away_is_said_and_comes_back(stand: &Stand) {
    let binding = stand.kubectl(&["get", "rolebinding", RELEASE, "-o", "yaml"]);
    stand.kubectl(&["delete", "rolebinding", RELEASE]);
    let before: Vec<String> = stand.pods().into_iter().map(|pod| pod.uid).collect();
    stand.kubectl(&["delete", "pod", &one_of(stand, None).name, "--wait=false"]);
    let new = wait_until("another pod is ready", || {
        stand.pods().into_iter().find(|pod| pod.is_ready && !before.contains(&pod.uid))
    });
    said(stand, &new, "kubernetes.refused");
    super::kube::apply(&binding);
    said(stand, &new, "kubernetes.answers");
}
