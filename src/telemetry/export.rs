//! Spans on their way to a collector.
//!
//! **Invariant:** a span that is handed over is sent, refused, dropped or still on its way, and counted
//! as one of them; never are more than [`Exporter::QUEUE`] on their way, so that a collector that is
//! away costs neither time nor memory.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender, SyncSender},
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

use super::quiet::{Quiet, Said};
use crate::{
    instruments::{ByResult, SpanCounts},
    ports::spans::{Attribute, Link, Span, SpanKind, SpanSink, Value},
};

/// What a killed worker has not sent is lost: so spans are sent at once, and the next after a pause that
/// grows with their number, because a request costs what some hundred spans do.
const PAUSE_A_SPAN: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How long a collector may be away, for a rollout of its own, without a span lost that has room.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is to be sent, while the collector takes none.
const TRY_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Exporter {
    processor: Arc<BatchSpanProcessor>,
    /// Wakes the thread that sends; `None` where the environment says how often to.
    wake: Option<SyncSender<()>>,
    scope: InstrumentationScope,
    on_their_way: Arc<AtomicUsize>,
    counts: SpanCounts,
    said: Said,
    /// As long as it is there, what cannot be sent is tried again.
    patient: Mutex<Option<Sender<()>>>,
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
        let on_their_way = Arc::new(AtomicUsize::new(0));
        let (patient, hurry) = mpsc::channel();
        let exporter = Quiet::new(exporter, PATIENCE, hurry, on_their_way.clone(), counts.clone());
        let said = exporter.said();
        let config = BatchConfigBuilder::default().with_max_queue_size(Self::QUEUE);
        let config = if paced { config } else { config.with_scheduled_delay(TRY_EVERY) };
        let mut processor =
            BatchSpanProcessor::builder(exporter).with_batch_config(config.build()).build();
        processor.set_resource(resource);
        let processor = Arc::new(processor);
        let wake = (!paced).then(|| send_when_woken(processor.clone(), on_their_way.clone()));
        let scope = InstrumentationScope::builder(scope).with_version(env!("CARGO_PKG_VERSION"));
        let patient = Mutex::new(Some(patient));
        Self { processor, wake, scope: scope.build(), on_their_way, counts, said, patient }
    }

    /// Sends what is left; how many spans are not sent if that fails and nobody has been told why.
    pub fn finish(&self, within: Duration) -> Result<(), (usize, String)> {
        self.patient.lock().expect("no panic while it is held").take();
        let sent: OTelSdkResult = self.processor.shutdown_with_timeout(within);
        match sent {
            Err(error) if !self.said.failing() => {
                Err((self.on_their_way.load(Ordering::Acquire), error.to_string()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The processor's own queue never overflows: here is where spans are turned away.
    fn has_room(&self) -> bool {
        let enter = |count: usize| (count < Self::QUEUE).then_some(count + 1);
        self.on_their_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_ok()
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
            end_time: SystemTime::UNIX_EPOCH + span.end.max(span.start),
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
        for span in spans {
            if self.has_room() {
                self.processor.on_end(self.data(span));
            } else {
                self.counts.get_or_create(&ByResult { result: "dropped" }).inc();
            }
        }
        if let Some(wake) = self.wake.as_ref().filter(|_| !self.said.failing()) {
            // If that is full it will wake, and if nobody is there any more all was sent.
            wake.try_send(()).ok();
        }
    }
}

/// The processor alone waits for a full batch or for its delay.
fn send_when_woken(
    processor: Arc<BatchSpanProcessor>,
    on_their_way: Arc<AtomicUsize>,
) -> SyncSender<()> {
    let (wake, woken) = mpsc::sync_channel(1);
    thread::spawn(move || {
        while woken.recv().is_ok() {
            let count = on_their_way.load(Ordering::Acquire);
            // What became of them is counted and said where they are sent.
            processor.force_flush().ok();
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            thread::sleep(PAUSE_A_SPAN.saturating_mul(count).min(LONGEST_PAUSE));
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
        assert_eq!(exporter.on_their_way.load(Ordering::Acquire), 0);
    }
}
