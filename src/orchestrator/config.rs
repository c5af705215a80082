//! How the library locks: the guide's settings, with the guide's defaults.
//!
//! **Invariant:** what leaves [`LockConfig::check`] can be kept by every provider.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(feature = "etcd")]
use super::servers::etcd::EtcdLockConfig;
#[cfg(feature = "redis")]
use super::servers::redis::RedisLockConfig;
use crate::domain::{
    lock::{LockTerms, LockTermsError, Retries},
    lock_table::{LockTable, LockTableError},
};

/// The settings of the lock library, as they stand in a file too. Durations read `250ms`, `10s`,
/// `5m`. They are of plain keys; the leases of executions have their own terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LockConfig {
    /// `store`: the lock table of the orchestrator's own database; `mysql` is the same where that is
    /// MySQL or MariaDB. `memory`: this process's memory. `redis`, `etcd`. Or the name of a provider
    /// that the program has registered.
    pub provider: String,
    /// How long a lock lasts that is not renewed: `1s` to `24h`.
    #[serde(with = "humantime_serde")]
    pub default_ttl: Duration,
    /// How often a key that another holds is asked for again; 0 asks once. At most 1,000.
    pub default_retry_count: u32,
    /// Before each retry, at most an hour.
    #[serde(with = "humantime_serde")]
    pub default_retry_delay: Duration,
    pub mysql: MySqlLockConfig,
    #[cfg(feature = "redis")]
    pub redis: RedisLockConfig,
    #[cfg(feature = "etcd")]
    pub etcd: EtcdLockConfig,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MySqlLockConfig {
    /// What the database calls its lock table.
    pub table_name: String,
}

impl Default for LockConfig {
    fn default() -> Self {
        Self {
            provider: Self::STORE.into(),
            default_ttl: Duration::from_secs(5 * 60),
            default_retry_count: 3,
            default_retry_delay: Duration::from_secs(1),
            mysql: MySqlLockConfig::default(),
            #[cfg(feature = "redis")]
            redis: RedisLockConfig::default(),
            #[cfg(feature = "etcd")]
            etcd: EtcdLockConfig::default(),
        }
    }
}

impl Default for MySqlLockConfig {
    fn default() -> Self {
        Self { table_name: LockTable::USUAL.into() }
    }
}

/// Which setting cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockConfigError {
    #[error("default_ttl does not fit: {0}")]
    Ttl(#[from] LockTermsError),
    #[error("default_retry_count is {0}; at most 1000 retries are made")]
    RetryCount(u32),
    #[error("default_retry_delay is {0:?}; it may be an hour at most")]
    RetryDelay(Duration),
    #[error("mysql.table_name {name:?} does not fit: {why}")]
    TableName { name: String, why: LockTableError },
    #[error("{0}")]
    Server(String),
    #[error("provider is \"mysql\", and the database is none; give \"store\"")]
    NoMySql,
    #[error("provider {name:?} is not registered; there are {known}")]
    Provider { name: String, known: String },
}

/// What is used of a [`LockConfig`] once it was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub terms: LockTerms,
    pub retries: Retries,
    pub lock_table: LockTable,
}

impl LockConfig {
    /// The provider that is the orchestrator's own database.
    pub const STORE: &str = "store";
    /// The guide's word for it, where it is MySQL or MariaDB.
    pub const MYSQL: &str = "mysql";
    pub const REDIS: &str = "redis";
    pub const ETCD: &str = "etcd";
    /// The provider that is this process's memory.
    pub const MEMORY: &str = "memory";
    const MOST_RETRIES: u32 = 1_000;
    const LONGEST_DELAY: Duration = Duration::from_secs(60 * 60);

    /// Whether the locks are in the database itself.
    pub(super) fn is_store(&self) -> bool {
        [Self::STORE, Self::MYSQL].contains(&self.provider.as_str())
    }

    /// Hosts and ports of the servers that the provider is asked through, as far as they are known: what
    /// the sentinels of Redis name is not.
    pub fn servers(&self) -> Vec<(String, u16)> {
        match self.provider.as_str() {
            #[cfg(feature = "redis")]
            Self::REDIS => self.redis.servers(),
            #[cfg(feature = "etcd")]
            Self::ETCD => self.etcd.servers(),
            _ => Vec::new(),
        }
    }

    pub(super) fn check(&self) -> Result<Checked, LockConfigError> {
        let retries = Retries { count: self.default_retry_count, delay: self.default_retry_delay };
        if retries.count > Self::MOST_RETRIES {
            return Err(LockConfigError::RetryCount(retries.count));
        }
        if retries.delay > Self::LONGEST_DELAY {
            return Err(LockConfigError::RetryDelay(retries.delay));
        }
        let name = &self.mysql.table_name;
        let lock_table = LockTable::try_new(name)
            .map_err(|why| LockConfigError::TableName { name: name.clone(), why })?;
        #[cfg(feature = "redis")]
        self.redis.check().map_err(LockConfigError::Server)?;
        #[cfg(feature = "etcd")]
        self.etcd.check().map_err(LockConfigError::Server)?;
        Ok(Checked { terms: LockTerms::try_new(self.default_ttl)?, retries, lock_table })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_guide() {
        let config = LockConfig::default();
        let expected = LockConfig {
            provider: "store".into(),
            default_ttl: Duration::from_secs(300),
            default_retry_count: 3,
            default_retry_delay: Duration::from_secs(1),
            mysql: MySqlLockConfig { table_name: "distributed_locks".into() },
            ..LockConfig::default()
        };
        assert_eq!(config, expected);
        assert!(config.check().is_ok());
    }

    #[test]
    fn a_file_may_say_as_little_as_it_likes_and_nothing_that_there_is_not() {
        let read = |text| serde_json::from_str::<LockConfig>(text);
        assert_eq!(read("{}").expect("nothing"), LockConfig::default());
        let some = read(r#"{"default_ttl":"10m","mysql":{"table_name":"my_custom_locks"}}"#);
        let some = some.expect("some settings");
        assert_eq!(some.default_ttl, Duration::from_secs(600));
        assert_eq!((&*some.mysql.table_name, some.default_retry_count), ("my_custom_locks", 3));
        assert!(read(r#"{"ttl":"10m"}"#).is_err());
        let written = serde_json::to_string(&some).expect("it is written");
        assert_eq!(read(&written).expect("it is read"), some);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_its_name() {
        let base = LockConfig::default;
        for (config, says) in [
            (LockConfig { default_ttl: Duration::ZERO, ..base() }, "default_ttl"),
            (LockConfig { default_retry_count: 1_001, ..base() }, "default_retry_count"),
            (LockConfig { default_retry_delay: Duration::MAX, ..base() }, "default_retry_delay"),
            (
                LockConfig { mysql: MySqlLockConfig { table_name: "a b".into() }, ..base() },
                "mysql.table_name",
            ),
        ] {
            let error = config.check().expect_err("it cannot be kept").to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
