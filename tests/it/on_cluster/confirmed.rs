//! Pods whose end their kubelet confirms, and pods of which nobody knows.

use std::time::Duration;

use rustix::process::Signal;
use tokio::{task::block_in_place, time::Instant};

use super::{
    blows::{TakenOver, UNDER_WAY, causes, none_was_early, of_long_leases, strike},
    kube::{Pod, WORKERS, end_of, evict, kubectl, seconds, signal, starve},
    stand::Stand,
};
use crate::{
    nemesis::{say, workload::LONG},
    process::{is_soak, wait_until},
};

/// Nobody whose lease has to run out is taken for one whose end is known, and a drain of a node is let have its
/// way.
fn settings() -> String {
    format!("{}podDisruptionBudget: {{enabled: false}}\n", of_long_leases())
}

/// One that was never struck.
fn fresh(stand: &Stand) -> Pod {
    let is = |pod: &Pod| pod.is_ready && pod.told_to_go.is_none() && pod.restarts == 0;
    wait_until("a pod is ready", || stand.pods().into_iter().find(is))
}

/// What came of a blow.
struct Struck {
    taken: Vec<TakenOver>,
    /// How long after the blow the worker's process ended.
    ended: Duration,
    /// What its attempts were lost by.
    causes: Vec<String>,
}

impl Struck {
    /// How long after the blow, and after the end of the process, all that was taken over had begun again.
    fn took(&self) -> Option<(Duration, Duration)> {
        let last = self.taken.iter().map(|it| it.after).max()?;
        Some((last, last.saturating_sub(self.ended)))
    }
}

/// Strikes a pod that is at work.
async fn struck(stand: &Stand, what: &str, blow: impl FnOnce(&Pod)) -> Struck {
    let pod = block_in_place(|| fresh(stand));
    let end = block_in_place(|| end_of(&pod));
    let mut began = Instant::now();
    let taken = strike(stand, what, std::slice::from_ref(&pod), || {
        began = Instant::now();
        blow(&pod);
    })
    .await;
    let ended = end.await.expect("no panic").duration_since(began);
    let causes = causes(stand, &pod).await;
    block_in_place(|| {
        if stand.pods().iter().any(|it| it.uid == pod.uid && it.told_to_go.is_none()) {
            // Started too often, it would be made to wait.
            stand.kubectl(&["delete", "pod", &pod.name, "--wait=false"]);
        }
    });
    Struck { taken, ended, causes }
}

/// As [`struck`], of one that hands nothing back and overruns its grace period of a second.
async fn struck_frozen(stand: &Stand, what: &str, blow: impl FnOnce(&Pod)) -> Struck {
    struck(stand, what, |pod| {
        signal(pod, Signal::STOP);
        blow(pod);
    })
    .await
}

/// In soak so many of each kind that its p99 is a figure.
fn rounds() -> usize {
    if is_soak() { 50 } else { 1 }
}

/// The longest of each round.
fn show(stand: &Stand, what: &str, longest: Vec<(Duration, Duration)>) {
    let (mut blows, mut ends): (Vec<_>, Vec<_>) = longest.into_iter().unzip();
    for (since, times) in [("the blow", &mut blows), ("the end of its process", &mut ends)] {
        times.sort();
        let at = |percent: usize| seconds(times[(times.len() - 1) * percent / 100]);
        say(&format!(
            "{}: {what}: all of it was taken over p50 {}, p99 {}, at most {} after {since}, of {} rounds",
            stand.name,
            at(50),
            at(99),
            at(100),
            times.len()
        ));
    }
}

#[derive(Clone, Copy)]
enum Blow {
    Kill,
    Starve,
    Delete,
    Evict,
    Drain,
}

impl Blow {
    const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::Kill, "kill -9 of a container", "container_restarted (exit code 137, its node)"),
        (Self::Starve, "a container without memory", "oom_killed (exit code 137, its node)"),
        (
            Self::Delete,
            "a deletion whose grace is overrun",
            "pod_deleted (exit code 137, its node)",
        ),
        (
            Self::Evict,
            "an eviction whose grace is overrun",
            "node_drained (exit code 137, its node)",
        ),
        (Self::Drain, "a drain of a node", "node_drained (exit code 137, its node)"),
    ];

    const fn restarts(self) -> bool {
        matches!(self, Self::Kill | Self::Starve)
    }

    async fn strike(self, stand: &Stand, what: &str) -> Struck {
        match self {
            Self::Kill => struck(stand, what, |pod| signal(pod, Signal::KILL)).await,
            Self::Starve => struck(stand, what, starve).await,
            Self::Delete => {
                struck_frozen(stand, what, |pod| {
                    let words = ["delete", "pod", &pod.name, "--grace-period=1", "--wait=false"];
                    stand.kubectl(&words);
                })
                .await
            }
            Self::Evict => struck_frozen(stand, what, |pod| evict(stand.name, &pod.name)).await,
            Self::Drain => {
                struck_frozen(stand, what, |pod| {
                    let of_workers = format!("--pod-selector={WORKERS}");
                    let words = ["drain", &pod.node, "--grace-period=1", "--delete-emptydir-data"];
                    kubectl(&[&words[..], &[&of_workers, "--timeout=1m"]].concat());
                    kubectl(&["uncordon", &pod.node]);
                })
                .await
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_pod_held_goes_on_once_its_kubelet_says_that_it_has_ended_and_never_on_a_guess() {
    let stand = Stand::new("confirmed").await;
    block_in_place(|| {
        stand.install(&settings());
        for pod in stand.ready(4) {
            said(&stand, &pod, "kubernetes.answers");
        }
    });
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[LONG]).await;

    for (blow, what, cause) in Blow::ALL {
        let (mut longest, mut untold) = (Vec::new(), 0);
        while longest.len() < rounds() {
            let struck = blow.strike(&stand, what).await;
            // All that it held may have ended just before the blow.
            let Some(took) = struck.took() else { continue };
            longest.push(took);
            // A process that starts does not wait until its kubelet has told of the one before it.
            if blow.restarts() && struck.causes == ["container_restarted"] {
                untold += 1;
            } else {
                assert_eq!(struck.causes, [cause], "{what}");
            }
        }
        show(&stand, what, longest);
        if blow.restarts() {
            say(&format!("confirmed: {what}: {untold} times nobody had told yet what it was"));
        }
    }

    let forced = loop {
        let forced = struck_frozen(&stand, "a forced delete", |pod| {
            stand.kubectl(&["delete", "pod", &pod.name, "--force", "--grace-period=0"]);
        })
        .await;
        if forced.took().is_some() {
            break forced;
        }
    };
    assert_eq!(forced.causes, ["lease_expired"], "nobody saw it end");
    none_was_early(&forced.taken);

    let submitted = load.end().await;
    say(&format!("confirmed: {submitted} submitted"));
    stand.judge().await;
}

/// Waits for an event in the log of a pod.
fn said(stand: &Stand, pod: &Pod, event: &str) {
    let event = format!("\"{event}\"");
    wait_until(&event, || stand.log(pod).contains(&event).then_some(()));
}
