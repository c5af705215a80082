//! Fields of log lines for people: all but the ids of traces, which programs follow.
//!
//! **Invariant:** a line for people is no longer for being traced.

use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::{RecordFields, VisitOutput},
    fmt::{
        FormatFields,
        format::{DefaultVisitor, Writer},
    },
};

/// The fields as they are shown by default, without `trace_id` and `span_id`.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl<'w> FormatFields<'w> for Plain {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> std::fmt::Result {
        let mut visitor = Without(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct Without<'w>(DefaultVisitor<'w>);

impl Visit for Without<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if !is_id(field) {
            self.0.record_debug(field, value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if !is_id(field) {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        if !is_id(field) {
            self.0.record_error(field, value);
        }
    }
}

fn is_id(field: &Field) -> bool {
    matches!(field.name(), "trace_id" | "span_id")
}
