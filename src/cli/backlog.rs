//! `backlog`: what was pending long before the tables were migrated.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    list::{self, SummaryJson},
    output,
    program::store,
    text,
};
use crate::{
    config::Config,
    ports::control::{BacklogSummary, Filter},
};

/// List or release executions that are held because they are old.
///
/// Executions that were pending for more than a day when the tables were first migrated are not
/// claimed (unless `claim.backlog` is `run`): who made them may have given them up long ago.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker backlog list
  orchestrator-worker backlog release release
  orchestrator-worker cancel $(orchestrator-worker backlog list --output json |
      jq -r '.executions[].execution')")]
pub struct BacklogArgs {
    #[command(subcommand)]
    command: BacklogCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum BacklogCommand {
    List(BacklogListArgs),
    Release(BacklogReleaseArgs),
}

/// List what is held, newest first.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  orchestrator-worker backlog list --template release")]
struct BacklogListArgs {
    /// Only those of this template; a name or an id.
    #[arg(long)]
    template: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

/// Let what is held be claimed, before everything newer. What is not wanted any more can be
/// cancelled.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker backlog release release
  orchestrator-worker backlog release --all")]
struct BacklogReleaseArgs {
    /// That of this template; a name or an id.
    #[arg(required_unless_present = "all")]
    template: Option<String>,
    /// All of it.
    #[arg(long, conflicts_with = "template")]
    all: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct BacklogJson {
    /// All that is held.
    held: u64,
    executions: Vec<SummaryJson>,
}

#[derive(Serialize)]
struct ReleasedJson {
    released: u64,
}

pub async fn backlog(args: &BacklogArgs, config: &Config) -> Result<Exit, Failure> {
    match &args.command {
        BacklogCommand::List(args) => list(args, config).await,
        BacklogCommand::Release(args) => release(args, config).await,
    }
}

async fn list(args: &BacklogListArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let held = control.backlog().await?;
    let filter = Filter {
        template: args.template.clone(),
        backlog: true,
        limit: args.limit,
        ..Filter::default()
    };
    let executions = control.list(&filter).await?;
    match args.output {
        OutputWord::Json => output::json(&BacklogJson {
            held: held.executions,
            executions: executions.into_iter().map(SummaryJson::from).collect(),
        })?,
        OutputWord::Table => {
            if !executions.is_empty() {
                list::rows(config, &executions).print()?;
                output::line("")?;
            }
            output::paragraph(&sentence(&held))?;
        }
    }
    Ok(Exit::Success)
}

async fn release(args: &BacklogReleaseArgs, config: &Config) -> Result<Exit, Failure> {
    let template = args.template.as_deref().filter(|_| !args.all);
    let released = store(config).await?.control.release_backlog(template).await?;
    match args.output {
        OutputWord::Json => output::json(&ReleasedJson { released })?,
        OutputWord::Table => output::line(&match released {
            0 => "no backlog is held".into(),
            1 => "1 execution is released and will be claimed".into(),
            many => format!("{many} executions are released and will be claimed"),
        })?,
    }
    Ok(Exit::Success)
}

/// How much is held, and how old it is.
pub fn sentence(held: &BacklogSummary) -> String {
    let time = |time: Option<_>| time.map_or_else(|| "?".into(), text::seconds);
    match held.executions {
        0 => "no backlog is held".into(),
        1 => format!(
            "1 execution of {} (UTC) is held as backlog; `orchestrator-worker backlog release --all` \
             lets it be claimed",
            time(held.oldest)
        ),
        many => format!(
            "{many} executions of {} to {} (UTC) are held as backlog; `orchestrator-worker backlog \
             release --all` lets them be claimed",
            time(held.oldest),
            time(held.newest)
        ),
    }
}
