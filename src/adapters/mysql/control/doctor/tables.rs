//! The tables, and what this user may do with them.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::refusal;
use crate::{
    adapters::mysql::{
        errors::Fault,
        facts, rows, schema,
        session::{Session, fixed},
        work::Work,
    },
    domain::doctor::{DELETED, Rights, Tables, Verb, names},
};

pub(super) struct Ask;

#[async_trait]
impl Work for Ask {
    type Answer = Tables;

    async fn attempt(&mut self, session: &mut Session) -> Result<Tables, Fault> {
        let columns = columns(session).await?;
        let mut tables = Tables {
            hidden: hidden(session, &columns).await?,
            columns,
            keys: keys(session).await?,
            rights: Some(rights(session).await?),
            ..Tables::default()
        };
        // What cannot be seen may be there all the same.
        if tables.hidden.is_empty() {
            let pending = schema::pending(session).await?;
            let named = |what| session.shared.lock_table.named(what).into_owned();
            tables.pending = pending.iter().map(|step| named(step.what)).collect();
        }
        if tables.hidden.is_empty() && tables.pending.is_empty() {
            tables.lock_key_problem = lock_key_problem(session).await?;
            (tables.version, tables.oldest_reader) = versions(session).await?;
        }
        Ok(tables)
    }
}

async fn versions(session: &mut Session) -> Result<(Option<i64>, Option<i64>), Fault> {
    let ask = fixed(
        "SELECT CAST(version AS SIGNED), CAST(oldest_reader AS SIGNED) FROM ow_meta WHERE id=1",
    );
    let row = session.row(ask).await?.ok_or(Fault::NotMigrated)?;
    Ok((rows::number(&row, 0)?, rows::number(&row, 1)?))
}

/// The server says for each column what this user may do with it, by whatever right or role.
async fn columns(session: &mut Session) -> Result<BTreeMap<String, BTreeSet<Verb>>, Fault> {
    let ask = fixed(
        "SELECT CONCAT(TABLE_NAME, '.', COLUMN_NAME), PRIVILEGES FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA=DATABASE()",
    );
    let column = |row: &MySqlRow| Ok((rows::name(row, 0)?, verbs(&rows::name(row, 1)?)));
    let all = session.rows(ask).await?.iter().map(column).collect::<Result<Vec<_>, Fault>>()?;
    Ok(as_usual(session, all))
}

/// What things are and have, by their usual names: those of the lock table may be others.
fn as_usual<T>(session: &Session, things: Vec<(String, T)>) -> BTreeMap<String, T> {
    let lock_table = &session.shared.lock_table;
    things
        .into_iter()
        .filter_map(|(thing, has)| Some((lock_table.as_usual(&thing)?, has)))
        .collect()
}

fn verbs(words: &str) -> BTreeSet<Verb> {
    let verb = |word| match word {
        "select" => Some(Verb::Select),
        "insert" => Some(Verb::Insert),
        "update" => Some(Verb::Update),
        _ => None,
    };
    words.split(',').filter_map(verb).collect()
}

/// A server tells nobody whether a table is there that he may not see.
async fn hidden(
    session: &mut Session,
    columns: &BTreeMap<String, BTreeSet<Verb>>,
) -> Result<BTreeSet<String>, Fault> {
    let mut hidden = BTreeSet::new();
    for table in names() {
        let begin = format!("{table}.");
        let mut all = columns.iter().filter(|(column, _)| column.starts_with(&begin));
        if all.any(|(_, verbs)| verbs.contains(&Verb::Select)) {
            continue;
        }
        if !may(session, format!("SELECT 1 FROM {table} LIMIT 0")).await? {
            hidden.insert(table.to_owned());
        }
    }
    Ok(hidden)
}

/// Whether no right is missing for a statement that does nothing.
async fn may(session: &mut Session, sql: String) -> Result<bool, Fault> {
    match session.raw(sql).await {
        Ok(()) | Err(Fault::NotMigrated) => Ok(true),
        Err(Fault::NotReady(_)) => Ok(false),
        Err(fault) => Err(fault),
    }
}

async fn keys(session: &mut Session) -> Result<BTreeMap<String, String>, Fault> {
    let ask = fixed(
        "SELECT CONCAT(TABLE_NAME, '.', INDEX_NAME), \
         GROUP_CONCAT(COLUMN_NAME ORDER BY SEQ_IN_INDEX SEPARATOR ', ') \
         FROM information_schema.STATISTICS WHERE TABLE_SCHEMA=DATABASE() \
         GROUP BY TABLE_NAME, INDEX_NAME",
    );
    let key = |row: &MySqlRow| Ok((rows::name(row, 0)?, rows::name(row, 1)?));
    let all = session.rows(ask).await?.iter().map(key).collect::<Result<Vec<_>, Fault>>()?;
    Ok(as_usual(session, all))
}

/// As a worker asks at its start.
async fn lock_key_problem(session: &mut Session) -> Result<Option<String>, Fault> {
    match refusal(facts::lock_key_index(session).await)? {
        None => refusal(facts::lock_key_of_e(session).await),
        problem => Ok(problem),
    }
}

/// An EXPLAIN needs the rights of what it explains, and does nothing.
async fn rights(session: &mut Session) -> Result<Rights, Fault> {
    let row = session.row(fixed("SELECT CURRENT_USER(), DATABASE()")).await?;
    let row = row.ok_or_else(|| Fault::Unexpected("nobody has asked".into()))?;
    let mut deletable = BTreeSet::new();
    for table in DELETED {
        if may(session, format!("EXPLAIN DELETE FROM {table} WHERE FALSE")).await? {
            deletable.insert(table.to_owned());
        }
    }
    let database = rows::quoted(&rows::name(&row, 1)?);
    Ok(Rights { user: account(&rows::name(&row, 0)?), database, deletable })
}

/// `name@host` as a statement names it.
fn account(user: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let (name, host) = user.rsplit_once('@').unwrap_or((user, "%"));
    format!("{}@{}", quoted(name), quoted(host))
}
