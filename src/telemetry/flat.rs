//! One flat JSON object a line: `timestamp`, `level`, `target`, `message`, then the fields of the event
//! and of the spans around it (`trace_id`, `execution.id`, `step.name`, `event`, ...).
//!
//! **Invariant:** a key stands once: an event's field wins over a span's, an inner span's over an
//! outer one's.

use std::fmt;

use serde::{Serializer, ser::SerializeMap};
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::{LookupSpan, Scope},
};

/// The format; its layer must keep span fields as [`JsonFields`].
#[derive(Clone, Copy, Debug)]
pub struct Flat;

impl<S> FormatEvent<S, JsonFields> for Flat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = span_fields(context);
        event.record(&mut Collect(&mut fields));
        let line = line(event, fields).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

fn line(event: &Event<'_>, mut fields: Map<String, Value>) -> serde_json::Result<String> {
    let mut timestamp = String::new();
    if SystemTime.format_time(&mut Writer::new(&mut timestamp)).is_err() {
        timestamp.clear();
    }
    let mut line = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &timestamp)?;
    map.serialize_entry("level", event.metadata().level().as_str())?;
    map.serialize_entry("target", event.metadata().target())?;
    map.serialize_entry("message", &fields.remove("message").unwrap_or_default())?;
    for (key, value) in &fields {
        if !matches!(key.as_str(), "timestamp" | "level" | "target") {
            map.serialize_entry(key, value)?;
        }
    }
    map.end()?;
    Ok(String::from_utf8(line).expect("JSON is UTF-8"))
}

/// Of all spans around the event, the outermost first.
fn span_fields<S>(context: &FmtContext<'_, S, JsonFields>) -> Map<String, Value>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut fields = Map::new();
    for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
        let extensions = span.extensions();
        let Some(text) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
        if let Ok(Value::Object(own)) = serde_json::from_str(text) {
            fields.extend(own);
        }
    }
    fields
}

struct Collect<'a>(&'a mut Map<String, Value>);

impl Collect<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    /// Numbers that JSON readers do not take are written as texts.
    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(
            field,
            u64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from),
        );
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(
            field,
            i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from),
        );
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let chain = std::iter::successors(Some(value), |error| error.source());
        let chain: Vec<String> = chain.map(ToString::to_string).collect();
        self.put(field, chain.join(": "));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{Layer, fmt::MakeWriter, layer::SubscriberExt};

    use super::*;
    use crate::telemetry::filter::LogFilter;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Captured {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// What `work` logs under this filter, a line each.
    fn logged(filter: &str, work: impl FnOnce()) -> Vec<Map<String, Value>> {
        let captured = Captured::default();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(Flat)
            .with_writer(captured.clone())
            .with_filter(LogFilter::try_new(filter).expect("a filter"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let bytes = captured.0.lock().expect("not poisoned").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }

    fn work() {
        let outer = tracing::info_span!("hold", execution.id = "e-1", attempt = 1);
        let _outer = outer.enter();
        let inner = tracing::info_span!("step", step.name = "s", attempt = 2);
        let _inner = inner.enter();
        tracing::info!(event = "step.started", step.name = "t", "a step \"starts\"");
        tracing::warn!(event = "step.retrying", duration_ms = 12_u128, ok = false, "it failed");
    }

    #[test]
    fn a_line_is_flat_and_holds_the_fields_of_all_spans_the_inner_ones_first() {
        let lines = logged("info", work);
        let keys: Vec<&str> = lines[0].keys().map(String::as_str).collect();
        for key in ["timestamp", "level", "target", "message", "event", "execution.id"] {
            assert!(keys.contains(&key), "{key} in {keys:?}");
        }
        assert_eq!(lines[0]["message"], "a step \"starts\"");
        assert_eq!(lines[0]["step.name"], "t", "the event's own field wins");
        assert_eq!(lines[0]["attempt"], 2, "the inner span's field wins");
        assert_eq!(lines[1]["level"], "WARN");
        assert_eq!(lines[1]["duration_ms"], 12);
        assert_eq!(lines[1]["ok"], false);
        assert!(lines[0]["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
    }

    #[test]
    fn a_warning_says_whose_it_is_even_where_only_warnings_are_logged() {
        for filter in ["warn", "error,orchestrator_worker=warn"] {
            let lines = logged(filter, work);
            assert_eq!(lines.len(), 1, "{filter}");
            assert_eq!(lines[0]["event"], "step.retrying");
            assert_eq!(lines[0]["execution.id"], "e-1");
        }
        assert!(logged("off", work).is_empty());
    }

    #[test]
    fn an_error_is_logged_with_its_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("inner"));
        let lines = logged("info", || {
            tracing::error!(error = &error as &dyn std::error::Error, "it failed");
        });
        assert_eq!(lines[0]["error"], "outer: inner");
    }

    #[test]
    fn the_exporters_crates_are_silent_unless_they_are_asked_for() {
        let export = || tracing::error!(target: "opentelemetry_sdk", "export failed");
        assert!(logged("info", export).is_empty());
        assert_eq!(logged("warn,opentelemetry=error", export).len(), 1);
    }
}
