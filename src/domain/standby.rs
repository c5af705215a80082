//! Why a worker that could claim stands by.
//!
//! **Invariant:** only what was seen holds it back. A node or a `ReplicaSet` of which nobody has told lets it
//! claim, and what it holds goes on in any case.

/// What is said of a node whose pods are about to be taken away: by the cluster itself, by Karpenter, and by the
/// cluster autoscaler.
const GOING: [&str; 5] = [
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/out-of-service",
    "node.cloudprovider.kubernetes.io/shutdown",
    "karpenter.sh/disrupted",
    "ToBeDeletedByClusterAutoscaler",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its pod's node is to be emptied.
    Cordoned,
    /// Pods of a newer version are ready.
    Superseded,
}

impl Reason {
    pub const ALL: [Self; 2] = [Self::Cordoned, Self::Superseded];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cordoned => "cordoned",
            Self::Superseded => "superseded",
        }
    }
}

/// Whether a worker stands by. By default it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standby {
    cordoned: bool,
    superseded: bool,
}

impl Standby {
    /// Says whether that is news.
    pub fn set(&mut self, reason: Reason, is_so: bool) -> bool {
        let now = match reason {
            Reason::Cordoned => &mut self.cordoned,
            Reason::Superseded => &mut self.superseded,
        };
        std::mem::replace(now, is_so) != is_so
    }

    pub const fn is_for(self, reason: Reason) -> bool {
        match reason {
            Reason::Cordoned => self.cordoned,
            Reason::Superseded => self.superseded,
        }
    }

    pub const fn is_on(self) -> bool {
        self.cordoned || self.superseded
    }
}

/// Whether a node is to be emptied: `spec.unschedulable`, or a taint with one of these keys.
pub fn is_cordoned<'a>(unschedulable: bool, mut taints: impl Iterator<Item = &'a str>) -> bool {
    unschedulable || taints.any(|key| GOING.contains(&key))
}

/// A `ReplicaSet` as the API server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSetSeen {
    /// Its pods have it as a label too.
    pub template_hash: String,
    /// Uid of the Deployment that made it.
    pub deployment: String,
    /// A roll-back gives an old one a new revision.
    pub revision: Option<u64>,
    /// So many of its pods are ready.
    pub ready: i32,
}

/// Whether pods of a newer `ReplicaSet` are ready than that of this hash.
pub fn is_superseded<'a>(
    own: &str,
    mut sets: impl Iterator<Item = &'a ReplicaSetSeen> + Clone,
) -> bool {
    let Some(own) = sets.clone().find(|set| set.template_hash == own) else { return false };
    let is_newer = |set: &ReplicaSetSeen| {
        set.deployment == own.deployment
            && set.revision.zip(own.revision).is_some_and(|(its, own)| its > own)
    };
    sets.any(|set| set.ready > 0 && is_newer(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_stands_by_for_as_long_as_there_is_a_reason() {
        let mut standby = Standby::default();
        assert!(!standby.is_on());
        assert!(!standby.set(Reason::Cordoned, false), "that is no news");
        assert!(standby.set(Reason::Cordoned, true) && !standby.set(Reason::Cordoned, true));
        assert!(standby.set(Reason::Superseded, true));
        assert!(standby.set(Reason::Cordoned, false));
        assert_eq!(Reason::ALL.map(|reason| standby.is_for(reason)), [false, true]);
        assert!(standby.is_on());
        assert!(standby.set(Reason::Superseded, false) && !standby.is_on());
    }

    #[test]
    fn a_node_that_is_to_be_emptied_says_so_in_its_spec_or_by_a_taint() {
        for (unschedulable, taints, expected) in [
            (false, &[][..], false),
            (true, &[], true),
            (false, &["node.kubernetes.io/unschedulable"], true),
            (false, &["node.kubernetes.io/memory-pressure", "example.com/team"], false),
            (false, &["example.com/team", "karpenter.sh/disrupted"], true),
            (false, &["ToBeDeletedByClusterAutoscaler"], true),
            (false, &["DeletionCandidateOfClusterAutoscaler"], false),
        ] {
            let found = is_cordoned(unschedulable, taints.iter().copied());
            assert_eq!(found, expected, "{unschedulable} {taints:?}");
        }
    }

    fn set(hash: &str, revision: u64, ready: i32) -> ReplicaSetSeen {
        ReplicaSetSeen {
            template_hash: hash.into(),
            deployment: "d".into(),
            revision: Some(revision),
            ready,
        }
    }

    #[test]
    fn only_ready_pods_of_a_newer_set_of_the_same_deployment_supersede() {
        let other = ReplicaSetSeen { deployment: "other".into(), ..set("c", 9, 3) };
        let unknown = |set| ReplicaSetSeen { revision: None, ..set };
        for (what, sets, expected) in [
            ("nothing was seen", vec![], false),
            ("it is alone", vec![set("a", 1, 3)], false),
            ("its own was not seen", vec![set("b", 2, 3)], false),
            ("a newer one is ready", vec![set("a", 1, 3), set("b", 2, 1)], true),
            ("the newer one is not ready", vec![set("a", 1, 3), set("b", 2, 0)], false),
            ("an older one is", vec![set("a", 2, 0), set("b", 1, 3)], false),
            ("one between is", vec![set("c", 3, 0), set("a", 1, 3), set("b", 2, 1)], true),
            ("it was rolled back to", vec![set("a", 3, 1), set("b", 2, 3)], false),
            ("it is of another deployment", vec![set("a", 1, 3), other], false),
            ("its revision is unknown", vec![unknown(set("a", 1, 3)), set("b", 2, 1)], false),
            ("the other's is unknown", vec![set("a", 1, 3), unknown(set("b", 2, 1))], false),
        ] {
            assert_eq!(is_superseded("a", sets.iter()), expected, "{what}");
        }
    }
}
