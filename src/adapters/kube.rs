//! The Kubernetes API, as a pod of the chart uses it: it tells of other workers' pods that have ended.
//!
//! **Invariant:** nothing waits for it. An API server that is away, slow or refuses costs what it would
//! have told and nothing else; an object of it goes no further than this file.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{
    Api, Client, Config,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::mpsc::Sender;

use crate::{
    domain::death::{ContainerSeen, Death, PodSeen, death},
    instruments::{ByFeature, Instruments},
};

/// For each answer that is no watch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A watch is asked for anew so often; one that is silent for longer is not there any more.
const WATCH: Duration = Duration::from_secs(120);

/// The API server of the cluster that this process runs in.
pub struct Kube {
    client: Client,
    instruments: Arc<Instruments>,
}

/// Why a process cannot ask for anything.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    #[error("{0}; is the token of the pod's service account mounted?")]
    NotInPod(#[from] kube::config::InClusterError),
    #[error("{0}")]
    Client(#[from] kube::Error),
}

impl Kube {
    /// With what a pod is given; asks for nothing. Needs a tokio runtime.
    pub fn in_pod(instruments: Arc<Instruments>) -> Result<Self, KubeError> {
        let mut config = Config::incluster()?;
        config.connect_timeout = Some(TIMEOUT);
        config.write_timeout = Some(TIMEOUT);
        // Of a watch too, between two words of the server.
        config.read_timeout = Some(WATCH + TIMEOUT);
        // It would hold a call for minutes.
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)?, instruments })
    }

    /// Tells of every pod of this namespace with these labels that ends, for as long as somebody listens.
    /// One that had ended before is told of again after each gap.
    pub async fn watch_deaths(self, labels: &str, deaths: Sender<Death>) {
        let pods: Api<Pod> = Api::default_namespaced(self.client);
        let seconds = u32::try_from(WATCH.as_secs()).expect("it is short");
        let watched = watcher::Config::default().labels(labels).timeout(seconds);
        let mut events = pin!(watcher(pods, watched).default_backoff());
        let mut state = State::new("dead_owner_watch", self.instruments);
        loop {
            match events.try_next().await {
                Ok(Some(Event::Init)) => {}
                Ok(Some(Event::InitDone)) => state.answered(),
                Ok(Some(Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod))) => {
                    state.answered();
                    let Some(death) = death(&seen(&pod)) else { continue };
                    if deaths.send(death).await.is_err() {
                        return;
                    }
                }
                // The stream has no end.
                Ok(None) => return,
                Err(error) => state.failed(&error),
            }
        }
    }
}

/// Whether a feature works, said when that changes.
struct State {
    feature: &'static str,
    instruments: Arc<Instruments>,
    said: Said,
}

#[derive(PartialEq, Eq)]
enum Said {
    Nothing,
    On,
    Away,
    Refused,
}

impl State {
    fn new(feature: &'static str, instruments: Arc<Instruments>) -> Self {
        let state = Self { feature, instruments, said: Said::Nothing };
        state.set(false);
        state
    }

    fn set(&self, is_on: bool) {
        let by = ByFeature { feature: self.feature };
        self.instruments.k8s_features.get_or_create(&by).set(i64::from(is_on));
    }

    fn answered(&mut self) {
        if self.said != Said::On {
            self.said = Said::On;
            self.set(true);
            tracing::info!(
                event = "kubernetes.answers",
                feature = self.feature,
                "the Kubernetes API answers"
            );
        }
    }

    /// An outage passes, and leaves the gauge alone; for a refusal somebody has to mend something.
    fn failed(&mut self, error: &watcher::Error) {
        let feature = self.feature;
        if is_refusal(error) && self.said != Said::Refused {
            self.said = Said::Refused;
            self.set(false);
            tracing::warn!(
                event = "kubernetes.refused",
                feature,
                %error,
                "the Kubernetes API refuses what this feature needs: it is off until that is allowed"
            );
        } else if !is_refusal(error) && matches!(self.said, Said::Nothing | Said::On) {
            self.said = Said::Away;
            tracing::info!(
                event = "kubernetes.away",
                feature,
                %error,
                "the Kubernetes API does not answer; asking again"
            );
        } else {
            tracing::debug!(feature, %error, "the Kubernetes API fails still");
        }
    }
}

fn is_refusal(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code,
        _ => return false,
    };
    // A selector that is none is refused too.
    matches!(code, 400 | 401 | 403 | 404)
}

fn seen(pod: &Pod) -> PodSeen {
    let status = pod.status.clone().unwrap_or_default();
    let target = status.conditions.iter().flatten();
    let mut target = target.filter(|it| it.type_ == "DisruptionTarget" && it.status == "True");
    let disruption = target.find_map(|it| it.reason.clone());
    PodSeen {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        is_final: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        reason: status.reason.unwrap_or_default(),
        disruption: disruption.unwrap_or_default(),
        is_deleted: pod.metadata.deletion_timestamp.is_some(),
        containers: status.container_statuses.iter().flatten().map(container).collect(),
    }
}

fn container(status: &ContainerStatus) -> ContainerSeen {
    let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.map_or_else(ContainerSeen::default, |ended| ContainerSeen {
        has_ended: ended.finished_at.is_some(),
        reason: ended.reason.clone().unwrap_or_default(),
        exit_code: ended.exit_code,
    })
}
