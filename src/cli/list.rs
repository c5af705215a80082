//! `list`: executions, newest first.

use std::time::Duration;

use clap::{Args, builder::PossibleValuesParser};
use comfy_table::Cell;
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output::{self, Rows},
    program::store,
    text, watch,
};
use crate::{
    config::Config,
    domain::execution::ExecutionState,
    ports::control::{ExecutionSummary, Filter, UnixMillis},
};

/// List executions, newest first.
///
/// With --watch the list is drawn again every second until Ctrl-C. Where the output is not a terminal,
/// each change of an execution in it is one line, or one JSON object; that one leaves the list is not
/// told.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker list --state failed
  orchestrator-worker list --template release --limit 5 --output json
  orchestrator-worker list --watch")]
pub struct ListArgs {
    /// Only those in this state.
    #[arg(long, value_parser = PossibleValuesParser::new(ExecutionState::ALL.map(ExecutionState::as_str)))]
    state: Option<String>,
    /// Only those of this template; a name or an id.
    #[arg(long)]
    template: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Go on, and show what changes.
    #[arg(long)]
    watch: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

/// An execution for programs.
#[derive(Serialize)]
pub struct SummaryJson {
    execution: String,
    template: Option<String>,
    template_name: Option<String>,
    state: Option<String>,
    /// Who holds it.
    owner: Option<String>,
    error: Option<String>,
    created_by: Option<String>,
    created_at: Option<UnixMillis>,
    /// It is not claimed before.
    not_before: Option<UnixMillis>,
    started_at: Option<UnixMillis>,
    finished_at: Option<UnixMillis>,
}

impl From<ExecutionSummary> for SummaryJson {
    fn from(summary: ExecutionSummary) -> Self {
        Self {
            execution: summary.execution.to_string(),
            template: summary.template.map(|id| id.to_string()),
            template_name: summary.template_name,
            state: summary.status,
            owner: Some(summary.owner).filter(|owner| !owner.is_empty()),
            error: summary.error,
            created_by: summary.created_by,
            created_at: summary.created_at,
            not_before: summary.not_before,
            started_at: summary.started_at,
            finished_at: summary.finished_at,
        }
    }
}

pub async fn list(args: &ListArgs, config: &Config) -> Result<Exit, Failure> {
    let filter = Filter {
        state: args.state.as_deref().and_then(|word| ExecutionState::parse(word).ok()),
        template: args.template.clone(),
        limit: args.limit,
        ..Filter::default()
    };
    let control = store(config).await?.control;
    if args.watch {
        return watch::list(&*control, &filter, args.output, config).await;
    }
    let executions = control.list(&filter).await?;
    match args.output {
        OutputWord::Json => {
            output::json(&executions.into_iter().map(SummaryJson::from).collect::<Vec<_>>())?;
        }
        OutputWord::Table if executions.is_empty() => {
            let narrowed = filter.state.is_some() || filter.template.is_some();
            output::line(if narrowed {
                "no such executions"
            } else {
                "no executions; `orchestrator-worker submit TEMPLATE` makes one"
            })?;
        }
        OutputWord::Table => rows(config, &executions).print()?,
    }
    Ok(Exit::Success)
}

/// Executions as `list` shows them.
pub fn rows(config: &Config, executions: &[ExecutionSummary]) -> Rows {
    let columns = ["EXECUTION", "STATE", "CREATED (UTC)", "TEMPLATE"];
    let mut rows = Rows::new(config, &columns).whole(&[0, 1, 2]);
    for one in executions {
        let template = one.template_name.clone().or(one.template.as_ref().map(ToString::to_string));
        rows.add([
            Cell::new(&one.execution),
            rows.state(&state_word(one.status.as_deref())),
            Cell::new(one.created_at.map_or_else(String::new, text::seconds)),
            Cell::new(text::cell(&template.unwrap_or_default(), 200)),
        ]);
    }
    rows
}

/// The column's own word, even an unknown one.
pub fn state_word(status: Option<&str>) -> String {
    text::cell(status.unwrap_or("pending"), 20)
}

/// From its start to its end, where both are known.
pub fn lasted(started: Option<UnixMillis>, finished: Option<UnixMillis>) -> Option<Duration> {
    started.zip(finished).map(|(from, to)| text::between(from, to))
}

/// The same for people.
pub fn took(started: Option<UnixMillis>, finished: Option<UnixMillis>) -> String {
    lasted(started, finished).map(text::took).unwrap_or_default()
}
