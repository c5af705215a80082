//! The shape of a workflow file as it is written.
//!
//! **Invariant:** what is not a field here is refused with its line.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::{Error, Spanned};

use super::{Problem, WorkflowFileError, nearest};
use crate::cli::text;

/// Of what is said of a file, which may quote it, in characters.
const LONGEST: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    pub name: Spanned<String>,
    #[serde(default)]
    pub description: String,
    pub steps: Vec<WrittenStep>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenStep {
    pub name: Spanned<String>,
    /// A script for `sh`.
    pub shell: Option<String>,
    /// Variables of the script; each value is taken as it is written.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A function of the worker.
    pub func: Option<String>,
    pub parameters: Option<Map<String, Value>>,
    pub http: Option<WrittenRequest>,
    #[serde(default)]
    pub depends_on: Vec<Spanned<String>>,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub on_failure: OnFailure,
    pub timeout: Option<Spanned<String>>,
    pub retries: Option<u32>,
    pub resume: Option<Resume>,
}

/// An HTTP request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenRequest {
    /// GET if it is not given.
    pub method: Option<String>,
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A text is sent as it is written, anything else as JSON.
    pub body: Option<Value>,
}

/// Whether a step runs beside others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Serial,
    Parallel,
}

/// What a failure of the step means for the execution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    #[default]
    Abort,
    Skip,
}

/// What becomes of an attempt whose worker died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    Rerun,
    Fail,
}

pub fn parse(path: &Path, text: &str) -> Result<Written, WorkflowFileError> {
    // `no` and `0755` are meant as they are written, in parameters too.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        WorkflowFileError::at(
            path,
            line,
            Problem::Yaml(text::one_line(&words(error.without_snippet()), LONGEST)),
        )
    })
}

/// The parser's message without its place, in words for whoever writes files.
fn words(error: &Error) -> String {
    match error {
        Error::Eof { .. } => "the file is empty; begin it with `name:` and `steps:`".into(),
        Error::MultipleDocuments { .. } => {
            "one file holds one workflow; move what follows `---` into a file of its own".into()
        }
        Error::NullIntoString { .. } => "a text is missing here".into(),
        Error::DuplicateMappingKey { key, .. } => format!(
            "{} stands twice here; take one of them out",
            key.as_ref().map_or_else(|| "a key".into(), |key| format!("`{key}`"))
        ),
        Error::Unexpected { expected, .. } => match *expected {
            "mapping start" => "a group of `key: value` is expected here".into(),
            "sequence start" => "a list is expected here, such as [a, b]".into(),
            "string scalar" => "a text is expected here".into(),
            other => format!("{other} is expected here"),
        },
        Error::SerdeMissingField { field, .. } => format!("`{field}:` is missing here; add it"),
        Error::SerdeUnknownField { field, expected, .. } => {
            let hint = nearest(field, expected.iter().copied()).map_or_else(
                || format!("those there are: {}", expected.join(", ")),
                |known| format!("did you mean `{known}`?"),
            );
            format!("there is no key `{field}` here; {hint}")
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not known here; give {}", expected.join(" or "))
        }
        other => {
            let text = other.to_string();
            let text = text.split(" at line ").next().unwrap_or_default();
            if text == "invalid u32" {
                "a whole number from 0 on is expected here".into()
            } else if text.starts_with("budget breached") {
                "this goes deeper, or holds more values or aliases, than a workflow may; write less"
                    .into()
            } else {
                format!("this cannot be read as YAML: {text}; correct it there")
            }
        }
    }
}
