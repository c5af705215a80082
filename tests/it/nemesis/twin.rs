//! The Go service, as our own words say what it does: its sequence for one execution, on the same
//! tables, with its own clock.
//!
//! Its statements are sent as text: prepared ones, of which it has as many as executions, would be closed
//! one by one, at 40 ms each (see docs/performance.md).
//!
//! **Invariant:** it holds no fence and looks at no column of ours; whatever keeps it from doing harm is
//! in the tables.

use std::{path::PathBuf, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, MySqlConnection, Row as _,
    mysql::{MySqlDatabaseError, MySqlRow},
    raw_sql,
};
use tokio::time::sleep;

use super::{faults::unix_now, workload::append};

/// Of its lock, at first and after its one renewal.
const TTL: u64 = 5 * 60;
const RENEWED: u64 = 10 * 60;
const TRIES: u32 = 3;

/// How it fared with one execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fared {
    /// It was not pending any more, or another held its lock.
    GaveUp,
    /// The trigger refused the start.
    Refused,
    /// The trigger refused the end.
    RefusedEnd,
    Ran,
}

pub struct Twin {
    url: String,
    connection: Option<MySqlConnection>,
    owner: String,
    log: PathBuf,
    /// Seconds by which its clock is ahead.
    ahead: u64,
}

/// An error that only the trigger makes.
struct IsRefused;

impl Twin {
    pub fn new(url: String, log: PathBuf, ahead: u64) -> Self {
        let owner = format!("gohost-{:08x}", rand::random::<u32>());
        Self { url, connection: None, owner, log, ahead }
    }

    /// Its own clock, in seconds since 1970.
    fn now(&self) -> u64 {
        unix_now() + self.ahead
    }

    /// Any execution that waits.
    pub async fn find(&mut self) -> Option<String> {
        let sql =
            "SELECT id FROM workflow_executions WHERE status='pending' ORDER BY RAND() LIMIT 1";
        self.rows(sql).await.first().map(|row| row.get(0))
    }

    pub async fn run(&mut self, execution: &str) -> Fared {
        if !self.finds_pending(execution).await {
            return Fared::GaveUp;
        }
        self.run_found(execution).await
    }

    /// Its first read: whether the execution waits.
    pub async fn finds_pending(&mut self, execution: &str) -> bool {
        let sql = format!("SELECT status FROM workflow_executions WHERE id='{execution}'");
        let status: Option<String> = self.rows(&sql).await.first().and_then(|row| row.get(0));
        status.as_deref() == Some("pending")
    }

    /// The rest of its sequence.
    pub async fn run_found(&mut self, execution: &str) -> Fared {
        if !self.locks(execution).await {
            return Fared::GaveUp;
        }
        self.run_locked(execution).await
    }

    /// Its sweep, and then its lock.
    pub async fn locks(&mut self, execution: &str) -> bool {
        self.clean().await;
        self.lock(&key(execution)).await
    }

    /// From its start to its end.
    pub async fn run_locked(&mut self, execution: &str) -> Fared {
        let key = key(execution);
        let now = self.now();
        let start = format!(
            "UPDATE workflow_executions SET status='running', started_at=FROM_UNIXTIME({now}), \
             updated_at=FROM_UNIXTIME({now}) WHERE id='{execution}'"
        );
        if self.write(&start).await.is_err() {
            self.unlock(&key).await;
            return Fared::Refused;
        }
        let (owner, renewed) = (self.owner.clone(), self.now() + RENEWED);
        self.plain(&format!(
            "UPDATE distributed_locks SET expires_at=FROM_UNIXTIME({renewed}) WHERE \
             lock_key='{key}' AND owner='{owner}'"
        ))
        .await;
        self.steps(execution).await;
        let now = self.now();
        let end = format!(
            "UPDATE workflow_executions SET status='success', finished_at=FROM_UNIXTIME({now}), \
             updated_at=FROM_UNIXTIME({now}) WHERE id='{execution}'"
        );
        let ended = self.write(&end).await;
        self.unlock(&key).await;
        if ended.is_ok() { Fared::Ran } else { Fared::RefusedEnd }
    }

    /// Its sweep, at its own time.
    pub async fn clean(&mut self) {
        let now = self.now();
        let sweep =
            format!("DELETE FROM distributed_locks WHERE expires_at < FROM_UNIXTIME({now})");
        self.plain(&sweep).await;
    }

    async fn lock(&mut self, key: &str) -> bool {
        for _ in 0..=TRIES {
            let (now, expires, owner) = (self.now(), self.now() + TTL, self.owner.clone());
            let insert = format!(
                "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) \
                 VALUES ('{key}', '{owner}', FROM_UNIXTIME({expires}), FROM_UNIXTIME({now}), \
                 FROM_UNIXTIME({now}))"
            );
            if self.insert(&insert).await {
                return true;
            }
            let read = format!(
                "SELECT owner, CAST(expires_at < FROM_UNIXTIME({now}) AS SIGNED) FROM distributed_locks \
                 WHERE lock_key='{key}'"
            );
            let rows = self.rows(&read).await;
            match rows.first().map(|row| (row.get::<String, _>(0), row.get::<i64, _>(1))) {
                Some((holder, _)) if holder == owner => return true,
                Some((holder, 1)) => {
                    let steal = format!(
                        "UPDATE distributed_locks SET owner='{owner}', \
                         expires_at=FROM_UNIXTIME({expires}) WHERE lock_key='{key}' \
                         AND owner='{holder}'"
                    );
                    self.plain(&steal).await;
                }
                Some(_) => sleep(Duration::from_secs(1)).await,
                None => {}
            }
        }
        false
    }

    async fn unlock(&mut self, key: &str) {
        let owner = self.owner.clone();
        let delete =
            format!("DELETE FROM distributed_locks WHERE lock_key='{key}' AND owner='{owner}'");
        self.plain(&delete).await;
    }

    async fn steps(&mut self, execution: &str) {
        let steps = format!(
            "SELECT x.step_id, s.name FROM workflow_step_executions x JOIN steps s \
             ON s.id=x.step_id JOIN workflow_template_steps o ON o.step_id=s.id \
             WHERE x.execution_id='{execution}' ORDER BY o.`order`"
        );
        for row in self.rows(&steps).await {
            let (step, name): (String, String) = (row.get(0), row.get(1));
            let set = |set: &str| {
                format!(
                    "UPDATE workflow_step_executions SET {set} WHERE execution_id='{execution}' \
                     AND step_id='{step}'"
                )
            };
            self.plain(&set("status='running'")).await;
            append(&self.log, &format!("start {execution} {name} 0 0 -"));
            sleep(Duration::from_millis(20)).await;
            append(&self.log, &format!("end {execution} {name} 0 0 -"));
            self.plain(&set("status='success', output='0 0'")).await;
        }
    }

    async fn plain(&mut self, sql: &str) {
        assert!(self.write(sql).await.is_ok(), "the trigger is not about {sql}");
    }

    /// Until the server has answered; an end that the trigger refused is one.
    async fn write(&mut self, sql: &str) -> Result<(), IsRefused> {
        loop {
            let Some(connection) = self.connection().await else { continue };
            match raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await {
                Ok(_) => return Ok(()),
                Err(error) if (31001..=31003).contains(&number(&error)) => return Err(IsRefused),
                Err(_) => self.connection = None,
            }
        }
    }

    /// In a transaction of its own; whether it is there now, and was not before.
    async fn insert(&mut self, sql: &str) -> bool {
        loop {
            let Some(connection) = self.connection().await else { continue };
            let sent = async {
                raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    .execute(&mut *connection)
                    .await?;
                let mut transaction = connection.begin().await?;
                raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *transaction).await?;
                transaction.commit().await
            };
            match sent.await {
                Ok(()) => return true,
                Err(error) if number(&error) == 1062 => return false,
                Err(_) => self.connection = None,
            }
        }
    }

    async fn rows(&mut self, sql: &str) -> Vec<MySqlRow> {
        loop {
            let Some(connection) = self.connection().await else { continue };
            match raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await {
                Ok(rows) => return rows,
                Err(_) => self.connection = None,
            }
        }
    }

    /// `None` for a while if there is no server.
    async fn connection(&mut self) -> Option<&mut MySqlConnection> {
        if self.connection.is_none() {
            self.connection = MySqlConnection::connect(&self.url).await.ok();
            if self.connection.is_none() {
                sleep(Duration::from_millis(200)).await;
            }
        }
        self.connection.as_mut()
    }
}

fn key(execution: &str) -> String {
    format!("workflow_execution:{execution}")
}

/// 0 for what no server said.
fn number(error: &sqlx::Error) -> u16 {
    let server = error.as_database_error();
    server
        .and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>())
        .map_or(0, MySqlDatabaseError::number)
}
