//! Watches the node of this pod.
//!
//! **Invariant:** each watch begins with how the node is now, so that none relies on what was told before it.

use std::pin::pin;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use tokio::sync::watch::Sender;

use super::{Kube, Unanswered, answer, standby::Reporter, watch_seconds};
use crate::domain::standby::{Reason, Standby, is_cordoned};

impl Kube {
    /// Tells whether that node is cordoned, for ever.
    pub async fn watch_node(self, node: &str, standby: Sender<Standby>) {
        let nodes: Api<Node> = Api::all(self.client);
        let reason = Reason::Cordoned;
        let mut reporter = Reporter::new("cordon_watch", reason, standby, self.instruments);
        loop {
            let watched = watch(&nodes, node, &mut reporter).await;
            reporter.ended(watched).await;
        }
    }
}

async fn watch(nodes: &Api<Node>, name: &str, reporter: &mut Reporter) -> Result<(), Unanswered> {
    let one =
        WatchParams::default().fields(&format!("metadata.name={name}")).timeout(watch_seconds());
    // From no version on: what is there comes first, and takes no right but to watch.
    let mut events = pin!(answer(nodes.watch(&one, "0")).await?);
    reporter.begun();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                reporter.report(is_to_be_emptied(&node));
            }
            // The pods of one that was deleted are deleted next.
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        }
    }
    Ok(())
}

fn is_to_be_emptied(node: &Node) -> bool {
    let Some(spec) = &node.spec else { return false };
    let taints = spec.taints.iter().flatten().map(|taint| taint.key.as_str());
    is_cordoned(spec.unschedulable.unwrap_or(false), taints)
}
