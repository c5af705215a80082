//! A workflow as recorded: the rows of a template and its steps, unchecked, and the text under
//! which they are kept in `ow_plans`.
//!
//! **Invariant:** the same rows give the same text and so the same hash, on every replica and in
//! every version that does not change this file's fields.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::id::{PlanHash, StepId, TemplateId};

/// A template with its steps. Nothing in it is checked; [`super::workflow::Workflow::try_new`] does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub template: TemplateId,
    pub name: String,
    pub steps: Vec<RecordedStep>,
}

/// A row of `workflow_template_steps` joined with its row of `steps`. Columns that are NULL are
/// left out of the stored text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedStep {
    pub id: StepId,
    pub name: Option<String>,
    pub executor_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_headers: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell_script: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell_env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// Seconds an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<i64>,
    /// JSON array of `steps.id`; '' and null mean none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<i64>,
}

impl RecordedStep {
    /// Its name, or its id where it has none.
    pub fn shown_name(&self) -> String {
        match self.name.as_deref() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => self.id.to_string(),
        }
    }
}

impl Definition {
    /// Puts the steps in the order in which ready ones are taken: the same rows must give the same
    /// text, in whatever order they came.
    pub fn sort(&mut self) {
        let place = |step: &RecordedStep| step.order.unwrap_or(0);
        self.steps.sort_by(|a, b| (place(a), &a.id).cmp(&(place(b), &b.id)));
    }

    /// The text kept in `ow_plans.plan`.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("text and numbers always have a JSON form")
    }

    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// SHA-256 of a stored text.
    pub fn hash(text: &str) -> PlanHash {
        PlanHash(Sha256::digest(text.as_bytes()).into())
    }
}
