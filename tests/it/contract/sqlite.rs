//! The SQLite store as the contract's subject: a file of its own, or memory.

use std::path::PathBuf;

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::sqlite::{Settings, SqlitePath, SqliteStore},
    ports::control::Control,
};
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{
    Row, Subject,
    doctor::problems,
    world::{World, chain},
};
use crate::crash::Served;

pub struct File {
    folder: TempDir,
}

impl File {
    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    async fn connect(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.path()).foreign_keys(false);
        options.connect().await.expect("the file opens")
    }
}

#[async_trait]
impl Subject for File {
    type Store = SqliteStore;

    async fn create() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    async fn store(&self) -> SqliteStore {
        open(SqlitePath::File(self.path())).await
    }

    async fn exec(&self, sql: &str) -> u64 {
        exec(&mut self.connect().await, sql).await
    }

    async fn rows(&self, sql: &str) -> Vec<Row> {
        rows(&mut self.connect().await, sql).await
    }

    fn now() -> &'static str {
        NOW
    }

    fn moved(time: &str, milliseconds: i64) -> String {
        moved(time, milliseconds)
    }
}

/// Memory under a name of its own. It promises all that a file does to the stores of one process;
/// that another process finds it, or that it outlives its last connection, it cannot promise, and
/// those are no stories of the contract: `crash` tells them, on what processes can share.
pub struct Memory {
    name: String,
    /// Keeps it while no store is open.
    stranger: Mutex<SqliteConnection>,
}

#[async_trait]
impl Subject for Memory {
    type Store = SqliteStore;

    async fn create() -> Self {
        let name = format!("contract-{}", uuid::Uuid::new_v4().simple());
        let options = SqliteConnectOptions::new().filename(format!("/{name}")).vfs("memdb");
        let options = options.create_if_missing(true).foreign_keys(false);
        let stranger = options.connect().await.expect("memory opens");
        Self { name, stranger: Mutex::new(stranger) }
    }

    async fn store(&self) -> SqliteStore {
        open(SqlitePath::Memory { name: Some(self.name.clone()) }).await
    }

    async fn exec(&self, sql: &str) -> u64 {
        exec(&mut *self.stranger.lock().await, sql).await
    }

    async fn rows(&self, sql: &str) -> Vec<Row> {
        rows(&mut *self.stranger.lock().await, sql).await
    }

    fn now() -> &'static str {
        NOW
    }

    fn moved(time: &str, milliseconds: i64) -> String {
        moved(time, milliseconds)
    }
}

const NOW: &str = "strftime('%Y-%m-%d %H:%M:%f','now')";

fn moved(time: &str, milliseconds: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a story's times are short")]
    let seconds = milliseconds as f64 / 1000.0;
    format!("strftime('%Y-%m-%d %H:%M:%f', {time}, '{seconds:+.3} seconds')")
}

async fn open(path: SqlitePath) -> SqliteStore {
    SqliteStore::open(Settings { path }).await.expect("it opens")
}

async fn exec(stranger: &mut SqliteConnection, sql: &str) -> u64 {
    let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(stranger).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
}

async fn rows(stranger: &mut SqliteConnection, sql: &str) -> Vec<Row> {
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(stranger).await;
    let text = |row: &SqliteRow, column| {
        let bytes: Option<Vec<u8>> = row.try_get_unchecked(column).expect("bytes");
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let named = |row: &SqliteRow| {
        let columns = row.columns().iter();
        columns.map(|c| (c.name().to_owned(), text(row, c.ordinal()))).collect()
    };
    rows.unwrap_or_else(|error| panic!("{sql}: {error}")).iter().map(named).collect()
}

#[tokio::test]
async fn a_dry_run_of_a_migration_makes_no_file() {
    let file = File::create().await;
    let store = file.store().await;
    let announced = store.migrate(true).await.expect("a dry run");
    assert!(!file.path().exists());
    assert_eq!(store.migrate(false).await.map(|done| done.len()), Ok(announced.len()));
    // Where it could not be made, it says so instead.
    let nowhere = open(SqlitePath::File(file.path().join("store.db"))).await;
    let error = nowhere.migrate(true).await.expect_err("there is no such folder");
    assert!(error.to_string().contains("does not exist; make it"), "{error}");
}

/// The bytes would be read as another text, and that finds no row.
#[tokio::test]
async fn an_id_or_an_owner_that_is_no_plain_text_is_refused() {
    let world = World::<File>::new().await;
    world.a_claims(chain(&["one"])).await;
    let mut stranger = world.subject.connect().await;
    for (table, column) in [
        ("steps", "id"),
        ("workflow_templates", "id"),
        ("workflow_template_steps", "id"),
        ("workflow_executions", "id"),
        ("workflow_executions", "ow_owner"),
        ("workflow_step_executions", "id"),
    ] {
        for bytes in ["ff", "61ff", "610062", "c3a4", "0a"] {
            let sql = format!("UPDATE {table} SET {column}=CAST(X'{bytes}' AS TEXT)");
            let done = sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut stranger).await;
            let error = done.expect_err(&sql).to_string();
            assert!(error.contains("CHECK constraint failed"), "{sql}: {error}");
        }
    }
}

#[tokio::test]
async fn a_number_that_no_column_of_mysql_holds_is_refused() {
    let world = World::<File>::new().await;
    world.a_claims(chain(&["one"])).await;
    let mut stranger = world.subject.connect().await;
    for (table, column, value) in [
        ("workflow_executions", "ow_fence", "-1"),
        ("workflow_executions", "ow_claims", "-1"),
        ("workflow_executions", "ow_run", "4294967296"),
        ("workflow_step_executions", "ow_fence", "-1"),
        ("workflow_step_executions", "ow_attempt", "-1"),
        ("workflow_step_executions", "ow_attempt", "4294967296"),
        ("workflow_step_executions", "ow_key_gen", "-1"),
        ("distributed_locks", "ow_fence", "-1"),
        ("distributed_locks", "ow_beat", "-1"),
    ] {
        let sql = format!("UPDATE {table} SET {column}={value}");
        let done = sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut stranger).await;
        let error = done.expect_err(&sql).to_string();
        assert!(error.contains("CHECK constraint failed"), "{sql}: {error}");
    }
}

#[tokio::test]
async fn a_key_that_is_gone_is_made_by_the_statement_that_doctor_names() {
    let world = World::<File>::new().await;
    for key in ["ow_poll", "ow_held", "ow_expires"] {
        world.subject.exec(&format!("DROP INDEX {key}")).await;
        let found = problems(&world.subject.store().await.examine().await).remove(0);
        let sql = found.repair.expect("a problem says what to do");
        assert_eq!((found.check, sql.contains(key)), ("indexes", true), "{sql}");
        world.subject.exec(&sql).await;
        assert_eq!(problems(&world.subject.store().await.examine().await), [], "{sql}");
    }
}

impl Served for File {
    fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }
}
