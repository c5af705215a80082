//! Writes on the pod of this process whether it is at work.
//!
//! **Invariant:** one write at most is under way, each ends within its time, and all of it ends soon after the
//! drain has begun, whatever the server answers.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch::Receiver, time::sleep};

use super::{Kube, State, Unanswered, answer};
use crate::{
    clock::boot_now,
    domain::{
        marks::{Became, Load, Marks, Next, REFUSED, Tried, next},
        retry::Backoff,
    },
};

/// What fails is tried again.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };
const SHORTEST: Duration = Duration::from_millis(200);
/// Marks may take so long to be taken off; a drain waits for that no more than for anything else here.
const LAST: Duration = Duration::from_secs(2);

impl Kube {
    /// Keeps the marks of this pod as they should be, until it drains.
    pub async fn mark(self, pod: &str, load: Receiver<Load>) {
        let marker = Marker {
            pods: Api::default_namespaced(self.client),
            pod,
            state: State::new("busy_marks", self.instruments),
            failures: 0,
        };
        let drained = load.clone();
        tokio::select! {
            () = marker.go_on(load) => {}
            () = overdue(drained) => tracing::debug!("the pod's marks were not taken off in time"),
        }
    }
}

async fn overdue(mut load: Receiver<Load>) {
    // Nobody who tells any more has drained.
    load.wait_for(Load::is_draining).await.ok();
    sleep(LAST).await;
}

struct Marker<'a> {
    pods: Api<Pod>,
    pod: &'a str,
    state: State,
    /// In a row.
    failures: u32,
}

impl Marker<'_> {
    async fn go_on(mut self, mut load: Receiver<Load>) {
        let mut last = None;
        loop {
            let now = boot_now();
            let next = next(&load.borrow_and_update(), now, last);
            match next {
                Next::Write(marks) => {
                    let became = self.write(marks).await;
                    last = Some(Tried { marks, at: boot_now(), became });
                }
                Next::Look(pause) => tokio::select! {
                    told = load.changed() => if told.is_err() { return },
                    () = sleep(pause) => {}
                },
                Next::Done => return,
            }
        }
    }

    async fn write(&mut self, marks: Marks) -> Became {
        match self.patch(&annotations(marks)).await {
            Ok(()) => {
                self.failures = 0;
                self.state.answered();
                Became::Written
            }
            Err(error) => {
                let is_refused = error.is_refusal();
                self.state.failed(&error, is_refused);
                if is_refused {
                    // Not all workers at one time.
                    return Became::Refused(REFUSED.mul_f64(1.0 - rand::random::<f64>() / 4.0));
                }
                self.failures = self.failures.saturating_add(1);
                Became::Failed(AGAIN.delay(self.failures, rand::random(), Some(SHORTEST)))
            }
        }
    }

    async fn patch(&self, annotations: &Value) -> Result<(), Unanswered> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        let by = PatchParams {
            field_manager: Some("orchestrator-worker".into()),
            ..PatchParams::default()
        };
        answer(self.pods.patch_metadata(self.pod, &by, &patch)).await?;
        Ok(())
    }
}

/// By their names, for the controller of replica sets, Karpenter and the cluster autoscaler. One that is null is
/// taken off.
fn annotations(marks: Marks) -> Value {
    let (cost, held, free) = match marks {
        Marks::Busy { cost } => (Some(cost.to_string()), Some("true"), Some("false")),
        Marks::Idle => (Some("0".into()), None, None),
        Marks::Off => (None, None, None),
    };
    json!({
        "controller.kubernetes.io/pod-deletion-cost": cost,
        "karpenter.sh/do-not-disrupt": held,
        "cluster-autoscaler.kubernetes.io/safe-to-evict": free,
    })
}
