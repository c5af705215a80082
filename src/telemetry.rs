//! Logs and spans: the subscriber, the exporter, and the guard that flushes at the end.
//!
//! **Invariant:** telemetry never stops or delays the work: a collector that is down costs one log
//! line, and the end of the process at most [`FLUSH_DEADLINE`].

use std::{io, sync::Arc, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use tracing::Subscriber;
use tracing_subscriber::{
    Layer, Registry, filter::ParseError, fmt::format::JsonFields, layer::SubscriberExt,
    registry::LookupSpan, reload, util::SubscriberInitExt,
};

mod export;
mod filter;
mod flat;
mod plain;
mod quiet;
mod way;

use export::Exporter;
use filter::LogFilter;
use flat::Flat;
use plain::Plain;

use crate::{
    domain::trace::{Mode, Sampling},
    instruments::SpanCounts,
    worker::Tracing,
};

/// Longest wait for spans that are still to be sent when the process ends.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// The name of this service, unless the environment says another.
pub const SERVICE: &str = "orchestrator-worker";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// One JSON object a line, in place of text.
    pub json: bool,
    pub colour: bool,
    /// In the words of `RUST_LOG`.
    pub filter: String,
    pub spans: Spans,
}

/// What becomes of spans. Where they go is in `OTEL_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spans {
    Dropped,
    Exported(Exported),
}

/// How spans are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// What is said of this process with them, beside what the environment says.
    pub resource: Vec<(&'static str, String)>,
    /// `None`: the environment asks for a sampler that there is not.
    pub sampling: Option<Sampling>,
    pub mode: Mode,
    /// The environment says how often to send.
    pub paced: bool,
    /// The environment asks for a protocol that is not spoken here.
    pub other_protocol: bool,
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
    export: Option<(Arc<Exporter>, Sampling, Mode)>,
    counts: SpanCounts,
    filter: FilterHandle,
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
        Registry::default().with(logs(settings).with_filter(filter)).try_init()?;
        let counts = SpanCounts::default();
        let export = match &settings.spans {
            Spans::Dropped => None,
            Spans::Exported(how) => export(how, &counts),
        };
        Ok(Self { export, counts, filter: FilterHandle(handle) })
    }

    /// For a worker on a database of this kind (`db.system.name`); `None` where no spans are sent.
    pub fn tracing(&self, database: &'static str) -> Option<Tracing> {
        let (exporter, sampling, mode) = self.export.as_ref()?;
        let (sampling, mode) = (*sampling, *mode);
        Some(Tracing { sink: exporter.clone(), sampling, mode, database })
    }

    /// What became of spans.
    pub fn counts(&self) -> &SpanCounts {
        &self.counts
    }

    pub fn filter(&self) -> FilterHandle {
        self.filter.clone()
    }

    /// Sends what is left, within [`FLUSH_DEADLINE`].
    pub fn finish(self) {
        let Some((exporter, ..)) = self.export else { return };
        if let Err((spans, error)) = exporter.finish(FLUSH_DEADLINE) {
            tracing::warn!(
                event = "telemetry.unflushed",
                spans,
                error,
                "the last spans were not sent"
            );
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
        let layer = layer.fmt_fields(Plain);
        layer.compact().with_target(false).with_ansi(settings.colour).boxed()
    }
}

/// Says what of `OTEL_*` cannot be done.
fn export(how: &Exported, counts: &SpanCounts) -> Option<(Arc<Exporter>, Sampling, Mode)> {
    let attributes = how.resource.iter().map(|(name, value)| KeyValue::new(*name, value.clone()));
    let resource = Resource::builder().with_attributes(attributes).build();
    let exporter = match Exporter::start(&resource, how.paced, counts.clone(), SERVICE) {
        Ok(exporter) => Arc::new(exporter),
        Err(problem) => {
            tracing::error!(
                event = "telemetry.unavailable",
                error = %problem,
                "spans are not sent: OTEL_* asks for something that cannot be done"
            );
            return None;
        }
    };
    if how.other_protocol {
        tracing::warn!(
            event = "telemetry.protocol",
            "spans are sent by HTTP with protobuf, whatever OTEL_EXPORTER_OTLP_PROTOCOL says; \
             name the collector's port for that, which is 4318 as a rule"
        );
    }
    let sampling = how.sampling.unwrap_or_else(|| {
        tracing::warn!(
            event = "telemetry.sampler",
            "OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG ask for something that there is not: \
             every trace is kept; give parentbased_traceidratio and a number from 0 to 1"
        );
        Sampling::default()
    });
    Some((exporter, sampling, how.mode))
}
