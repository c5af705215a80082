//! Tells, as events on the pod of this process, what happens to its worker.
//!
//! **Invariant:** one call at most is under way, each ends within its time, and no more of them are made than
//! the bucket lets pass, but for a last burst; whatever has to be told meanwhile waits, or is dropped and counted.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event as Published, EventType, Recorder, Reporter},
};
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::mpsc::Receiver, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Kube, State, Trial, Unanswered, answer};
use crate::{
    clock::boot_now,
    domain::{
        bucket::Bucket,
        id::ExecutionId,
        notice::{Event, Notice, Outbox},
        pod::OwnPod,
        retry::Backoff,
    },
    instruments::ByResult,
};

/// So many calls may follow each other at once, and then one each [`EVERY`].
const BURST: u32 = 10;
const EVERY: Duration = Duration::from_secs(10);
/// What fails is tried again.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };
const SHORTEST: Duration = Duration::from_millis(200);
/// What is refused is tried again about so often.
const REFUSED: Duration = Duration::from_secs(180);

pub(super) const CONTROLLER: &str = "orchestrator-worker";
/// What the API server takes of a name.
const INSTANCE: usize = 128;

impl Kube {
    /// Tells of what happens until `stop`; what is there to be told then is tried once more.
    pub async fn tell(self, pod: &OwnPod, mut notices: Receiver<Notice>, stop: CancellationToken) {
        let mut teller = Teller::new(self, pod);
        loop {
            let due = teller.due_in();
            tokio::select! {
                biased;
                // What is alike waits as one, so all that is there is taken first.
                notice = notices.recv() => match notice {
                    Some(notice) => teller.note(notice),
                    None => break,
                },
                () = stop.cancelled(), if !notices.is_closed() => notices.close(),
                () = sleep(due.unwrap_or_default()), if due.is_some() => teller.go_on().await,
            }
        }
        teller.tell_the_last().await;
    }
}

struct Teller<'a> {
    kube: Kube,
    pod: &'a OwnPod,
    regarding: ObjectReference,
    recorder: Recorder,
    outbox: Outbox,
    bucket: Bucket,
    state: State,
    /// In a row.
    failures: u32,
    /// Of what was dropped, so much is said.
    said: u64,
}

impl<'a> Teller<'a> {
    fn new(kube: Kube, pod: &'a OwnPod) -> Self {
        Self {
            pod,
            regarding: regarding(&kube.client, pod),
            recorder: recorder(&kube.client, pod),
            outbox: Outbox::default(),
            bucket: Bucket::full(BURST, EVERY, boot_now()),
            state: State::new("events", kube.instruments.clone()),
            failures: 0,
            said: 0,
            kube,
        }
    }

    fn note(&mut self, notice: Notice) {
        if !self.outbox.add(notice, boot_now()) {
            self.count_dropped(1);
        }
    }

    fn count(&self, result: &'static str) -> Counter {
        self.kube.instruments.k8s_events.get_or_create_owned(&ByResult { result })
    }

    fn count_dropped(&self, dropped: u64) {
        self.count("dropped").inc_by(dropped);
    }

    /// `None`: there is nothing to do. Until the API has said yes it is tried out, so that whoever looks at the
    /// gauge does not have to wait for something to happen.
    fn due_in(&self) -> Option<Duration> {
        let is_idle = self.outbox.is_empty() && self.state.is_on();
        (!is_idle).then(|| self.bucket.wait(boot_now()))
    }

    async fn go_on(&mut self) {
        if !self.bucket.take(boot_now()) {
            return;
        }
        if self.outbox.is_empty() {
            let tried = self.kube.try_out(&Trial::Event(self.pod)).await;
            self.note_answer(tried);
        } else {
            self.tell_first().await;
        }
    }

    /// Whether it was written.
    async fn tell_first(&mut self) -> bool {
        let stale = self.outbox.drop_stale(boot_now());
        self.count_dropped(stale);
        let dropped = self.count("dropped").get();
        let Some(event) = self.outbox.first(dropped - self.said) else { return false };
        let published = self.publish(&event).await;
        let is_written = published.is_ok();
        if is_written {
            self.outbox.told();
            self.said = dropped;
            self.count("written").inc();
        }
        self.note_answer(published);
        is_written
    }

    /// A burst more, whatever passed before: nobody comes after them.
    async fn tell_the_last(&mut self) {
        for _ in 0..BURST {
            if !self.tell_first().await {
                return;
            }
        }
    }

    async fn publish(&mut self, event: &Event) -> Result<(), Unanswered> {
        let published = published(event, &self.regarding);
        match answer(self.recorder.publish(&published, &self.regarding)).await {
            // One like it was written, and somebody has deleted that.
            Err(Unanswered::Api(kube::Error::Api(status))) if status.code == 404 => {
                self.recorder = recorder(&self.kube.client, self.pod);
                answer(self.recorder.publish(&published, &self.regarding)).await
            }
            answer => answer,
        }
    }

    fn note_answer(&mut self, answer: Result<(), Unanswered>) {
        let Err(error) = answer else {
            self.failures = 0;
            return self.state.answered();
        };
        let is_refused = error.is_refusal();
        self.state.failed(&error, is_refused);
        let pause = if is_refused {
            let dropped = self.outbox.clear();
            self.count_dropped(dropped);
            // Not all workers at one time.
            REFUSED.mul_f64(1.0 - rand::random::<f64>() / 4.0)
        } else {
            self.failures = self.failures.saturating_add(1);
            AGAIN.delay(self.failures, rand::random(), Some(SHORTEST))
        };
        self.bucket.hold(boot_now(), pause);
    }
}

fn recorder(client: &Client, pod: &OwnPod) -> Recorder {
    let name = &pod.name[..pod.name.floor_char_boundary(INSTANCE)];
    let reporter = Reporter { controller: CONTROLLER.into(), instance: Some(name.into()) };
    Recorder::new(client.clone(), reporter)
}

/// The pod of this process.
pub(super) fn regarding(client: &Client, pod: &OwnPod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(client.default_namespace().into()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

/// No object of the cluster, but as one is named there.
fn related(execution: &ExecutionId, regarding: &ObjectReference) -> ObjectReference {
    ObjectReference {
        api_version: Some("orchestrator-worker/v1".into()),
        kind: Some("WorkflowExecution".into()),
        namespace: regarding.namespace.clone(),
        name: Some(execution.to_string()),
        ..ObjectReference::default()
    }
}

fn published(event: &Event, regarding: &ObjectReference) -> Published {
    Published {
        type_: if event.is_warning { EventType::Warning } else { EventType::Normal },
        reason: event.reason.into(),
        action: event.action.into(),
        note: Some(event.note.clone()),
        secondary: event.execution.as_ref().map(|execution| related(execution, regarding)),
    }
}
