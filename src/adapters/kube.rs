//! The Kubernetes API, as a pod of the chart uses it: it tells of other workers' pods that have ended, of this
//! pod's node, and of newer versions of the workers, and is told whether this one is at work and what happens to it.
//!
//! **Invariant:** nothing waits for it. An API server that is away, slow or refuses costs what it would
//! have told and nothing else; an object of it goes no further than this adapter.

mod deaths;
mod events;
mod marks;
mod node;
mod rollout;
mod standby;
mod trial;

pub use trial::Trial;

use std::{fmt::Display, sync::Arc, time::Duration};

use kube::{Client, Config};
use tokio::time::timeout;

use crate::instruments::{ByFeature, Instruments};

/// For each answer but watches and the lists of pods that they begin with, which have as long as a watch.
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
        Self::new(Config::incluster()?, instruments)
    }

    /// As [`Kube::in_pod`], with the server, the namespace and the rights of this configuration.
    pub fn new(mut config: Config, instruments: Arc<Instruments>) -> Result<Self, KubeError> {
        config.connect_timeout = Some(TIMEOUT);
        config.write_timeout = Some(TIMEOUT);
        // Of a watch too, between two words of the server.
        config.read_timeout = Some(WATCH + TIMEOUT);
        // It would hold a call for minutes.
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)?, instruments })
    }
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer within {TIMEOUT:?}")]
    Silence,
}

impl Unanswered {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Api(error) if is_refusal(error))
    }
}

/// What a call brings; of a watch its beginning.
async fn answer<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Unanswered> {
    Ok(timeout(TIMEOUT, call).await.map_err(|_| Unanswered::Silence)??)
}

fn watch_seconds() -> u32 {
    u32::try_from(WATCH.as_secs()).expect("it is short")
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

    fn is_on(&self) -> bool {
        self.said == Said::On
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
    fn failed(&mut self, error: &impl Display, is_refusal: bool) {
        let feature = self.feature;
        if is_refusal && self.said != Said::Refused {
            self.said = Said::Refused;
            self.set(false);
            tracing::warn!(
                event = "kubernetes.refused",
                feature,
                %error,
                "the Kubernetes API refuses what this feature needs: it is off until that is allowed"
            );
        } else if !is_refusal && matches!(self.said, Said::Nothing | Said::On) {
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

/// Whether somebody has to mend something. A selector that is none is refused too, and so is what an
/// admission policy does not let through.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 401 | 403 | 404 | 422))
}
