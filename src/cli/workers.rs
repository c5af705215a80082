//! `workers`: who holds what.

use std::time::Duration;

use clap::Args;
use comfy_table::Cell;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output::{self, Rows},
    program::store,
    text,
};
use crate::{config::Config, ports::control::WorkerRow};

/// List the workers that hold executions.
///
/// They are known by their leases alone: a worker that has nothing to do does not show.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  orchestrator-worker workers")]
pub struct WorkersArgs {
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

pub async fn workers(args: &WorkersArgs, config: &Config) -> Result<Exit, Failure> {
    let workers = store(config).await?.control.workers().await?;
    match args.output {
        OutputWord::Json => output::json(&workers)?,
        OutputWord::Table if workers.is_empty() => {
            output::line("no worker holds an execution; idle ones do not show")?;
        }
        OutputWord::Table => print(&workers, config)?,
    }
    Ok(Exit::Success)
}

fn print(workers: &[WorkerRow], config: &Config) -> Result<(), Failure> {
    let columns = ["WORKER", "EXECUTIONS", "LONGEST", "RENEWED"];
    let mut rows = Rows::new(config, &columns).whole(&[1, 2, 3]).right(&[1, 2]);
    for one in workers {
        rows.add([
            Cell::new(text::cell(&one.owner, 250)),
            Cell::new(one.executions),
            Cell::new(one.oldest_ms.map_or_else(String::new, |ms| text::took(millis(ms)))),
            Cell::new(ago(one.renewed_ago_ms)),
        ]);
    }
    rows.print()
}

pub fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// `3.4s ago`.
pub fn ago(ms: Option<i64>) -> String {
    ms.map_or_else(String::new, |ms| format!("{} ago", text::took(millis(ms))))
}
