//! A command that is ready to be carried out: its configuration is read and logs are set up.
//!
//! **Invariant:** nothing here needs a runtime but [`Program::execute`].

use super::{
    Cli, Command, apply, backlog, cancel, doctor,
    exit::{Exit, Failure},
    explain, graph, list, locks, logs, migrate, pause, retry, run, show, submit, workers,
};
use crate::{
    app::{self, Logger, Logs, Stores},
    config::{Config, Sqlite, Store, Surroundings},
};

pub struct Program {
    cli: Cli,
    around: Surroundings,
    config: Config,
    logs: Logs,
}

impl Program {
    pub fn prepare(cli: Cli, around: Surroundings) -> Result<Self, Failure> {
        let config = Config::load(&cli.flags(), &around)?;
        let logger = if cli.is_run() { Logger::Worker } else { Logger::Command };
        let logs = Logs::start(&config, logger)?;
        Ok(Self { cli, around, config, logs })
    }

    /// Carries the command out and says why if it cannot.
    pub async fn execute(&self) -> Exit {
        match self.command().await {
            Ok(exit) => exit,
            Err(failure) if self.cli.is_run() && self.logs.are_json() => {
                tracing::error!(event = "worker.failed", "{failure}");
                failure.exit()
            }
            Err(failure) => failure.report(),
        }
    }

    async fn command(&self) -> Result<Exit, Failure> {
        let config = &self.config;
        match &self.cli.command {
            Command::Run(args) => {
                run::run(args, config, self.logs.telemetry(), self.reload()).await
            }
            Command::Migrate(args) => migrate::migrate(args, config).await,
            Command::Apply(args) => apply::apply(args, config).await,
            Command::Submit(args) => submit::submit(args, config).await,
            Command::List(args) => list::list(args, config).await,
            Command::Show(args) => show::show(args, config).await,
            Command::Logs(args) => logs::logs(args, config).await,
            Command::Cancel(args) => cancel::cancel(args, config).await,
            Command::Retry(args) => retry::retry(args, config).await,
            Command::Pause(args) => pause::pause(args, config).await,
            Command::Resume(args) => pause::resume(args, config).await,
            Command::Backlog(args) => backlog::backlog(args, config).await,
            Command::Graph(args) => graph::graph(args, config).await,
            Command::Explain(args) => explain::run(args, config).await,
            Command::Locks(args) => locks::locks(args, config).await,
            Command::Workers(args) => workers::workers(args, config).await,
            Command::Doctor(args) => {
                let settings = Config::settings(&self.cli.flags(), &self.around)?;
                doctor::run(args, config, &settings).await
            }
            Command::Config(args) => {
                let settings = Config::settings(&self.cli.flags(), &self.around)?;
                super::config::config(args, config, &settings)
            }
            // In `main` already, before a configuration is asked for.
            Command::Completions(_) | Command::Man(_) => {
                Ok(self.cli.print_document().unwrap_or(Exit::Success))
            }
        }
    }

    /// Reads the configuration again and takes over the log filter.
    fn reload(&self) -> impl Fn() + Send + 'static {
        let (flags, around, refilter) =
            (self.cli.flags(), self.around.clone(), self.logs.refilter());
        move || {
            let config = Config::load(&flags, &around).map_err(Failure::from);
            match config.and_then(|config| Ok(refilter.set(&config)?)) {
                Ok(filter) => tracing::info!(event = "log.reloaded", filter, "new log filter"),
                Err(error) => tracing::error!(event = "log.reload_failed", %error, "not reloaded"),
            }
        }
    }

    /// Sends the last spans; the end of the process.
    pub fn finish(self) {
        self.logs.finish();
    }
}

/// The store of a command that ends when it is done.
pub(super) async fn store(config: &Config) -> Result<Stores, Failure> {
    must_stay(config)?;
    Ok(app::open(&config.store).await?)
}

/// Refuses a store that ends with the command, and says where an unnamed one is when it is made: later
/// that is known, and where it is not expected there is none yet.
pub(super) fn must_stay(config: &Config) -> Result<(), Failure> {
    match &config.store {
        Store::Sqlite(Sqlite::Memory) => return Err(Failure::NothingStays),
        Store::Sqlite(Sqlite::File { path, by_default: true }) if !path.exists() => {
            eprintln!("note: no database is configured: using the SQLite file {}", path.display());
        }
        Store::Sqlite(Sqlite::File { .. }) | Store::MySql(_) => {}
    }
    Ok(())
}
