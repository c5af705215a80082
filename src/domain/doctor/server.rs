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
    /// Its time zone, if that has daylight saving.
    pub daylight_saving: Option<String>,
    /// Which table is kept by an engine without transactions.
    pub engine_problem: Option<String>,
}

/// Prepared statements, of everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statements {
    pub used: u64,
    pub most: u64,
}

/// What a worker works with all the same, and what somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caution {
    pub kind: CautionKind,
    pub found: String,
    /// What to do about it.
    pub repair: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CautionKind {
    FlushLog,
    SyncBinlog,
    DaylightSaving,
}

impl CautionKind {
    pub const ALL: [Self; 3] = [Self::FlushLog, Self::SyncBinlog, Self::DaylightSaving];

    /// A stable word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FlushLog => "innodb_flush_log_at_trx_commit",
            Self::SyncBinlog => "sync_binlog",
            Self::DaylightSaving => "daylight_saving",
        }
    }
}

/// Why what this server has acknowledged may be lost, or the times in it move.
pub fn cautions(server: &Server) -> Vec<Caution> {
    match server {
        Server::Sqlite { .. } => Vec::new(),
        Server::MySql(server) => [flush_log(server), sync_binlog(server), daylight_saving(server)]
            .into_iter()
            .flatten()
            .collect(),
    }
}

/// What a busy worker keeps prepared.
const STATEMENTS_OF_A_WORKER: u64 = 200;

pub(super) fn findings(server: &Server) -> Vec<Finding> {
    match server {
        Server::Sqlite { version, journal } => {
            vec![Finding::ok("server", format!("SQLite {version}, journal {journal}"))]
        }
        Server::MySql(mysql) => {
            let warning =
                |caution: Caution| Finding::warning("server", caution.found, caution.repair);
            let mut findings = vec![engine(mysql)];
            findings.extend(cautions(server).into_iter().map(warning));
            findings.extend(statements(mysql.statements));
            findings
        }
    }
}

fn engine(server: &MySql) -> Finding {
    match &server.engine_problem {
        None => Finding::ok("server", in_words(server)),
        Some(sentence) => Finding::of_error("server", sentence),
    }
}

fn in_words(server: &MySql) -> String {
    let binlog = server.binlog_format.as_ref();
    let binlog = binlog.map_or("no binary log".into(), |format| format!("binlog_format {format}"));
    let MySql { product, version, autocommit, isolation, .. } = server;
    format!("{product} {version}, InnoDB, autocommit {autocommit}, isolation {isolation}, {binlog}")
}

fn flush_log(server: &MySql) -> Option<Caution> {
    let value = server.flush_log.filter(|value| *value != 1)?;
    Some(Caution {
        kind: CautionKind::FlushLog,
        found: format!(
            "innodb_flush_log_at_trx_commit is {value}: a crash may lose what was acknowledged, so \
             that recorded steps run again"
        ),
        repair: "SET GLOBAL innodb_flush_log_at_trx_commit=1; and the same in the server's \
                 configuration",
    })
}

/// Without a binary log there is nothing to sync.
fn sync_binlog(server: &MySql) -> Option<Caution> {
    server.binlog_format.as_ref()?;
    let value = server.sync_binlog.filter(|value| *value != 1)?;
    Some(Caution {
        kind: CautionKind::SyncBinlog,
        found: format!(
            "sync_binlog is {value}: after a crash the replicas may differ from this server"
        ),
        repair: "SET GLOBAL sync_binlog=1; and the same in the server's configuration",
    })
}

/// An orchestrator in that zone writes an hour's times twice, and leaves another one out.
fn daylight_saving(server: &MySql) -> Option<Caution> {
    let zone = server.daylight_saving.as_ref()?;
    Some(Caution {
        kind: CautionKind::DaylightSaving,
        found: format!(
            "the server's time zone ({zone}) has daylight saving: local times that others write in \
             it jump by an hour twice a year, and database.time_offset does not"
        ),
        repair: "let the orchestrator and the server keep a zone without daylight saving, UTC best, \
                 and set database.time_offset to it",
    })
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
