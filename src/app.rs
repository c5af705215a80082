//! Puts the program together: the store, the runners, the worker and the admin port.
//!
//! **Invariant:** this is the only place that names a concrete store or runner.

mod circumstances;
mod daemon;
mod logs;
mod reach;
mod runners;
mod state_dir;
mod stores;

pub use daemon::{Daemon, supported};
pub use logs::{Logger, Logs, Refilter};
pub use reach::{reach, reach_kubernetes, reach_leases};
pub use stores::{Stores, connect, open};

use std::{io, path::PathBuf};

use crate::{
    adapters::mysql::PasswordFileError,
    admin::AdminError,
    ports::{control::ControlError, executions::StoreError},
    telemetry::TelemetryError,
    worker::WorkError,
};

/// Why the program cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    PasswordFile(#[from] PasswordFileError),
    #[error("database.time_offset does not fit: {0}")]
    WrongZone(String),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error(
        "cannot use the folder {folder} (state_dir) for running steps: {source}; name another that \
         may be written to"
    )]
    StateDir { folder: PathBuf, source: io::Error },
    #[error(transparent)]
    Worker(#[from] WorkError),
}
