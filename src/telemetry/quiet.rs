//! An exporter that tries again, counts, and says once that spans cannot be sent, and once that they can
//! again.
//!
//! **Invariant:** however long a collector is away, it costs one log line; every span of a batch is
//! counted as sent or failed, and leaves the queue by that.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

use tokio::time::Instant;

use super::way::Way;
use crate::instruments::{ByResult, SpanCounts};

/// Between two tries to send a batch.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Quiet<E> {
    exporter: E,
    /// How long a batch is tried; meanwhile others queue up behind it.
    patience: Duration,
    /// Says that nobody has time for that, and hangs up when that stays so.
    hurry: Mutex<Receiver<()>>,
    said: Said,
    way: Arc<Way>,
    counts: SpanCounts,
}

/// Whether it was said that spans cannot be sent, and nothing better since.
#[derive(Clone, Debug, Default)]
pub struct Said(Arc<AtomicBool>);

impl Said {
    pub fn failing(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<E> Quiet<E> {
    pub fn new(
        exporter: E,
        patience: Duration,
        hurry: Receiver<()>,
        way: Arc<Way>,
        counts: SpanCounts,
    ) -> Self {
        let hurry = Mutex::new(hurry);
        Self { exporter, patience, hurry, said: Said::default(), way, counts }
    }

    /// Waits before the next try; whether there is to be one.
    fn pause(&self, began: Instant) -> bool {
        let left = self.patience.saturating_sub(began.elapsed());
        let hurry = self.hurry.lock().expect("no panic while it is held");
        !left.is_zero() && hurry.recv_timeout(left.min(PAUSE)) == Err(RecvTimeoutError::Timeout)
    }

    pub fn said(&self) -> Said {
        self.said.clone()
    }

    fn note(&self, result: &OTelSdkResult) {
        let was_failing = self.said.0.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_failing => tracing::warn!(
                event = "telemetry.export_failed",
                %error,
                "spans cannot be sent; the work goes on without them"
            ),
            Ok(()) if was_failing => {
                tracing::info!(event = "telemetry.export_recovered", "spans are sent again");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl<E: SpanExporter> SpanExporter for Quiet<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (count, began) = (batch.len(), Instant::now());
        let mut result = self.exporter.export(batch.clone()).await;
        while result.is_err() && self.pause(began) {
            self.note(&result);
            result = self.exporter.export(batch.clone()).await;
        }
        let by = ByResult { result: if result.is_ok() { "sent" } else { "failed" } };
        self.counts.get_or_create(&by).inc_by(count as u64);
        self.note(&result);
        self.way.leave(count as u64);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::SystemTime};

    use opentelemetry::{
        InstrumentationScope,
        trace::{SpanContext, SpanId, SpanKind, Status},
    };
    use opentelemetry_sdk::{
        error::OTelSdkError,
        trace::{SpanEvents, SpanLinks},
    };
    use tracing::{Event, Subscriber};
    use tracing_subscriber::{
        Layer,
        layer::{Context, SubscriberExt},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3_600);

    /// Fails or succeeds as told.
    #[derive(Debug)]
    struct Collector(AtomicBool);

    impl SpanExporter for Collector {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            if self.0.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err(OTelSdkError::InternalFailure("connection refused".into()))
            }
        }
    }

    fn span() -> SpanData {
        SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "it".into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    #[derive(Clone, Default)]
    struct Levels(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Levels {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().expect("not poisoned").push(event.metadata().level().to_string());
        }
    }

    /// Takes a batch when it is offered once more.
    #[derive(Debug)]
    struct Late(AtomicBool);

    impl SpanExporter for Late {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            assert_eq!(batch.len(), 2);
            if self.0.swap(true, Ordering::Relaxed) {
                Ok(())
            } else {
                Err(OTelSdkError::InternalFailure("connection refused".into()))
            }
        }
    }

    fn with(count: u64) -> Arc<Way> {
        let way = Arc::new(Way::default());
        assert!((0..count).all(|_| way.enter(count)));
        way
    }

    #[test]
    fn a_batch_that_is_not_taken_is_sent_again() {
        let (counts, way) = (SpanCounts::default(), with(2));
        let (_patient, hurry) = mpsc::channel();
        let collector = Late(AtomicBool::new(false));
        let exporter = Quiet::new(collector, PATIENCE, hurry, way.clone(), counts.clone());
        let sent = futures_util::FutureExt::now_or_never(exporter.export(vec![span(), span()]));
        assert!(sent.expect("it blocks and does not wait").is_ok());
        let count = |result| counts.get_or_create(&ByResult { result }).get();
        assert_eq!((count("sent"), count("failed")), (2, 0));
        assert_eq!(way.len(), 0);
    }

    #[test]
    fn a_collector_that_goes_and_comes_costs_one_line_each_time() {
        let (levels, counts) = (Levels::default(), SpanCounts::default());
        let way = with(15);
        let subscriber = tracing_subscriber::registry().with(levels.clone());
        tracing::subscriber::with_default(subscriber, || {
            let collector = Collector(AtomicBool::new(true));
            // Nobody has time for a second try.
            let (_, hurry) = mpsc::channel();
            let exporter = Quiet::new(collector, PATIENCE, hurry, way.clone(), counts.clone());
            for up in [true, false, false, false, true, true, false] {
                exporter.exporter.0.store(up, Ordering::Relaxed);
                let sent =
                    futures_util::FutureExt::now_or_never(exporter.export(vec![span(), span()]));
                assert_eq!(sent.expect("it does not wait").is_ok(), up);
            }
        });
        assert_eq!(*levels.0.lock().expect("not poisoned"), ["WARN", "INFO", "WARN"]);
        let count = |result| counts.get_or_create(&ByResult { result }).get();
        assert_eq!((count("sent"), count("failed")), (6, 8));
        assert_eq!(way.len(), 1, "whatever became of it, it has left");
    }
}
