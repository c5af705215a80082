//! What an operator asks of a store: prepare it, put workflows in, submit, look.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::executions::StoreError;
use crate::domain::{
    definition::Definition,
    doctor::{self, Circumstances, Stored, Unanswered},
    execution::ExecutionState,
    explain::Facts,
    id::{ExecutionId, StepId, TemplateId},
    trace::{Origin, TraceParent},
};

/// A store as an operator sees it.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Makes the schema what this version needs; idempotent. With `dry_run` only says what it
    /// would do.
    async fn migrate(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError>;

    /// Adds a trigger to the executions' table that stops writers who hold no claim: an orchestrator's
    /// double start, its late end. The tables are there already.
    async fn guard(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError>;

    /// Puts a checked definition in, new or in place of what its ids held before.
    async fn apply(&self, definition: &Definition, about: &About) -> Result<Applied, ControlError>;

    /// Makes a pending execution with its step rows, in one transaction.
    async fn submit(&self, submission: &Submission) -> Result<Submitted, ControlError>;

    /// Newest first.
    async fn list(&self, filter: &Filter) -> Result<Vec<ExecutionSummary>, ControlError>;

    async fn show(&self, execution: &ExecutionId) -> Result<ExecutionDetail, ControlError>;

    /// A template (by name or id), or an execution's plan and how far each of its steps has come.
    async fn draw(&self, which: &str) -> Result<Drawn, ControlError>;

    /// All that `explain` goes by.
    async fn facts(&self, execution: &ExecutionId) -> Result<Facts, ControlError>;

    /// All that `doctor` goes by, each part for itself: what cannot be asked hinders no other. Takes
    /// a lock of its own, gives it back, and leaves nothing behind.
    async fn examine(&self) -> doctor::Facts;

    /// What a worker looks at before it begins; tables have to be there.
    async fn circumstances(&self) -> Result<Circumstances, ControlError>;

    /// Every stored template, by name.
    async fn templates(&self) -> Result<Vec<Stored>, ControlError>;

    /// Lock rows, those that expire last first.
    async fn locks(&self, filter: &LockFilter) -> Result<Vec<LockRow>, ControlError>;

    /// Deletes lock rows that nobody needs any more, a minute past their expiry: marks that workers
    /// left, and everything but the leases of executions. With `dry_run` only counts them.
    async fn clean_locks(&self, dry_run: bool) -> Result<u64, ControlError>;

    /// The statement of [`Control::clean_locks`], for people.
    fn clean_locks_sql(&self) -> String;

    /// Workers that hold a live lease, by name.
    async fn workers(&self) -> Result<Vec<WorkerRow>, ControlError>;

    /// Sets an execution to `cancelled`. Steps of one that nobody holds are skipped with it; the
    /// worker that holds it stops the others at its next renewal.
    async fn cancel(&self, execution: &ExecutionId) -> Result<Cancelled, ControlError>;

    /// Makes a failed or cancelled execution pending again, due at once. Steps that succeeded stay;
    /// all others run again, those with a definite failure under a new idempotency key.
    async fn retry(&self, execution: &ExecutionId) -> Result<(), ControlError>;

    /// Keeps the executions of a template, or of all, from being claimed; what runs goes on.
    async fn pause(&self, which: &Pausable) -> Result<PauseChange, ControlError>;

    /// Takes a pause back.
    async fn resume(&self, which: &Pausable) -> Result<PauseChange, ControlError>;

    /// What is paused, oldest first.
    async fn paused(&self) -> Result<Vec<Paused>, ControlError>;

    /// How much is held as backlog.
    async fn backlog(&self) -> Result<BacklogSummary, ControlError>;

    /// Lets backlog of one template (a name or an id), or all of it, be claimed; returns how many
    /// executions.
    async fn release_backlog(&self, template: Option<&str>) -> Result<u64, ControlError>;
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
    pub start: Start,
    /// The submitter's place in its own trace, which the execution's continues.
    pub traceparent: Option<TraceParent>,
}

impl Submission {
    /// As it stands in `ow_traceparent`; empty where there is none.
    pub fn stored_traceparent(&self) -> String {
        self.traceparent.map(|place| place.to_string()).unwrap_or_default()
    }
}

/// When a submitted execution is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    #[default]
    Now,
    At(UnixMillis),
    /// From now on, by the store's clock.
    After(Duration),
}

/// Steps, and what waits for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    pub definition: Definition,
    /// The state column's own words; empty for a template.
    pub states: BTreeMap<StepId, String>,
}

/// Which lock rows to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockFilter {
    /// This key only.
    pub key: Option<String>,
    /// Of this owner only.
    pub owner: Option<String>,
    /// Expired ones only.
    pub expired: bool,
    pub limit: u32,
}

/// A lock row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LockRow {
    pub key: String,
    /// A worker, a mark (`~released`, `~finished`), or whatever else writes to the table.
    pub owner: String,
    /// 0 where the orchestrator wrote it.
    pub fence: u64,
    /// Renewals of its owner's process so far.
    pub beat: u64,
    /// Negative once it has expired.
    pub expires_in_ms: i64,
    /// Since its last renewal.
    pub renewed_ago_ms: Option<i64>,
    pub created_at: Option<UnixMillis>,
}

/// A worker that holds something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerRow {
    pub owner: String,
    pub executions: u64,
    /// Since the last renewal of any of them.
    pub renewed_ago_ms: Option<i64>,
    /// Since it got the one that it has held for longest.
    pub oldest_ms: Option<i64>,
}

/// What a cancellation met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "was", rename_all = "snake_case")]
pub enum Cancelled {
    /// Nobody had claimed it: it is over.
    Pending,
    /// A worker holds it and stops it at its next renewal; without an owner it was handed back, or
    /// the orchestrator itself runs it.
    Running { owner: String },
    /// Somebody had cancelled it before.
    Cancelled,
}

/// What can be paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pausable {
    /// A template's name or id.
    Template(String),
    All,
}

/// What a pause or its end has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PauseChange {
    /// `None` for all templates.
    pub template: Option<TemplateId>,
    pub template_name: Option<String>,
    /// It was not like this before.
    pub changed: bool,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// `None` for all templates.
    pub template: Option<TemplateId>,
    /// Missing where the template is gone.
    pub template_name: Option<String>,
    pub since: Option<UnixMillis>,
}

/// Pending executions that were a day old already when the tables were first migrated and that
/// nobody has released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BacklogSummary {
    pub executions: u64,
    /// When the oldest and the newest were created.
    pub oldest: Option<UnixMillis>,
    pub newest: Option<UnixMillis>,
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
    /// Held as backlog.
    pub backlog: bool,
    /// Ended at most so long ago.
    pub ended_within: Option<Duration>,
    pub limit: u32,
}

/// Milliseconds since 1970, UTC, by the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub i64);

/// RFC 3339, UTC, with milliseconds; a time that no calendar has is given as its number.
impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{}", time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ")),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// As it is displayed.
impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

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
    /// It is not claimed before.
    pub not_before: Option<UnixMillis>,
    pub started_at: Option<UnixMillis>,
    pub finished_at: Option<UnixMillis>,
}

/// An execution with its steps and every attempt at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionDetail {
    pub summary: ExecutionSummary,
    pub fence: u64,
    pub origin: Origin,
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
    #[error("template {0:?} cannot be read: {1}")]
    Unreadable(String, String),
    #[error("{count} templates are named {name:?}; give the id of one: {ids}")]
    Ambiguous { name: String, count: usize, ids: String },
    #[error("template {0:?} is not active, so nothing new may be submitted for it")]
    Inactive(String),
    #[error("there is no execution {0:?}; `orchestrator-worker list` shows those there are")]
    NoExecution(String),
    #[error("execution {execution} cannot be {what}: it is {state}")]
    WrongState { execution: ExecutionId, what: &'static str, state: String },
    #[error(
        "execution {execution} cannot be retried yet: it was cancelled while {owner} held it, which \
         has not let go of it; try again in a moment"
    )]
    StillHeld { execution: ExecutionId, owner: String },
    #[error("an SQLite file needs no guard: only workers write to it; leave --guard out")]
    NoGuard,
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

impl From<ControlError> for Unanswered {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotMigrated => Self::NotMigrated,
            ControlError::Store(StoreError::NotReady(sentence)) => Self::Because(sentence),
            other => Self::Because(other.to_string()),
        }
    }
}
