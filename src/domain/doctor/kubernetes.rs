//! Whether the Kubernetes API allows what is turned on.

use super::Finding;

/// Something that a worker asks of the API, if it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its setting, less `pod.`
    pub setting: &'static str,
    /// The chart's value that turns it on, and gives the right; less `kubernetes.`
    pub value: &'static str,
    /// What the workers' account has to be allowed.
    pub right: &'static str,
}

impl Feature {
    pub const DEAD_OWNER_WATCH: Self = Self {
        setting: "dead_owner_watch",
        value: "deadOwnerWatch",
        right: "list and watch pods of their namespace",
    };
    pub const BUSY_MARKS: Self =
        Self { setting: "busy_marks", value: "busyMarks", right: "patch pods of their namespace" };
    pub const EVENTS: Self = Self {
        setting: "events",
        value: "events",
        right: "create and patch events.events.k8s.io of their namespace",
    };
    pub const CORDON_WATCH: Self =
        Self { setting: "cordon_watch", value: "cordonWatch", right: "watch nodes of the cluster" };
    pub const ROLLOUT_AWARE: Self = Self {
        setting: "rollout_aware",
        value: "rolloutAware",
        right: "list and watch replicasets.apps of their namespace",
    };
}

/// What the API server says when it is asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    Yes,
    /// In its own words.
    Refused(String),
    /// Why there is no answer.
    Unreached(String),
}

/// Workers go on without: whatever is missing stops no work.
pub fn kubernetes(feature: Feature, allowed: &Allowed) -> Finding {
    let Feature { setting, value, right } = feature;
    match allowed {
        Allowed::Yes => {
            Finding::ok("kubernetes", format!("pod.{setting}: the Kubernetes API allows it"))
        }
        Allowed::Refused(reason) => Finding::warning(
            "kubernetes",
            format!("pod.{setting} is off, because the Kubernetes API refuses it: {reason}"),
            format!("set kubernetes.{value} in the chart, or let the workers' account {right}"),
        ),
        Allowed::Unreached(reason) => Finding::warning(
            "kubernetes",
            format!("pod.{setting} is off, because the Kubernetes API cannot be asked: {reason}"),
            "let the pod reach the API server (networkPolicy.apiTo in the chart), with the token of its \
             service account",
        ),
    }
}
