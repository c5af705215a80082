//! Which events are logged and which spans exist.
//!
//! **Invariant:** a log filter removes events only: the spans that carry execution and trace ids
//! stay, so that a warning under `RUST_LOG=warn` still says whose it is.

use tracing::{
    Level, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    EnvFilter,
    layer::{Context, Filter},
};

use super::TelemetryError;

/// This crate's name in targets.
const OURS: &str = env!("CARGO_CRATE_NAME");

/// Of crates that say each failure again and again; ours say it once (`quiet.rs`, `adapters/kube.rs`).
const REPEATING: [&str; 2] = ["opentelemetry", "kube_runtime"];

/// The user's filter over events, and all of our spans.
#[derive(Debug)]
pub struct LogFilter(EnvFilter);

impl LogFilter {
    /// In the words of `RUST_LOG`.
    pub fn try_new(text: &str) -> Result<Self, TelemetryError> {
        let quiet = REPEATING.into_iter().filter(|target| !text.contains(target));
        let filter = quiet.fold(text.to_owned(), |filter, target| format!("{filter},{target}=off"));
        EnvFilter::builder()
            .parse(filter)
            .map(Self)
            .map_err(|source| TelemetryError::Filter { filter: text.into(), source })
    }
}

fn is_our_span(meta: &Metadata) -> bool {
    meta.is_span() && *meta.level() <= Level::INFO && meta.target().starts_with(OURS)
}

impl<S: Subscriber> Filter<S> for LogFilter {
    fn enabled(&self, meta: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        is_our_span(meta) || Filter::enabled(&self.0, meta, context)
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        // The filter sees every callsite: it keeps a record of those it must look at again.
        let interest = Filter::<S>::callsite_enabled(&self.0, meta);
        if is_our_span(meta) { Interest::always() } else { interest }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.0).map(|hint| hint.max(LevelFilter::INFO))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Filter::on_new_span(&self.0, attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Filter::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_enter(&self.0, id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_exit(&self.0, id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Filter::on_close(&self.0, id, context);
    }
}
