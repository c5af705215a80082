//! Spans as a tree that can be compared, whoever gave them.
//!
//! **Invariant:** what is drawn was checked: no id stands twice, and every span's parent and every
//! link leads to a span of its trace, or to the caller.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_worker::domain::key::hex;
use serde_json::Value;

use super::collector::{Collector, attribute};

/// A span as somebody keeps it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub trace: String,
    pub id: String,
    pub parent: Option<String>,
    pub name: String,
    /// `server`, `internal`, `consumer`, `client`.
    pub kind: String,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    /// Traces and spans.
    pub links: Vec<(String, String)>,
    /// Why it is an error.
    pub error: Option<String>,
    /// What its keeper finds wrong with it.
    pub warnings: Vec<String>,
}

/// Calls of the database: there are as many as it takes.
const CALLS: [&str; 3] = ["claim", "commit", "renew"];

/// What is drawn behind a name.
const SHOWN: [&str; 6] = [
    "cicd.worker.name",
    "orchestrator.attempt",
    "orchestrator.attempt.outcome",
    "cicd.pipeline.result",
    "orchestrator.lease.outcome",
    "error.type",
];

impl Kept {
    pub fn is_call(&self) -> bool {
        self.kind == "client" && CALLS.contains(&self.name.as_str())
    }

    fn drawn(&self) -> String {
        let shown = SHOWN.iter().filter_map(|key| self.attributes.get(*key).cloned());
        let is_attempt = self.attributes.contains_key("orchestrator.attempt");
        let result = self.attributes.get("cicd.pipeline.task.run.result").cloned();
        let all: Vec<String> = result.into_iter().filter(|_| !is_attempt).chain(shown).collect();
        if all.is_empty() {
            self.name.clone()
        } else {
            format!("{} [{}]", self.name, all.join(" "))
        }
    }
}

/// All that a collector has.
pub fn all_of_collector(collector: &Collector) -> Vec<Kept> {
    let all = collector.spans().into_iter().map(|(_, span)| span);
    let kinds = ["unspecified", "internal", "server", "client", "producer", "consumer"];
    let kept = all.map(|span| Kept {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: (!span.parent_span_id.is_empty()).then(|| hex(&span.parent_span_id)),
        name: span.name.clone(),
        kind: kinds[usize::try_from(span.kind).expect("a kind")].into(),
        start: span.start_time_unix_nano / 1000,
        end: span.end_time_unix_nano / 1000,
        attributes: span
            .attributes
            .iter()
            .filter_map(|it| Some((it.key.clone(), attribute(&span.attributes, &it.key)?)))
            .collect(),
        links: span.links.iter().map(|it| (hex(&it.trace_id), hex(&it.span_id))).collect(),
        error: span.status.filter(|status| status.code == 2).map(|status| status.message),
        warnings: Vec::new(),
    });
    kept.collect()
}

/// All spans of traces as Jaeger's JSON API tells them.
pub fn all_of_jaeger(answer: &Value) -> Vec<Kept> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let traces = answer["data"].as_array().cloned().unwrap_or_default();
    let spans: Vec<Value> =
        traces.iter().flat_map(|it| it["spans"].as_array().cloned().unwrap_or_default()).collect();
    let kept = spans.iter().map(|span| {
        let references = span["references"].as_array().cloned().unwrap_or_default();
        let ids = |kind: &'static str| {
            let of = references.iter().filter(move |it| it["refType"] == kind);
            of.map(|it| (text(&it["traceID"]), text(&it["spanID"]))).collect::<Vec<_>>()
        };
        let tags = span["tags"].as_array().cloned().unwrap_or_default();
        let attributes: BTreeMap<String, String> =
            tags.iter().map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect();
        let start = span["startTime"].as_u64().expect("a time");
        Kept {
            trace: text(&span["traceID"]),
            id: text(&span["spanID"]),
            parent: ids("CHILD_OF").into_iter().next().map(|(_, span)| span),
            name: text(&span["operationName"]),
            kind: attributes.get("span.kind").cloned().unwrap_or_else(|| "internal".into()),
            start,
            end: start + span["duration"].as_u64().expect("a duration"),
            links: ids("FOLLOWS_FROM"),
            error: attributes.get("otel.status_description").cloned(),
            warnings: span["warnings"].as_array().into_iter().flatten().map(text).collect(),
            attributes,
        }
    });
    kept.collect()
}

/// What is wrong with a trace that was told twice.
pub const TWICE: &str = "an id stands twice";

/// Checks the spans of one trace and draws them, each below the one that it belongs to, in the order
/// of their beginnings, steps by their names; calls of the database are left out. `callers`: spans of others.
pub fn draw(spans: &[Kept], callers: &[&str]) -> Result<String, String> {
    let mut by_id = BTreeMap::new();
    for span in spans {
        if by_id.insert(span.id.as_str(), span).is_some() {
            return Err(format!("{TWICE}: {span:#?}"));
        }
        if span.end < span.start {
            return Err(format!("it ends before it begins: {span:#?}"));
        }
    }
    for span in spans {
        let known = |id: &str| by_id.contains_key(id) || callers.contains(&id);
        // A caller's own spans are kept elsewhere.
        let is_callers = |id: &str| callers.contains(&id);
        if !span.warnings.is_empty() && !span.parent.as_deref().is_some_and(is_callers) {
            return Err(format!("its keeper warns: {span:#?}"));
        }
        if span.parent.as_deref().is_some_and(|parent| !known(parent)) {
            return Err(format!("an orphan: {span:#?}"));
        }
        if let Some((_, id)) =
            span.links.iter().find(|(trace, id)| *trace == span.trace && !known(id))
        {
            return Err(format!("a link to {id}, which is not there: {span:#?}"));
        }
    }
    let mut lines = Vec::new();
    let tops =
        spans.iter().filter(|it| it.parent.as_deref().is_none_or(|id| !by_id.contains_key(id)));
    below(&by_id, tops.collect(), 0, &mut lines);
    Ok(lines.join("\n"))
}

fn below(
    all: &BTreeMap<&str, &Kept>,
    mut spans: Vec<&Kept>,
    depth: usize,
    lines: &mut Vec<String>,
) {
    // Steps may begin in one moment.
    let order = |span: &Kept| if span.name.starts_with("step ") { 0 } else { span.start };
    spans.sort_by_key(|span| (order(span), span.drawn()));
    for span in spans.into_iter().filter(|span| !span.is_call()) {
        lines.push(format!("{}{}", "  ".repeat(depth), span.drawn()));
        let children = all.values().filter(|it| it.parent.as_deref() == Some(span.id.as_str()));
        below(all, children.copied().collect(), depth + 1, lines);
    }
}

/// Every attempt after the first is linked to the one before it, every lease after the first to one
/// before, and nothing else is linked.
pub fn assert_linked(spans: &[Kept]) {
    let mut attempts: BTreeMap<(&str, u32), &Kept> = BTreeMap::new();
    for span in spans {
        if let Some(number) = span.attributes.get("orchestrator.attempt") {
            let step = span.attributes["cicd.pipeline.task.run.id"].as_str();
            attempts.insert((step, number.parse().expect("a number")), span);
        }
    }
    for ((step, number), span) in &attempts {
        let expected: Vec<_> = attempts.get(&(step, number - 1)).into_iter().collect();
        let expected: Vec<_> =
            expected.into_iter().map(|it| (it.trace.clone(), it.id.clone())).collect();
        assert_eq!(span.links, expected, "attempt {number} at {step}");
    }
    let attempts: BTreeSet<&str> = attempts.values().map(|span| span.id.as_str()).collect();
    for span in spans.iter().filter(|span| !attempts.contains(span.id.as_str())) {
        let is_hold = span.name.starts_with("hold ");
        assert!(span.links.is_empty() || is_hold, "{span:#?}");
    }
}
