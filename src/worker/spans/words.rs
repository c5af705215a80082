//! The words of spans: how steps, attempts and results are called, by the semantic conventions.
//!
//! **Invariant:** nothing that a step printed, was answered, or is given as a header, a query, a path,
//! a script or a variable is ever a word of a span.

use std::{borrow::Cow, sync::Arc};

use crate::{
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        step::Action,
    },
    ports::{
        runner::Code,
        spans::{Attribute, SpanKind, Value},
    },
};

/// Longest text on a span, in characters.
const LONGEST: usize = 200;

/// Cut where it is too long for a span.
pub fn short(text: &str) -> Arc<str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => text[..end].into(),
        None => text.into(),
    }
}

/// How an attempt is called.
#[derive(Clone, Debug)]
pub struct Called {
    pub name: Cow<'static, str>,
    pub kind: SpanKind,
    pub attributes: Vec<Attribute>,
}

/// An attempt at a step that is known whole.
pub fn called(action: &Action) -> Called {
    match action {
        Action::Http(request) => {
            let method = short(request.method.as_str());
            let mut attributes = vec![("http.request.method", method.clone().into())];
            attributes.push(("url.scheme", short(request.url.scheme()).into()));
            if let Some(host) = request.url.host_str() {
                attributes.push(("server.address", short(host).into()));
            }
            if let Some(port) = request.url.port_or_known_default() {
                attributes.push(("server.port", u32::from(port).into()));
            }
            Called { name: method.to_string().into(), kind: SpanKind::Client, attributes }
        }
        Action::Shell { .. } => called_by_kind("shell"),
        Action::Func { name, .. } => {
            let name = short(name);
            let attributes = vec![("code.function.name", name.clone().into())];
            Called { name: name.to_string().into(), kind: SpanKind::Internal, attributes }
        }
        Action::Other { kind } => called_by_kind(kind),
    }
}

/// The number with which it ended.
pub fn code(code: Code) -> Attribute {
    match code {
        Code::Status(status) => ("http.response.status_code", u32::from(status).into()),
        Code::Exit(code) => ("process.exit.code", Value::Number(code.into())),
    }
}

/// An attempt of which only the kind is known.
pub fn called_by_kind(executor: &str) -> Called {
    match executor {
        "shell" => Called {
            name: "sh".into(),
            kind: SpanKind::Client,
            attributes: vec![("process.executable.name", "sh".into())],
        },
        "http" => Called { name: "HTTP".into(), kind: SpanKind::Client, attributes: Vec::new() },
        other => Called {
            name: short(other).to_string().into(),
            kind: SpanKind::Internal,
            attributes: Vec::new(),
        },
    }
}

/// `cicd.pipeline.task.run.result`: `failure` is the user's step, `error` is ours.
pub const fn task_result(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Success => "success",
        AttemptOutcome::Failed | AttemptOutcome::Unanswered => "failure",
        AttemptOutcome::Timeout => "timeout",
        AttemptOutcome::Cancelled | AttemptOutcome::Drained => "cancellation",
        AttemptOutcome::Lost => "error",
    }
}

/// `error.type` of a step or an attempt.
pub const fn error_type(outcome: AttemptOutcome) -> Option<&'static str> {
    match outcome {
        AttemptOutcome::Success | AttemptOutcome::Cancelled | AttemptOutcome::Drained => None,
        AttemptOutcome::Failed => Some("failed"),
        AttemptOutcome::Unanswered => Some("unanswered"),
        AttemptOutcome::Timeout => Some("timeout"),
        AttemptOutcome::Lost => Some("worker_lost"),
    }
}

/// `cicd.pipeline.result` of an execution that was driven to its end.
pub const fn pipeline_result(state: ExecutionState) -> &'static str {
    match state {
        ExecutionState::Success => "success",
        ExecutionState::Cancelled => "cancellation",
        ExecutionState::Failed | ExecutionState::Pending | ExecutionState::Running => "failure",
    }
}
