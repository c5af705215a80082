//! What has changed from one look to the next.
//!
//! **Invariant:** these are functions of two looks; what they tell is told in one line each.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::result;
use crate::{
    cli::{
        list::{lasted, state_word},
        text,
    },
    domain::execution::StepState,
    ports::control::{ExecutionDetail, ExecutionSummary, StepDetail},
};

/// Longest error in a line.
const ERROR: usize = 300;

/// What is new about an execution, or about a step of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    execution: String,
    /// `None`: it is about the execution itself.
    step_execution: Option<String>,
    step: Option<String>,
    state: Option<String>,
    /// So far; of a step.
    attempts: Option<usize>,
    /// Who holds it; of an execution.
    owner: Option<String>,
    error: Option<String>,
    took_ms: Option<u128>,
}

/// Before the first look every step is pending, and nothing is known about the execution. That it has
/// ended is the last change.
pub fn changes(before: Option<&ExecutionDetail>, now: &ExecutionDetail) -> Vec<Change> {
    let steps = before.map_or(&[][..], |detail| &detail.steps);
    let known: BTreeMap<&str, _> =
        steps.iter().map(|step| (step.step_execution.as_str(), standing(step))).collect();
    let pending = (Some(StepState::Pending.as_str()), 0);
    let is_new = |step: &&StepDetail| {
        standing(step) != *known.get(step.step_execution.as_str()).unwrap_or(&pending)
    };
    let of_steps = now.steps.iter().filter(is_new).map(|step| of_step(step, &now.summary));
    let mut changes: Vec<Change> = of_steps.collect();
    if before.is_none_or(|before| held(&before.summary) != held(&now.summary)) {
        let place = if result(now).is_some() { changes.len() } else { 0 };
        changes.insert(place, of_execution(&now.summary));
    }
    changes
}

/// New ones and those that stand differently, oldest first.
pub fn new_in_list<'n>(
    before: &[ExecutionSummary],
    now: &'n [ExecutionSummary],
) -> Vec<&'n ExecutionSummary> {
    let known: BTreeMap<_, _> = before.iter().map(|one| (&one.execution, held(one))).collect();
    now.iter().rev().filter(|one| known.get(&one.execution) != Some(&held(one))).collect()
}

/// Attempts are read before their step: one that runs has had one, even if that was not seen yet.
fn standing(step: &StepDetail) -> (Option<&str>, usize) {
    let status = step.status.as_deref();
    let waits = [StepState::Pending, StepState::Skipped].map(|state| Some(state.as_str()));
    (status, step.attempts.len().max(usize::from(!waits.contains(&status))))
}

fn held(summary: &ExecutionSummary) -> (Option<&str>, &str) {
    (summary.status.as_deref(), &summary.owner)
}

fn of_step(step: &StepDetail, of: &ExecutionSummary) -> Change {
    Change {
        execution: of.execution.to_string(),
        step_execution: Some(step.step_execution.clone()),
        step: step.name.clone(),
        state: step.status.clone(),
        attempts: Some(standing(step).1),
        owner: None,
        error: step.error.clone().filter(|error| !error.is_empty()),
        took_ms: lasted(step.started_at, step.finished_at).map(|took| took.as_millis()),
    }
}

fn of_execution(summary: &ExecutionSummary) -> Change {
    Change {
        execution: summary.execution.to_string(),
        step_execution: None,
        step: None,
        state: summary.status.clone(),
        attempts: None,
        owner: Some(summary.owner.clone()).filter(|owner| !owner.is_empty()),
        error: summary.error.clone().filter(|error| !error.is_empty()),
        took_ms: lasted(summary.started_at, summary.finished_at).map(|took| took.as_millis()),
    }
}

impl Change {
    /// `read: failed after 11.1s, attempt 2: the script ended with exit code 1`
    pub fn line(&self) -> String {
        let name = match &self.step_execution {
            Some(_) => text::cell(self.step.as_deref().unwrap_or("?"), 200),
            None => self.execution.clone(),
        };
        let runs = self.state.as_deref() == Some(StepState::Running.as_str());
        let took = self.took_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        let parts = [
            took.map(|took| format!(" after {}", text::took(took))),
            self.attempts.filter(|attempts| *attempts > 1).map(|n| format!(", attempt {n}")),
            self.owner.as_ref().map(|owner| format!(", held by {owner}")),
            // Of a step that runs it is about a former attempt.
            self.error.as_ref().filter(|_| !runs).map(|e| format!(": {}", text::cell(e, ERROR))),
        ];
        let said: String = parts.into_iter().flatten().collect();
        text::one_line(&format!("{name}: {}{said}", state_word(self.state.as_deref())), usize::MAX)
    }
}

/// `930c144f-9878-4e04-84ed-09ea9e3e69ea (release): running, held by pod-1`
pub fn list_line(one: &ExecutionSummary) -> String {
    let template = text::cell(one.template_name.as_deref().unwrap_or("?"), 200);
    let state = state_word(one.status.as_deref());
    let holder = if one.owner.is_empty() { "" } else { ", held by " };
    text::one_line(
        &format!("{} ({template}): {state}{holder}{}", one.execution, one.owner),
        usize::MAX,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::trace::Origin,
        ports::control::{AttemptDetail, UnixMillis},
    };

    fn summary(id: &str, state: &str, owner: &str) -> ExecutionSummary {
        let ended = !matches!(state, "pending" | "running");
        ExecutionSummary {
            execution: id.into(),
            template: Some("t".into()),
            template_name: Some("release".into()),
            status: Some(state.into()),
            owner: owner.into(),
            error: None,
            created_by: None,
            created_at: None,
            not_before: None,
            started_at: Some(UnixMillis(1_000)).filter(|_| state != "pending"),
            finished_at: Some(UnixMillis(12_100)).filter(|_| ended),
        }
    }

    fn step(name: &str, state: &str, attempts: u32, error: &str) -> StepDetail {
        let attempt = |attempt| AttemptDetail {
            attempt,
            fence: 1,
            owner: "a".into(),
            started_at: None,
            finished_at: None,
            outcome: None,
            cause: None,
        };
        let ended = matches!(state, "success" | "failed");
        StepDetail {
            step_execution: name.into(),
            name: Some(name.into()),
            executor_type: None,
            status: Some(state.into()),
            retry_count: 0,
            output: None,
            error: Some(error.into()),
            started_at: Some(UnixMillis(1_000)).filter(|_| ended),
            finished_at: Some(UnixMillis(1_014)).filter(|_| ended),
            attempts: (1..=attempts).map(attempt).collect(),
        }
    }

    fn look(state: &str, owner: &str, steps: [StepDetail; 2]) -> ExecutionDetail {
        let (summary, origin) = (summary("x", state, owner), Origin::default());
        ExecutionDetail { summary, fence: 1, origin, steps: steps.into() }
    }

    #[test]
    fn each_change_is_told_once_and_the_end_last() {
        let pending = |name| step(name, "pending", 0, "");
        let mut before = None;
        for (now, expected) in [
            (look("pending", "", [pending("a"), pending("b")]), &["x: pending"][..]),
            (look("pending", "", [pending("a"), pending("b")]), &[]),
            (
                look("running", "w", [step("a", "running", 0, ""), pending("b")]),
                &["x: running, held by w", "a: running"],
            ),
            (look("running", "w", [step("a", "running", 1, ""), pending("b")]), &[]),
            (
                look("running", "w", [step("a", "success", 1, ""), step("b", "running", 1, "")]),
                &["a: success after 14ms", "b: running"],
            ),
            (
                look("running", "v", [step("a", "success", 1, ""), step("b", "running", 2, "no")]),
                &["x: running, held by v", "b: running, attempt 2"],
            ),
            (
                look("cancelled", "v", [step("a", "success", 1, ""), step("b", "running", 2, "")]),
                &["x: cancelled after 11.1s, held by v"],
            ),
            (
                look(
                    "cancelled",
                    "",
                    [step("a", "success", 1, ""), step("b", "failed", 2, "o\nh")],
                ),
                &["b: failed after 14ms, attempt 2: o h", "x: cancelled after 11.1s"],
            ),
            (
                look(
                    "cancelled",
                    "",
                    [step("a", "success", 1, ""), step("b", "failed", 2, "o\nh")],
                ),
                &[],
            ),
        ] {
            let told: Vec<String> =
                changes(before.as_ref(), &now).iter().map(Change::line).collect();
            assert_eq!(told, expected);
            before = Some(now);
        }
    }

    #[test]
    fn of_an_execution_that_is_looked_at_late_what_stands_is_told() {
        let now = look("running", "w", [step("a", "success", 1, ""), step("b", "pending", 0, "")]);
        let told: Vec<String> = changes(None, &now).iter().map(Change::line).collect();
        assert_eq!(told, ["x: running, held by w", "a: success after 14ms"]);
    }

    #[test]
    fn a_list_tells_what_is_new_in_it_oldest_first() {
        let looks = [
            vec![],
            vec![summary("2", "pending", ""), summary("1", "running", "w")],
            vec![
                summary("3", "pending", ""),
                summary("2", "pending", ""),
                summary("1", "success", ""),
            ],
            vec![summary("3", "pending", "")],
        ];
        let expected = [
            &["1 (release): running, held by w", "2 (release): pending"][..],
            &["1 (release): success", "3 (release): pending"],
            &[],
        ];
        for (pair, expected) in looks.windows(2).zip(expected) {
            let told: Vec<String> =
                new_in_list(&pair[0], &pair[1]).into_iter().map(list_line).collect();
            assert_eq!(told, expected);
        }
    }
}
