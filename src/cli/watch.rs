//! `--watch`: an execution, or the list of them, while it changes.
//!
//! **Invariant:** each change is told once, in a line of its own; on a terminal the whole is drawn
//! over itself instead.

mod block;
mod changes;

use std::time::Duration;

use comfy_table::Cell;
use serde::Serialize;
use tokio::time::sleep;

use self::{
    block::{Block, in_view, rows},
    changes::{Change, changes, list_line, new_in_list},
};
use super::{
    OutputWord,
    exit::{Exit, Failure},
    list::{self, SummaryJson, state_word},
    output::{self, Rows},
    show,
    submit::{exit_of, final_state},
    text,
};
use crate::{
    config::Config,
    domain::{
        execution::{ExecutionState, StepState},
        explain::StepFact,
        id::ExecutionId,
    },
    ports::control::{Control, ExecutionDetail, ExecutionSummary, Filter, StepDetail},
};

/// Between two looks at an execution.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks at a list.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// Lines of a block that are no steps.
const AROUND_STEPS: usize = 3;

/// Follows an execution until it has ended, then shows it; the exit code follows the result.
pub async fn execution(
    control: &dyn Control,
    id: &ExecutionId,
    word: OutputWord,
    config: &Config,
) -> Result<Exit, Failure> {
    let mut block = Block::on_terminal(word);
    let mut before = None;
    loop {
        let now = control.show(id).await?;
        let news = changes(before.as_ref(), &now);
        let read = match (&mut block, word) {
            (Some(block), _) => block.draw(&picture(control, &now, config).await?)?,
            (None, OutputWord::Json) => json_lines(&news)?,
            (None, OutputWord::Table) => lines(news.iter().map(Change::line))?,
        };
        match result(&now) {
            _ if !read => return Ok(Exit::Success),
            Some(end) => {
                print_last(now, block, word, config)?;
                return Ok(exit_of(Some(end)));
            }
            None => before = Some(now),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// As a whole, for people; programs have read all of it by then.
fn print_last(
    detail: ExecutionDetail,
    block: Option<Block>,
    word: OutputWord,
    config: &Config,
) -> Result<(), Failure> {
    match (block, word) {
        (Some(mut block), _) => block.draw("").map(drop)?,
        (None, OutputWord::Table) => output::line("")?,
        (None, OutputWord::Json) => return Ok(()),
    }
    show::print(detail, word, config)
}

/// Follows the list until nobody reads on.
pub async fn list(
    control: &dyn Control,
    filter: &Filter,
    word: OutputWord,
    config: &Config,
) -> Result<Exit, Failure> {
    let mut block = Block::on_terminal(word);
    let mut before = Vec::new();
    loop {
        let now = control.list(filter).await?;
        let news = new_in_list(&before, &now);
        let read = match (&mut block, word) {
            (Some(block), _) => block.draw(&list::rows(config, &now).text())?,
            (None, OutputWord::Json) => {
                json_lines(&news.into_iter().cloned().map(SummaryJson::from).collect::<Vec<_>>())?
            }
            (None, OutputWord::Table) => lines(news.into_iter().map(list_line))?,
        };
        if !read {
            return Ok(Exit::Success);
        }
        before = now;
        sleep(LIST_EVERY).await;
    }
}

/// How an execution has ended, once nothing of it runs any more: what was cancelled a moment ago is
/// stopped by whoever holds it.
pub fn result(detail: &ExecutionDetail) -> Option<ExecutionState> {
    let stopping = !detail.summary.owner.is_empty() && detail.steps.iter().any(runs);
    final_state(detail).filter(|_| !stopping)
}

fn runs(step: &StepDetail) -> bool {
    step.status.as_deref() == Some(StepState::Running.as_str())
}

/// Returns whether anybody reads on.
fn lines(lines: impl Iterator<Item = String>) -> Result<bool, Failure> {
    output::piece(&lines.map(|line| line + "\n").collect::<String>())
}

/// One object a line.
fn json_lines<T: Serialize>(values: &[T]) -> Result<bool, Failure> {
    let texts: Result<Vec<_>, _> = values.iter().map(serde_json::to_string).collect();
    lines(texts.map_err(|error| Failure::Print(error.into()))?.into_iter())
}

/// The execution and its steps, as many as there are rows for.
async fn picture(
    control: &dyn Control,
    detail: &ExecutionDetail,
    config: &Config,
) -> Result<String, Failure> {
    let facts = control.facts(&detail.summary.execution).await?;
    let running: Vec<bool> = detail.steps.iter().map(runs).collect();
    let columns = ["STEP", "STATE", "TRIES", "TOOK"];
    let mut table = Rows::new(config, &columns).whole(&[1, 2, 3]).right(&[2, 3]);
    for place in in_view(&running, rows().saturating_sub(AROUND_STEPS)) {
        let step = &detail.steps[place];
        table.add([
            Cell::new(text::cell(step.name.as_deref().unwrap_or("?"), 200)),
            table.state(&state_word(step.status.as_deref())),
            Cell::new(step.attempts.len()),
            Cell::new(so_far(step, &facts.steps)),
        ]);
    }
    Ok(format!("{}\n{}", heading(&detail.summary), table.text()))
}

/// What stands above the steps, in two lines.
fn heading(summary: &ExecutionSummary) -> String {
    let pending = summary.status.as_deref() == Some(ExecutionState::Pending.as_str());
    let hint = if pending { "`orchestrator-worker explain` says why it is pending" } else { "" };
    format!("{}\n{hint}", list_line(summary))
}

/// How long a step took, or how long its attempt has run by the store's clock.
fn so_far(step: &StepDetail, facts: &[StepFact]) -> String {
    let of_step = |fact: &&StepFact| Some(&fact.name) == step.name.as_ref();
    match facts.iter().find(of_step).and_then(|fact| fact.running_for) {
        Some(since) if runs(step) => text::took(since),
        Some(_) | None => list::took(step.started_at, step.finished_at),
    }
}
