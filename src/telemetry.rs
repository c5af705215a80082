//! Logs and spans: the subscriber, the exporter, and the guard that flushes at the end.
//!
//! **Invariant:** telemetry never stops or delays the work: a collector that is down costs one log
//! line, and the end of the process at most [`FLUSH_DEADLINE`].

use std::{io, time::Duration};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::{
    Layer, Registry, filter::ParseError, fmt::format::JsonFields, layer::SubscriberExt,
    registry::LookupSpan, reload, util::SubscriberInitExt,
};

mod filter;
mod flat;
mod quiet;

use filter::LogFilter;
use flat::Flat;
use quiet::{Quiet, Said};

/// Longest wait for spans that are still to be sent when the process ends.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

const SERVICE: &str = "orchestrator-worker";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// One JSON object a line, in place of text.
    pub json: bool,
    pub colour: bool,
    /// In the words of `RUST_LOG`.
    pub filter: String,
    pub spans: Spans,
}

/// What becomes of spans. Where they go and how they are sampled is in `OTEL_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spans {
    Dropped,
    Exported {
        /// The environment says how this service is called.
        named: bool,
        /// The environment asks for a protocol that is not spoken here.
        other_protocol: bool,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{filter:?} is no log filter: {source}")]
    Filter { filter: String, source: ParseError },
    #[error("logs are set up already")]
    Again(#[from] tracing_subscriber::util::TryInitError),
}

/// Ends with the process; see [`Telemetry::finish`].
#[derive(Debug)]
pub struct Telemetry {
    export: Option<Export>,
    filter: FilterHandle,
}

/// Spans on their way to a collector.
#[derive(Debug)]
struct Export {
    provider: SdkTracerProvider,
    said: Said,
}

/// Changes the log filter while the process runs.
#[derive(Clone, Debug)]
pub struct FilterHandle(reload::Handle<LogFilter, Registry>);

/// Makes TLS work: the exporter's client panics without a provider.
pub fn install_tls() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
}

impl Telemetry {
    /// Sets up this process's logs and spans; once, before the runtime starts.
    pub fn start(settings: &Settings) -> Result<Self, TelemetryError> {
        let (filter, handle) = reload::Layer::new(LogFilter::try_new(&settings.filter)?);
        let (export, problem) = match export(settings.spans) {
            Ok(export) => (export, None),
            Err(problem) => (None, Some(problem)),
        };
        let spans = export.as_ref().map(|export| {
            tracing_opentelemetry::layer()
                .with_tracer(export.provider.tracer(SERVICE))
                .with_location(false)
                .with_threads(false)
                .with_filter(filter::ours())
        });
        Registry::default().with(logs(settings).with_filter(filter)).with(spans).try_init()?;
        if let Some(problem) = problem {
            tracing::error!(
                event = "telemetry.unavailable",
                error = %problem,
                "spans are not sent: OTEL_* asks for something that cannot be done"
            );
        }
        if let Spans::Exported { other_protocol: true, .. } = settings.spans {
            tracing::warn!(
                event = "telemetry.protocol",
                "spans are sent by HTTP with protobuf, whatever OTEL_EXPORTER_OTLP_PROTOCOL says; \
                 name the collector's port for that, which is 4318 as a rule"
            );
        }
        Ok(Self { export, filter: FilterHandle(handle) })
    }

    pub fn filter(&self) -> FilterHandle {
        self.filter.clone()
    }

    /// Sends what is left, within [`FLUSH_DEADLINE`].
    pub fn finish(self) {
        let Some(Export { provider, said }) = self.export else { return };
        let sent = provider.shutdown_with_timeout(FLUSH_DEADLINE);
        if let Err(error) = sent
            && !said.failing()
        {
            tracing::warn!(event = "telemetry.unflushed", %error, "the last spans were not sent");
        }
    }
}

impl FilterHandle {
    /// In the words of `RUST_LOG`.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        let filter = LogFilter::try_new(filter)?;
        if self.0.reload(filter).is_err() {
            tracing::debug!("logs have ended");
        }
        Ok(())
    }
}

fn logs<S>(settings: &Settings) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    if settings.json {
        layer.fmt_fields(JsonFields::new()).event_format(Flat).boxed()
    } else {
        layer.compact().with_target(false).with_ansi(settings.colour).boxed()
    }
}

fn export(spans: Spans) -> Result<Option<Export>, ExporterBuildError> {
    let Spans::Exported { named, .. } = spans else { return Ok(None) };
    // No `with_endpoint`: it would win over OTEL_* and add no path.
    let exporter = Quiet::new(SpanExporter::builder().with_http().build()?);
    let said = exporter.said();
    let mut resource = Resource::builder();
    if !named {
        resource = resource.with_attribute(KeyValue::new("service.name", SERVICE));
    }
    let resource = resource
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    Ok(Some(Export { provider, said }))
}
