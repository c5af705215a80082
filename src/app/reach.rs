//! Whether a collector takes connections, a lock server answers, and the Kubernetes API allows what is set.
//!
//! **Invariant:** no span is sent, no lock taken, and nothing of the cluster changed.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    adapters::kube::{Kube, Trial},
    config::Config,
    domain::doctor::{Allowed, Export, Feature},
    instruments::Instruments,
    orchestrator::{LockConfig, ProviderRegistry},
    ports::lock::LockError,
};

/// Asks the server that keeps leases for something, if there is one.
pub async fn reach_leases(leases: &LockConfig) -> Result<(), LockError> {
    let provider = ProviderRegistry::default().open(leases).await?;
    provider.close().await;
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Connects where spans would be sent, if anywhere.
pub async fn reach(config: &Config) -> Export {
    if !config.otlp.enabled {
        return Export::Off;
    }
    let Some((host, port)) = &config.otlp.collector else {
        return Export::Unreached("the OTLP endpoint".into(), "it is not a URL".into());
    };
    let server = format!("{host}:{port}");
    match timeout(PATIENCE, TcpStream::connect((host.as_str(), *port))).await {
        Ok(Ok(_)) => Export::Reached(server),
        Ok(Err(error)) => Export::Unreached(server, error.to_string()),
        Err(_) => Export::Unreached(server, format!("no answer within {PATIENCE:?}")),
    }
}

/// What the Kubernetes API says to each feature of it that is set.
pub async fn reach_kubernetes(config: &Config) -> Vec<(Feature, Allowed)> {
    let labels = config.dead_owner_watch.as_deref();
    let asked: Vec<(Feature, Trial<'_>)> = [
        labels.map(|labels| (Feature::DEAD_OWNER_WATCH, Trial::Pods(labels))),
        config.busy_marks.as_deref().map(|pod| (Feature::BUSY_MARKS, Trial::Patch(pod))),
        config.events.as_ref().map(|pod| (Feature::EVENTS, Trial::Event(pod))),
        config.cordon_watch.as_deref().map(|node| (Feature::CORDON_WATCH, Trial::Node(node))),
        config
            .rollout_aware
            .as_ref()
            .map(|it| (Feature::ROLLOUT_AWARE, Trial::ReplicaSets(&it.labels))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if asked.is_empty() {
        return Vec::new();
    }
    let kube = Kube::in_pod(Arc::new(Instruments::new()));
    join_all(asked.into_iter().map(async |(feature, trial)| match &kube {
        Ok(kube) => (feature, kube.allows(&trial).await),
        Err(error) => (feature, Allowed::Unreached(error.to_string())),
    }))
    .await
}
