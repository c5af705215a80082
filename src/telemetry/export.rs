//! Spans on their way to a collector.
//!
//! **Invariant:** a span that is handed over is sent, refused, dropped or still on its way, and counted
//! as one of them; never are more than [`Exporter::QUEUE`] on their way, so that a collector that is
//! away costs neither time nor memory.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{self, SyncSender},
    },
    thread,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, trace as otel,
    trace::{SpanContext, TraceFlags, TraceState},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        self as export, BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks,
        SpanProcessor,
    },
};
use tokio::time::Instant;

use super::{
    quiet::{Quiet, Said},
    way::Way,
};
use crate::{
    instruments::{ByResult, SpanCounts},
    ports::spans::{Attribute, Gone, Link, Span, SpanKind, SpanSink, Value},
};

/// Where nobody else can tell what a killed worker has not sent, spans are sent at once: with those that
/// come within this time, as those of all leases do after a renewal.
const TOGETHER: Duration = Duration::from_millis(5);
/// How long a collector may be away, for a rollout of its own, without a span lost that has room.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is to be sent, where that is not sent at once. What has arrived is told a second
/// time if its worker is killed before it could note that: the fewer arrivals, the less often.
const SEND_EVERY: Duration = Duration::from_secs(2);

/// A collector may warn of a span that ends as it begins, which those do that are told from rows.
const SHORTEST: Duration = Duration::from_nanos(1);

#[derive(Debug)]
pub struct Exporter {
    processor: Arc<BatchSpanProcessor>,
    /// Wakes the thread that sends.
    wake: SyncSender<()>,
    /// The environment says how often to send.
    paced: bool,
    scope: InstrumentationScope,
    way: Arc<Way>,
    counts: SpanCounts,
    said: Said,
    /// As long as it is there, and says nothing, what cannot be sent is tried again.
    patient: Mutex<Option<SyncSender<()>>>,
    /// When somebody last began to wait for what is left.
    hurried: Mutex<Option<Instant>>,
}

impl Exporter {
    /// About a kilobyte each.
    pub const QUEUE: usize = 4096;

    /// `paced`: the environment says how often to send.
    pub fn start(
        resource: &Resource,
        paced: bool,
        counts: SpanCounts,
        scope: &'static str,
    ) -> Result<Self, ExporterBuildError> {
        // No `with_endpoint`: it would win over OTEL_* and add no path.
        let exporter = SpanExporter::builder().with_http().build()?;
        Ok(Self::over(exporter, resource, paced, counts, scope))
    }

    fn over(
        exporter: impl export::SpanExporter + 'static,
        resource: &Resource,
        paced: bool,
        counts: SpanCounts,
        scope: &'static str,
    ) -> Self {
        let way = Arc::new(Way::default());
        let (patient, hurry) = mpsc::sync_channel(1);
        let exporter = Quiet::new(exporter, PATIENCE, hurry, way.clone(), counts.clone());
        let said = exporter.said();
        let config = BatchConfigBuilder::default().with_max_queue_size(Self::QUEUE);
        let config = if paced { config } else { config.with_scheduled_delay(SEND_EVERY) };
        let mut processor =
            BatchSpanProcessor::builder(exporter).with_batch_config(config.build()).build();
        processor.set_resource(resource);
        let processor = Arc::new(processor);
        let wake = send_when_woken(processor.clone());
        let scope = InstrumentationScope::builder(scope).with_version(env!("CARGO_PKG_VERSION"));
        let (scope, hurried) = (scope.build(), Mutex::default());
        let patient = Mutex::new(Some(patient));
        Self { processor, wake, paced, scope, way, counts, said, patient, hurried }
    }

    /// Sends what is left, within this time since it was told to hurry; how many spans are not sent if that
    /// fails and nobody has been told why.
    pub fn finish(&self, within: Duration) -> Result<(), (u64, String)> {
        let hurried = *self.hurried.lock().expect("no panic while it is held");
        self.patient.lock().expect("no panic while it is held").take();
        let left = within.saturating_sub(hurried.map_or(Duration::ZERO, |since| since.elapsed()));
        let sent: OTelSdkResult = self.processor.shutdown_with_timeout(left);
        match sent {
            Err(error) if !self.said.failing() => Err((self.way.len(), error.to_string())),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether there was room for all. The processor's own queue never overflows: here is where spans are
    /// turned away.
    fn take(&self, spans: Vec<Span>) -> bool {
        let mut all = true;
        for span in spans {
            if self.way.enter(Self::QUEUE as u64) {
                self.processor.on_end(self.data(span));
            } else {
                self.counts.get_or_create(&ByResult { result: "dropped" }).inc();
                all = false;
            }
        }
        all
    }

    fn send(&self) {
        // If that is full it will wake, and if nobody is there any more all was sent.
        self.wake.try_send(()).ok();
    }

    fn data(&self, span: Span) -> SpanData {
        let parent = span.parent;
        SpanData {
            span_context: context(Link { trace: span.trace, span: span.id }),
            parent_span_id: parent.map_or(otel::SpanId::INVALID, |parent| {
                otel::SpanId::from_bytes(parent.span.bytes())
            }),
            parent_span_is_remote: parent.is_some_and(|parent| parent.is_remote),
            span_kind: match span.kind {
                SpanKind::Internal => otel::SpanKind::Internal,
                SpanKind::Client => otel::SpanKind::Client,
                SpanKind::Consumer => otel::SpanKind::Consumer,
                SpanKind::Server => otel::SpanKind::Server,
            },
            name: span.name,
            start_time: SystemTime::UNIX_EPOCH + span.start,
            end_time: SystemTime::UNIX_EPOCH + span.end.max(span.start + SHORTEST),
            attributes: span.attributes.into_iter().map(attribute).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: links(span.links),
            status: span.error.map_or(otel::Status::Unset, otel::Status::error),
            instrumentation_scope: self.scope.clone(),
        }
    }
}

impl SpanSink for Exporter {
    fn write(&self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        self.take(spans);
        if !self.paced && !self.said.failing() {
            self.send();
        }
    }

    fn write_last(&self, spans: Vec<Span>, gone: Gone) {
        if self.take(spans) {
            self.way.after_these(gone);
        } else {
            // What is dropped is given up.
            gone();
        }
    }

    fn hurry(&self) {
        self.hurried.lock().expect("no panic while it is held").replace(Instant::now());
        if let Some(patient) = &*self.patient.lock().expect("no panic while it is held") {
            // If it is full, that is said already.
            patient.try_send(()).ok();
        }
        self.send();
    }
}

/// The processor alone waits for a full batch or for its delay.
fn send_when_woken(processor: Arc<BatchSpanProcessor>) -> SyncSender<()> {
    let (wake, woken) = mpsc::sync_channel(1);
    thread::spawn(move || {
        while woken.recv().is_ok() {
            thread::sleep(TOGETHER);
            woken.try_recv().ok();
            // What became of them is counted and said where they are sent.
            processor.force_flush().ok();
        }
    });
    wake
}

fn context(of: Link) -> SpanContext {
    SpanContext::new(
        otel::TraceId::from_bytes(of.trace.bytes()),
        otel::SpanId::from_bytes(of.span.bytes()),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    )
}

fn links(links: Vec<Link>) -> SpanLinks {
    let mut all = SpanLinks::default();
    all.links = links.into_iter().map(|link| otel::Link::with_context(context(link))).collect();
    all
}

fn attribute((name, value): Attribute) -> KeyValue {
    match value {
        Value::Word(word) => KeyValue::new(name, word),
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
        Value::Flag(flag) => KeyValue::new(name, flag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::trace::{TraceParent, TraceParentError};

    /// Takes a batch for each word that it is given, and then all.
    #[derive(Debug)]
    struct Slow(Mutex<mpsc::Receiver<()>>);

    impl export::SpanExporter for Slow {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            // An end of the words is as good as a word.
            self.0.lock().expect("not poisoned").recv().ok();
            Ok(())
        }
    }

    fn span() -> Result<Span, TraceParentError> {
        let place: TraceParent =
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
        Ok(Span {
            trace: place.trace,
            id: place.span,
            parent: None,
            name: "it".into(),
            kind: SpanKind::Internal,
            start: Duration::from_secs(1),
            end: Duration::from_secs(2),
            attributes: vec![("a", "text".into()), ("b", 7_u32.into()), ("c", true.into())],
            links: Vec::new(),
            error: None,
        })
    }

    #[test]
    fn a_collector_that_takes_nothing_costs_no_time_and_what_has_no_room_is_counted_exactly() {
        let (words, heard) = mpsc::channel();
        let counts = SpanCounts::default();
        let resource = Resource::builder_empty().build();
        let exporter = Slow(Mutex::new(heard));
        let exporter = Exporter::over(exporter, &resource, false, counts.clone(), "it");
        let count = |result| counts.get_or_create(&ByResult { result }).get();
        for _ in 0..Exporter::QUEUE + 1_000 {
            exporter.write(vec![span().expect("a place")]);
        }
        assert_eq!(count("dropped"), 1_000, "whatever the exporter is at");
        assert_eq!((count("sent"), count("failed")), (0, 0));
        drop(words);
        exporter.finish(Duration::from_secs(60)).expect("it takes the rest");
        assert_eq!((count("sent"), count("failed"), count("dropped")), (4_096, 0, 1_000));
        assert_eq!(exporter.way.len(), 0);
    }
}
