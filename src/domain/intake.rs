//! Rows read in a claim: admit them, put them back for later, or refuse them with a reason.
//!
//! **Invariant:** every combination of rows gets exactly one answer, and none panics; a refused
//! execution is told why in its own `error`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::{
    execution::StepState,
    id::{ExecutionId, StepExecutionId, StepId},
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

/// Why an execution is put back for a while.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Deferral {
    #[error("its lock is held by another")]
    Locked,
    #[error("the lock of its template is held by another")]
    TemplateBusy,
    #[error("its step rows are not all there yet")]
    HalfMade,
    #[error("this worker does not know {0}")]
    Unknown(String),
    #[error("its rows could not be written: {0}")]
    Unwritable(String),
}

impl Deferral {
    /// Why it is failed rather than put back once more, if it is; `unknown_for` is the time for which
    /// this process has met it as unknown.
    pub fn refusal(&self, unknown_for: Duration, unknown_after: Duration) -> Option<String> {
        match self {
            Self::Unknown(_) if unknown_for >= unknown_after => {
                Some(format!("{self}, and no newer one has taken it"))
            }
            Self::Unknown(_)
            | Self::HalfMade
            | Self::Locked
            | Self::TemplateBusy
            | Self::Unwritable(_) => None,
        }
    }
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

/// How often this process has put each execution back, and for how long it has been waiting for a
/// worker that knows it.
#[derive(Debug, Default)]
pub struct Deferrals {
    known: HashMap<ExecutionId, Waiting>,
    alone_until: HashMap<ExecutionId, Duration>,
}

#[derive(Debug)]
struct Waiting {
    deferrals: u32,
    last: Duration,
    /// The first deferral as [`Deferral::Unknown`], none of another kind since.
    unknown_since: Option<Duration>,
}

impl Deferrals {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(5);
    /// An execution that this process has not put back for so long was in other hands meanwhile: its
    /// wait begins anew. Far more than the longest back-off, because the other workers of a fleet
    /// put it back as well.
    const FORGOTTEN: Duration = Duration::from_secs(5 * 60);
    /// Beyond this many the counts start anew; only the back-off gets shorter by it.
    const MOST: usize = 100_000;

    /// Counts one more deferral; returns the back-off (250 ms doubling to 5 s) and for how long the
    /// execution has waited for a worker that knows it. `now` is the age of this process.
    pub fn defer(
        &mut self,
        execution: &ExecutionId,
        deferral: &Deferral,
        now: Duration,
    ) -> (Duration, Duration) {
        if self.known.len() >= Self::MOST && !self.known.contains_key(execution) {
            self.known.clear();
        }
        let anew = || Waiting { deferrals: 0, last: now, unknown_since: None };
        let waiting = self.known.entry(execution.clone()).or_insert_with(anew);
        if now.saturating_sub(waiting.last) > Self::FORGOTTEN {
            *waiting = anew();
        }
        waiting.last = now;
        waiting.unknown_since = match deferral {
            Deferral::Unknown(_) => waiting.unknown_since.or(Some(now)),
            Deferral::Locked
            | Deferral::TemplateBusy
            | Deferral::HalfMade
            | Deferral::Unwritable(_) => None,
        };
        let backoff = (Self::FIRST * (1 << waiting.deferrals.min(5))).min(Self::LONGEST);
        waiting.deferrals = waiting.deferrals.saturating_add(1);
        (backoff, now.saturating_sub(waiting.unknown_since.unwrap_or(now)))
    }

    /// An execution that was deferred after a takeover has no time of its own before which it is not
    /// due: this process does not try again before `backoff` is past, others may.
    pub fn leave_alone(&mut self, execution: &ExecutionId, now: Duration, backoff: Duration) {
        self.alone_until.retain(|_, until| *until > now);
        self.alone_until.insert(execution.clone(), now + backoff);
    }

    pub fn is_left_alone(&self, execution: &ExecutionId, now: Duration) -> bool {
        self.alone_until.get(execution).is_some_and(|until| now < *until)
    }

    /// It was admitted or refused: nothing more to remember.
    pub fn settle(&mut self, execution: &ExecutionId) {
        self.known.remove(execution);
        self.alone_until.remove(execution);
    }
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

    /// One deferral of `e` after so many seconds of this process: its back-off in milliseconds, and
    /// for how many seconds it has been unknown.
    fn defer(deferrals: &mut Deferrals, deferral: &Deferral, second: u64) -> (u128, u64) {
        let now = Duration::from_secs(second);
        let (backoff, unknown_for) = deferrals.defer(&"e".into(), deferral, now);
        (backoff.as_millis(), unknown_for.as_secs())
    }

    #[test]
    fn a_deferral_backs_off_from_a_quarter_second_to_five() {
        let mut deferrals = Deferrals::default();
        for (second, backoff) in (0..).zip([250, 500, 1000, 2000, 4000, 5000, 5000]) {
            assert_eq!(defer(&mut deferrals, &Deferral::Locked, second), (backoff, 0));
        }
        deferrals.settle(&"e".into());
        assert_eq!(defer(&mut deferrals, &Deferral::Locked, 9), (250, 0));
        assert_eq!(defer(&mut deferrals, &Deferral::Locked, 309), (500, 0));
        assert_eq!(defer(&mut deferrals, &Deferral::Locked, 610), (250, 0), "it was long unseen");
    }

    #[test]
    fn only_the_time_counts_in_which_it_was_unknown_at_every_sight() {
        let unknown = || Deferral::Unknown("function \"brew\"".into());
        let unknown_for = |sightings: &[(u64, Deferral)]| -> Vec<u64> {
            let mut deferrals = Deferrals::default();
            sightings.iter().map(|(at, kind)| defer(&mut deferrals, kind, *at).1).collect()
        };
        let (locked, half) = (Deferral::Locked, Deferral::HalfMade);
        let steady = [(5, unknown()), (65, unknown()), (365, unknown())];
        assert_eq!(unknown_for(&steady), [0, 60, 360]);
        let late = [(0, half), (60, locked.clone()), (120, unknown()), (180, unknown())];
        assert_eq!(unknown_for(&late), [0, 0, 0, 60]);
        let locked_between = [(0, unknown()), (60, unknown()), (90, locked), (120, unknown())];
        assert_eq!(unknown_for(&locked_between), [0, 60, 0, 0]);
        // Another worker had it in between, and has handed it back.
        let elsewhere = [(0, unknown()), (900, unknown()), (960, unknown())];
        assert_eq!(unknown_for(&elsewhere), [0, 0, 60]);
    }

    #[test]
    fn what_was_deferred_after_a_takeover_is_left_alone_until_its_time() {
        let mut deferrals = Deferrals::default();
        let (id, now) = (ExecutionId::from("e"), Duration::from_secs(100));
        let backoff = Duration::from_secs(5);
        assert!(!deferrals.is_left_alone(&id, now));
        deferrals.leave_alone(&id, now, backoff);
        assert!(deferrals.is_left_alone(&id, now + Duration::from_millis(4_999)));
        assert!(!deferrals.is_left_alone(&id, now + backoff));
        deferrals.settle(&id);
        assert!(!deferrals.is_left_alone(&id, now));
    }
}
