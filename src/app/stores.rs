//! Opens the configured store.
//!
//! **Invariant:** an SQLite file is migrated when it is opened; a MySQL database never is, but by
//! `migrate`.

use std::sync::Arc;

use super::AppError;
use crate::{
    adapters::{
        external::ExternalLeases,
        mysql::{self, MySqlStore, PasswordFile},
        sqlite::{self, SqlitePath, SqliteStore},
    },
    config::{MySql, Sqlite, Store, Tls},
    orchestrator::{LockConfig, ProviderRegistry},
    ports::{
        control::{Control, Filter},
        executions::{ExecutionStore, StoreError},
        rows::RowStore,
    },
};

/// One store, as a worker and as an operator see it.
#[derive(Clone)]
pub struct Stores {
    pub executions: Arc<dyn ExecutionStore>,
    pub control: Arc<dyn Control>,
    rows: Arc<dyn RowStore>,
}

impl Stores {
    fn new<S: RowStore + Control>(store: S) -> Self {
        let store = Arc::new(store);
        Self { executions: store.clone(), control: store.clone(), rows: store }
    }

    /// The same, with the leases of executions in another server. Asks it for something, so that wrong
    /// settings are told at once.
    pub async fn leasing_from(self, leases: &LockConfig) -> Result<Self, StoreError> {
        let provider =
            ProviderRegistry::default().open(leases).await.map_err(StoreError::Leases)?;
        let leased = ExternalLeases::new(self.rows.clone(), provider, leases.provider.clone());
        Ok(Self { executions: Arc::new(leased), ..self })
    }
}

/// Connects, whatever the schema is.
pub async fn connect(store: &Store) -> Result<Stores, AppError> {
    Ok(match store {
        Store::Sqlite(place) => Stores::new(SqliteStore::open(sqlite_settings(place)).await?),
        Store::MySql(mysql) => {
            let settings = mysql_settings(mysql);
            // A file that cannot be read is told as what it is: not the database's fault.
            if let Some(file) = &settings.password_file {
                file.read().await?;
            }
            Stores::new(MySqlStore::open(settings).await?)
        }
    })
}

/// Connects, and sees to it that the schema is one to work with.
pub async fn open(store: &Store) -> Result<Stores, AppError> {
    let stores = connect(store).await?;
    match store {
        Store::Sqlite(_) => drop(stores.control.migrate(false).await?),
        Store::MySql(_) => {
            drop(stores.control.list(&Filter { limit: 1, ..Filter::default() }).await?);
        }
    }
    Ok(stores)
}

fn sqlite_settings(place: &Sqlite) -> sqlite::Settings {
    let path = match place {
        Sqlite::File { path, .. } => SqlitePath::File(path.clone()),
        Sqlite::Memory => SqlitePath::Memory { name: None },
    };
    sqlite::Settings { path }
}

fn mysql_settings(mysql: &MySql) -> mysql::Settings {
    mysql::Settings {
        url: mysql.url.clone(),
        given: None,
        password_file: mysql.password_file.clone().map(PasswordFile::new),
        tls: match mysql.tls {
            Tls::VerifyIdentity => mysql::Tls::VerifyIdentity,
            Tls::Insecure => mysql::Tls::Insecure,
        },
        lease_lanes: mysql.lease_lanes,
        work_lanes: mysql.work_lanes,
        time_offset: mysql.time_offset.clone(),
        single_writer: mysql.single_writer,
        lock_table: mysql.lock_table.clone(),
    }
}
