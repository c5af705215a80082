//! How the program ends: the one list of exit codes, and which failure leads to which.
//!
//! **Invariant:** each code is in the help of the command line (a test says so).

use std::{io, process::ExitCode};

use super::workflow_file::WorkflowFileError;
use crate::{
    app::AppError,
    config::ConfigError,
    domain::workflow::WorkflowError,
    ports::{control::ControlError, executions::StoreError},
};

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; what was waited for succeeded.
    Success,
    /// It could not be done.
    Failure,
    /// The command line is wrong.
    Usage,
    /// What was waited for failed.
    ExecutionFailed,
    /// What was waited for was cancelled, and nothing failed.
    ExecutionCancelled,
    /// The configuration is wrong (`EX_CONFIG`).
    Configuration,
}

impl Exit {
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::ExecutionFailed,
        Self::ExecutionCancelled,
        Self::Configuration,
    ];

    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::ExecutionFailed => 3,
            Self::ExecutionCancelled => 4,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command ends early. Each is one sentence that says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    File(#[from] WorkflowFileError),
    #[error("template {name:?} cannot be run: {error}")]
    NotAWorkflow { name: String, error: WorkflowError },
    #[error("there is no lock row {0:?}, and none of an execution with that id")]
    NoLock(String),
    #[error("execution {execution} has no step {step:?}; its steps are: {steps}")]
    NoStep { execution: String, step: String, steps: String },
    #[error("cannot start threads: {0}")]
    Runtime(io::Error),
    #[error("cannot print the result: {0}")]
    Print(io::Error),
    #[error(
        "`memory:` is gone when this command ends; name a database that stays, such as \
         --database-url sqlite://orchestrator.db, or use `run --submit FILE --until-idle`"
    )]
    NothingStays,
    #[error(
        "say what to resume: templates, or --all; `orchestrator-worker pause` lists what is paused"
    )]
    NothingToResume,
    #[error(
        "an SQLite file knows no users; name the MySQL database whose worker needs rights with \
         --database-url"
    )]
    NoUsers,
    #[error("--after is more than ten years; give a shorter time, or a moment with --at")]
    TooFar,
}

impl Failure {
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::App(AppError::PasswordFile(_)) => Exit::Configuration,
            Self::NothingStays | Self::NothingToResume | Self::NoUsers | Self::TooFar => {
                Exit::Usage
            }
            Self::App(_)
            | Self::File(_)
            | Self::NotAWorkflow { .. }
            | Self::NoLock(_)
            | Self::NoStep { .. }
            | Self::Runtime(_)
            | Self::Print(_) => Exit::Failure,
        }
    }

    /// Says it on the standard error.
    pub fn report(&self) -> Exit {
        eprintln!("error: {self}");
        self.exit()
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::App(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::App(error.into())
    }
}

/// Prints what clap has to say: help and version too are "errors" there.
pub fn of_command_line(error: &clap::Error) -> Exit {
    let said = error.print();
    if error.use_stderr() || said.is_err() { Exit::Usage } else { Exit::Success }
}
