//! What proves that a pod has ended, and what else its status tells of an end.
//!
//! **Invariant:** only the word of the pod's own kubelet counts, that every process of it has ended for
//! good. Whoever cannot see a pod knows nothing of it: one that has vanished, is on a lost node, or was
//! marked as failed by somebody else may work on. All other news only names a cause.

use std::sync::Arc;

use super::pod::PodProcess;

/// A pod as the API server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    pub uid: String,
    pub node: Option<String>,
    /// `Succeeded` or `Failed`: none of its containers starts again.
    pub is_final: bool,
    /// `status.reason`: `Evicted`, `NodeLost`.
    pub reason: String,
    /// The reason of the condition `DisruptionTarget`: who wanted its end.
    pub disruption: String,
    /// Somebody has deleted it.
    pub is_deleted: bool,
    /// The cluster has taken its readiness away, for want of its kubelet.
    pub is_out_of_reach: bool,
    /// Its containers, if the kubelet has told of any.
    pub containers: Vec<ContainerSeen>,
}

/// How a container stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSeen {
    /// `None`: it runs, or is about to.
    pub ended: Option<ContainerEnd>,
    /// How the one before it has ended.
    pub before: Option<ContainerEnd>,
    /// How often it was started again.
    pub restarts: u32,
}

/// How a container has ended, in its kubelet's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerEnd {
    /// When, in seconds since 1970; `None` if its kubelet does not say.
    pub finished: Option<i64>,
    /// `OOMKilled`, `Error`, `ContainerStatusUnknown`.
    pub reason: String,
    pub exit_code: i32,
}

/// What the status of a pod tells of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A pod has ended for good.
    Ended(Death),
    /// Nobody hears of the node of the pod with this UID. It proves nothing.
    NodeLost { uid: String, node: Option<Arc<str>> },
    /// How the process before this one, in the same pod, has ended.
    Former(PodEnd),
}

/// The end of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub uid: String,
    pub end: PodEnd,
}

/// What a pod, or a container of it, has ended by, with which exit code, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodEnd {
    pub by: EndedBy,
    pub exit_code: i32,
    /// Where it ran.
    pub node: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// The kernel, for want of memory.
    OomKill,
    /// Its kubelet, whose node had run short of something or was shut down.
    Eviction,
    /// The scheduler, for a pod that goes before it.
    Preemption,
    /// A drain of its node, or a taint of it.
    Drain,
    /// A deletion: a rollout, fewer replicas, a person.
    Deletion,
    /// Itself.
    Exit,
    /// Whatever ended its container, which was started again.
    Restart,
}

impl EndedBy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OomKill => "oom_killed",
            Self::Eviction => "evicted",
            Self::Preemption => "preempted",
            Self::Drain => "node_drained",
            Self::Deletion => "pod_deleted",
            Self::Exit => "exited",
            Self::Restart => "container_restarted",
        }
    }

    /// Whether the cluster wanted it, whatever the pod was doing.
    pub const fn is_of_the_cluster(self) -> bool {
        match self {
            Self::Preemption | Self::Drain | Self::Deletion => true,
            Self::OomKill | Self::Eviction | Self::Exit | Self::Restart => false,
        }
    }
}

/// What it tells the process `own`, if anything.
pub fn news(pod: &PodSeen, own: &PodProcess) -> Option<News> {
    if !pod.uid.is_empty() && pod.uid == own.uid() {
        return former(pod, own).map(News::Former);
    }
    death(pod).map(News::Ended).or_else(|| node_lost(pod))
}

/// How the process before this one has ended, by its container: of several the one that did last. Every process
/// has a container of its own, so there were as many of those at least. Where the status shows fewer, its kubelet
/// has not said the latest yet.
fn former(pod: &PodSeen, own: &PodProcess) -> Option<PodEnd> {
    let number = own.life()?.number();
    let of = |it: &ContainerSeen| {
        let (end, lives) = match &it.ended {
            Some(end) => (end.clone(), it.restarts.saturating_add(2)),
            None => (it.before.clone()?, it.restarts.saturating_add(1)),
        };
        (lives >= number && is_known(&end)).then_some(end)
    };
    let end = pod.containers.iter().filter_map(of).max_by_key(|end| end.finished)?;
    let by = if is_oom_kill(&end) { EndedBy::OomKill } else { EndedBy::Restart };
    Some(PodEnd { by, exit_code: end.exit_code, node: node(pod) })
}

fn is_known(end: &ContainerEnd) -> bool {
    end.finished.is_some() && end.reason != "ContainerStatusUnknown"
}

fn is_oom_kill(end: &ContainerEnd) -> bool {
    end.reason == "OOMKilled"
}

fn node(pod: &PodSeen) -> Option<Arc<str>> {
    pod.node.as_deref().map(Into::into)
}

/// Its node is gone, or does not answer and the pod is told to leave it.
fn node_lost(pod: &PodSeen) -> Option<News> {
    let is_to_leave = pod.disruption == "DeletionByTaintManager" && pod.is_deleted && !pod.is_final;
    let lost = || News::NodeLost { uid: pod.uid.clone(), node: node(pod) };
    (is_given_up(pod) || is_to_leave && pod.is_out_of_reach).then(lost)
}

/// Its state was written by the cluster, for want of its kubelet.
fn is_given_up(pod: &PodSeen) -> bool {
    pod.reason == "NodeLost" || pod.disruption == "DeletionByPodGC"
}

/// How it ended, if that is proved.
fn death(pod: &PodSeen) -> Option<Death> {
    if !pod.is_final || is_given_up(pod) {
        return None;
    }
    let proved = |it: &ContainerSeen| it.ended.clone().filter(is_known);
    let ends: Vec<ContainerEnd> = pod.containers.iter().map(proved).collect::<Option<_>>()?;
    // An empty list proves nothing.
    let told = ends.iter().find(|end| is_oom_kill(end)).or(ends.first())?;
    let by = match (&*told.reason, &*pod.reason, &*pod.disruption) {
        ("OOMKilled", ..) => EndedBy::OomKill,
        (_, "Evicted", _) | (.., "TerminationByKubelet") => EndedBy::Eviction,
        (.., "PreemptionByScheduler") => EndedBy::Preemption,
        (.., "EvictionByEvictionAPI" | "DeletionByTaintManager") => EndedBy::Drain,
        _ if pod.is_deleted => EndedBy::Deletion,
        _ => EndedBy::Exit,
    };
    let end = PodEnd { by, exit_code: told.exit_code, node: node(pod) };
    Some(Death { uid: pod.uid.clone(), end })
}

#[cfg(test)]
mod tests {
    use super::{super::pod::Life, *};

    fn end(reason: &str, finished: i64) -> ContainerEnd {
        ContainerEnd { finished: Some(finished), reason: reason.into(), exit_code: 137 }
    }

    fn ended(reason: &str) -> PodSeen {
        let container = ContainerSeen { ended: Some(end(reason, 100)), ..ContainerSeen::default() };
        PodSeen {
            uid: "u".into(),
            node: Some("worker-2".into()),
            is_final: true,
            containers: vec![container],
            ..PodSeen::default()
        }
    }

    #[test]
    fn only_the_kubelets_word_that_every_container_has_ended_for_good_proves_a_death() {
        assert!(death(&ended("Error")).is_some());
        let known = ended("Error").containers.remove(0);
        let untimed = ContainerEnd { finished: None, ..end("Error", 100) };
        let untimed = ContainerSeen { ended: Some(untimed), ..ContainerSeen::default() };
        let running = ContainerSeen {
            before: Some(end("Error", 100)),
            restarts: 1,
            ..ContainerSeen::default()
        };
        for (what, pod) in [
            ("it may start again", PodSeen { is_final: false, ..ended("Error") }),
            ("nobody has seen a container", PodSeen { containers: Vec::new(), ..ended("Error") }),
            ("its kubelet does not know", ended("ContainerStatusUnknown")),
            (
                "its kubelet does not say when",
                PodSeen { containers: vec![untimed], ..ended("Error") },
            ),
            ("its node is lost", PodSeen { reason: "NodeLost".into(), ..ended("Error") }),
            (
                "it was tidied away",
                PodSeen { disruption: "DeletionByPodGC".into(), ..ended("Error") },
            ),
            (
                "one beside it goes on",
                PodSeen { containers: vec![known, running], ..ended("Error") },
            ),
        ] {
            assert_eq!(death(&pod), None, "{what}");
        }
    }

    #[test]
    fn a_death_is_told_by_what_brought_it() {
        let with = |reason: &str, disruption: &str, is_deleted| PodSeen {
            reason: reason.into(),
            disruption: disruption.into(),
            is_deleted,
            ..ended("Error")
        };
        for (pod, word, is_of_the_cluster) in [
            (ended("OOMKilled"), "oom_killed", false),
            (ended("Error"), "exited", false),
            (with("Evicted", "", false), "evicted", false),
            (with("", "TerminationByKubelet", false), "evicted", false),
            (with("", "PreemptionByScheduler", true), "preempted", true),
            (with("", "EvictionByEvictionAPI", true), "node_drained", true),
            (with("", "DeletionByTaintManager", true), "node_drained", true),
            (with("", "", true), "pod_deleted", true),
        ] {
            let death = death(&pod).expect("it is proved");
            assert_eq!((death.end.by.as_str(), death.end.exit_code), (word, 137), "{pod:?}");
            assert_eq!(death.end.node.as_deref(), Some("worker-2"));
            assert_eq!(death.end.by.is_of_the_cluster(), is_of_the_cluster, "{word}");
            assert_eq!(news(&pod, &PodProcess::default()), Some(News::Ended(death)));
        }
    }

    #[test]
    fn a_node_is_lost_that_is_gone_or_that_its_pods_are_told_to_leave_and_do_not() {
        let running = PodSeen { is_final: false, ..ended("Error") };
        let silent = PodSeen {
            disruption: "DeletionByTaintManager".into(),
            is_out_of_reach: true,
            ..running.clone()
        };
        let evicted = PodSeen { disruption: "EvictionByEvictionAPI".into(), ..running.clone() };
        for (pod, is_lost) in [
            (PodSeen { reason: "NodeLost".into(), ..running.clone() }, true),
            (PodSeen { disruption: "DeletionByPodGC".into(), ..ended("Error") }, true),
            (PodSeen { is_deleted: true, ..silent.clone() }, true),
            // Any taint may be what it does not tolerate.
            (PodSeen { is_deleted: true, is_out_of_reach: false, ..silent.clone() }, false),
            (silent, false),
            (PodSeen { is_deleted: true, ..evicted }, false),
            (PodSeen { is_deleted: true, ..running }, false),
        ] {
            let lost = News::NodeLost { uid: "u".into(), node: Some("worker-2".into()) };
            let expected = is_lost.then_some(lost);
            assert_eq!(news(&pod, &PodProcess::default()), expected, "{pod:?}");
        }
    }

    #[test]
    fn a_process_hears_how_the_one_before_it_has_ended_and_not_how_an_earlier_one_did() {
        let third: Life = "00000007.3".parse().expect("a life");
        let own = PodProcess::try_new("u").expect("a UID").with_life(third);
        let again = |reason: &str, restarts, finished| ContainerSeen {
            before: Some(end(reason, finished)),
            restarts,
            ..ContainerSeen::default()
        };
        let ended_only = |reason: &str, restarts, finished| ContainerSeen {
            ended: Some(end(reason, finished)),
            restarts,
            ..ContainerSeen::default()
        };
        let oom = Some("oom_killed");
        for (what, containers, expected) in [
            ("it was started again", vec![again("OOMKilled", 2, 9)], oom),
            ("more often than a worker was", vec![again("OOMKilled", 3, 9)], oom),
            ("it is about to be", vec![ended_only("OOMKilled", 1, 9)], oom),
            ("killed by somebody", vec![again("Error", 2, 9)], Some("container_restarted")),
            ("one before that", vec![again("OOMKilled", 1, 9)], None),
            ("one before that", vec![ended_only("OOMKilled", 0, 9)], None),
            ("nobody knows", vec![again("ContainerStatusUnknown", 2, 9)], None),
            (
                "nothing of it",
                vec![ContainerSeen { restarts: 2, ..ContainerSeen::default() }],
                None,
            ),
            ("one beside it", vec![again("Error", 2, 8), again("OOMKilled", 2, 9)], oom),
        ] {
            let pod = PodSeen { is_final: false, containers, ..ended("Error") };
            let told = match news(&pod, &own) {
                Some(News::Former(end)) => Some(end),
                None => None,
                other => panic!("{what}: {other:?}"),
            };
            assert_eq!(told.as_ref().map(|end| end.by.as_str()), expected, "{what}");
            assert!(told.is_none_or(|end| end.node.as_deref() == Some("worker-2")));
            let unproved = PodProcess::try_new("u").expect("a UID");
            assert_eq!(news(&pod, &unproved), None, "{what}");
        }
    }
}
