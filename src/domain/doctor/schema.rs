//! The tables, their columns and keys.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Repaired, Rights, Verb, listed};

/// What stands in the database.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Of `ow_meta`; `None` before the first migration.
    pub version: Option<i64>,
    pub oldest_reader: Option<i64>,
    /// Steps of a migration that have not been done.
    pub pending: Vec<String>,
    /// `table.column`, and what this user may do with it.
    pub columns: BTreeMap<String, BTreeSet<Verb>>,
    /// Tables that this user may not see, be they there or not.
    pub hidden: BTreeSet<String>,
    /// `table.key`, and its columns.
    pub keys: BTreeMap<String, String>,
    /// Why a lock could have more than one holder.
    pub lock_key_problem: Option<String>,
    /// `None` for a store without users.
    pub rights: Option<Rights>,
}

/// What a worker reads and writes.
pub(super) const COLUMNS: [(&str, &[&str]); 11] = [
    (
        "steps",
        &[
            "id",
            "name",
            "executor_type",
            "http_method",
            "http_url",
            "http_headers",
            "http_body",
            "shell_script",
            "shell_env",
            "parameters",
            "timeout",
            "retries",
        ],
    ),
    ("workflow_templates", &["id", "name", "is_active"]),
    (
        "workflow_template_steps",
        &["id", "template_id", "step_id", "dependencies", "run_mode", "on_failure", "order"],
    ),
    (
        "workflow_executions",
        &[
            "id",
            "template_id",
            "status",
            "started_at",
            "finished_at",
            "duration",
            "error",
            "created_at",
            "updated_at",
            "ow_fence",
            "ow_owner",
            "ow_owner_uid",
            "ow_claim",
            "ow_claims",
            "ow_run",
            "ow_plan",
            "ow_traceparent",
            "ow_not_before",
            "ow_due",
        ],
    ),
    (
        "workflow_step_executions",
        &[
            "id",
            "execution_id",
            "step_id",
            "status",
            "output",
            "error",
            "started_at",
            "finished_at",
            "duration",
            "retry_count",
            "created_at",
            "updated_at",
            "ow_fence",
            "ow_attempt",
            "ow_key_gen",
        ],
    ),
    (
        "distributed_locks",
        &["lock_key", "owner", "expires_at", "created_at", "updated_at", "ow_fence", "ow_beat"],
    ),
    ("ow_primary", &["id", "identity", "since"]),
    ("ow_plans", &["sha256", "plan", "created_at"]),
    (
        "ow_attempts",
        &[
            "execution_id",
            "step_execution_id",
            "attempt",
            "fence",
            "owner",
            "started_at",
            "finished_at",
            "outcome",
            "cause",
        ],
    ),
    ("ow_paused", &["template_id", "since"]),
    ("ow_meta", &["id", "version", "oldest_reader", "first_migrated_at"]),
];

/// Keys that statements name.
const KEYS: [(&str, &str, &str); 3] = [
    ("workflow_executions", "ow_poll", "status, ow_due, id"),
    ("workflow_executions", "ow_held", "ow_owner, status"),
    ("distributed_locks", "ow_expires", "expires_at"),
];

/// Every table of which this version needs columns.
pub fn names() -> impl Iterator<Item = &'static str> {
    COLUMNS.iter().map(|(table, _)| *table)
}

pub(super) fn findings(tables: &Tables, repaired: &Repaired) -> Vec<Finding> {
    if !tables.hidden.is_empty() {
        return vec![unseen(&tables.hidden)];
    }
    vec![match &repaired.migrated {
        Some(Err(sentence)) => Finding::of_error("schema", sentence),
        _ if !tables.pending.is_empty() => behind(&tables.pending),
        _ => lost_columns(tables)
            .unwrap_or_else(|| Finding::ok("schema", in_words(tables, repaired))),
    }]
}

fn unseen(hidden: &BTreeSet<String>) -> Finding {
    let tables: Vec<&String> = hidden.iter().collect();
    Finding::problem(
        "schema",
        format!("this user may not see {}, or they are not there", listed(&tables)),
        "grant what is missing below; where they are not there, run `orchestrator-worker migrate` as \
         a user who may create and alter tables",
    )
}

fn behind(pending: &[String]) -> Finding {
    let found =
        format!("{} steps of the migration are not done: {}", pending.len(), listed(pending));
    Finding::problem(
        "schema",
        found,
        "orchestrator-worker migrate (or `doctor` without --dry-run), as a user who may create and \
         alter tables",
    )
}

/// A migration adds columns all together: one that is missing later was dropped by somebody.
fn lost_columns(tables: &Tables) -> Option<Finding> {
    let lost: Vec<String> = COLUMNS
        .iter()
        .flat_map(|(table, columns)| columns.iter().map(move |column| format!("{table}.{column}")))
        .filter(|column| !tables.columns.contains_key(column))
        .collect();
    (!lost.is_empty()).then(|| {
        Finding::problem(
            "schema",
            format!("somebody has dropped {}", listed(&lost)),
            "add it again as SHOW CREATE TABLE has it in a database that `orchestrator-worker \
             migrate` has just made, or restore a backup",
        )
    })
}

fn in_words(tables: &Tables, repaired: &Repaired) -> String {
    let number = |number: Option<i64>| number.map_or_else(|| "?".into(), |it| it.to_string());
    let (version, oldest) = (number(tables.version), number(tables.oldest_reader));
    let done = match &repaired.migrated {
        Some(Ok(steps)) => format!("; just migrated: {}", listed(steps)),
        _ => String::new(),
    };
    format!("version {version}, for workers of schema {oldest} and later{done}")
}

/// Only of tables that are there: the others get their keys with them.
pub(super) fn index_findings(tables: &Tables) -> Vec<Finding> {
    let there = |table: &str| {
        let begin = format!("{table}.");
        tables.columns.keys().any(|column| column.starts_with(&begin))
    };
    let mut found = Vec::new();
    for (table, key, columns) in KEYS.into_iter().filter(|(table, ..)| there(table)) {
        let create = format!("CREATE INDEX {key} ON {table} ({columns})");
        match tables.keys.get(&format!("{table}.{key}")) {
            Some(there) if there == columns => {}
            Some(there) => found.push(Finding::problem(
                "indexes",
                format!("{key} of {table} is over ({there}), which serves nothing"),
                format!("drop it, then {create}"),
            )),
            None => {
                found.push(Finding::problem("indexes", format!("{table} has no {key}"), create));
            }
        }
    }
    if there("distributed_locks")
        && let Some(sentence) = &tables.lock_key_problem
    {
        found.push(Finding::of_error("indexes", sentence));
    }
    if found.is_empty() && there("distributed_locks") {
        let found_all = "ow_poll, ow_held, ow_expires and a unique lock_key are there";
        found.push(Finding::ok("indexes", found_all));
    }
    found
}
