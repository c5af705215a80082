//! Whether the API server allows what a feature needs, found out by asking for it.
//!
//! **Invariant:** nothing is changed by it: a trial reads, or is a write that is judged and not done.

use std::fmt::Debug;

use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Node, Pod},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    Kube, Unanswered, answer,
    events::{CONTROLLER, regarding},
};
use crate::domain::{doctor::Allowed, pod::OwnPod};

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub enum Trial<'a> {
    /// Read pods with these labels.
    Pods(&'a str),
    /// Patch the pod of this name.
    Patch(&'a str),
    /// Watch the node of this name.
    Node(&'a str),
    /// Read `ReplicaSets` with these labels.
    ReplicaSets(&'a str),
    /// Write an event about this pod.
    Event(&'a OwnPod),
}

/// No event has this name.
const NOBODYS: &str = "orchestrator-worker-trial";

/// Lists those with these labels, and watches them.
async fn read<K>(all: &Api<K>, labels: &str) -> Result<(), Unanswered>
where
    K: Clone + DeserializeOwned + Debug,
{
    answer(all.list_metadata(&ListParams::default().labels(labels).limit(1))).await?;
    watch(all, WatchParams::default().labels(labels)).await
}

/// Begins to watch, and leaves it at that.
async fn watch<K>(all: &Api<K>, which: WatchParams) -> Result<(), Unanswered>
where
    K: Clone + DeserializeOwned + Debug,
{
    answer(all.watch_metadata(&which.timeout(1), "0")).await.map(drop)
}

impl Kube {
    /// What the API server says to it.
    pub async fn allows(&self, trial: &Trial<'_>) -> Allowed {
        let tried = match self.try_out(trial).await {
            Ok(()) if matches!(trial, Trial::Event(_)) => self.patch_an_event().await,
            tried => tried,
        };
        match tried {
            Ok(()) => Allowed::Yes,
            Err(error) if error.is_refusal() => Allowed::Refused(error.to_string()),
            Err(error) => Allowed::Unreached(error.to_string()),
        }
    }

    pub(super) async fn try_out(&self, trial: &Trial<'_>) -> Result<(), Unanswered> {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        match trial {
            Trial::Pods(labels) => read(&pods, labels).await,
            Trial::ReplicaSets(labels) => {
                let sets: Api<ReplicaSet> = Api::default_namespaced(self.client.clone());
                read(&sets, labels).await
            }
            Trial::Node(name) => {
                let nodes: Api<Node> = Api::all(self.client.clone());
                watch(&nodes, WatchParams::default().fields(&format!("metadata.name={name}"))).await
            }
            Trial::Patch(pod) => {
                let nothing = Patch::Merge(json!({"metadata": {}}));
                let dry = PatchParams { dry_run: true, ..PatchParams::default() };
                answer(pods.patch_metadata(pod, &dry, &nothing)).await.map(drop)
            }
            Trial::Event(pod) => {
                let events: Api<Event> = Api::default_namespaced(self.client.clone());
                let dry = PostParams { dry_run: true, ..PostParams::default() };
                answer(events.create(&dry, &self.event(pod))).await.map(drop)
            }
        }
    }

    /// One that is not there: whoever may not hears of that first.
    async fn patch_an_event(&self) -> Result<(), Unanswered> {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let nothing = Patch::Merge(json!({"metadata": {}}));
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        match answer(events.patch_metadata(NOBODYS, &dry, &nothing)).await {
            Err(Unanswered::Api(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            patched => patched.map(drop),
        }
    }

    fn event(&self, pod: &OwnPod) -> Event {
        let word = || Some("Trial".to_owned());
        Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{NOBODYS}-")),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            regarding: Some(regarding(&self.client, pod)),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(CONTROLLER.into()),
            type_: Some("Normal".into()),
            reason: word(),
            action: word(),
            ..Event::default()
        }
    }
}
