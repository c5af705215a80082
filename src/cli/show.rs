//! `show`: one execution with its steps.

use clap::Args;
use comfy_table::Cell;
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    list::{SummaryJson, state_word, took},
    output::{self, Rows},
    program::store,
    text, watch,
};
use crate::{
    config::Config,
    domain::trace::Trace,
    ports::control::{AttemptDetail, ExecutionDetail, ExecutionSummary, StepDetail, UnixMillis},
};

/// Longest output or error of a step in a table; `--output json` shows all of it.
const CELL: usize = 400;

/// Show one execution with its steps, their output and errors.
///
/// With --watch its steps are drawn as they go until it has ended, and the exit code follows the
/// result: 0 success, 3 failed, 4 cancelled. Where the output is not a terminal, each change is one
/// line, or one JSON object. Ctrl-C ends the watching, not the execution.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker show 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11
  orchestrator-worker show 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11 --output json
  orchestrator-worker show 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11 --watch")]
pub struct ShowArgs {
    /// The execution's id, as `submit` and `list` print it.
    execution: String,
    /// Show its steps as they go, until it has ended.
    #[arg(long)]
    watch: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct DetailJson {
    #[serde(flatten)]
    summary: SummaryJson,
    fence: u64,
    /// Under which its spans are found.
    trace_id: String,
    steps: Vec<StepJson>,
}

#[derive(Serialize)]
struct StepJson {
    step_execution: String,
    name: Option<String>,
    executor_type: Option<String>,
    state: Option<String>,
    retry_count: i64,
    output: Option<String>,
    error: Option<String>,
    started_at: Option<UnixMillis>,
    finished_at: Option<UnixMillis>,
    attempts: Vec<AttemptJson>,
}

#[derive(Serialize)]
struct AttemptJson {
    attempt: u32,
    fence: u64,
    owner: String,
    outcome: Option<String>,
    cause: Option<String>,
    started_at: Option<UnixMillis>,
    finished_at: Option<UnixMillis>,
}

pub async fn show(args: &ShowArgs, config: &Config) -> Result<Exit, Failure> {
    let id = args.execution.as_str().into();
    let control = store(config).await?.control;
    if args.watch {
        return watch::execution(&*control, &id, args.output, config).await;
    }
    let detail = control.show(&id).await?;
    print(detail, args.output, config)?;
    Ok(Exit::Success)
}

/// Prints an execution as `show` does.
pub fn print(detail: ExecutionDetail, word: OutputWord, config: &Config) -> Result<(), Failure> {
    match word {
        OutputWord::Json => output::json(&json(detail)),
        OutputWord::Table => table(&detail, config),
    }
}

fn json(detail: ExecutionDetail) -> DetailJson {
    DetailJson {
        trace_id: trace_id(&detail),
        summary: detail.summary.into(),
        fence: detail.fence,
        steps: detail.steps.into_iter().map(step_json).collect(),
    }
}

fn trace_id(detail: &ExecutionDetail) -> String {
    Trace::of(&detail.summary.execution, &detail.origin).id().to_string()
}

fn step_json(step: StepDetail) -> StepJson {
    StepJson {
        step_execution: step.step_execution,
        name: step.name,
        executor_type: step.executor_type,
        state: step.status,
        retry_count: step.retry_count,
        output: step.output,
        error: step.error,
        started_at: step.started_at,
        finished_at: step.finished_at,
        attempts: step.attempts.into_iter().map(attempt_json).collect(),
    }
}

fn attempt_json(attempt: AttemptDetail) -> AttemptJson {
    AttemptJson {
        attempt: attempt.attempt,
        fence: attempt.fence,
        owner: attempt.owner,
        outcome: attempt.outcome,
        cause: attempt.cause,
        started_at: attempt.started_at,
        finished_at: attempt.finished_at,
    }
}

/// Of what has not started; afterwards it does not matter any more.
fn not_before(summary: &ExecutionSummary) -> String {
    let time = summary.not_before.filter(|_| summary.started_at.is_none());
    time.map(|time| time.to_string()).unwrap_or_default()
}

fn table(detail: &ExecutionDetail, config: &Config) -> Result<(), Failure> {
    let summary = &detail.summary;
    let template = summary.template_name.clone().unwrap_or_default();
    let time = |time: Option<UnixMillis>| time.map(|time| time.to_string()).unwrap_or_default();
    output::fields([
        ("execution", summary.execution.to_string()),
        ("template", text::cell(&template, CELL)),
        ("state", state_word(summary.status.as_deref())),
        ("error", text::cell(summary.error.as_deref().unwrap_or_default(), CELL)),
        ("held by", text::cell(&summary.owner, 250)),
        ("trace", trace_id(detail)),
        ("created", time(summary.created_at)),
        ("not before", not_before(summary)),
        ("started", time(summary.started_at)),
        ("finished", time(summary.finished_at)),
    ])?;
    output::line("")?;
    let columns = ["STEP", "STATE", "TRIES", "TOOK", "OUTPUT OR ERROR"];
    let mut rows = Rows::new(config, &columns).whole(&[1, 2, 3]).right(&[2, 3]);
    for step in &detail.steps {
        let said = step.error.as_deref().filter(|error| !error.is_empty());
        rows.add([
            Cell::new(text::cell(step.name.as_deref().unwrap_or("?"), 200)),
            rows.state(&state_word(step.status.as_deref())),
            Cell::new(step.attempts.len()),
            Cell::new(took(step.started_at, step.finished_at)),
            Cell::new(text::cell(said.or(step.output.as_deref()).unwrap_or_default(), CELL)),
        ]);
    }
    rows.print()?;
    for step in &detail.steps {
        let name = text::cell(step.name.as_deref().unwrap_or("?"), 200);
        let is_lost = |it: &&AttemptDetail| it.outcome.as_deref() == Some("lost");
        for AttemptDetail { attempt, owner, cause, .. } in step.attempts.iter().filter(is_lost) {
            let cause = text::cell(cause.as_deref().unwrap_or("?"), CELL);
            let owner = text::cell(owner, 250);
            output::line(&format!("{name}: attempt {attempt}, of {owner}, was lost: {cause}"))?;
        }
    }
    Ok(())
}
