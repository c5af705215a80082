//! Which database an orchestrator works on.
//!
//! **Invariant:** the connections are the library's own, whoever's pool was given: none is ever left in
//! the middle of a statement by somebody who stops waiting.

#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "mysql")]
use sqlx::MySqlPool;
#[cfg(feature = "sqlite")]
use sqlx::SqlitePool;

#[cfg(feature = "mysql")]
use crate::adapters::mysql::{self, Given, MySqlStore};
#[cfg(feature = "sqlite")]
use crate::adapters::sqlite::{self, SqlitePath, SqliteStore};
#[cfg(feature = "mysql")]
use crate::domain::doctor;
use crate::{
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
    #[cfg(feature = "mysql")]
    MySql(Box<mysql::Settings>),
    /// Migrated when it is first used.
    #[cfg(feature = "sqlite")]
    Sqlite(SqlitePath),
}

#[cfg(feature = "mysql")]
impl From<&MySqlPool> for Database {
    fn from(pool: &MySqlPool) -> Self {
        Self::MySql(Box::new(mysql::Settings::of_given(Given::new(&pool.connect_options()))))
    }
}

#[cfg(feature = "mysql")]
impl From<MySqlPool> for Database {
    fn from(pool: MySqlPool) -> Self {
        Self::from(&pool)
    }
}

#[cfg(feature = "sqlite")]
impl From<&SqlitePool> for Database {
    /// Of a file; the memory of a pool is its own, and nobody else's.
    fn from(pool: &SqlitePool) -> Self {
        Self::from(pool.connect_options().get_filename().to_owned())
    }
}

#[cfg(feature = "sqlite")]
impl From<SqlitePool> for Database {
    fn from(pool: SqlitePool) -> Self {
        Self::from(&pool)
    }
}

#[cfg(feature = "sqlite")]
impl From<PathBuf> for Database {
    /// An SQLite file.
    fn from(path: PathBuf) -> Self {
        Self::Sqlite(SqlitePath::File(path))
    }
}

#[cfg(feature = "mysql")]
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
    pub(super) const fn is_mysql(&self) -> bool {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(_) => true,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => false,
        }
    }

    /// Gone with the orchestrator.
    #[cfg(feature = "sqlite")]
    pub fn memory() -> Self {
        Self::Sqlite(SqlitePath::Memory { name: None })
    }

    /// The offset from UTC in which the orchestrator writes its local times, as `+08:00`; `+00:00` if it is
    /// not called. A MySQL database whose lock rows say otherwise is refused, and the offset named.
    #[cfg(feature = "mysql")]
    #[must_use]
    pub fn with_time_offset(mut self, offset: &str) -> Self {
        match &mut self {
            Self::MySql(settings) => settings.time_offset = offset.into(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => {}
        }
        self
    }

    /// Where it listens, if steps could call it.
    pub(super) fn server(&self) -> Option<(String, u16)> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(settings) => settings.server(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => None,
        }
    }

    /// An SQLite file is migrated; a MySQL database is not, and has to be in the zone that was said.
    #[cfg_attr(
        not(feature = "mysql"),
        expect(unused_variables, reason = "an SQLite file has a lock table of one name")
    )]
    pub(super) async fn open(&self, lock_table: &LockTable) -> Result<Opened, StoreError> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(settings) => {
                let lock_table = lock_table.clone();
                let settings = mysql::Settings { lock_table, ..(**settings).clone() };
                let offset = settings.time_offset.clone();
                let opened = Opened::new(MySqlStore::open(settings).await?);
                refuse_wrong_zone(&*opened.control, &offset).await?;
                Ok(opened)
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(path) => {
                let settings = sqlite::Settings { path: path.clone() };
                let opened = Opened::new(SqliteStore::open(settings).await?);
                opened.control.migrate(false).await.map_err(of_store)?;
                Ok(opened)
            }
        }
    }
}

/// Where the orchestrator's times were taken for others, its cleaner would delete locks that are held,
/// and what it holds would be taken from it.
#[cfg(feature = "mysql")]
async fn refuse_wrong_zone(control: &dyn Control, offset: &str) -> Result<(), StoreError> {
    let circumstances = control.circumstances().await.map_err(of_store)?;
    match doctor::wrong_zone(circumstances.orchestrator_ms, offset) {
        Some(sentence) => Err(StoreError::NotReady(sentence)),
        None => Ok(()),
    }
}

fn of_store(error: ControlError) -> StoreError {
    match error {
        ControlError::Store(error) => error,
        other => StoreError::NotReady(other.to_string()),
    }
}
