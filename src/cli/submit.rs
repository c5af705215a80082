//! `submit`: asks for one run of a template, and waits for it if told to.

use std::{io::IsTerminal, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output,
    program::store,
    show, text, watch,
};
use crate::{
    config::Config,
    domain::{execution::ExecutionState, id::ExecutionId, trace::TraceParent},
    ports::control::{Control, ExecutionDetail, Start, Submission, Submitted, UnixMillis},
};

/// Between two looks at an execution that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// `--after` at most.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// After which a pending execution deserves a hint.
const STILL_PENDING: Duration = Duration::from_secs(10);

/// Submit a template: make an execution that a worker then runs.
///
/// Prints the id of the execution. With --wait or --watch the exit code follows the result: 0 success,
/// 3 failed, 4 cancelled. Ctrl-C ends the waiting, not the execution.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker submit release
  orchestrator-worker submit release --wait && echo released
  orchestrator-worker submit release --watch
  orchestrator-worker submit report --at 2026-08-01T06:30:00Z
  orchestrator-worker submit release --traceparent \"$TRACEPARENT\"")]
pub struct SubmitArgs {
    /// The template's name or id.
    template: String,
    /// Not before this moment: 2026-08-01T06:30:00Z, 2026-08-01T08:30:00+02:00.
    #[arg(long, value_name = "MOMENT", value_parser = text::moment)]
    at: Option<UnixMillis>,
    /// Not before this time has passed: 90s, 10m, 2h.
    #[arg(long, value_name = "TIME", conflicts_with = "at", value_parser = text::duration)]
    after: Option<Duration>,
    /// Continue this trace: the W3C traceparent of whoever asks, as in the variable TRACEPARENT.
    #[arg(long, value_name = "PLACE", value_parser = text::traceparent)]
    traceparent: Option<TraceParent>,
    /// Wait until the execution has ended, and show it.
    #[arg(long)]
    wait: bool,
    /// Wait, and show its steps as they go; one line a change, or one JSON object, where the output
    /// is not a terminal.
    #[arg(long)]
    watch: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct SubmittedJson {
    execution: String,
    template: String,
    template_name: String,
}

pub async fn submit(args: &SubmitArgs, config: &Config) -> Result<Exit, Failure> {
    let stores = store(config).await?;
    let start = match (args.at, args.after) {
        (None, Some(wait)) if wait > LONGEST_WAIT => return Err(Failure::TooFar),
        (Some(moment), _) => Start::At(moment),
        (None, Some(wait)) => Start::After(wait),
        (None, None) => Start::Now,
    };
    let (template, created_by) = (args.template.clone(), config.user.clone());
    let submission = Submission { template, created_by, start, traceparent: args.traceparent };
    let submitted = stores.control.submit(&submission).await?;
    if args.watch {
        return watch::execution(&*stores.control, &submitted.execution, args.output, config).await;
    }
    if !args.wait {
        print(submitted, args.output)?;
        return Ok(Exit::Success);
    }
    eprintln!("submitted {} as {}; waiting", submitted.template_name, submitted.execution);
    let detail = wait(&*stores.control, &submitted.execution).await?;
    let exit = exit_of(final_state(&detail));
    show::print(detail, args.output, config)?;
    Ok(exit)
}

/// The id alone, so that a script can keep it.
fn print(submitted: Submitted, word: OutputWord) -> Result<(), Failure> {
    match word {
        OutputWord::Table => {
            if std::io::stderr().is_terminal() {
                let Submitted { execution, template_name, .. } = &submitted;
                eprintln!(
                    "submitted {template_name}; `orchestrator-worker show {execution}` shows it"
                );
            }
            output::line(submitted.execution.as_str())
        }
        OutputWord::Json => output::json(&SubmittedJson {
            execution: submitted.execution.to_string(),
            template: submitted.template.to_string(),
            template_name: submitted.template_name,
        }),
    }
}

async fn wait(control: &dyn Control, id: &ExecutionId) -> Result<ExecutionDetail, Failure> {
    let began = Instant::now();
    let (mut said, mut hinted) = (String::new(), false);
    loop {
        let detail = control.show(id).await?;
        if final_state(&detail).is_some() {
            return Ok(detail);
        }
        let progress = progress(&detail);
        if progress != said {
            eprintln!("{progress}");
            said = progress;
        }
        let pending = detail.summary.status.as_deref() == Some(ExecutionState::Pending.as_str());
        if pending && !hinted && began.elapsed() >= STILL_PENDING {
            hinted = true;
            eprintln!("nobody has taken it yet; `orchestrator-worker run` starts a worker");
        }
        sleep(LOOK_EVERY).await;
    }
}

fn progress(detail: &ExecutionDetail) -> String {
    let ended = detail.steps.iter().filter(|step| step.finished_at.is_some()).count();
    let state = super::list::state_word(detail.summary.status.as_deref());
    format!("{state}: {ended} of {} steps have ended", detail.steps.len())
}

pub(super) fn final_state(detail: &ExecutionDetail) -> Option<ExecutionState> {
    let word = detail.summary.status.as_deref()?;
    ExecutionState::parse(word).ok().filter(|state| state.is_final())
}

pub(super) fn exit_of(state: Option<ExecutionState>) -> Exit {
    match state {
        Some(ExecutionState::Success) => Exit::Success,
        Some(ExecutionState::Cancelled) => Exit::ExecutionCancelled,
        Some(ExecutionState::Failed | ExecutionState::Pending | ExecutionState::Running) | None => {
            Exit::ExecutionFailed
        }
    }
}
