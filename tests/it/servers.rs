//! The real servers that `tests/run` starts.
//!
//! **Invariant:** a server that is not there fails the test that asks for it, in words that say how
//! to have it.

use std::path::PathBuf;

/// URL of a MySQL server, without a database; ends in `/`. Each test makes a database of its own.
pub fn mysql_url() -> String {
    told("ORCHESTRATOR_TEST_MYSQL_URL")
}

/// URL of a MariaDB server, like [`mysql_url`].
pub fn mariadb_url() -> String {
    told("ORCHESTRATOR_TEST_MARIADB_URL")
}

/// Where MySQL is installed: a Debian of its own.
pub fn mysql_root() -> PathBuf {
    told("ORCHESTRATOR_TEST_MYSQL_ROOT").into()
}

/// Where MariaDB is installed.
pub fn mariadb_root() -> PathBuf {
    told("ORCHESTRATOR_TEST_MARIADB_ROOT").into()
}

/// URL of a Redis server; ends in `/`. Each test has a prefix of its own.
pub fn redis_url() -> String {
    told("ORCHESTRATOR_TEST_REDIS_URL")
}

/// URL of an etcd server, like [`redis_url`].
pub fn etcd_url() -> String {
    told("ORCHESTRATOR_TEST_ETCD_URL")
}

/// Where Redis and etcd are installed.
pub fn locks_root() -> PathBuf {
    told("ORCHESTRATOR_TEST_REDIS_ROOT").into()
}

#[expect(clippy::disallowed_methods, reason = "tests/run speaks to tests by its environment")]
fn told(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: `tests/run` sets it to a server that it starts, and \
             `tests/run fast` leaves the tests that need one out"
        )
    })
}

async fn version_of(url: &str) -> String {
    use sqlx::{Connection, MySqlConnection};
    let mut connection = MySqlConnection::connect(url).await.expect("the server takes connections");
    let version = sqlx::query_scalar("SELECT VERSION()")
        .fetch_one(&mut connection)
        .await
        .expect("the server answers");
    connection.close().await.expect("the server ends a connection");
    version
}

mod on_mysql {
    #[tokio::test]
    async fn the_server_is_a_mysql_of_the_ninth_series() {
        let version = super::version_of(&super::mysql_url()).await;
        assert!(version.starts_with("9.") && !version.contains("MariaDB"), "{version}");
    }
}

mod on_mariadb {
    #[tokio::test]
    async fn the_server_is_a_mariadb_10_11() {
        let version = super::version_of(&super::mariadb_url()).await;
        assert!(version.starts_with("10.11.") && version.contains("MariaDB"), "{version}");
    }
}
