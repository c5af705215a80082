//! `run`: the worker.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Cell;
use serde::Serialize;

use super::{
    OutputWord,
    apply::{apply_file, load_all},
    exit::{Exit, Failure},
    output::{self, Rows},
    text,
    workflow_file::WorkflowFile,
};
use crate::{
    app::Daemon,
    config::{Config, Flags},
    domain::trace::Trace,
    ports::control::{Control, Start, Submission},
    telemetry::Telemetry,
    worker::{Finished, Summary},
};

/// Longest error in the table at the end.
const CELL: usize = 300;

/// Run the worker: claim executions, run their steps, record what happens.
///
/// Works until it is stopped: the first SIGTERM or Ctrl-C lets running steps end within
/// `drain_deadline` and hands the rest to other workers, the second ends at once. SIGHUP reads the
/// log filter again; `database.password_file` is read at every connect, without a signal. Any number of
/// workers may share one database.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker run --submit deploy/examples --until-idle
      Apply and run all workflow files of a folder, show how they ended, stop.
  orchestrator-worker run --slots 20 --database-url mysql://USER@HOST/NAME
      Work on a MySQL database until stopped, 20 executions at once.")]
pub struct RunArgs {
    /// A workflow file, or a folder of them, to apply and submit first; may be given again.
    #[arg(long, value_name = "PATH")]
    submit: Vec<PathBuf>,
    /// Stop when nothing is left to do; exit 3 if an execution failed.
    #[arg(long)]
    until_idle: bool,
    /// Executions at one time [default: 10]
    #[arg(long)]
    slots: Option<usize>,
    /// Name of this worker; a pod's own name comes first [default: the host's name and a suffix]
    #[arg(long)]
    name: Option<String>,
    /// Where to serve /livez, /readyz and /metrics, or off [default: 127.0.0.1:9400, in a pod
    /// 0.0.0.0:9400]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// How long running steps may go on after the first signal [default: 60s]
    #[arg(long, value_name = "TIME")]
    drain_deadline: Option<String>,
    /// How the table at the end of --until-idle is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

impl RunArgs {
    pub fn flags(&self, flags: Flags) -> Flags {
        flags
            .with("--slots", "slots", self.slots)
            .with("--name", "name", self.name.as_ref())
            .with("--admin-listen", "admin.listen", self.admin_listen.as_ref())
            .with("--drain-deadline", "drain_deadline", self.drain_deadline.as_ref())
    }
}

pub async fn run(
    args: &RunArgs,
    config: &Config,
    telemetry: &Telemetry,
    reload: impl Fn() + Send + 'static,
) -> Result<Exit, Failure> {
    let files = load_all(&args.submit, config)?;
    let daemon = Daemon::start(config.clone(), args.until_idle, telemetry, reload).await?;
    let Some(stores) = daemon.open_store().await? else { return Ok(Exit::Success) };
    for file in &files {
        apply_and_submit(&*stores.control, file, &config.user).await?;
    }
    let summary = daemon.work(stores).await?;
    if !args.until_idle {
        return Ok(Exit::Success);
    }
    print(&summary, args.output, config)?;
    Ok(exit_of(&summary))
}

async fn apply_and_submit(
    control: &dyn Control,
    file: &WorkflowFile,
    user: &str,
) -> Result<(), Failure> {
    apply_file(control, file).await?;
    let template = file.definition.template.to_string();
    let submission =
        Submission { template, created_by: user.into(), start: Start::Now, traceparent: None };
    let submitted = control.submit(&submission).await?;
    let origin = control.show(&submitted.execution).await?.origin;
    let trace = Trace::of(&submitted.execution, &origin);
    tracing::info!(
        event = "execution.submitted",
        trace_id = %trace.id(),
        span_id = %trace.root(),
        execution.id = %submitted.execution,
        workflow.name = submitted.template_name,
        "submitted"
    );
    Ok(())
}

const fn exit_of(summary: &Summary) -> Exit {
    match (summary.failed, summary.cancelled) {
        (0, 0) => Exit::Success,
        (0, _) => Exit::ExecutionCancelled,
        (_, _) => Exit::ExecutionFailed,
    }
}

#[derive(Serialize)]
struct SummaryJson<'a> {
    finished: Vec<FinishedJson<'a>>,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    handed_back: u64,
    lost: u64,
}

#[derive(Serialize)]
struct FinishedJson<'a> {
    execution: &'a str,
    workflow: &'a str,
    state: &'static str,
    error: Option<&'a str>,
    took_ms: u128,
}

impl<'a> From<&'a Finished> for FinishedJson<'a> {
    fn from(one: &'a Finished) -> Self {
        Self {
            execution: one.execution.as_str(),
            workflow: &one.workflow,
            state: one.state.as_str(),
            error: one.error.as_deref(),
            took_ms: one.took.as_millis(),
        }
    }
}

fn print(summary: &Summary, word: OutputWord, config: &Config) -> Result<(), Failure> {
    match word {
        OutputWord::Json => output::json(&json(summary)),
        OutputWord::Table => table(summary, config),
    }
}

fn json(summary: &Summary) -> SummaryJson<'_> {
    SummaryJson {
        finished: summary.finished.iter().map(FinishedJson::from).collect(),
        succeeded: summary.succeeded,
        failed: summary.failed,
        cancelled: summary.cancelled,
        handed_back: summary.handed_back,
        lost: summary.lost,
    }
}

fn table(summary: &Summary, config: &Config) -> Result<(), Failure> {
    let columns = ["EXECUTION", "STATE", "TOOK", "WORKFLOW"];
    let mut rows = Rows::new(config, &columns).whole(&[0, 1, 2]).right(&[2]);
    for one in &summary.finished {
        rows.add([
            Cell::new(&one.execution),
            rows.state(one.state.as_str()),
            Cell::new(text::took(one.took)),
            Cell::new(text::cell(&one.workflow, 200)),
        ]);
    }
    if !rows.is_empty() {
        rows.print()?;
        output::line("")?;
    }
    for one in &summary.finished {
        if let Some(error) = &one.error {
            output::paragraph(&format!("{}: {}", name(one), text::cell(error, CELL)))?;
        }
    }
    output::line(&counts(summary))
}

/// What was refused was never a workflow.
fn name(one: &Finished) -> &str {
    if one.workflow.is_empty() { one.execution.as_str() } else { &one.workflow }
}

/// `2 succeeded, 1 failed`: what is not zero.
fn counts(summary: &Summary) -> String {
    let listed = summary.finished.len() as u64;
    let ended = summary.succeeded + summary.failed + summary.cancelled;
    let parts: Vec<String> = [
        (summary.succeeded, "succeeded"),
        (summary.failed, "failed"),
        (summary.cancelled, "cancelled"),
        (summary.handed_back, "handed back"),
        (summary.lost, "lost to other workers"),
        (ended.saturating_sub(listed), "not listed"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    if parts.is_empty() { "there was nothing to do".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_follows_what_this_process_finished() {
        let summary = |succeeded, failed, cancelled| Summary {
            succeeded,
            failed,
            cancelled,
            ..Summary::default()
        };
        for (summary, exit, said) in [
            (summary(0, 0, 0), Exit::Success, "there was nothing to do"),
            (summary(3, 0, 0), Exit::Success, "3 succeeded, 3 not listed"),
            (
                summary(3, 1, 1),
                Exit::ExecutionFailed,
                "3 succeeded, 1 failed, 1 cancelled, 5 not listed",
            ),
            (summary(3, 0, 1), Exit::ExecutionCancelled, "3 succeeded, 1 cancelled, 4 not listed"),
        ] {
            assert_eq!(exit_of(&summary), exit, "{summary:?}");
            assert_eq!(counts(&summary), said);
        }
    }
}
