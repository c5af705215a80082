//! `retry`: failed and cancelled executions from their first unfinished step.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output,
    program::store,
    text,
};
use crate::{
    config::Config,
    domain::{execution::ExecutionState, id::ExecutionId},
    ports::control::{Control, ControlError, Filter},
};

/// Run failed or cancelled executions again, from their first unfinished step.
///
/// Steps that succeeded stay as they are; all others run again, by the plan of the first claim. With
/// --failed every failed execution is taken that the other options let through; those that somebody
/// else has retried meanwhile are passed over.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker retry 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11
  orchestrator-worker retry --failed --since 2h --template release --dry-run")]
pub struct RetryArgs {
    /// The executions' ids, as `submit` and `list` print them.
    #[arg(value_name = "EXECUTION", required_unless_present = "failed")]
    executions: Vec<String>,
    /// All that failed, newest first.
    #[arg(long, conflicts_with = "executions")]
    failed: bool,
    /// Only those that ended in the last such time: 30m, 2h, 7d.
    #[arg(long, requires = "failed", value_name = "TIME", value_parser = text::duration)]
    since: Option<Duration>,
    /// Only those of this template; a name or an id.
    #[arg(long, requires = "failed")]
    template: Option<String>,
    /// At most so many.
    #[arg(long, requires = "failed", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Say which, and change nothing.
    #[arg(long, requires = "failed")]
    dry_run: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct RetriedJson {
    dry_run: bool,
    retried: Vec<ExecutionId>,
}

pub async fn retry(args: &RetryArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let mut retried = Vec::new();
    let mut refused = None;
    for execution in executions(args, &*control).await? {
        match if args.dry_run { Ok(()) } else { control.retry(&execution).await } {
            Ok(()) => retried.push(execution),
            // Somebody was faster.
            Err(ControlError::WrongState { .. } | ControlError::NoExecution(_)) if args.failed => {}
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    print(args, retried)?;
    refused.map_or(Ok(Exit::Success), |error| Err(error.into()))
}

async fn executions(
    args: &RetryArgs,
    control: &dyn Control,
) -> Result<Vec<ExecutionId>, ControlError> {
    if !args.failed {
        return Ok(args.executions.iter().map(|id| id.as_str().into()).collect());
    }
    let filter = Filter {
        state: Some(ExecutionState::Failed),
        template: args.template.clone(),
        ended_within: args.since,
        limit: args.limit,
        ..Filter::default()
    };
    Ok(control.list(&filter).await?.into_iter().map(|one| one.execution).collect())
}

fn print(args: &RetryArgs, retried: Vec<ExecutionId>) -> Result<(), Failure> {
    match args.output {
        OutputWord::Json => output::json(&RetriedJson { dry_run: args.dry_run, retried }),
        OutputWord::Table if retried.is_empty() && args.failed => {
            output::line("no execution has failed that these options let through")
        }
        OutputWord::Table => {
            let what = if args.dry_run { "would be pending again" } else { "is pending again" };
            retried.iter().try_for_each(|execution| output::line(&format!("{execution}: {what}")))
        }
    }
}
