//! Rows read in a claim: admit them, put them back for later, or refuse them with a reason.
//!
//! **Invariant:** every combination of rows gets exactly one answer, and none panics; a refused
//! execution is told why in its own `error`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    deferral::Deferral,
    execution::StepState,
    id::{StepExecutionId, StepId},
    plan::Recorded,
    step::Action,
    workflow::{NodeId, Workflow},
};

/// Rows of an execution that is younger than this may still be on their way: the orchestrator
/// inserts the execution first and its steps after it, without a transaction.
pub const HALF_MADE: Duration = Duration::from_secs(60);

/// A row of `workflow_step_executions`, without its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRow {
    pub id: StepExecutionId,
    pub step: StepId,
    /// NULL counts as `pending`.
    pub status: Option<String>,
    /// Read for failed steps only; may be shortened.
    pub error: Option<String>,
    pub attempt: u32,
    pub key_gen: u32,
    pub retry_count: u32,
}

/// The step row that a node of the workflow writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSlot {
    pub id: StepExecutionId,
    /// Attempts started so far (`ow_attempt`).
    pub attempt: u32,
    pub key_gen: u32,
    /// Retries used so far.
    pub retry_count: u32,
}

impl StepSlot {
    /// Counts one more attempt. Anybody may have written the last number there is: it stays.
    pub fn count_attempt(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
    }
}

/// What the workers of this version and build can run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supported {
    pub kinds: BTreeSet<String>,
    pub functions: BTreeSet<String>,
}

impl Supported {
    /// What is unknown in a workflow, in words; `None` if all of it can be run.
    pub fn unknown_of(&self, workflow: &Workflow) -> Option<String> {
        workflow.nodes().iter().find_map(|node| {
            let what = self.unknown(&node.step.action)?;
            Some(format!("{what} of step {}", node.step.name))
        })
    }

    /// What is unknown about an action, in words; `None` if it can be run.
    fn unknown(&self, action: &Action) -> Option<String> {
        match action {
            Action::Func { name, .. } if !self.functions.contains(name) => {
                Some(format!("function {name:?}"))
            }
            _ if !self.kinds.contains(action.kind()) => {
                Some(format!("executor type {:?}", action.kind()))
            }
            Action::Http(_) | Action::Shell { .. } | Action::Func { .. } | Action::Other { .. } => {
                None
            }
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intake {
    Admit(Admitted),
    Defer(Deferral),
    Refuse(String),
}

/// Rows that fit the workflow. One entry a node in both lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub recorded: Vec<Recorded>,
    /// `None`: the row is missing and must be inserted.
    pub slots: Vec<Option<StepSlot>>,
}

/// Decides on one execution. `age` is the time since its creation by the store's clock.
pub fn intake(
    workflow: &Workflow,
    rows: Vec<StepRow>,
    age: Duration,
    supported: &Supported,
) -> Intake {
    if let Some(what) = supported.unknown_of(workflow) {
        return Intake::Defer(Deferral::Unknown(what));
    }
    let mut by_step: BTreeMap<StepId, StepRow> = BTreeMap::new();
    for row in rows {
        match by_step.get(&row.step) {
            Some(first) if first.id <= row.id => {}
            _ => drop(by_step.insert(row.step.clone(), row)),
        }
    }
    let mut admitted = Admitted { recorded: Vec::new(), slots: Vec::new() };
    for id in workflow.ids() {
        match take_row(workflow, id, &mut by_step) {
            Ok((recorded, slot)) => {
                admitted.recorded.push(recorded);
                admitted.slots.push(slot);
            }
            Err(reason) => return Intake::Refuse(reason),
        }
    }
    if age < HALF_MADE && admitted.slots.iter().any(Option::is_none) {
        return Intake::Defer(Deferral::HalfMade);
    }
    Intake::Admit(admitted)
}

fn take_row(
    workflow: &Workflow,
    id: NodeId,
    by_step: &mut BTreeMap<StepId, StepRow>,
) -> Result<(Recorded, Option<StepSlot>), String> {
    let step = &workflow.node(id).step;
    let Some(row) = by_step.remove(&step.id) else { return Ok((Recorded::Unstarted, None)) };
    let state = match row.status.as_deref() {
        None => StepState::Pending,
        Some(word) => {
            StepState::parse(word).map_err(|error| format!("step {} has an {error}", step.name))?
        }
    };
    let slot = StepSlot {
        id: row.id,
        attempt: row.attempt,
        key_gen: row.key_gen,
        retry_count: row.retry_count,
    };
    Ok((Recorded::from_row(state, row.error), Some(slot)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::definition::{Definition, RecordedStep};

    /// Two steps, `a` (a function of that name) and `b` (a shell).
    fn workflow() -> Workflow {
        let step = |id: &str, kind: &str| RecordedStep {
            id: id.into(),
            executor_type: Some(kind.into()),
            shell_script: Some("true".into()),
            ..RecordedStep::default()
        };
        let steps = vec![step("a", "func"), step("b", "shell")];
        let definition = Definition { template: "t".into(), name: "t".into(), steps };
        Workflow::try_new(&definition).expect("it is well made")
    }

    fn supported(kinds: &[&str], functions: &[&str]) -> Supported {
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Supported { kinds: set(kinds), functions: set(functions) }
    }

    fn row(id: &str, step: &str, status: Option<&str>) -> StepRow {
        StepRow {
            id: id.into(),
            step: step.into(),
            status: status.map(Into::into),
            error: None,
            attempt: 2,
            key_gen: 1,
            retry_count: 1,
        }
    }

    fn intake_of(rows: Vec<StepRow>, age: Duration) -> Intake {
        intake(&workflow(), rows, age, &supported(&["func", "shell"], &["a"]))
    }

    fn admitted(rows: Vec<StepRow>, age: Duration) -> Admitted {
        match intake_of(rows, age) {
            Intake::Admit(admitted) => admitted,
            other => panic!("not admitted: {other:?}"),
        }
    }

    #[test]
    fn each_status_is_taken_as_it_stands_and_none_as_pending() {
        let failed = |reason: &str| Recorded::Failed { reason: reason.into() };
        for (status, error, expected) in [
            (None, None, Recorded::Unstarted),
            (Some("pending"), Some("of an earlier run"), Recorded::Unstarted),
            (Some("running"), None, Recorded::InFlight),
            (Some("success"), None, Recorded::Success),
            (Some("skipped"), None, Recorded::Skipped),
            (Some("failed"), Some("exit status 1"), failed("exit status 1")),
            (Some("failed"), None, failed("no reason was recorded")),
        ] {
            let first = StepRow { error: error.map(Into::into), ..row("1", "a", status) };
            let taken = admitted(vec![row("2", "b", None), first], Duration::ZERO);
            assert_eq!(taken.recorded, [expected, Recorded::Unstarted], "{status:?}");
            let slot =
                |id: &str| Some(StepSlot { id: id.into(), attempt: 2, key_gen: 1, retry_count: 1 });
            assert_eq!(taken.slots, [slot("1"), slot("2")]);
        }
    }

    #[test]
    fn missing_rows_are_waited_for_a_minute_and_then_inserted() {
        let half = || vec![row("1", "a", Some("pending"))];
        let just_before = HALF_MADE.saturating_sub(Duration::from_millis(1));
        for (rows, age) in [(half(), Duration::ZERO), (half(), just_before), (vec![], just_before)]
        {
            assert_eq!(intake_of(rows, age), Intake::Defer(Deferral::HalfMade), "{age:?}");
        }
        let taken = admitted(half(), HALF_MADE);
        assert_eq!(taken.recorded, [Recorded::Unstarted, Recorded::Unstarted]);
        assert_eq!(taken.slots.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
        assert_eq!(admitted(vec![], HALF_MADE).slots, [None, None]);
    }

    #[test]
    fn of_two_rows_for_one_step_the_first_id_counts_and_foreign_rows_do_not() {
        let rows = [
            row("2", "a", Some("success")),
            row("1", "a", Some("running")),
            row("3", "a", Some("nonsense")),
            row("0", "of another template", Some("nonsense")),
            row("4", "b", Some("success")),
        ];
        for turn in 0..rows.len() {
            let mut rows = rows.to_vec();
            rows.rotate_left(turn);
            let taken = admitted(rows, Duration::ZERO);
            assert_eq!(taken.recorded, [Recorded::InFlight, Recorded::Success]);
            let ids = taken.slots.iter().flatten().map(|slot| slot.id.as_str());
            assert_eq!(ids.collect::<Vec<_>>(), ["1", "4"]);
        }
    }

    #[test]
    fn an_unknown_status_is_refused_by_name_even_where_rows_are_missing() {
        for word in ["", "Running", "cancelled", "paused"] {
            let answer = intake_of(vec![row("1", "b", Some(word))], Duration::ZERO);
            assert_eq!(answer, Intake::Refuse(format!("step b has an unknown status {word:?}")));
        }
    }

    #[test]
    fn what_this_worker_cannot_run_is_left_for_another_before_anything_else() {
        let rows = || vec![row("1", "a", Some("nonsense"))];
        for (supported, what) in [
            (supported(&["func", "shell"], &["other"]), "function \"a\" of step a"),
            (supported(&["shell"], &[]), "function \"a\" of step a"),
            (supported(&["shell"], &["a"]), "executor type \"func\" of step a"),
            (supported(&["func"], &["a"]), "executor type \"shell\" of step b"),
            (supported(&[], &["a"]), "executor type \"func\" of step a"),
        ] {
            let answer = intake(&workflow(), rows(), HALF_MADE, &supported);
            assert_eq!(answer, Intake::Defer(Deferral::Unknown(what.into())));
        }
    }
}
