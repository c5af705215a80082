//! Which server answers on a connection, and whether a worker can work with it.
//!
//! **Invariant:** two connections have the same [`Server::identity`] only if they end at the same
//! primary; a connection is killed only on the very server, in the very life, that made it.

use std::{collections::HashMap, time::Duration};

use sqlx::{MySqlConnection, raw_sql};
use tokio::time::Instant;

use super::{errors::Fault, rows};

/// Which of the two servers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    MySql,
    MariaDb,
}

/// The server at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub flavour: Flavour,
    /// `server_uuid`, or what MariaDB has instead.
    pub identity: String,
    /// Longest statement in bytes.
    pub max_packet: usize,
    uptime: Duration,
    read_at: Instant,
}

/// What it takes to say that a server cannot be worked with.
struct Settings {
    version: (u32, u32, u32),
    autocommit: String,
    binlog_format: String,
    cluster_size: u32,
}

impl Server {
    /// Asks the server who it is; refuses one that cannot keep the protocol.
    pub async fn read(
        connection: &mut MySqlConnection,
        single_writer: bool,
    ) -> Result<Self, Fault> {
        let answer = raw_sql(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid','server_uid','hostname',\
             'port','version','autocommit','log_bin','binlog_format','max_allowed_packet')",
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut words = pairs(&answer)?;
        let read_at = Instant::now();
        let answer =
            raw_sql("SHOW GLOBAL STATUS WHERE Variable_name IN ('Uptime','wsrep_cluster_size')")
                .fetch_all(connection)
                .await?;
        words.extend(pairs(&answer)?);
        let word = |name: &str| words.get(name).cloned().unwrap_or_default();
        let version = word("version");
        let flavour = if version.contains("MariaDB") { Flavour::MariaDb } else { Flavour::MySql };
        let binlog_format =
            if word("log_bin") == "ON" { word("binlog_format") } else { String::new() };
        refuse(
            flavour,
            &version,
            single_writer,
            &Settings {
                version: numbers(&version),
                autocommit: word("autocommit"),
                binlog_format,
                cluster_size: word("wsrep_cluster_size").parse().unwrap_or(0),
            },
        )?;
        let identity = match flavour {
            Flavour::MySql => word("server_uuid"),
            Flavour::MariaDb => {
                format!("{}/{}/{}", word("server_uid"), word("hostname"), word("port"))
            }
        };
        let max_packet = word("max_allowed_packet").parse().unwrap_or(1 << 20);
        let uptime = Duration::from_secs(word("uptime").parse().unwrap_or(0));
        Ok(Self { flavour, identity, max_packet, uptime, read_at })
    }

    /// Whether `earlier` was read from this server and it has not been started anew since:
    /// connection ids are used again after a start.
    pub fn lives_on_from(&self, earlier: &Self) -> bool {
        let lived = self.read_at.saturating_duration_since(earlier.read_at);
        // Uptime comes in whole seconds.
        let known = earlier.uptime + lived;
        self.identity == earlier.identity && self.uptime + Duration::from_secs(2) >= known
    }
}

/// Names in lower case, with their values.
pub(super) fn pairs(answer: &[sqlx::mysql::MySqlRow]) -> Result<HashMap<String, String>, Fault> {
    answer
        .iter()
        .map(|row| {
            let name = rows::text(row, 0)?.unwrap_or_default().to_ascii_lowercase();
            Ok((name, rows::text(row, 1)?.unwrap_or_default()))
        })
        .collect()
}

/// `10.11.18-MariaDB` -> (10, 11, 18); what is not a number counts as 0.
fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts =
        version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

fn refuse(
    flavour: Flavour,
    version: &str,
    single_writer: bool,
    settings: &Settings,
) -> Result<(), Fault> {
    let oldest = match flavour {
        Flavour::MySql => (8, 0, 1),
        Flavour::MariaDb => (10, 6, 0),
    };
    let problem = if settings.version < oldest {
        format!("it is version {version}; MySQL 8.0.1 or MariaDB 10.6 is the oldest that works")
    } else if settings.cluster_size > 1 && !single_writer {
        "it is one of a cluster's writers; send all workers to one of them and set \
         database.single_writer to true"
            .into()
    } else if settings.autocommit == "OFF" {
        "it runs with autocommit off; turn it on (SET GLOBAL autocommit=ON, and in its configuration)"
            .into()
    } else if settings.binlog_format == "STATEMENT" {
        "it runs with binlog_format=STATEMENT; set it to ROW (SET GLOBAL binlog_format='ROW', and in \
         its configuration)"
            .into()
    } else {
        return Ok(());
    };
    Err(Fault::NotReady(format!("this server cannot be used: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(identity: &str, uptime: u64, read_at: Instant) -> Server {
        Server {
            flavour: Flavour::MySql,
            identity: identity.into(),
            max_packet: 0,
            uptime: Duration::from_secs(uptime),
            read_at,
        }
    }

    #[tokio::test]
    async fn a_server_that_was_started_anew_or_replaced_is_another() {
        let then = Instant::now();
        let later = then + Duration::from_secs(60);
        let before = server("a", 1000, then);
        assert!(server("a", 1060, later).lives_on_from(&before));
        assert!(!server("a", 30, later).lives_on_from(&before));
        assert!(!server("b", 1060, later).lives_on_from(&before));
    }

    #[test]
    fn what_cannot_keep_the_protocol_is_refused_and_told_why() {
        let good = |version| Settings {
            version,
            autocommit: "ON".into(),
            binlog_format: "ROW".into(),
            cluster_size: 0,
        };
        let check = |flavour, settings: &Settings, single| {
            refuse(flavour, "x", single, settings).err().map(|fault| fault.to_string())
        };
        assert_eq!(check(Flavour::MySql, &good((8, 0, 1)), false), None);
        assert_eq!(
            check(Flavour::MariaDb, &good(numbers("10.11.18-MariaDB-0+deb12u1")), false),
            None
        );
        let cluster = Settings { cluster_size: 3, ..good((10, 6, 0)) };
        assert_eq!(check(Flavour::MariaDb, &cluster, true), None);
        for (flavour, settings, says) in [
            (Flavour::MySql, good((5, 7, 44)), "8.0.1"),
            (Flavour::MariaDb, good((10, 5, 9)), "10.6"),
            (Flavour::MariaDb, cluster, "single_writer"),
            (
                Flavour::MySql,
                Settings { autocommit: "OFF".into(), ..good((9, 7, 0)) },
                "autocommit",
            ),
            (
                Flavour::MariaDb,
                Settings { binlog_format: "STATEMENT".into(), ..good((11, 4, 0)) },
                "binlog_format",
            ),
        ] {
            let text = check(flavour, &settings, false).expect("it is refused");
            assert!(text.contains(says), "{text}");
        }
    }
}
