//! Logs and spans as the configuration wants them.
//!
//! **Invariant:** only a worker sends spans and logs in JSON by itself; the other commands are for
//! people, and only what goes wrong is logged.

use std::io::{self, IsTerminal};

use super::AppError;
use crate::{
    config::{Config, LogFormat, Otlp},
    telemetry::{Exported, FilterHandle, Settings, Spans, Telemetry},
};

/// Who reads the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logger {
    /// Says what it does.
    Worker,
    /// Says what goes wrong.
    Command,
}

/// Logs that are set up; see [`Logs::finish`].
#[derive(Debug)]
pub struct Logs {
    logger: Logger,
    telemetry: Telemetry,
    json: bool,
}

/// Takes over the log filter of a configuration that was read again.
#[derive(Clone, Debug)]
pub struct Refilter {
    logger: Logger,
    handle: FilterHandle,
}

impl Logs {
    pub fn start(config: &Config, logger: Logger) -> Result<Self, AppError> {
        let settings = settings(config, logger, io::stderr().is_terminal());
        let telemetry = Telemetry::start(&settings)?;
        Ok(Self { logger, telemetry, json: settings.json })
    }

    /// One JSON object a line.
    pub fn are_json(&self) -> bool {
        self.json
    }

    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    pub fn refilter(&self) -> Refilter {
        Refilter { logger: self.logger, handle: self.telemetry.filter() }
    }

    /// Sends the last spans, for a while.
    pub fn finish(self) {
        self.telemetry.finish();
    }
}

impl Refilter {
    /// Returns the filter, in the words of `RUST_LOG`.
    pub fn set(&self, config: &Config) -> Result<String, AppError> {
        let filter = filter(config, self.logger);
        self.handle.set(&filter)?;
        Ok(filter)
    }
}

fn settings(config: &Config, logger: Logger, terminal: bool) -> Settings {
    Settings {
        json: match config.log.format {
            LogFormat::Json => true,
            LogFormat::Text => false,
            LogFormat::Auto => logger == Logger::Worker && !terminal,
        },
        colour: config.colour && terminal,
        filter: filter(config, logger),
        spans: if config.otlp.enabled && logger == Logger::Worker {
            let Otlp { resource, sampling, paced, other_protocol, .. } = config.otlp.clone();
            let mode = config.trace_mode;
            Spans::Exported(Exported { resource, sampling, mode, paced, other_protocol })
        } else {
            Spans::Dropped
        },
    }
}

fn filter(config: &Config, logger: Logger) -> String {
    config.log.filter.clone().unwrap_or_else(|| match logger {
        Logger::Worker => "warn,orchestrator_worker=info".into(),
        Logger::Command => "warn".into(),
    })
}
