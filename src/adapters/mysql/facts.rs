//! What is read once about the tables, and the check that the primary is the same as before (Q).
//!
//! **Invariant:** no worker's verb touches a table before [`of`] has found tables that it knows; no
//! claim and no takeover goes on before [`same_primary`] has said yes in its own transaction.

use std::{sync::Arc, time::Duration};

use sqlx::mysql::MySqlRow;

use super::{
    errors::Fault,
    rows,
    session::{Session, fixed},
};

/// The schema that this version writes.
pub(super) const SCHEMA: i32 = 1;
/// How long the same server must have been the primary before anything is claimed from it.
const SETTLED: Duration = Duration::from_secs(60);

/// Read once, and again after an error that says it is out of date.
#[derive(Debug)]
pub(super) struct Facts {
    /// The unique key over `distributed_locks.lock_key`, quoted.
    pub lock_key_index: String,
    /// An expression for the lock key of the execution `e`, in the column's own collation: tables
    /// made by two server versions differ (1267).
    pub lock_key_of_e: String,
    /// Pending rows that were created before this time and never claimed are backlog.
    pub backlog_before: String,
}

/// The facts; refuses tables that are missing, or too new for this version.
pub(super) async fn of(session: &mut Session) -> Result<Arc<Facts>, Fault> {
    if let Some(facts) = session.shared.facts() {
        return Ok(facts);
    }
    check_version(session).await?;
    check_engines(session).await?;
    let facts = Arc::new(Facts {
        lock_key_index: lock_key_index(session).await?,
        lock_key_of_e: lock_key_of_e(session).await?,
        backlog_before: backlog_before(session).await?,
    });
    session.shared.learn_facts(Some(facts.clone()));
    Ok(facts)
}

/// Refuses tables that need a newer worker.
pub(super) async fn check_version(session: &mut Session) -> Result<(), Fault> {
    let row = session.row(fixed("SELECT oldest_reader FROM ow_meta WHERE id=1")).await?;
    refuse_too_new(&row.ok_or(Fault::NotMigrated)?, 0)
}

/// In this column stands the oldest schema whose workers may use the tables.
fn refuse_too_new(row: &MySqlRow, column: usize) -> Result<(), Fault> {
    let needed = i32::try_from(rows::number(row, column)?.unwrap_or(0)).unwrap_or(i32::MAX);
    if needed > SCHEMA {
        return Err(Fault::TooNew { needed, known: SCHEMA });
    }
    Ok(())
}

async fn backlog_before(session: &mut Session) -> Result<String, Fault> {
    let ask =
        fixed("SELECT CAST(first_migrated_at - INTERVAL 1 DAY AS CHAR) FROM ow_meta WHERE id=1");
    let row = session.row(ask).await?.ok_or(Fault::NotMigrated)?;
    rows::name(&row, 0)
}

/// Refuses tables without transactions.
pub(super) async fn check_engines(session: &mut Session) -> Result<(), Fault> {
    let other = session
        .row(fixed(
            "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA=DATABASE() \
             AND TABLE_NAME IN ('workflow_executions','workflow_step_executions',\
             'distributed_locks') AND ENGINE <> 'InnoDB' LIMIT 1",
        ))
        .await?;
    let Some(row) = other else { return Ok(()) };
    let table = rows::name(&row, 0)?;
    Err(Fault::NotReady(format!(
        "table {table} is kept by {}, which has no transactions; change it with ALTER TABLE {table} \
         ENGINE=InnoDB",
        rows::name(&row, 1)?
    )))
}

/// Refuses a lock table whose keys are not unique.
pub(super) async fn lock_key_index(session: &mut Session) -> Result<String, Fault> {
    let row = session
        .row(fixed(
            "SELECT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA=DATABASE() \
             AND TABLE_NAME='distributed_locks' AND NON_UNIQUE=0 GROUP BY INDEX_NAME \
             HAVING COUNT(*)=1 AND MAX(COLUMN_NAME)='lock_key' ORDER BY INDEX_NAME LIMIT 1",
        ))
        .await?;
    let row = row.ok_or_else(|| {
        let sentence =
            "distributed_locks has no unique key over lock_key alone, so that two workers could hold \
             one lock; add it with ALTER TABLE distributed_locks ADD UNIQUE KEY (lock_key)";
        Fault::NotReady(session.shared.lock_table.named(sentence).into_owned())
    })?;
    Ok(rows::quoted(&rows::name(&row, 0)?))
}

/// Refuses lock keys in a collation of no name.
pub(super) async fn lock_key_of_e(session: &mut Session) -> Result<String, Fault> {
    let row = session
        .row(fixed(
            "SELECT CHARACTER_SET_NAME, COLLATION_NAME FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA=DATABASE() AND TABLE_NAME='distributed_locks' \
             AND COLUMN_NAME='lock_key'",
        ))
        .await?
        .ok_or(Fault::NotMigrated)?;
    let word = |column| -> Result<String, Fault> {
        let word = rows::name(&row, column)?;
        if word.is_empty() || !word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(Fault::NotReady(format!(
                "{}.lock_key has the collation {word:?}, which cannot be compared",
                session.shared.lock_table.as_str()
            )));
        }
        Ok(word)
    };
    let (charset, collation) = (word(0)?, word(1)?);
    Ok(match charset.as_str() {
        "utf8mb4" => format!("CONCAT('workflow_execution:',e.id) COLLATE {collation}"),
        other => {
            format!("CONVERT(CONCAT('workflow_execution:',e.id) USING {other}) COLLATE {collation}")
        }
    })
}

/// Whether the primary has been the same for long enough, by the database or by this process's own
/// clock: a database clock that was set back must not stop the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Settled,
    Unsettled,
}

/// Q: is this the primary of before, for the database and for this process? If it is not, the new one
/// is recorded, after a ROLLBACK. Refuses tables that have come to need a newer worker since they were
/// first met: nothing more is taken from them, and what this one holds it brings to its end. Refuses a server
/// that takes no writes, which whoever only looks would not notice: another may be the primary by now.
pub(super) async fn same_primary(session: &mut Session) -> Result<Standing, Fault> {
    let identity = session.server.identity.clone();
    let ask = fixed(
        "SELECT CAST(identity = ? AS SIGNED), \
         CAST(since <= UTC_TIMESTAMP(6) - INTERVAL 60 SECOND AS SIGNED), \
         (SELECT oldest_reader FROM ow_meta WHERE id=1), \
         CAST(CAST(@@GLOBAL.read_only AS CHAR) NOT IN ('0','OFF') AS SIGNED) FROM ow_primary WHERE id=1",
    );
    let row = session.row(ask.bind(&identity)).await?.ok_or(Fault::NotMigrated)?;
    if rows::number(&row, 3)? == Some(1) {
        return Err(Fault::ReadOnly("the server takes no writes: its read_only is on".into()));
    }
    refuse_too_new(&row, 2)?;
    if rows::number(&row, 0)? != Some(1) {
        session.rollback().await?;
        let record = fixed(
            "UPDATE ow_primary SET identity=?, since=UTC_TIMESTAMP(6) WHERE id=1 AND identity<>?",
        );
        // No row matches where another worker was faster.
        session.matched_alone(record.bind(&identity).bind(&identity)).await?;
        session.shared.met_primary(&identity);
        return Err(Fault::PrimaryChanged);
    }
    // Another worker may have recorded it: this process has observed the former one all the same.
    let Some(met) = session.shared.met_primary(&identity) else {
        session.rollback().await?;
        return Err(Fault::PrimaryChanged);
    };
    let is_settled = rows::number(&row, 1)? == Some(1) || met >= SETTLED;
    Ok(if is_settled { Standing::Settled } else { Standing::Unsettled })
}

/// Q, for whoever takes something: refuses while the primary has not settled.
pub(super) async fn settled_primary(session: &mut Session) -> Result<(), Fault> {
    match same_primary(session).await? {
        Standing::Settled => Ok(()),
        Standing::Unsettled => Err(Fault::Unsettled),
    }
}
