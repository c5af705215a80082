//! What proves that a pod has ended.
//!
//! **Invariant:** only the word of the pod's own kubelet counts, that every process of it has ended for
//! good. Whoever cannot see a pod knows nothing of it: one that has vanished, is on a lost node, or was
//! marked as failed by somebody else may work on.

use std::sync::Arc;

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
    /// Its containers, if the kubelet has told of any.
    pub containers: Vec<ContainerSeen>,
}

/// How a container stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSeen {
    /// It is ended, and its kubelet says when it did.
    pub has_ended: bool,
    /// `OOMKilled`, `Error`, `ContainerStatusUnknown`.
    pub reason: String,
    pub exit_code: i32,
}

/// The end of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub uid: String,
    pub end: PodEnd,
}

/// What a pod has ended by, with which exit code, and where.
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
        }
    }

    /// Whether the cluster wanted it, whatever the pod was doing.
    pub const fn is_of_the_cluster(self) -> bool {
        match self {
            Self::Preemption | Self::Drain | Self::Deletion => true,
            Self::OomKill | Self::Eviction | Self::Exit => false,
        }
    }
}

/// How it ended, if that is proved.
pub fn death(pod: &PodSeen) -> Option<Death> {
    let is_proved = |it: &ContainerSeen| it.has_ended && it.reason != "ContainerStatusUnknown";
    let is_guess = pod.reason == "NodeLost" || pod.disruption == "DeletionByPodGC";
    if !pod.is_final || is_guess || !pod.containers.iter().all(is_proved) {
        return None;
    }
    let was_killed = |it: &&ContainerSeen| it.reason == "OOMKilled";
    // An empty list proves nothing.
    let told = pod.containers.iter().find(was_killed).or(pod.containers.first())?;
    let by = match (&*told.reason, &*pod.reason, &*pod.disruption) {
        ("OOMKilled", ..) => EndedBy::OomKill,
        (_, "Evicted", _) | (.., "TerminationByKubelet") => EndedBy::Eviction,
        (.., "PreemptionByScheduler") => EndedBy::Preemption,
        (.., "EvictionByEvictionAPI" | "DeletionByTaintManager") => EndedBy::Drain,
        _ if pod.is_deleted => EndedBy::Deletion,
        _ => EndedBy::Exit,
    };
    let end = PodEnd { by, exit_code: told.exit_code, node: pod.node.as_deref().map(Into::into) };
    Some(Death { uid: pod.uid.clone(), end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(reason: &str) -> PodSeen {
        let container = ContainerSeen { has_ended: true, reason: reason.into(), exit_code: 137 };
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
        let known = ContainerSeen { has_ended: true, ..ContainerSeen::default() };
        let running = ContainerSeen::default();
        for (what, pod) in [
            ("it may start again", PodSeen { is_final: false, ..ended("Error") }),
            ("nobody has seen a container", PodSeen { containers: Vec::new(), ..ended("Error") }),
            ("its kubelet does not know", ended("ContainerStatusUnknown")),
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
        }
    }
}
