//! What one step does, how long an attempt may take, and what happens when its outcome is unknown.
//!
//! **Invariant:** a [`Step`] was read from a hostile row and holds nothing that cannot be run as
//! it stands: no NUL, no negative number, no JSON and no URL left to parse.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{
    definition::RecordedStep,
    id::StepId,
    request::{Request, RequestError},
};

/// Timeout of an attempt where the row says 0 or nothing.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest timeout that is kept as recorded; a longer one is as good as this.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// Retries where the row says nothing: the column's own default.
pub const DEFAULT_RETRIES: u32 = 3;

/// A checked step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub id: StepId,
    pub name: String,
    pub action: Action,
    /// Of each attempt.
    pub timeout: Duration,
    /// Further attempts after the first.
    pub retries: u32,
    pub resume: Resume,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Http(Box<Request>),
    Shell {
        script: String,
        env: BTreeMap<String, String>,
    },
    Func {
        name: String,
        parameters: Value,
    },
    /// A kind that this version does not run; a newer one may.
    Other {
        kind: String,
    },
}

impl Action {
    /// The value of `executor_type`.
    pub fn kind(&self) -> &str {
        match self {
            Self::Http(_) => "http",
            Self::Shell { .. } => "shell",
            Self::Func { .. } => "func",
            Self::Other { kind } => kind,
        }
    }
}

/// What becomes of an attempt that was in flight when its worker died (`parameters.resume`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Run it again under the same idempotency key.
    #[default]
    Rerun,
    /// Fail the step: its effect must not be asked for twice.
    Fail,
}

/// Why a recorded step cannot be run as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("it has no executor_type")]
    NoExecutor,
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("its shell_script is empty")]
    NoScript,
    #[error("its {0} holds a NUL character")]
    Nul(&'static str),
    #[error("its {column} is negative: {value}")]
    Negative { column: &'static str, value: i64 },
    #[error("the column {column} is not {expected}: {problem}")]
    Json { column: &'static str, expected: &'static str, problem: String },
    #[error("its parameters.resume is {0:?}, which is neither \"rerun\" nor \"fail\"")]
    Resume(String),
}

impl StepError {
    fn not_texts(column: &'static str, problem: String) -> Self {
        Self::Json { column, expected: "a JSON object of texts", problem }
    }
}

impl Step {
    pub fn try_new(recorded: &RecordedStep) -> Result<Self, StepError> {
        let name = recorded.shown_name();
        let parameters = json_object("parameters", recorded.parameters.as_deref())?;
        let resume = match parameters.get("resume") {
            None => Resume::Rerun,
            Some(Value::String(word)) if word == "rerun" => Resume::Rerun,
            Some(Value::String(word)) if word == "fail" => Resume::Fail,
            Some(other) => return Err(StepError::Resume(other.to_string())),
        };
        let timeout = match not_negative("timeout", recorded.timeout)? {
            None | Some(0) => DEFAULT_TIMEOUT,
            Some(seconds) => Duration::from_secs(seconds).min(LONGEST_TIMEOUT),
        };
        let retries = not_negative("retries", recorded.retries)?
            .map_or(DEFAULT_RETRIES, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let action = action(recorded, &name, parameters)?;
        Ok(Self { id: recorded.id.clone(), name, action, timeout, retries, resume })
    }
}

fn action(
    recorded: &RecordedStep,
    name: &str,
    parameters: serde_json::Map<String, Value>,
) -> Result<Action, StepError> {
    match recorded.executor_type.as_deref() {
        None | Some("") => Err(StepError::NoExecutor),
        Some("http") => {
            let headers = texts("http_headers", recorded.http_headers.as_deref())?;
            let request = Request::try_new(
                recorded.http_method.as_deref(),
                recorded.http_url.as_deref(),
                &headers,
                recorded.http_body.as_deref(),
            )?;
            Ok(Action::Http(Box::new(request)))
        }
        Some("shell") => {
            let script = recorded.shell_script.clone().unwrap_or_default();
            if script.trim().is_empty() {
                return Err(StepError::NoScript);
            }
            if script.contains('\0') {
                return Err(StepError::Nul("shell_script"));
            }
            Ok(Action::Shell { script, env: shell_env(recorded.shell_env.as_deref())? })
        }
        Some("func") => {
            let func = match parameters.get("func") {
                Some(Value::String(func)) if !func.is_empty() => func.clone(),
                _ => name.to_owned(),
            };
            Ok(Action::Func { name: func, parameters: Value::Object(parameters) })
        }
        Some(kind) => Ok(Action::Other { kind: kind.to_owned() }),
    }
}

fn shell_env(column: Option<&str>) -> Result<BTreeMap<String, String>, StepError> {
    let env = texts("shell_env", column)?;
    for (key, value) in &env {
        if key.is_empty() || key.contains('=') {
            return Err(StepError::not_texts(
                "shell_env",
                format!("{key:?} cannot name a variable"),
            ));
        }
        if key.contains('\0') || value.contains('\0') {
            return Err(StepError::Nul("shell_env"));
        }
    }
    Ok(env.into_iter().collect())
}

/// The entries of a JSON object whose values are texts, or as good as texts.
fn texts(column: &'static str, text: Option<&str>) -> Result<Vec<(String, String)>, StepError> {
    let plain = |(key, value)| match value {
        Value::String(text) => Ok((key, text)),
        Value::Number(_) | Value::Bool(_) => Ok((key, value.to_string())),
        Value::Null => Ok((key, String::new())),
        Value::Array(_) | Value::Object(_) => {
            Err(StepError::not_texts(column, format!("the value of {key:?} is not a text")))
        }
    };
    json_object(column, text)?.into_iter().map(plain).collect()
}

/// '' and null stand for an empty object: the orchestrator writes them for "none".
fn json_object(
    column: &'static str,
    text: Option<&str>,
) -> Result<serde_json::Map<String, Value>, StepError> {
    let expected = "a JSON object";
    match text.map(str::trim) {
        None | Some("") => Ok(serde_json::Map::new()),
        Some(text) => match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(Value::Null) => Ok(serde_json::Map::new()),
            Ok(_) => {
                Err(StepError::Json { column, expected, problem: "it is another value".into() })
            }
            Err(error) => Err(StepError::Json { column, expected, problem: error.to_string() }),
        },
    }
}

fn not_negative(column: &'static str, value: Option<i64>) -> Result<Option<u64>, StepError> {
    value
        .map(|value| u64::try_from(value).map_err(|_| StepError::Negative { column, value }))
        .transpose()
}
