//! `logs`: what the steps of an execution printed, once or for as long as it goes on.
//!
//! **Invariant:** while it follows, nothing that was stored at one of its looks is left out or
//! printed twice, and what was cut in between is said.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output,
    program::store,
    submit::{exit_of, final_state},
    text,
    watch::result,
};
use crate::{
    config::Config,
    domain::{
        cut::{self, Added, since},
        execution::{ExecutionState, StepState},
    },
    ports::control::{ExecutionDetail, StepDetail},
};

/// Between two looks at an execution that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Print what the steps of an execution have printed, and their errors.
///
/// It prints what is stored: all that a step printed when it has ended, its middle cut if it is longer
/// than 64 KiB; of a shell step that runs, what it had printed at most 2 s ago (unless its worker's
/// `shell.live_output` is false). Control characters are replaced.
///
/// With -f it looks every 500 ms for what has been stored since, and goes on until the execution (or the named step) has ended, and the exit code follows
/// the result: 0 success, 3 failed, 4 cancelled.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker logs 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11
  orchestrator-worker logs 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11 build -f
  orchestrator-worker logs 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11 --output json")]
pub struct LogsArgs {
    /// The execution's id, as `submit` and `list` print it.
    execution: String,
    /// Only this step: its name.
    step: Option<String>,
    /// Go on until it has ended.
    #[arg(short, long)]
    follow: bool,
    /// How the result is printed; json is one document, with -f at the end.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct LogsJson<'a> {
    execution: &'a str,
    state: Option<&'a str>,
    steps: Vec<StepJson<'a>>,
}

#[derive(Serialize)]
struct StepJson<'a> {
    step_execution: &'a str,
    name: Option<&'a str>,
    state: Option<&'a str>,
    output: Option<&'a str>,
    error: Option<&'a str>,
}

pub async fn logs(args: &LogsArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let id = args.execution.as_str().into();
    let mut scroll = Scroll::default();
    loop {
        let detail = control.show(&id).await?;
        let steps = args.chosen(&detail)?;
        scroll.headings = steps.len() > 1;
        let end = if args.follow { ended(&detail, &steps, args) } else { Some(Exit::Success) };
        match (args.output, end) {
            (OutputWord::Table, _) => {
                let mut news: String = steps.iter().map(|step| scroll.news(step)).collect();
                if end.is_some() {
                    scroll.end_line(&mut news);
                }
                if !output::piece(&news)? {
                    return Ok(Exit::Success);
                }
            }
            (OutputWord::Json, Some(_)) => output::json(&json(args, &detail, &steps))?,
            (OutputWord::Json, None) => {}
        }
        match end {
            Some(exit) => return Ok(exit),
            None => sleep(LOOK_EVERY).await,
        }
    }
}

impl LogsArgs {
    fn chosen<'d>(&self, detail: &'d ExecutionDetail) -> Result<Vec<&'d StepDetail>, Failure> {
        let Some(wanted) = &self.step else { return Ok(detail.steps.iter().collect()) };
        let is_meant = |step: &&StepDetail| step.name.as_ref() == Some(wanted);
        let chosen: Vec<_> = detail.steps.iter().filter(is_meant).collect();
        if !chosen.is_empty() {
            return Ok(chosen);
        }
        let names: Vec<&str> =
            detail.steps.iter().filter_map(|step| step.name.as_deref()).collect();
        Err(Failure::NoStep {
            execution: self.execution.clone(),
            step: wanted.clone(),
            steps: text::cell(&names.join(", "), 1000),
        })
    }
}

/// The exit code, once nothing will be added any more.
fn ended(detail: &ExecutionDetail, steps: &[&StepDetail], args: &LogsArgs) -> Option<Exit> {
    let states: Vec<_> = steps.iter().map(|step| state_of(step)).collect();
    let end = final_state(detail);
    let all_are_final = states.iter().all(|state| state.is_some_and(StepState::is_final));
    if args.step.is_some() && all_are_final {
        let succeeded = states.iter().all(|state| *state == Some(StepState::Success));
        let cancelled = end == Some(ExecutionState::Cancelled);
        return Some(match (succeeded, cancelled) {
            (true, _) => Exit::Success,
            (false, true) => Exit::ExecutionCancelled,
            (false, false) => Exit::ExecutionFailed,
        });
    }
    result(detail).map(|end| exit_of(Some(end)))
}

fn state_of(step: &StepDetail) -> Option<StepState> {
    step.status.as_deref().and_then(|word| StepState::parse(word).ok())
}

fn json<'a>(
    args: &'a LogsArgs,
    detail: &'a ExecutionDetail,
    steps: &[&'a StepDetail],
) -> LogsJson<'a> {
    let step = |step: &&'a StepDetail| StepJson {
        step_execution: &step.step_execution,
        name: step.name.as_deref(),
        state: step.status.as_deref(),
        output: step.output.as_deref(),
        error: step.error.as_deref(),
    };
    LogsJson {
        execution: &args.execution,
        state: detail.summary.status.as_deref(),
        steps: steps.iter().map(step).collect(),
    }
}

/// What has been printed, so that the next look adds to it.
#[derive(Default)]
struct Scroll {
    /// Each step's text stands under its name.
    headings: bool,
    /// The step whose text was printed last.
    under: Option<String>,
    /// The last line has no end yet.
    in_line: bool,
    steps: BTreeMap<String, Said>,
}

#[derive(Default)]
struct Said {
    output: String,
    /// The attempts there were then.
    attempts: usize,
    error: bool,
}

impl Scroll {
    /// What is to be printed of a step since the last look.
    fn news(&mut self, step: &StepDetail) -> String {
        let said = self.steps.entry(step.step_execution.clone()).or_default();
        let (output, error) = (said.new_output(step), said.new_error(step));
        let mut text = String::new();
        if output.is_empty() && error.is_none() {
            return text;
        }
        if self.headings && self.under.as_ref() != Some(&step.step_execution) {
            self.end_line(&mut text);
            let blank = if self.under.is_some() { "\n" } else { "" };
            let name = text::cell(step.name.as_deref().unwrap_or("?"), 200);
            writeln!(text, "{blank}==> {name} <==").expect("a text takes all");
            self.under = Some(step.step_execution.clone());
        }
        text.push_str(&text::plain(&output));
        self.in_line = if text.is_empty() { self.in_line } else { !text.ends_with('\n') };
        if let Some(error) = error {
            self.end_line(&mut text);
            writeln!(text, "error: {}", text::plain(error)).expect("a text takes all");
        }
        text
    }

    fn end_line(&mut self, text: &mut String) {
        if std::mem::take(&mut self.in_line) {
            text.push('\n');
        }
    }
}

impl Said {
    fn new_output(&mut self, step: &StepDetail) -> String {
        let (before, now) = (&self.output, step.output.as_deref().unwrap_or_default());
        if before == now {
            return String::new();
        }
        let again = step.attempts.len() != self.attempts && !before.is_empty();
        let news = match if again { Added::Anew(now) } else { since(before, now) } {
            Added::More(more) => more.to_owned(),
            Added::Gap { bytes, then } => cut::note(bytes) + then,
            Added::Anew("") => String::new(),
            Added::Anew(all) => format!("\n[… from the beginning …]\n{all}"),
        };
        self.output = now.to_owned();
        self.attempts = step.attempts.len();
        news
    }

    /// The error of a step that has ended; between two attempts it stands for the last one.
    fn new_error<'s>(&mut self, step: &'s StepDetail) -> Option<&'s str> {
        let error = step.error.as_deref().filter(|error| !error.is_empty())?;
        let is_new = !self.error && state_of(step) != Some(StepState::Running);
        self.error |= is_new;
        is_new.then_some(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::control::AttemptDetail;

    fn step(name: &str, attempts: u32, state: &str, output: &str, error: &str) -> StepDetail {
        let attempt = |attempt| AttemptDetail {
            attempt,
            fence: 1,
            owner: "a".into(),
            started_at: None,
            finished_at: None,
            outcome: None,
            cause: None,
        };
        StepDetail {
            step_execution: name.into(),
            name: Some(name.into()),
            executor_type: Some("shell".into()),
            status: Some(state.into()),
            retry_count: 0,
            output: Some(output.into()).filter(|output: &String| !output.is_empty()),
            error: Some(error.into()).filter(|error: &String| !error.is_empty()),
            started_at: None,
            finished_at: None,
            attempts: (1..=attempts).map(attempt).collect(),
        }
    }

    #[test]
    fn each_look_adds_what_is_new_under_the_name_of_its_step() {
        let mut scroll = Scroll { headings: true, ..Scroll::default() };
        for (step, expected) in [
            (step("a", 1, "running", "", ""), ""),
            (step("a", 1, "running", "one", ""), "==> a <==\none"),
            (step("b", 1, "running", "x\n", ""), "\n\n==> b <==\nx\n"),
            (step("b", 1, "running", "x\ny\x1b\n", ""), "y\u{fffd}\n"),
            (step("a", 1, "running", "one two", "of a former attempt"), "\n==> a <==\n two"),
            (step("a", 1, "failed", "one two", "it broke"), "\nerror: it broke\n"),
            (step("a", 1, "failed", "one two", "it broke"), ""),
            (step("b", 2, "running", "x\ny\x1b\n", ""), ""),
            (
                step("b", 2, "success", "x\ny\x1b\nz\n", ""),
                "\n==> b <==\n\n[… from the beginning …]\nx\ny\u{fffd}\nz\n",
            ),
        ] {
            assert_eq!(scroll.news(&step), expected, "{step:?}");
        }
    }

    #[test]
    fn what_was_cut_between_two_looks_is_said_once() {
        let mut scroll = Scroll::default();
        let cut = |bytes, end: &str| format!("0123{}{end}", cut::note(bytes));
        for (output, expected) in [
            ("01234567".to_owned(), "01234567"),
            (cut(2, "67ab"), "ab"),
            (cut(22, "wxyz"), "\n[… 16 bytes were cut here …]\nwxyz"),
            (cut(22, "wxyz"), ""),
        ] {
            assert_eq!(scroll.news(&step("a", 1, "running", &output, "")), expected);
        }
    }
}
