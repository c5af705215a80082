//! The server and its settings, as far as a worker does not refuse it for them.

use std::collections::HashMap;

use async_trait::async_trait;

use super::refusal;
use crate::{
    adapters::mysql::{
        errors::Fault,
        facts, rows,
        server::{Flavour, pairs},
        session::{Session, fixed},
        work::Work,
    },
    domain::doctor::{MySql, Server, Statements},
};

pub(super) struct Ask;

#[async_trait]
impl Work for Ask {
    type Answer = Server;

    async fn attempt(&mut self, session: &mut Session) -> Result<Server, Fault> {
        let ask = fixed(
            "SHOW SESSION VARIABLES WHERE Variable_name IN ('version','autocommit','tx_isolation',\
             'transaction_isolation','log_bin','binlog_format','sync_binlog',\
             'innodb_flush_log_at_trx_commit','max_prepared_stmt_count')",
        );
        let mut words = pairs(&session.rows(ask).await?)?;
        let ask = fixed("SHOW GLOBAL STATUS WHERE Variable_name='Prepared_stmt_count'");
        words.extend(pairs(&session.rows(ask).await?)?);
        let engine_problem = refusal(facts::check_engines(session).await)?;
        let daylight_saving = daylight_saving(session).await?;
        let product = match session.server.flavour {
            Flavour::MySql => "MySQL",
            Flavour::MariaDb => "MariaDB",
        };
        Ok(Server::MySql(MySql { daylight_saving, engine_problem, ..in_words(product, &words) }))
    }
}

/// The server's zone, where winter and summer of this year are not at one offset. (NULL: it does not
/// know the zone of its own.)
async fn daylight_saving(session: &mut Session) -> Result<Option<String>, Fault> {
    let ask = fixed(
        "SELECT CAST(TIMESTAMPDIFF(MINUTE, winter, CONVERT_TZ(winter, '+00:00', @@GLOBAL.time_zone)) <> \
         TIMESTAMPDIFF(MINUTE, summer, CONVERT_TZ(summer, '+00:00', @@GLOBAL.time_zone)) AS SIGNED), \
         IF(@@GLOBAL.time_zone='SYSTEM', @@GLOBAL.system_time_zone, @@GLOBAL.time_zone) \
         FROM (SELECT MAKEDATE(YEAR(UTC_TIMESTAMP()), 1) AS winter, \
         MAKEDATE(YEAR(UTC_TIMESTAMP()), 182) AS summer) days",
    );
    let Some(row) = session.row(ask).await? else { return Ok(None) };
    if rows::number(&row, 0)? != Some(1) {
        return Ok(None);
    }
    rows::text(&row, 1)
}

fn in_words(product: &'static str, words: &HashMap<String, String>) -> MySql {
    let word = |name: &str| words.get(name).cloned();
    let number = |name: &str| words.get(name).and_then(|word| word.parse().ok());
    MySql {
        product,
        version: word("version").unwrap_or_default(),
        autocommit: word("autocommit").unwrap_or_default(),
        // MariaDB has had the new name since 11.1 only.
        isolation: word("transaction_isolation")
            .or_else(|| word("tx_isolation"))
            .unwrap_or_default(),
        binlog_format: word("log_bin")
            .filter(|word| word == "ON")
            .and_then(|_| word("binlog_format")),
        sync_binlog: number("sync_binlog"),
        flush_log: number("innodb_flush_log_at_trx_commit"),
        statements: Statements {
            used: number("prepared_stmt_count").unwrap_or(0),
            most: number("max_prepared_stmt_count").unwrap_or(u64::MAX),
        },
        daylight_saving: None,
        engine_problem: None,
    }
}
