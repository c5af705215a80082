//! Watches the `ReplicaSets` of the workers' Deployment.
//!
//! **Invariant:** each watch begins with a list of them, so that none that has gone unseen holds anybody back.

use std::{collections::HashMap, pin::pin};

use futures_util::TryStreamExt;
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::{
    Api, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::sync::watch::Sender;

use super::{Kube, Unanswered, answer, standby::Reporter, watch_seconds};
use crate::domain::standby::{Reason, ReplicaSetSeen, Standby, is_superseded};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

impl Kube {
    /// Tells whether newer pods than those of this template hash are ready, for ever. `labels` choose the
    /// workers' `ReplicaSets`.
    pub async fn watch_rollout(self, labels: &str, own: &str, standby: Sender<Standby>) {
        let sets: Api<ReplicaSet> = Api::default_namespaced(self.client);
        let reason = Reason::Superseded;
        let mut reporter = Reporter::new("rollout_aware", reason, standby, self.instruments);
        loop {
            let watched = watch(&sets, labels, own, &mut reporter).await;
            reporter.ended(watched).await;
        }
    }
}

async fn watch(
    sets: &Api<ReplicaSet>,
    labels: &str,
    own: &str,
    reporter: &mut Reporter,
) -> Result<(), Unanswered> {
    let listed = answer(sets.list(&ListParams::default().labels(labels))).await?;
    let since = listed.metadata.resource_version.unwrap_or_default();
    let chosen = WatchParams::default().labels(labels).timeout(watch_seconds());
    let mut events = pin!(answer(sets.watch(&chosen, &since)).await?);
    reporter.begun();
    let mut known: HashMap<String, ReplicaSetSeen> =
        listed.items.iter().map(|set| (set.name_any(), seen(set))).collect();
    reporter.report(is_superseded(own, known.values()));
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(set) | WatchEvent::Modified(set) => {
                known.insert(set.name_any(), seen(&set));
            }
            WatchEvent::Deleted(set) => {
                known.remove(&set.name_any());
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        }
        reporter.report(is_superseded(own, known.values()));
    }
    Ok(())
}

fn seen(set: &ReplicaSet) -> ReplicaSetSeen {
    let owner = set.owner_references().iter().find(|owner| owner.controller == Some(true));
    ReplicaSetSeen {
        template_hash: set.labels().get(HASH).cloned().unwrap_or_default(),
        deployment: owner.map(|owner| owner.uid.clone()).unwrap_or_default(),
        revision: set.annotations().get(REVISION).and_then(|text| text.parse().ok()),
        ready: set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0),
    }
}
