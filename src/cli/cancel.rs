//! `cancel`: sets executions to `cancelled`.

use clap::Args;
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output,
    program::store,
};
use crate::{
    config::Config,
    domain::id::{ExecutionId, RELEASED},
    ports::control::Cancelled,
};

/// Cancel executions.
///
/// One that nobody has claimed is over at once. The worker that holds a running one stops its steps
/// at its next renewal (`lock.renew_every`) and starts no more; a step that was stopped is recorded
/// as failed, steps that never started as skipped. `retry` takes a cancelled execution up again.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker cancel 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11
  orchestrator-worker list --state pending --output json |
      jq -r '.[].execution' | xargs orchestrator-worker cancel")]
pub struct CancelArgs {
    /// The executions' ids, as `submit` and `list` print them.
    #[arg(required = true, value_name = "EXECUTION")]
    executions: Vec<String>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct CancelledJson {
    execution: ExecutionId,
    #[serde(flatten)]
    met: Cancelled,
}

/// Stops at the first that cannot be cancelled; what came before it stays cancelled, and is said.
pub async fn cancel(args: &CancelArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let mut done = Vec::new();
    let mut failed = None;
    for id in &args.executions {
        let execution = ExecutionId::from(id.as_str());
        match control.cancel(&execution).await {
            Ok(met) => done.push(CancelledJson { execution, met }),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    match args.output {
        OutputWord::Json => output::json(&done)?,
        OutputWord::Table => {
            for one in &done {
                output::paragraph(&format!("{}: {}", one.execution, sentence(&one.met)))?;
            }
        }
    }
    failed.map_or(Ok(Exit::Success), |error| Err(error.into()))
}

fn sentence(met: &Cancelled) -> String {
    match met {
        Cancelled::Pending => "cancelled before anybody claimed it".into(),
        Cancelled::Running { owner } if owner.is_empty() => {
            "cancelled; the orchestrator itself runs it, and may run it to its end".into()
        }
        Cancelled::Running { owner } if owner == RELEASED => {
            "cancelled; it was handed back, and no worker takes it up any more".into()
        }
        Cancelled::Running { owner } => {
            format!("cancelled; {owner} stops it at its next renewal")
        }
        Cancelled::Cancelled => "was cancelled already".into(),
    }
}
