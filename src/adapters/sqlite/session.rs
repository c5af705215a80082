//! Connections, and the one moment that a transaction is.
//!
//! SQLite has one writer at a time. A writing verb takes the file with `BEGIN IMMEDIATE` before its
//! first statement, so what it reads stays true until its commit and no lock order matters.
//!
//! **Invariant:** every connection writes through to the disk (`synchronous=FULL`, WAL), checks
//! foreign keys, and is to tables that this version knows, if to any; every time that is stored comes
//! from SQLite's own clock.

use std::time::Duration;

use futures_util::future::BoxFuture;
use log::LevelFilter;
use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};
use tokio::time::{Instant, sleep};

use super::{
    errors::{Failure, Place, is_busy},
    schema,
};
use crate::adapters::lane::Connector;

/// How long a writer waits for the writers before it.
const PATIENCE: Duration = Duration::from_secs(5);

/// SQLite's own way to wait sleeps ever longer, up to 100 ms: beside a busy neighbour, who frees
/// the file for microseconds only, that is for ever. So it gives up after 10 ms, here, and begins
/// again, until [`PATIENCE`] has run out. Reads and commits wait as long as they always do.
const BEGIN: &str = "PRAGMA busy_timeout=10; BEGIN IMMEDIATE; PRAGMA busy_timeout=5000; \
                     SELECT strftime('%Y-%m-%d %H:%M:%f','now')";

/// Opens connections to one database.
#[derive(Clone, Debug)]
pub(super) struct Opener {
    options: SqliteConnectOptions,
    place: Place,
}

impl Opener {
    /// For a file; `create` makes it where it is missing.
    pub(super) fn file(path: &std::path::Path, create: bool) -> Self {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(create);
        Self { options: session(options), place: Place::File(path.to_owned()) }
    }

    /// For memory that every connection of this process shares by its name, and that is gone with
    /// the last of them.
    pub(super) fn memory(name: &str) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(format!("/{name}"))
            .vfs("memdb")
            .create_if_missing(true);
        Self { options: session(options), place: Place::Memory }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// A connection that only keeps memory from going away.
    pub(super) async fn anchor(&self) -> Result<SqliteConnection, Failure> {
        Ok(self.options.connect().await?)
    }
}

fn session(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .busy_timeout(PATIENCE)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Without their values, and no statement is told from the others for being slow.
        .log_statements(LevelFilter::Trace)
        .log_slow_statements(LevelFilter::Off, Duration::MAX)
}

impl Connector for Opener {
    type Connection = SqliteConnection;
    type Error = Failure;

    fn connect(&self) -> BoxFuture<'_, Result<SqliteConnection, Failure>> {
        Box::pin(async {
            let mut connection = self.options.connect().await?;
            if let Place::File(_) = self.place {
                keep_a_log(&mut connection).await?;
            }
            // Tables that are not there yet are the matter of whoever asks for them.
            schema::is_migrated(&mut connection).await?;
            Ok(connection)
        })
    }

    fn ping<'c>(
        &'c self,
        connection: &'c mut SqliteConnection,
    ) -> BoxFuture<'c, Result<(), Failure>> {
        Box::pin(async { Ok(connection.ping().await?) })
    }
}

/// Turns the write-ahead log on, which a file then remembers. The one who does it must be alone for
/// that moment, and SQLite does not wait for it by itself.
async fn keep_a_log(connection: &mut SqliteConnection) -> Result<(), Failure> {
    let since = Instant::now();
    loop {
        let mode = sqlx::query_scalar::<_, String>("PRAGMA journal_mode=WAL")
            .fetch_one(&mut *connection)
            .await;
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err(Failure::NoWal),
            Err(error) if is_busy(&error) && since.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// An open transaction. It ends by [`Moment::commit`] or [`Moment::rollback`]; on any error the
/// lane closes its connection, and SQLite rolls it back.
#[must_use = "a transaction that is not ended stays open"]
pub(super) struct Moment<'c> {
    connection: &'c mut SqliteConnection,
    /// The database's time at its begin, as every time is stored.
    pub(super) now: String,
}

impl<'c> Moment<'c> {
    /// Takes the file for writing.
    pub(super) async fn write(connection: &'c mut SqliteConnection) -> Result<Self, Failure> {
        let since = Instant::now();
        loop {
            match sqlx::raw_sql(BEGIN).fetch_all(&mut *connection).await {
                Ok(rows) => {
                    let now = rows.last().expect("the last statement is a SELECT").try_get(0)?;
                    return Ok(Self { connection, now });
                }
                Err(error) if is_busy(&error) && since.elapsed() < PATIENCE => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sees one state of the database in all its reads.
    pub(super) async fn read(connection: &'c mut SqliteConnection) -> Result<Self, Failure> {
        let begin = "BEGIN; SELECT strftime('%Y-%m-%d %H:%M:%f','now')";
        let now = sqlx::raw_sql(begin).fetch_one(&mut *connection).await?.try_get(0)?;
        Ok(Self { connection, now })
    }

    pub(super) async fn commit(self) -> Result<(), Failure> {
        self.end("COMMIT").await.map_err(Failure::Commit)
    }

    /// Begins a part that can be undone alone.
    pub(super) async fn begin_part(&mut self) -> Result<(), Failure> {
        sqlx::query("SAVEPOINT part").execute(self.on()).await?;
        Ok(())
    }

    pub(super) async fn keep_part(&mut self) -> Result<(), Failure> {
        sqlx::query("RELEASE part").execute(self.on()).await?;
        Ok(())
    }

    pub(super) async fn undo_part(&mut self) -> Result<(), Failure> {
        sqlx::query("ROLLBACK TO part").execute(self.on()).await?;
        self.keep_part().await
    }

    pub(super) async fn rollback(self) -> Result<(), Failure> {
        Ok(self.end("ROLLBACK").await?)
    }

    async fn end(self, how: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(how).execute(self.connection).await.map(drop)
    }

    /// The connection, for one statement.
    pub(super) fn on(&mut self) -> &mut SqliteConnection {
        self.connection
    }
}

/// The opposite of [`later`].
pub(super) fn earlier(by: Duration) -> String {
    format!("-{}.{:03} seconds", by.as_secs(), by.subsec_millis())
}

/// `strftime`'s modifier that moves a time by `by`.
pub(super) fn later(by: Duration) -> String {
    format!("+{}.{:03} seconds", by.as_secs(), by.subsec_millis())
}
