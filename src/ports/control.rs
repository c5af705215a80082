//! What an operator asks of a store: prepare it, put workflows in, submit, look.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::executions::StoreError;
use crate::domain::{
    definition::Definition,
    execution::ExecutionState,
    id::{ExecutionId, TemplateId},
};

/// A store as an operator sees it.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Makes the schema what this version needs; idempotent. With `dry_run` only says what it
    /// would do.
    async fn migrate(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError>;

    /// Puts a checked definition in, new or in place of what its ids held before.
    async fn apply(&self, definition: &Definition, about: &About) -> Result<Applied, ControlError>;

    /// Makes a pending execution with its step rows, in one transaction.
    async fn submit(&self, submission: &Submission) -> Result<Submitted, ControlError>;

    /// Newest first.
    async fn list(&self, filter: &Filter) -> Result<Vec<ExecutionSummary>, ControlError>;

    async fn show(&self, execution: &ExecutionId) -> Result<ExecutionDetail, ControlError>;
}

/// One thing that a migration does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationStep {
    /// In words: `create table ow_meta`.
    pub what: String,
    /// How long it took; `None` in a dry run.
    #[serde(with = "humantime_serde")]
    pub took: Option<Duration>,
}

/// Free text that goes with a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub description: String,
    /// Of a template that is new; whoever changes it later does not take its place.
    pub creator: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Applied {
    Created,
    Changed,
    Unchanged,
}

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// A template's name or id.
    pub template: String,
    pub created_by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Submitted {
    pub execution: ExecutionId,
    pub template: TemplateId,
    pub template_name: String,
}

/// Which executions to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub state: Option<ExecutionState>,
    /// A template's name or id.
    pub template: Option<String>,
    /// These ids only, if any are given.
    pub executions: Vec<ExecutionId>,
    pub limit: u32,
}

/// Milliseconds since 1970, UTC, by the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

/// An execution in a list. `status` is the column's own word, even an unknown one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionSummary {
    pub execution: ExecutionId,
    pub template: Option<TemplateId>,
    pub template_name: Option<String>,
    pub status: Option<String>,
    /// Who holds it, `~released` where it waits for the next worker, empty where nobody does.
    pub owner: String,
    pub error: Option<String>,
    pub created_by: Option<String>,
    pub created_at: Option<UnixMillis>,
    pub started_at: Option<UnixMillis>,
    pub finished_at: Option<UnixMillis>,
}

/// An execution with its steps and every attempt at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionDetail {
    pub summary: ExecutionSummary,
    pub fence: u64,
    /// In the order in which they are taken.
    pub steps: Vec<StepDetail>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDetail {
    pub step_execution: String,
    pub name: Option<String>,
    pub executor_type: Option<String>,
    pub status: Option<String>,
    pub retry_count: i64,
    pub output: Option<String>,
    pub error: Option<String>,
    pub started_at: Option<UnixMillis>,
    pub finished_at: Option<UnixMillis>,
    pub attempts: Vec<AttemptDetail>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptDetail {
    pub attempt: u32,
    pub fence: u64,
    pub owner: String,
    pub started_at: Option<UnixMillis>,
    pub finished_at: Option<UnixMillis>,
    pub outcome: Option<String>,
    pub cause: Option<String>,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("there is no template named {0:?}; `orchestrator-worker apply -f FILE` adds one")]
    NoTemplate(String),
    #[error("{count} templates are named {name:?}; give the id of one: {ids}")]
    Ambiguous { name: String, count: usize, ids: String },
    #[error("template {0:?} is not active, so nothing new may be submitted for it")]
    Inactive(String),
    #[error("there is no execution {0:?}; `orchestrator-worker list` shows those there are")]
    NoExecution(String),
    #[error("the tables are not there yet; run `orchestrator-worker migrate` first")]
    NotMigrated,
    #[error(
        "the database was migrated by a newer version and needs a worker of schema {needed} or \
         later; this one knows {known}: upgrade it"
    )]
    TooNew { needed: i32, known: i32 },
    #[error(transparent)]
    Store(#[from] StoreError),
}
