//! An exporter that says once that spans cannot be sent, and once that they can again.
//!
//! **Invariant:** however long a collector is away, it costs one log line.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

#[derive(Debug)]
pub struct Quiet<E> {
    exporter: E,
    said: Said,
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
    pub fn new(exporter: E) -> Self {
        Self { exporter, said: Said::default() }
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
        let result = self.exporter.export(batch).await;
        self.note(&result);
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
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkError;
    use tracing::{Event, Subscriber};
    use tracing_subscriber::{
        Layer,
        layer::{Context, SubscriberExt},
    };

    use super::*;

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

    #[derive(Clone, Default)]
    struct Levels(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Levels {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().expect("not poisoned").push(event.metadata().level().to_string());
        }
    }

    #[test]
    fn a_collector_that_goes_and_comes_costs_one_line_each_time() {
        let levels = Levels::default();
        let subscriber = tracing_subscriber::registry().with(levels.clone());
        tracing::subscriber::with_default(subscriber, || {
            let exporter = Quiet::new(Collector(AtomicBool::new(true)));
            for up in [true, false, false, false, true, true, false] {
                exporter.exporter.0.store(up, Ordering::Relaxed);
                let sent = futures_util::FutureExt::now_or_never(exporter.export(Vec::new()));
                assert_eq!(sent.expect("it does not wait").is_ok(), up);
            }
        });
        assert_eq!(*levels.0.lock().expect("not poisoned"), ["WARN", "INFO", "WARN"]);
    }
}
