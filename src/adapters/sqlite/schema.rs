//! Brings a file's tables up to this version.
//!
//! **Invariant:** a migration is one transaction, and a file that needs a newer worker is left
//! alone.

use sqlx::{AssertSqlSafe, SqliteConnection};
use tokio::time::Instant;

use super::{errors::Failure, rows::Cells, session::Moment};
use crate::ports::control::{ControlError, MigrationStep};

const VERSION: i32 = 1;
const FIRST_LIGHT: &str = include_str!("../../../migrations/sqlite/0001_first_light.sql");

pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    dry_run: bool,
) -> Result<Vec<MigrationStep>, Failure> {
    if is_migrated(connection).await? {
        return Ok(Vec::new());
    }
    let mut moment = Moment::write(connection).await?;
    let mut done = Vec::new();
    // Another process may have made the tables while this one waited for the file.
    if !is_migrated(moment.on()).await? {
        for (what, sql) in steps() {
            let began = Instant::now();
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(moment.on()).await?;
            let took = (!dry_run).then(|| began.elapsed());
            done.push(MigrationStep { what: what.to_owned(), took });
        }
    }
    if dry_run {
        moment.rollback().await?;
    } else {
        moment.commit().await?;
    }
    Ok(done)
}

fn steps() -> impl Iterator<Item = (&'static str, &'static str)> {
    FIRST_LIGHT.split("-- step: ").skip(1).filter_map(|step| step.split_once('\n'))
}

/// What a migration does to a file that is not there yet.
pub(super) fn all_of_it() -> Vec<MigrationStep> {
    steps().map(|(what, _)| MigrationStep { what: what.to_owned(), took: None }).collect()
}

/// Whether the tables are there; refuses those that need a newer worker.
pub(super) async fn is_migrated(connection: &mut SqliteConnection) -> Result<bool, Failure> {
    match oldest_reader(connection).await? {
        None => Ok(false),
        Some(needed) if needed <= i64::from(VERSION) => Ok(true),
        Some(needed) => {
            let needed = i32::try_from(needed).unwrap_or(i32::MAX);
            Err(ControlError::TooNew { needed, known: VERSION }.into())
        }
    }
}

/// `None` where nothing was ever migrated.
async fn oldest_reader(connection: &mut SqliteConnection) -> Result<Option<i64>, Failure> {
    let table = sqlx::query("SELECT 1 FROM sqlite_schema WHERE type='table' AND name='ow_meta'")
        .fetch_optional(&mut *connection)
        .await?;
    if table.is_none() {
        return Ok(None);
    }
    let row = sqlx::query("SELECT oldest_reader FROM ow_meta WHERE id=1")
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| row.number("oldest_reader")).transpose()?.flatten())
}
