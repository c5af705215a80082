//! Tells of workers' pods that have ended, and of what else explains an end.
//!
//! **Invariant:** whoever listens is told of every pod whose end its kubelet confirms, perhaps more than
//! once.

use std::pin::pin;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use kube::{
    Api,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::mpsc::Sender;

use super::{Kube, State, WATCH, is_refusal};
use crate::domain::{
    death::{ContainerEnd, ContainerSeen, News, PodSeen, news},
    pod::PodProcess,
};

impl Kube {
    /// Tells the process `own` of every pod of this namespace with these labels that ends, for as long as
    /// somebody listens. One that had ended before is told of again after each gap.
    pub async fn watch_deaths(self, labels: &str, own: &PodProcess, tell: Sender<News>) {
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
                    let Some(news) = news(&seen(&pod), own) else { continue };
                    if tell.send(news).await.is_err() {
                        return;
                    }
                }
                // The stream has no end.
                Ok(None) => return,
                Err(error) => state.failed(&error, is_refused(&error)),
            }
        }
    }
}

fn is_refused(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_refusal(error),
        watcher::Error::WatchError(status) => is_refusal(&kube::Error::Api(status.clone())),
        watcher::Error::NoResourceVersion => false,
    }
}

fn seen(pod: &Pod) -> PodSeen {
    let status = pod.status.clone().unwrap_or_default();
    let stands = |condition: &str, is: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|it| it.type_ == condition && it.status == is)
    };
    let disruption = stands("DisruptionTarget", "True").and_then(|it| it.reason.clone());
    // A kubelet gives a reason.
    let is_out_of_reach = stands("Ready", "False").is_some_and(|it| it.reason.is_none());
    PodSeen {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        is_final: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        reason: status.reason.clone().unwrap_or_default(),
        disruption: disruption.unwrap_or_default(),
        is_deleted: pod.metadata.deletion_timestamp.is_some(),
        is_out_of_reach,
        containers: status.container_statuses.iter().flatten().map(container).collect(),
    }
}

fn container(status: &ContainerStatus) -> ContainerSeen {
    let end = |state: &Option<ContainerState>| {
        let ended = state.as_ref()?.terminated.as_ref()?;
        Some(ContainerEnd {
            finished: ended.finished_at.as_ref().map(|at| at.0.as_second()),
            reason: ended.reason.clone().unwrap_or_default(),
            exit_code: ended.exit_code,
        })
    };
    ContainerSeen {
        ended: end(&status.state),
        before: end(&status.last_state),
        restarts: u32::try_from(status.restart_count).unwrap_or(0),
    }
}
