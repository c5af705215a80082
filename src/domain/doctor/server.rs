//! The server: which it is, and whether it keeps what it has acknowledged.

use super::Finding;

/// What answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    Sqlite { version: String, journal: String },
    MySql(MySql),
}

/// A server that a worker's session was opened on: what it refuses at its start is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MySql {
    /// `MySQL` or `MariaDB`.
    pub product: &'static str,
    pub version: String,
    pub autocommit: String,
    /// Of a worker's sessions.
    pub isolation: String,
    /// `None`: it keeps no binary log.
    pub binlog_format: Option<String>,
    pub sync_binlog: Option<u64>,
    pub flush_log: Option<u64>,
    pub statements: Statements,
    /// Which table is kept by an engine without transactions.
    pub engine_problem: Option<String>,
}

/// Prepared statements, of everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statements {
    pub used: u64,
    pub most: u64,
}

/// What a busy worker keeps prepared.
const STATEMENTS_OF_A_WORKER: u64 = 200;

pub(super) fn findings(server: &Server) -> Vec<Finding> {
    match server {
        Server::Sqlite { version, journal } => {
            vec![Finding::ok("server", format!("SQLite {version}, journal {journal}"))]
        }
        Server::MySql(server) => of_mysql(server),
    }
}

fn of_mysql(server: &MySql) -> Vec<Finding> {
    let engine = match &server.engine_problem {
        None => Finding::ok("server", in_words(server)),
        Some(sentence) => Finding::of_error("server", sentence),
    };
    let found =
        [Some(engine), flush_log(server), sync_binlog(server), statements(server.statements)];
    found.into_iter().flatten().collect()
}

fn in_words(server: &MySql) -> String {
    let binlog = server.binlog_format.as_ref();
    let binlog = binlog.map_or("no binary log".into(), |format| format!("binlog_format {format}"));
    let MySql { product, version, autocommit, isolation, .. } = server;
    format!("{product} {version}, InnoDB, autocommit {autocommit}, isolation {isolation}, {binlog}")
}

fn flush_log(server: &MySql) -> Option<Finding> {
    let value = server.flush_log.filter(|value| *value != 1)?;
    Some(Finding::warning(
        "server",
        format!(
            "innodb_flush_log_at_trx_commit is {value}: a crash may lose what was acknowledged, so \
             that recorded steps run again"
        ),
        "SET GLOBAL innodb_flush_log_at_trx_commit=1; and the same in the server's configuration",
    ))
}

/// Without a binary log there is nothing to sync.
fn sync_binlog(server: &MySql) -> Option<Finding> {
    server.binlog_format.as_ref()?;
    let value = server.sync_binlog.filter(|value| *value != 1)?;
    Some(Finding::warning(
        "server",
        format!("sync_binlog is {value}: after a crash the replicas may differ from this server"),
        "SET GLOBAL sync_binlog=1; and the same in the server's configuration",
    ))
}

fn statements(Statements { used, most }: Statements) -> Option<Finding> {
    let free = most.saturating_sub(used);
    let repair = "SET GLOBAL max_prepared_stmt_count=16382; more with more than 80 workers";
    if most < STATEMENTS_OF_A_WORKER {
        let found = format!(
            "max_prepared_stmt_count is {most}; a busy worker needs about {STATEMENTS_OF_A_WORKER}"
        );
        return Some(Finding::problem("server", found, repair));
    }
    (free < STATEMENTS_OF_A_WORKER).then(|| {
        let found = format!(
            "{used} of the {most} prepared statements of max_prepared_stmt_count are in use; one \
             more busy worker needs about {STATEMENTS_OF_A_WORKER}"
        );
        Finding::warning("server", found, repair)
    })
}
