//! The SQLite store as the contract's subject: a file of its own, or memory.

use std::path::PathBuf;

use async_trait::async_trait;
use orchestrator_worker::adapters::sqlite::{Settings, SqlitePath, SqliteStore};
use sqlx::{AssertSqlSafe, ConnectOptions, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use super::Subject;
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
        let settings = Settings { path: SqlitePath::File(self.path()) };
        SqliteStore::open(settings).await.expect("the file opens")
    }

    async fn exec(&self, sql: &str) -> u64 {
        let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
        let done = query.execute(&mut self.connect().await).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    async fn one(&self, sql: &str) -> Option<String> {
        let query = sqlx::query(AssertSqlSafe(format!("SELECT CAST(({sql}) AS TEXT)")));
        let row = query.fetch_one(&mut self.connect().await).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }

    fn now() -> &'static str {
        "strftime('%Y-%m-%d %H:%M:%f','now')"
    }

    fn moved(time: &str, milliseconds: i64) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a story's times are short")]
        let seconds = milliseconds as f64 / 1000.0;
        format!("strftime('%Y-%m-%d %H:%M:%f', {time}, '{seconds:+.3} seconds')")
    }
}

impl Served for File {
    fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }
}
