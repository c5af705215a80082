//! What SQLite answers when it does not do something, and what that means to a worker.
//!
//! **Invariant:** a sentence that reaches a person names the file and says what to do next.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{
    adapters::lane::LaneError,
    ports::{control::ControlError, executions::StoreError},
};

/// Why a job on a connection was not done. A connection that answered with one is closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The transaction may or may not have been committed.
    #[error("committing: {0}")]
    Commit(sqlx::Error),
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Rows that this very transaction has read did not take a write.
    #[error("{0}")]
    Unwritable(String),
    #[error("the file system cannot keep a write-ahead log")]
    NoWal,
}

/// Where the database is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(PathBuf),
    Memory,
}

impl Place {
    /// A file that is not there, and can be made.
    pub(super) fn is_missing(&self) -> bool {
        let Self::File(path) = self else { return false };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        !path.exists() && folder.is_none_or(Path::is_dir)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the SQLite file {}", path.display()),
            Self::Memory => f.write_str("the in-memory database"),
        }
    }
}

// Primary result codes, https://www.sqlite.org/rescode.html
const ERROR: u32 = 1;
const PERM: u32 = 3;
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const READONLY: u32 = 8;
const IOERR: u32 = 10;
const CORRUPT: u32 = 11;
const CANTOPEN: u32 = 14;
const TOOBIG: u32 = 18;
const CONSTRAINT: u32 = 19;
const MISMATCH: u32 = 20;
const AUTH: u32 = 23;
const NOTADB: u32 = 26;

/// The primary result code within an extended one.
fn code(error: &sqlx::Error) -> Option<u32> {
    let extended: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// Another connection is in the way; a little later it may not be.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(BUSY | LOCKED))
}

/// The database refused a value, and only the statement with it failed: what it said.
fn refused_value(error: &sqlx::Error) -> Option<String> {
    matches!(code(error), Some(TOOBIG | CONSTRAINT | MISMATCH))
        .then(|| error.as_database_error().map_or_else(String::new, |e| e.message().to_owned()))
}

impl Failure {
    /// A value was refused, and only the statement with it failed.
    pub(super) fn refused_value(&self) -> Option<StoreError> {
        match self {
            Self::Sql(error) => refused_value(error).map(StoreError::Data),
            Self::Store(error @ StoreError::Data(_)) => Some(error.clone()),
            _ => None,
        }
    }

    /// It comes from the rows of one execution, and only the statement with them failed: what is
    /// wrong with them.
    pub(super) fn of_a_row(&self) -> Option<String> {
        match self {
            Self::Sql(error) => refused_value(error)
                .map(|what| format!("the database refused a value of this execution: {what}")),
            Self::Unwritable(what) => Some(what.clone()),
            Self::Commit(_) | Self::Lane(_) | Self::Store(_) | Self::Control(_) | Self::NoWal => {
                None
            }
        }
    }

    pub(super) fn into_store(self, place: &Place) -> StoreError {
        match self {
            Self::Commit(error) if code(&error) == Some(IOERR) => {
                StoreError::Unknown(format!("{place}: {error}"))
            }
            Self::Sql(error) | Self::Commit(error) => of_statement(&error, place),
            Self::Lane(error @ LaneError::NotConnected(_)) => {
                StoreError::Unavailable(format!("{place}: {error}"))
            }
            Self::Lane(error) => StoreError::Unknown(format!("{place}: {error}")),
            Self::Store(error) | Self::Control(ControlError::Store(error)) => error,
            Self::Control(error) => StoreError::NotReady(error.to_string()),
            Self::Unwritable(what) => StoreError::Data(what),
            Self::NoWal => StoreError::NotReady(format!(
                "{place} lies on a file system that cannot keep a write-ahead log, such as a \
                 network share; put it on a local disk"
            )),
        }
    }

    /// Of a migration, which makes the file where it is missing.
    pub(super) fn into_migration(self, place: &Place) -> ControlError {
        match self {
            Self::Control(error) => error,
            Self::Sql(error) if code(&error) == Some(CANTOPEN) && place.is_missing() => {
                ControlError::Store(StoreError::NotReady(format!(
                    "{place} cannot be made; check the rights on its folder, or give another path"
                )))
            }
            other => ControlError::Store(other.into_store(place)),
        }
    }

    pub(super) fn into_control(self, place: &Place) -> ControlError {
        match self {
            Self::Control(error) => error,
            Self::Sql(error) if is_missing_table(&error) => ControlError::NotMigrated,
            Self::Sql(error) if code(&error) == Some(CANTOPEN) && place.is_missing() => {
                ControlError::NotMigrated
            }
            other => ControlError::Store(other.into_store(place)),
        }
    }
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    let message = error.as_database_error().map_or("", |error| error.message());
    code(error) == Some(ERROR) && message.starts_with("no such table")
}

fn of_statement(error: &sqlx::Error, place: &Place) -> StoreError {
    if let Some(what) = refused_value(error) {
        return StoreError::Data(what);
    }
    match code(error) {
        Some(BUSY | LOCKED) => StoreError::Unavailable(format!(
            "another process has been writing to {place} for too long; it is tried again"
        )),
        Some(CANTOPEN) => StoreError::NotReady(cannot_open(place)),
        Some(PERM | READONLY | AUTH) => StoreError::NotReady(format!(
            "{place} may not be written; check the rights on it and on its folder"
        )),
        Some(NOTADB) => StoreError::NotReady(format!(
            "{place} is not an SQLite database; give another path, or move it away"
        )),
        Some(CORRUPT) => {
            StoreError::NotReady(format!("{place} is damaged ({error}); restore it from a backup"))
        }
        Some(ERROR) => StoreError::NotReady(format!(
            "the tables in {place} are not what this version needs ({error}); run \
             `orchestrator-worker migrate`"
        )),
        _ => StoreError::Unavailable(format!("{place}: {error}")),
    }
}

/// SQLite only says "unable to open database file"; the file system says why.
fn cannot_open(place: &Place) -> String {
    let Place::File(path) = place else { return format!("{place} cannot be opened") };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return format!(
            "the folder {} of {place} does not exist; make it, or give another path",
            folder.display()
        );
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            format!("{} is a folder; give the path of a file in it", path.display())
        }
        Ok(_) => format!("{place} cannot be opened; check the rights on it and on its folder"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("{place} does not exist; run `orchestrator-worker migrate`, which makes it")
        }
        Err(error) => format!("{place} cannot be opened: {error}"),
    }
}
