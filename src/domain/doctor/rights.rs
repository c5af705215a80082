//! What the worker's user may do: no more than it needs, and nothing less.

use std::collections::BTreeSet;

use super::{
    Finding, Tables, View, listed,
    schema::{self, COLUMNS},
};
use crate::domain::lock_table::LockTable;

/// What is done to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Select,
    Insert,
    Update,
    Delete,
}

impl Verb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// Who asks. What may be done with columns is with the columns, in [`Tables`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// As a statement names it: `'worker'@'%'`.
    pub user: String,
    /// Quoted.
    pub database: String,
    /// Tables from which it may delete rows.
    pub deletable: BTreeSet<String>,
}

/// A right of a worker; without columns, on the whole table.
struct Need {
    verb: Verb,
    table: &'static str,
    columns: &'static [&'static str],
}

const fn need(verb: Verb, table: &'static str, columns: &'static [&'static str]) -> Need {
    Need { verb, table, columns }
}

/// Beside SELECT on every table.
const NEEDS: [Need; 10] = [
    need(
        Verb::Update,
        "workflow_executions",
        &[
            "status",
            "started_at",
            "finished_at",
            "duration",
            "error",
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
        ],
    ),
    need(
        Verb::Update,
        "workflow_step_executions",
        &[
            "status",
            "output",
            "error",
            "started_at",
            "finished_at",
            "duration",
            "retry_count",
            "updated_at",
            "ow_fence",
            "ow_attempt",
            "ow_key_gen",
        ],
    ),
    need(
        Verb::Insert,
        "workflow_step_executions",
        &["id", "execution_id", "step_id", "status", "created_at", "updated_at", "ow_fence"],
    ),
    need(Verb::Insert, "distributed_locks", &[]),
    need(Verb::Update, "distributed_locks", &[]),
    need(Verb::Delete, "distributed_locks", &[]),
    need(Verb::Insert, "ow_attempts", &[]),
    need(Verb::Update, "ow_attempts", &[]),
    need(Verb::Insert, "ow_plans", &[]),
    need(Verb::Update, "ow_primary", &[]),
];

/// Where rows are deleted that ended long ago.
const RETENTION: [Need; 3] = [
    need(Verb::Delete, "workflow_executions", &[]),
    need(Verb::Delete, "workflow_step_executions", &[]),
    need(Verb::Delete, "ow_attempts", &[]),
];

/// The statements that give a worker what it needs and nothing more; `user` and `database` are quoted.
pub fn grants(user: &str, database: &str, retention: bool, lock_table: &LockTable) -> Vec<String> {
    let rights =
        Rights { user: user.into(), database: database.into(), deletable: BTreeSet::new() };
    let selects = schema::names().map(|table| need(Verb::Select, table, &[]));
    let retention = RETENTION.into_iter().filter(|_| retention);
    let needs = selects.chain(NEEDS).chain(retention);
    let grant = |need: Need| need.grant(need.columns, &rights);
    needs.map(|need| lock_table.named(&grant(need)).into_owned()).collect()
}

/// Tables of which a store has to say whether rows may be deleted.
pub const DELETED: [&str; 4] =
    ["distributed_locks", "workflow_executions", "workflow_step_executions", "ow_attempts"];

pub(super) fn findings(tables: &Tables, view: &View) -> Vec<Finding> {
    let Some(rights) = &tables.rights else {
        return vec![Finding::ok("grants", "this store knows no users")];
    };
    let retention = RETENTION.iter().filter(|_| view.retention);
    let selects = schema::names().map(|table| need(Verb::Select, table, &[])).collect::<Vec<_>>();
    let needs = selects.iter().chain(&NEEDS).chain(retention);
    let missing: Vec<Finding> = needs.filter_map(|need| need.missing(tables, rights)).collect();
    if missing.is_empty() {
        let found = format!("{} may do all that a worker does", rights.user);
        return vec![Finding::ok("grants", found)];
    }
    missing
}

impl Need {
    fn missing(&self, tables: &Tables, rights: &Rights) -> Option<Finding> {
        let lacking = self.lacking(tables, rights);
        let is_hidden = self.verb == Verb::Select && tables.hidden.contains(self.table);
        (is_hidden || !lacking.is_empty()).then(|| self.finding(&lacking, rights))
    }

    /// Of columns that are not there, nothing is.
    fn lacking(&self, tables: &Tables, rights: &Rights) -> Vec<&'static str> {
        let Self { verb, table, columns } = *self;
        let asked = if columns.is_empty() { columns_of(table) } else { columns };
        let lacks = |verbs: &BTreeSet<Verb>| match verb {
            Verb::Delete => !rights.deletable.contains(table),
            Verb::Select | Verb::Insert | Verb::Update => !verbs.contains(&verb),
        };
        let is_lacking =
            |column: &&&str| tables.columns.get(&format!("{table}.{column}")).is_some_and(lacks);
        asked.iter().filter(is_lacking).copied().collect()
    }

    fn finding(&self, lacking: &[&str], rights: &Rights) -> Finding {
        let (verb, table, user) = (self.verb.as_str(), self.table, &rights.user);
        let (of, columns) = if self.columns.is_empty() {
            (String::new(), &[][..])
        } else {
            (format!(" of {}", listed(lacking)), lacking)
        };
        let found = format!("{user} lacks {verb}{of} on {table}");
        Finding::problem("grants", found, self.grant(columns, rights))
    }

    /// On the whole table if there are no columns.
    fn grant(&self, columns: &[&str], rights: &Rights) -> String {
        let columns =
            if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
        let (verb, table, Rights { user, database, .. }) = (self.verb.as_str(), self.table, rights);
        format!("GRANT {verb}{columns} ON {database}.{table} TO {user}")
    }
}

fn columns_of(table: &str) -> &'static [&'static str] {
    COLUMNS.iter().find(|(name, _)| *name == table).map_or(&[], |(_, columns)| columns)
}
