//! Which database an orchestrator works on.
//!
//! **Invariant:** the connections are the library's own, whoever's pool was given: none is ever left in
//! the middle of a statement by somebody who stops waiting.

use std::{path::PathBuf, sync::Arc};

use sqlx::{MySqlPool, SqlitePool};

use crate::{
    adapters::{
        mysql::{self, Given, MySqlStore},
        sqlite::{self, SqlitePath, SqliteStore},
    },
    domain::lock_table::LockTable,
    ports::{
        control::{Control, ControlError},
        executions::{ExecutionStore, StoreError},
        lock::LockProvider,
    },
};

/// A database. Of a pool only its options are used: where it connects, and as whom.
#[derive(Clone, Debug)]
pub enum Database {
    /// The lock table's name comes from the [`LockConfig`](super::LockConfig).
    MySql(Box<mysql::Settings>),
    /// Migrated when it is first used.
    Sqlite(SqlitePath),
}

impl From<&MySqlPool> for Database {
    fn from(pool: &MySqlPool) -> Self {
        Self::MySql(Box::new(mysql::Settings::of_given(Given::new(&pool.connect_options()))))
    }
}

impl From<MySqlPool> for Database {
    fn from(pool: MySqlPool) -> Self {
        Self::from(&pool)
    }
}

impl From<&SqlitePool> for Database {
    /// Of a file; the memory of a pool is its own, and nobody else's.
    fn from(pool: &SqlitePool) -> Self {
        Self::from(pool.connect_options().get_filename().to_owned())
    }
}

impl From<SqlitePool> for Database {
    fn from(pool: SqlitePool) -> Self {
        Self::from(&pool)
    }
}

impl From<PathBuf> for Database {
    /// An SQLite file.
    fn from(path: PathBuf) -> Self {
        Self::Sqlite(SqlitePath::File(path))
    }
}

impl From<mysql::Settings> for Database {
    fn from(settings: mysql::Settings) -> Self {
        Self::MySql(Box::new(settings))
    }
}

/// An open database, in its roles.
pub(super) struct Opened {
    pub executions: Arc<dyn ExecutionStore>,
    pub control: Arc<dyn Control>,
    pub locks: Arc<dyn LockProvider>,
}

impl Opened {
    fn new<S: ExecutionStore + Control + LockProvider>(store: S) -> Self {
        let store = Arc::new(store);
        Self { executions: store.clone(), control: store.clone(), locks: store }
    }
}

impl Database {
    /// Where it listens, if steps could call it.
    pub(super) fn server(&self) -> Option<(String, u16)> {
        match self {
            Self::MySql(settings) => settings.server(),
            Self::Sqlite(_) => None,
        }
    }

    /// An SQLite file is migrated; a MySQL database is not.
    pub(super) async fn open(&self, lock_table: &LockTable) -> Result<Opened, StoreError> {
        match self {
            Self::MySql(settings) => {
                let lock_table = lock_table.clone();
                let settings = mysql::Settings { lock_table, ..(**settings).clone() };
                Ok(Opened::new(MySqlStore::open(settings).await?))
            }
            Self::Sqlite(path) => {
                let settings = sqlite::Settings { path: path.clone() };
                let opened = Opened::new(SqliteStore::open(settings).await?);
                match opened.control.migrate(false).await {
                    Ok(_) => Ok(opened),
                    Err(ControlError::Store(error)) => Err(error),
                    Err(error) => Err(StoreError::NotReady(error.to_string())),
                }
            }
        }
    }
}
