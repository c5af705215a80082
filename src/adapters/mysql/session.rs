//! Sessions: a connection with the settings that the protocol rests on, and its transactions.
//!
//! **Invariant:** a session that falls while a statement or a transaction is open is remembered, and
//! the server is told to end it as soon as it is spoken to again, so that its locks stand in nobody's
//! way; affected rows are matched rows.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::future::BoxFuture;
use sqlx::{
    AssertSqlSafe, Connection, Execute, MySql, MySqlConnection,
    mysql::{MySqlArguments, MySqlRow},
    query::Query,
    raw_sql,
};

use super::{
    address::Address,
    errors::Fault,
    rows,
    server::{Flavour, Server},
    shared::Shared,
};
use crate::{adapters::lane::Connector, domain::id::PlanHash};

/// A statement with its values. The server keeps every one prepared: to prepare it for one use takes
/// another round trip, and sqlx 0.9.0, which leaves Nagle's algorithm on, sends its end right behind
/// it; the next statement then waits for the server's delayed acknowledgement of that, 40 ms
/// (transact-rs/sqlx#4335).
pub(super) type Sql<'q> = Query<'q, MySql, MySqlArguments>;

/// A statement whose text never changes.
pub(super) fn fixed<'q>(text: &'static str) -> Sql<'q> {
    sqlx::query(text)
}

/// A statement whose text depends on how many values there are ([`rows::filled`]), or on a key's name.
/// It holds no value itself.
pub(super) fn made<'q>(text: String) -> Sql<'q> {
    sqlx::query(AssertSqlSafe(text))
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Renewals: what they wait, every other lease of the process waits.
    Lease,
    Work,
    /// Changing tables may take its time.
    Migration,
}

/// A connection as its server knows it.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    id: u64,
    server: Server,
}

/// Connections that ended in the middle of something.
#[derive(Debug, Default)]
pub(super) struct Unfinished(Mutex<Vec<Ended>>);

/// Opens sessions.
#[derive(Clone)]
pub(super) struct Entrance {
    pub address: Address,
    pub purpose: Purpose,
    pub time_offset: String,
    pub single_writer: bool,
    pub shared: Arc<Shared>,
}

impl Connector for Entrance {
    type Connection = Session;
    type Error = Fault;

    fn connect(&self) -> BoxFuture<'_, Result<Session, Fault>> {
        Box::pin(self.open())
    }

    fn ping<'c>(&'c self, session: &'c mut Session) -> BoxFuture<'c, Result<(), Fault>> {
        Box::pin(async { Ok(session.connection.ping().await?) })
    }
}

impl Entrance {
    async fn open(&self) -> Result<Session, Fault> {
        let mut connection = self.address.connect().await?;
        let server = Server::read(&mut connection, self.single_writer).await?;
        self.shared.meet_server(&server);
        raw_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            .execute(&mut connection)
            .await?;
        raw_sql(AssertSqlSafe(self.settings(server.flavour))).execute(&mut connection).await?;
        let id =
            raw_sql("SELECT CAST(CONNECTION_ID() AS UNSIGNED)").fetch_all(&mut connection).await?;
        let id = id.first().map_or(Ok(0), |row| rows::count(row, 0))?;
        let shared = self.shared.clone();
        let mut session = Session {
            connection,
            id,
            server,
            shared,
            busy: false,
            open: false,
            stored: HashSet::new(),
            storing: Vec::new(),
        };
        session.end_unfinished().await?;
        Ok(session)
    }

    /// `lock_wait_timeout`: an ALTER that waits blocks every renewal behind it. `wait_timeout` frees
    /// the locks of a client that vanished. Dates that are none may stand in rows of others: under the
    /// modes that forbid them MySQL ends the scan of a claim at the first such row, as if there were
    /// no more, and refuses to write one back.
    fn settings(&self, flavour: Flavour) -> String {
        let (locks, tables, wait, statement, idle) = match self.purpose {
            Purpose::Lease => (1, 1, 30, 3, 10),
            Purpose::Work => (2, 3, 30, 3, 10),
            Purpose::Migration => (2, 3, 28_800, 0, 0),
        };
        let of_mariadb = match flavour {
            Flavour::MySql => String::new(),
            // At 2 seconds error 1969 would come instead of 1205.
            Flavour::MariaDb => {
                format!(", max_statement_time={statement}, idle_transaction_timeout={idle}")
            }
        };
        format!(
            "SET SESSION innodb_lock_wait_timeout={locks}, lock_wait_timeout={tables}, \
             wait_timeout={wait}, \
             time_zone='{}', sql_mode=CONCAT(REPLACE(REPLACE(REPLACE(@@sql_mode, 'TRADITIONAL', \
             ''), 'NO_ZERO_IN_DATE', ''), 'NO_ZERO_DATE', ''), \
             ',STRICT_TRANS_TABLES,ALLOW_INVALID_DATES'){of_mariadb}",
            self.time_offset
        )
    }
}

/// A connection, ready to work.
pub(super) struct Session {
    connection: MySqlConnection,
    id: u64,
    pub server: Server,
    pub shared: Arc<Shared>,
    /// A statement is under way.
    busy: bool,
    /// A transaction is open.
    open: bool,
    /// Plans that stand in this server's `ow_plans`, and those that this transaction adds. Kept no
    /// longer than the connection: after a failover, or a crash of a server that does not write
    /// through, they may be gone.
    stored: HashSet<PlanHash>,
    storing: Vec<PlanHash>,
}

impl Session {
    /// The rows of a SELECT.
    pub async fn rows(&mut self, sql: Sql<'_>) -> Result<Vec<MySqlRow>, Fault> {
        let sql = self.named(sql)?;
        self.busy = true;
        let answer = sql.fetch_all(&mut self.connection).await;
        self.busy = false;
        Ok(answer?)
    }

    /// The one row of a SELECT, if there is any.
    pub async fn row(&mut self, sql: Sql<'_>) -> Result<Option<MySqlRow>, Fault> {
        Ok(self.rows(sql).await?.into_iter().next())
    }

    /// How many rows a statement matched, within a transaction.
    pub async fn matched(&mut self, sql: Sql<'_>) -> Result<u64, Fault> {
        let sql = self.named(sql)?;
        self.busy = true;
        let answer = sql.execute(&mut self.connection).await;
        self.busy = false;
        Ok(answer?.rows_affected())
    }

    /// How many rows a statement matched, within a transaction, and its `LAST_INSERT_ID`.
    pub async fn matched_and_made(&mut self, sql: Sql<'_>) -> Result<(u64, u64), Fault> {
        let sql = self.named(sql)?;
        self.busy = true;
        let answer = sql.execute(&mut self.connection).await;
        self.busy = false;
        let answer = answer?;
        Ok((answer.rows_affected(), answer.last_insert_id()))
    }

    /// How many rows a statement matched that is a transaction of its own.
    pub async fn matched_alone(&mut self, sql: Sql<'_>) -> Result<u64, Fault> {
        debug_assert!(!self.open, "a statement of its own within a transaction");
        self.matched(sql).await.map_err(Fault::while_committing)
    }

    /// Runs a statement that takes no values and is of no kind that can be prepared.
    pub async fn raw(&mut self, mut sql: String) -> Result<(), Fault> {
        if !self.shared.lock_table.is_usual() {
            sql = self.shared.lock_table.named(&sql).into_owned();
        }
        self.busy = true;
        let answer = raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await;
        self.busy = false;
        answer?;
        Ok(())
    }

    /// Every statement that goes through here is written with the usual name of the lock table.
    fn named<'q>(&self, mut sql: Sql<'q>) -> Result<Sql<'q>, Fault> {
        let lock_table = &self.shared.lock_table;
        if lock_table.is_usual() {
            return Ok(sql);
        }
        let arguments = sql.take_arguments().map_err(sqlx::Error::Encode)?.unwrap_or_default();
        let text = lock_table.named(sql.sql().as_str()).into_owned();
        Ok(sqlx::query_with(AssertSqlSafe(text), arguments))
    }

    pub async fn begin(&mut self) -> Result<(), Fault> {
        debug_assert!(!self.open, "a transaction within another");
        self.open = true;
        self.storing.clear();
        self.raw("START TRANSACTION".into()).await
    }

    pub async fn commit(&mut self) -> Result<(), Fault> {
        self.raw("COMMIT".into()).await.map_err(Fault::while_committing)?;
        self.open = false;
        self.stored.extend(self.storing.drain(..));
        Ok(())
    }

    /// Ends a transaction without effect; does nothing if none is open.
    pub async fn rollback(&mut self) -> Result<(), Fault> {
        if self.open {
            self.raw("ROLLBACK".into()).await?;
            self.open = false;
        }
        Ok(())
    }

    /// Whether this plan is known to stand in `ow_plans`.
    pub fn has_stored(&self, plan: &PlanHash) -> bool {
        self.stored.contains(plan)
    }

    /// This transaction stores it.
    pub fn stores(&mut self, plan: PlanHash) {
        self.storing.push(plan);
    }

    /// This connection, to be ended by another one should it fall silent.
    pub fn as_ended(&self) -> Ended {
        Ended { id: self.id, server: self.server.clone() }
    }

    /// Ends another connection, with whatever it has open. Does nothing if it was made by another
    /// server, or before this one's last start: there its id may stand for somebody else.
    pub async fn end(&mut self, ended: &Ended) -> Result<(), Fault> {
        if ended.id == self.id || !self.server.lives_on_from(&ended.server) {
            return Ok(());
        }
        match self.raw(format!("KILL CONNECTION {}", ended.id)).await {
            Err(fault) if fault.costs_the_connection() => Err(fault),
            // It has ended already, or the right is missing: then the server's own timeout ends it.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn end_unfinished(&mut self) -> Result<(), Fault> {
        // Each is forgotten only once it has ended: this connection may fall silent too.
        while let Some(ended) = self.shared.unfinished.first() {
            self.end(&ended).await?;
            self.shared.unfinished.forget(&ended);
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.busy || self.open {
            self.shared.unfinished.add(self.as_ended());
        }
    }
}

impl Unfinished {
    /// More are not remembered: the server's own timeout ends them.
    const MOST: usize = 64;

    fn all(&self) -> MutexGuard<'_, Vec<Ended>> {
        self.0.lock().expect("no panic while it is held")
    }

    fn add(&self, ended: Ended) {
        let mut all = self.all();
        if all.len() < Self::MOST {
            all.push(ended);
        }
    }

    fn first(&self) -> Option<Ended> {
        self.all().first().cloned()
    }

    /// Another lane may have ended it too.
    fn forget(&self, ended: &Ended) {
        self.all().retain(|it| it.id != ended.id || it.server.identity != ended.server.identity);
    }
}
