//! An API server that is frozen, gone, fails, or says no: workers claim, renew and drain on, and use it again once it
//! answers.

use std::{thread, time::Duration};

use orchestrator_worker::domain::marks::REFUSED;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{
    blows::{SETTINGS, TakenOver, UNDER_WAY, strike},
    kube::{
        Pod, apply, cluster, cluster_with, descriptors, json, kubectl, memory, requests, seconds,
        signal, try_kubectl,
    },
    marks,
    stand::{RELEASE, Stand},
};
use crate::{
    nemesis::{say, workload::LONG},
    process::{is_soak, wait_until},
};

const SERVER: &str = "kube-apiserver";
const FEATURES: [&str; 2] = ["busy_marks", "dead_owner_watch"];
/// What a worker that was there all the time may have opened more than in the beginning, and hold, in KiB.
const FEW: usize = 10;
const MORE: u64 = 16 * 1024;

fn settings() -> String {
    // A takeover that the kubelet has confirmed is long before the end of the lease.
    let settings = SETTINGS.replace("{ttl: 10s, renew_every: 2s}", "{ttl: 30s, renew_every: 5s}");
    format!("{settings}kubernetes: {{deadOwnerWatch: true, busyMarks: true}}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_api_server_does_work_goes_on_and_what_it_gives_comes_back() {
    let stand = Stand::new("api").await;
    let witness = block_in_place(|| {
        stand.install(&settings());
        let pods = stand.ready(4);
        for (pod, feature) in pods.iter().flat_map(|pod| FEATURES.map(|feature| (pod, feature))) {
            said(&stand, pod, "kubernetes.answers", feature);
        }
        pods[0].clone()
    });
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[LONG]).await;
    let began = Instant::now();
    let (opened, held) = block_in_place(|| (descriptors(&witness), memory(&witness)));

    frozen(&stand, &witness).await;
    killed(&stand, &witness).await;
    failing(&stand, &witness).await;
    for (verb, feature) in
        [("patch", "busy_marks"), ("list", "dead_owner_watch"), ("watch", "dead_owner_watch")]
    {
        without_a_verb(&stand, &witness, verb, feature).await;
    }
    with_an_expired_token(&stand, &witness).await;
    let mut submitted = load.end().await;
    stand.judge().await;
    // Marks that were refused are asked for again as work ends.
    block_in_place(|| all_are_answered(&stand));
    let load = stand.load(UNDER_WAY, &[LONG]).await;
    all_is_given(&stand, &witness).await;

    submitted += load.end().await;
    say(&format!("api: {submitted} submitted"));
    stand.judge().await;
    block_in_place(|| {
        let same = stand.pods().into_iter().find(|pod| pod.uid == witness.uid);
        assert_eq!(same.map(|pod| pod.restarts), Some(0), "it was there all the time");
        let (open, holds) = (descriptors(&witness), memory(&witness));
        say(&format!(
            "api: a worker that was there all the time had {opened} files open and {held} KiB, and has {open} \
             and {holds} KiB"
        ));
        assert!(open <= opened + FEW, "{opened} became {open}");
        assert!(holds <= held + MORE, "{held} KiB became {holds}");
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        let asked = requests(stand.name);
        for (what, count) in &asked {
            say(&format!("api: {count} times: {what}"));
        }
        let all = u32::try_from(asked.values().sum::<usize>()).expect("not so many");
        say(&format!("api: {:.1} a minute, of four workers", f64::from(all) / minutes));
    });
}

/// How often a pod has said this of a feature.
fn times_said(stand: &Stand, pod: &Pod, event: &str, feature: &str) -> usize {
    let (event, feature) = (format!("\"{event}\""), format!("\"{feature}\""));
    let log = stand.log(pod);
    log.lines().filter(|line| line.contains(&event) && line.contains(&feature)).count()
}

/// Waits until it has said so oftener than before.
fn says(stand: &Stand, pod: &Pod, event: &str, feature: &str, before: usize) {
    wait_until(&format!("{} says {event} of {feature}", pod.name), || {
        (times_said(stand, pod, event, feature) > before).then_some(())
    });
}

/// Waits until it has said so.
fn said(stand: &Stand, pod: &Pod, event: &str, feature: &str) {
    says(stand, pod, event, feature, 0);
}

/// What it has said last of the API server.
fn last_said(stand: &Stand, pod: &Pod, feature: &str) -> Option<String> {
    let feature = format!("\"{feature}\"");
    let is = |line: &&str| line.contains("\"kubernetes.") && line.contains(&feature);
    stand.log(pod).lines().rfind(is).map(str::to_owned)
}

/// Another one than the witness that is ready and was never struck.
fn fresh(stand: &Stand, witness: &Pod) -> Pod {
    wait_until("a pod is ready", || {
        stand.pods().into_iter().find(|pod| {
            pod.is_ready && pod.told_to_go.is_none() && pod.restarts == 0 && pod.uid != witness.uid
        })
    })
}

/// Waits until many more executions have succeeded.
async fn works_on(stand: &Stand, what: &str) {
    let succeeded = "SELECT COUNT(*) FROM workflow_executions WHERE status='success'";
    let before: i64 = stand.one(succeeded).await;
    let began = Instant::now();
    let more = format!(
        "SELECT 1 FROM workflow_executions WHERE status='success' HAVING COUNT(*)>={}",
        before + 20
    );
    stand.until_row(&more).await;
    say(&format!("api: {what}: 20 executions succeeded in {}", seconds(began.elapsed())));
}

/// By all that they ask of it.
fn all_are_answered(stand: &Stand) {
    for (pod, feature) in stand.pods().iter().flat_map(|pod| FEATURES.map(|it| (pod, it))) {
        wait_until(&format!("{} is answered for {feature}", pod.name), || {
            last_said(stand, pod, feature)?.contains("\"kubernetes.answers\"").then_some(())
        });
    }
}

/// Deaths are heard of, and marks are written: by all who are there, and one more that is new.
async fn all_is_given(stand: &Stand, witness: &Pod) {
    block_in_place(|| {
        all_are_answered(stand);
        marks::until(stand, "all are busy", |pods| marks::busy(pods).len() == pods.len());
    });
    let taken = loop {
        let pod = block_in_place(|| fresh(stand, witness));
        let taken = strike(stand, "a confirmed death", std::slice::from_ref(&pod), || {
            signal(&pod, Signal::STOP);
            stand.kubectl(&["delete", "pod", &pod.name, "--grace-period=1", "--wait=false"]);
        })
        .await;
        if !taken.is_empty() {
            break taken;
        }
    };
    assert!(taken.iter().all(TakenOver::was_early), "{taken:?}");
    block_in_place(|| stand.ready(4));
}

async fn frozen(stand: &Stand, witness: &Pod) {
    let (drained, killed) = block_in_place(|| {
        let drained = fresh(stand, witness);
        let killed =
            stand.pods().into_iter().find(|pod| ![&drained.uid, &witness.uid].contains(&&pod.uid));
        (drained, killed.expect("there are four"))
    });
    block_in_place(|| cluster(&["signal", SERVER, "STOP"]));
    let since = Instant::now();
    works_on(stand, "the server is frozen").await;
    for (what, pod, blow) in [
        ("a drain without the API", &drained, Signal::TERM),
        ("kill -9 of a container without the API", &killed, Signal::KILL),
    ] {
        let taken = strike(stand, what, std::slice::from_ref(pod), || signal(pod, blow)).await;
        assert!(taken.iter().all(TakenOver::was_early), "no lease had to run out: {taken:?}");
    }
    if is_soak() {
        sleep(Duration::from_secs(120).saturating_sub(since.elapsed())).await;
        works_on(stand, "the server is frozen still").await;
    }
    block_in_place(|| {
        cluster(&["signal", SERVER, "CONT"]);
        say(&format!("api: it was frozen for {}", seconds(since.elapsed())));
        for (pod, feature) in
            [&drained, &killed].into_iter().flat_map(|pod| FEATURES.map(|it| (pod, it)))
        {
            said(stand, pod, "kubernetes.answers", feature);
        }
        // Started too often, they would be made to wait.
        stand.kubectl(&["delete", "pod", &drained.name, &killed.name, "--wait=false"]);
        stand.ready(4);
    });
    all_is_given(stand, witness).await;
}

fn answers() {
    wait_until("the API server answers", || try_kubectl(&["get", "--raw", "/readyz"]).ok());
}

async fn killed(stand: &Stand, witness: &Pod) {
    let (event, feature) = ("kubernetes.away", "dead_owner_watch");
    let before = block_in_place(|| times_said(stand, witness, event, feature));
    block_in_place(|| cluster(&["stop", SERVER]));
    works_on(stand, "the server is gone").await;
    block_in_place(|| {
        cluster(&["start", SERVER]);
        answers();
        says(stand, witness, event, feature, before);
    });
    all_is_given(stand, witness).await;
}

/// Every write to a pod fails, because what would have to be asked first is not there.
async fn failing(stand: &Stand, witness: &Pod) {
    let name = stand.name;
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{
            "name": "nobody.example.com", "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/"},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"],
                "resources": ["pods"]}],
        }],
    });
    block_in_place(|| apply(&webhook.to_string()));
    let drained = block_in_place(|| fresh(stand, witness));
    let what = "a drain while patches fail";
    let drain = || signal(&drained, Signal::TERM);
    let taken = strike(stand, what, std::slice::from_ref(&drained), drain).await;
    assert!(taken.iter().all(TakenOver::was_early), "no lease had to run out: {taken:?}");
    works_on(stand, "it answers 500 to patches").await;
    block_in_place(|| {
        said(stand, &drained, "kubernetes.away", "busy_marks");
        kubectl(&["delete", "mutatingwebhookconfiguration", name]);
        said(stand, &drained, "kubernetes.answers", "busy_marks");
        stand.kubectl(&["delete", "pod", &drained.name, "--wait=false"]);
        stand.ready(4);
    });
    all_is_given(stand, witness).await;
}

/// The role of the workers, as it is, and without a verb on pods.
fn roles(stand: &Stand, verb: &str) -> [String; 2] {
    let role = json(&["-n", stand.name, "get", "role", RELEASE]);
    let mut without = role.clone();
    for rule in without["rules"].as_array_mut().expect("rules") {
        if rule["resources"] == json!(["pods"]) {
            rule["verbs"].as_array_mut().expect("verbs").retain(|it| it != verb);
        }
    }
    without["rules"].as_array_mut().expect("rules").retain(|rule| rule["verbs"] != json!([]));
    [role, without].map(|mut role: Value| {
        role["metadata"]["resourceVersion"].take();
        role.to_string()
    })
}

async fn without_a_verb(stand: &Stand, witness: &Pod, verb: &str, feature: &str) {
    let (role, new) = block_in_place(|| {
        let [role, without] = roles(stand, verb);
        replace(&without);
        let before: Vec<String> = stand.pods().into_iter().map(|pod| pod.uid).collect();
        stand.kubectl(&["delete", "pod", &fresh(stand, witness).name, "--wait=false"]);
        let new = wait_until("another pod is ready", || {
            stand.pods().into_iter().find(|pod| pod.is_ready && !before.contains(&pod.uid))
        });
        said(stand, &new, "kubernetes.refused", feature);
        (role, new)
    });
    works_on(stand, &format!("it refuses to {verb} pods")).await;
    block_in_place(|| {
        replace(&role);
        if feature == "busy_marks" {
            marks_come_back(stand, &new);
        } else {
            said(stand, &new, "kubernetes.answers", feature);
        }
        stand.ready(4);
    });
}

/// They are asked for again when work begins or ends, which it does not here, and else every three minutes: only in
/// soak that is waited for, and else the worker is told to go, which is an edge too.
fn marks_come_back(stand: &Stand, pod: &Pod) {
    let since = Instant::now();
    let are_back =
        || last_said(stand, pod, "busy_marks").is_some_and(|it| it.contains("kubernetes.answers"));
    while is_soak() && !are_back() {
        assert!(since.elapsed() < 2 * REFUSED, "they stay away");
        thread::sleep(Duration::from_secs(1));
    }
    if !is_soak() {
        signal(pod, Signal::TERM);
        said(stand, pod, "kubernetes.answers", "busy_marks");
        stand.kubectl(&["delete", "pod", &pod.name, "--wait=false"]);
    }
    say(&format!("api: marks were back after {}", seconds(since.elapsed())));
}

fn replace(role: &str) {
    super::kube::with_input(&["replace", "-f", "-"], role);
}

/// The server holds tokens against another key: none is any good.
async fn with_an_expired_token(stand: &Stand, witness: &Pod) {
    let restart = |key: &str| {
        cluster(&["stop", SERVER]);
        cluster_with(key, &["start", SERVER]);
        answers();
    };
    let (event, feature) = ("kubernetes.refused", "dead_owner_watch");
    block_in_place(|| {
        let before = times_said(stand, witness, event, feature);
        restart("apiserver.crt");
        says(stand, witness, event, feature, before);
        assert!(!stand.log(witness).contains("kube_runtime"), "what fails is said once");
    });
    works_on(stand, "no token is any good").await;
    block_in_place(|| restart("sa.pub"));
}
