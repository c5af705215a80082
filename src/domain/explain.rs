//! Why an execution is not running, or what it is doing.
//!
//! **Invariant:** every execution has exactly one reason, the first that would have to be mended;
//! each says what will happen next, and what somebody can do where nothing will.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    definition::Definition,
    eligibility::{Backlog, Eligibility},
    execution::ExecutionState,
    id::{Fence, RELEASED},
    intake::{HALF_MADE, Supported},
    recovery::UNSEEN_TTL,
    workflow::Workflow,
};

/// How an execution stands, by the store's clock.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The state column's own word; `None` for NULL.
    pub status: Option<String>,
    pub error: Option<String>,
    /// Since its creation.
    pub age: Duration,
    /// Until it is due; zero if it is.
    pub due_in: Duration,
    pub is_backlog: bool,
    pub fence: Fence,
    /// The owner column: empty, a mark, or a worker.
    pub owner: String,
    /// Its template's name, or its id where the template is gone.
    pub template: String,
    pub paused: Option<Paused>,
    pub lock: Option<LockFact>,
    pub template_lock: Option<LockFact>,
    /// In the order in which they are taken.
    pub steps: Vec<StepFact>,
    /// What it would run, or why that cannot be run.
    pub workflow: Result<Arc<Workflow>, String>,
    /// Workers that hold a live lease on any execution, and how many executions they hold.
    pub workers: u64,
    pub held: u64,
    /// Pending executions that are due before it.
    pub ahead: u64,
}

/// The steps of `workflow` in its order, then the others; `steps` are by `steps.id`.
pub fn in_order(
    mut steps: BTreeMap<String, StepFact>,
    workflow: Option<&Workflow>,
) -> Vec<StepFact> {
    let nodes = workflow.map_or(&[][..], Workflow::nodes);
    let mut ordered: Vec<StepFact> =
        nodes.iter().filter_map(|node| steps.remove(node.step.id.as_str())).collect();
    ordered.extend(steps.into_values());
    ordered
}

/// What a stored plan would run.
pub fn workflow_of_plan(text: &str) -> Result<Arc<Workflow>, String> {
    let plan =
        Definition::from_text(text).map_err(|error| format!("its plan is broken: {error}"))?;
    Workflow::try_new(&plan).map(Arc::new).map_err(|error| error.to_string())
}

/// What a pause covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    Template,
    All,
}

/// The lock row of the execution, or of its template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockFact {
    pub owner: String,
    /// 0 for a row that the orchestrator wrote.
    pub fence: Fence,
    /// Since its last renewal.
    pub age: Duration,
    /// From a renewal to its expiry.
    pub ttl: Duration,
    /// `None`: it has expired.
    pub expires_in: Option<Duration>,
}

impl LockFact {
    /// Who keeps others away, and for how long if nobody renews it.
    fn holder(&self) -> Option<(&str, Duration)> {
        let expires_in = self.expires_in.filter(|_| !self.owner.starts_with('~'))?;
        Some((&self.owner, expires_in))
    }

    /// Of a template: a worker's stands until its execution is taken over, any other while it holds.
    fn keeps_template(&self) -> bool {
        !self.owner.starts_with('~') && (self.fence > Fence(0) || self.expires_in.is_some())
    }
}

/// A step's row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepFact {
    pub name: String,
    pub status: Option<String>,
    pub error: Option<String>,
    pub attempt: u32,
    /// Since the running attempt began.
    pub running_for: Option<Duration>,
}

/// What a worker of this build and configuration would do.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub supported: Supported,
    pub eligibility: Eligibility,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// A stable word for programs: `not_due`.
    pub reason: &'static str,
    pub because: String,
    pub next: String,
}

impl Explanation {
    fn new(reason: &'static str, because: impl Into<String>, next: impl Into<String>) -> Self {
        Self { reason, because: because.into(), next: next.into() }
    }
}

/// The one reason.
pub fn explain(facts: &Facts, view: &View) -> Explanation {
    let Some(word) = &facts.status else {
        return unknown_state("its status is NULL");
    };
    match ExecutionState::parse(word) {
        Ok(ExecutionState::Pending) => pending(facts, view),
        Ok(ExecutionState::Running) => running(facts),
        Ok(ExecutionState::Success) => succeeded(facts),
        Ok(ExecutionState::Failed) => failed(facts),
        Ok(ExecutionState::Cancelled) => cancelled(facts),
        Err(error) => unknown_state(&format!("it has an {error}")),
    }
}

fn unknown_state(because: &str) -> Explanation {
    Explanation::new(
        "unknown_state",
        because,
        "no worker takes it; if nobody gives it a status that there is within `claim.unknown_after`, a \
         worker fails it",
    )
}

fn pending(facts: &Facts, view: &View) -> Explanation {
    kept_out(facts, view)
        .or_else(|| locked(facts, view))
        .or_else(|| not_runnable(facts, view))
        .unwrap_or_else(|| waiting(facts))
}

/// By its time, an operator, or the configuration.
fn kept_out(facts: &Facts, view: &View) -> Option<Explanation> {
    if facts.fence.0 >= Fence::CEILING {
        return Some(Explanation::new(
            "fence_exhausted",
            format!("its fence {} is beyond what any clock gives", facts.fence),
            "no worker takes it; submit its template again",
        ));
    }
    let eligibility = &view.eligibility;
    match facts.paused {
        Some(Paused::All) => {
            let next = "it is claimed after `orchestrator-worker resume --all`";
            return Some(Explanation::new("paused", "all templates are paused", next));
        }
        Some(Paused::Template) => {
            return Some(Explanation::new(
                "paused",
                format!("its template {:?} is paused", facts.template),
                "it is claimed after `orchestrator-worker resume` of the template",
            ));
        }
        None => {}
    }
    if facts.is_backlog && eligibility.backlog == Backlog::Hold {
        return Some(Explanation::new(
            "backlog",
            "it was more than a day old when the tables were first migrated, and is held as backlog",
            "it is claimed after `orchestrator-worker backlog release`, or cancelled by `cancel`",
        ));
    }
    if eligibility.exclude.contains(&facts.template) {
        return Some(Explanation::new(
            "filtered",
            format!("claim.exclude names its template {:?}", facts.template),
            "workers with this configuration leave it to others",
        ));
    }
    if !eligibility.include.is_empty() && !eligibility.include.contains(&facts.template) {
        return Some(Explanation::new(
            "filtered",
            format!("claim.include does not name its template {:?}", facts.template),
            "workers with this configuration leave it to others",
        ));
    }
    (!facts.due_in.is_zero()).then(|| {
        Explanation::new(
            "not_due",
            format!("it is not due for another {}", shown(facts.due_in)),
            "it is claimed then; until then it was scheduled, or put back for a moment",
        )
    })
}

/// By its own lock, or by that of its template where each is to have one execution at a time.
fn locked(facts: &Facts, view: &View) -> Option<Explanation> {
    if let Some((owner, expires_in)) = facts.lock.as_ref().and_then(LockFact::holder) {
        return Some(Explanation::new(
            "locked",
            format!("its lock is held by {owner}"),
            format!(
                "it is claimed when the lock is released, or in {} at the latest",
                shown(expires_in)
            ),
        ));
    }
    let template_lock = facts.template_lock.as_ref().filter(|_| view.eligibility.one_per_template);
    let owner = &template_lock.filter(|lock| lock.keeps_template())?.owner;
    Some(Explanation::new(
        "template_busy",
        format!("{owner} runs another execution of its template {:?}", facts.template),
        "with claim.one_per_template it is claimed when that one has ended, whoever ends it",
    ))
}

fn not_runnable(facts: &Facts, view: &View) -> Option<Explanation> {
    let workflow = match &facts.workflow {
        Ok(workflow) => workflow,
        Err(problem) => {
            return Some(Explanation::new(
                "not_runnable",
                problem,
                "the next worker that claims it fails it with this reason; mend the template first",
            ));
        }
    };
    if let Some(what) = view.supported.unknown_of(workflow) {
        return Some(Explanation::new(
            "unknown_action",
            format!("this version does not know {what}"),
            "a worker that knows it runs it; if none does for `claim.unknown_after` it is failed",
        ));
    }
    let there = facts.steps.len();
    let wanted = workflow.nodes().len();
    (there < wanted && facts.age < HALF_MADE).then(|| {
        let left = HALF_MADE.saturating_sub(facts.age);
        Explanation::new(
            "half_made",
            format!("{there} of its {wanted} step rows are there"),
            format!("the missing ones are waited for, and made in {} at the latest", shown(left)),
        )
    })
}

fn waiting(facts: &Facts) -> Explanation {
    let (workers, held) = (facts.workers, facts.held);
    if workers == 0 {
        return Explanation::new(
            "no_worker_seen",
            "nothing speaks against it, and no worker holds any execution",
            "an idle worker claims it at its next look; `orchestrator-worker run` starts one",
        );
    }
    let because = match facts.ahead {
        0 => "it is the next in line".to_owned(),
        1 => "1 execution was due before it".into(),
        many => format!("{many} executions were due before it"),
    };
    Explanation::new(
        "waiting",
        format!("{because}; {workers} workers hold {held} executions"),
        "it is claimed as soon as one of them has a free slot; more slots or workers make it sooner",
    )
}

fn running(facts: &Facts) -> Explanation {
    match facts.owner.as_str() {
        "" => run_by_the_orchestrator(facts),
        RELEASED => Explanation::new(
            "released",
            "its worker went away and handed it back",
            "the next worker with a free slot goes on with it at once",
        ),
        owner => held(facts, owner),
    }
}

fn run_by_the_orchestrator(facts: &Facts) -> Explanation {
    let next = "workers keep their hands off it, unless `claim.adopt_orphans_of_go_service` is set; if \
                its process is dead, cancel and retry it";
    match &facts.lock {
        Some(LockFact { owner, expires_in: Some(left), .. }) => Explanation::new(
            "run_by_orchestrator",
            format!(
                "the orchestrator itself runs it, as {owner}, whose lock holds for {}",
                shown(*left)
            ),
            next,
        ),
        Some(_) | None => Explanation::new(
            "run_by_orchestrator",
            "the orchestrator itself has started it, and holds no lock on it any more",
            next,
        ),
    }
}

fn held(facts: &Facts, owner: &str) -> Explanation {
    let Some(lock) = &facts.lock else {
        return Explanation::new(
            "lock_missing",
            format!("{owner} holds it, but its lock row is gone"),
            format!(
                "{owner} puts it back at its next renewal; if it is dead, another worker takes over \
                 after {} at the latest",
                shown(UNSEEN_TTL)
            ),
        );
    };
    // Renewed well within its time; the rest allows for a renewal that is just under way.
    if lock.age > lock.ttl / 2 {
        return Explanation::new(
            "orphaned",
            format!("{owner} holds it and has not renewed its lease for {}", shown(lock.age)),
            format!(
                "a worker that has watched it stand still for {} takes it over",
                shown(lock.ttl)
            ),
        );
    }
    let running: Vec<String> = facts
        .steps
        .iter()
        .filter(|step| step.status.as_deref() == Some("running"))
        .map(|step| match step.running_for {
            Some(since) => {
                format!("{} (attempt {}, for {})", step.name, step.attempt, shown(since))
            }
            None => format!("{} (between attempts)", step.name),
        })
        .collect();
    let because = match running.as_slice() {
        [] => format!("{owner} runs it and is between two steps"),
        [one] => format!("{owner} runs it, in step {one}"),
        many => format!("{owner} runs it, in steps {}", many.join(", ")),
    };
    Explanation::new("running", because, "it goes on; `orchestrator-worker cancel` stops it")
}

fn succeeded(facts: &Facts) -> Explanation {
    match facts.error.as_deref().filter(|error| !error.is_empty()) {
        None => Explanation::new("succeeded", "every step succeeded", "nothing"),
        Some(error) => Explanation::new("succeeded", error, "nothing"),
    }
}

fn failed(facts: &Facts) -> Explanation {
    let because = match facts.error.as_deref().filter(|error| !error.is_empty()) {
        Some(error) => error.to_owned(),
        None => {
            facts.steps.iter().find(|step| step.status.as_deref() == Some("failed")).map_or_else(
                || "it failed, and no reason was recorded".into(),
                |step| {
                    let error = step.error.as_deref().unwrap_or("no reason was recorded");
                    format!("step {} failed: {error}", step.name)
                },
            )
        }
    };
    let next = "nothing; `orchestrator-worker retry` runs it again from its first unfinished step";
    Explanation::new("failed", because, next)
}

fn cancelled(facts: &Facts) -> Explanation {
    match facts.owner.as_str() {
        "" => Explanation::new(
            "cancelled",
            "somebody cancelled it",
            "nothing; `orchestrator-worker retry` takes it up again",
        ),
        RELEASED => Explanation::new(
            "being_cancelled",
            "somebody cancelled it after it was handed back",
            "the next look of any worker ends its steps",
        ),
        owner => Explanation::new(
            "being_cancelled",
            format!("somebody cancelled it while {owner} held it"),
            format!("{owner} stops it at its next renewal; if it is dead, another worker ends it"),
        ),
    }
}

/// `3h 20m`: the two largest units, without fractions.
pub(super) fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days}d {hours}h"),
        (0, 1.., _) => format!("{hours}h {minutes}m"),
        (0, 0, 1..) => format!("{minutes}m {}s", seconds % 60),
        (0, 0, 0) if seconds > 0 => format!("{seconds}s"),
        (0, 0, 0) => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::definition::RecordedStep;

    fn workflow() -> Arc<Workflow> {
        let step = |name: &str| RecordedStep {
            id: name.into(),
            name: Some(name.into()),
            executor_type: Some("func".into()),
            ..RecordedStep::default()
        };
        let steps = vec![step("noop"), step("echo")];
        let definition = Definition { template: "t".into(), name: "report".into(), steps };
        Arc::new(Workflow::try_new(&definition).expect("it is well made"))
    }

    fn view() -> View {
        let set = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        View {
            supported: Supported { kinds: set(&["func"]), functions: set(&["noop", "echo"]) },
            ..View::default()
        }
    }

    fn step(name: &str, status: &str) -> StepFact {
        StepFact { name: name.into(), status: Some(status.into()), ..StepFact::default() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Pending, due, and nothing speaks against it.
    fn facts() -> Facts {
        Facts {
            status: Some("pending".into()),
            error: None,
            age: 5 * SECOND,
            due_in: Duration::ZERO,
            is_backlog: false,
            fence: Fence(0),
            owner: String::new(),
            template: "report".into(),
            paused: None,
            lock: None,
            template_lock: None,
            steps: vec![step("noop", "pending"), step("echo", "pending")],
            workflow: Ok(workflow()),
            workers: 2,
            held: 20,
            ahead: 0,
        }
    }

    fn lock(owner: &str, age: u32, expires_in: Option<u32>) -> LockFact {
        let (ttl, expires_in) = (30 * SECOND, expires_in.map(|left| left * SECOND));
        LockFact { owner: owner.into(), fence: Fence(7), age: age * SECOND, ttl, expires_in }
    }

    fn held_by(owner: &str) -> Facts {
        Facts {
            status: Some("running".into()),
            owner: owner.into(),
            lock: Some(lock(owner, 3, Some(27))),
            ..facts()
        }
    }

    /// The reason's word and both sentences hold these.
    fn is(facts: &Facts, reason: &str, because: &str, next: &str) {
        let explanation = explain(facts, &view());
        assert_eq!(explanation.reason, reason, "{explanation:?}");
        assert!(explanation.because.contains(because), "{explanation:?}");
        assert!(explanation.next.contains(next), "{explanation:?}");
    }

    #[test]
    fn a_pending_one_waits_for_its_time_or_an_operator() {
        is(&Facts { due_in: 7200 * SECOND, ..facts() }, "not_due", "another 2h 0m", "then");
        is(&Facts { is_backlog: true, ..facts() }, "backlog", "first migrated", "release");
        let paused = |paused| Facts { paused: Some(paused), ..facts() };
        is(&paused(Paused::All), "paused", "all templates", "resume --all");
        is(&paused(Paused::Template), "paused", "\"report\"", "resume");
        let fence = Fence(Fence::CEILING);
        is(&Facts { fence, ..facts() }, "fence_exhausted", "9000", "submit");
    }

    #[test]
    fn a_pending_one_waits_for_its_template_only_where_that_is_set() {
        let facts = Facts { template_lock: Some(lock("worker-1", 3, Some(27))), ..facts() };
        is(&facts, "waiting", "next in line", "free slot");
        let eligibility = Eligibility { one_per_template: true, ..Eligibility::default() };
        let view = View { eligibility, ..view() };
        let explanation = explain(&facts, &view);
        assert_eq!(explanation.reason, "template_busy");
        assert!(explanation.because.contains("worker-1 runs another"), "{explanation:?}");
        let dead = Facts { template_lock: Some(lock("worker-1", 31, None)), ..facts.clone() };
        assert_eq!(explain(&dead, &view).reason, "template_busy");
        let expired = LockFact { fence: Fence(0), ..lock("go-1", 31, None) };
        let expired = Facts { template_lock: Some(expired), ..facts };
        assert_eq!(explain(&expired, &view).reason, "waiting");
    }

    #[test]
    fn a_pending_one_is_kept_out_by_the_configuration_it_is_explained_with() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        for (include, exclude, reason, because) in [
            (&[][..], &["report"][..], "filtered", "claim.exclude names"),
            (&["deploy"], &[], "filtered", "claim.include does not name"),
            (&["report"], &["deploy"], "waiting", "next in line"),
        ] {
            let eligibility = Eligibility {
                include: names(include),
                exclude: names(exclude),
                ..Eligibility::default()
            };
            let explanation = explain(&facts(), &View { eligibility, ..view() });
            assert_eq!(explanation.reason, reason);
            assert!(explanation.because.contains(because), "{explanation:?}");
        }
        let eligibility = Eligibility { backlog: Backlog::Run, ..Eligibility::default() };
        let old = Facts { is_backlog: true, ..facts() };
        assert_eq!(explain(&old, &View { eligibility, ..view() }).reason, "waiting");
    }

    #[test]
    fn a_pending_one_waits_for_a_lock_and_not_for_a_tombstone() {
        let locked = Facts { lock: Some(lock("go-1", 3, Some(297))), ..facts() };
        is(&locked, "locked", "held by go-1", "4m 57s");
        let expired = Facts { lock: Some(lock("go-1", 300, None)), ..facts() };
        is(&expired, "waiting", "next in line", "free slot");
        let stone = Facts { lock: Some(lock("~finished", 3, Some(57))), ..facts() };
        is(&stone, "waiting", "next in line", "free slot");
    }

    #[test]
    fn a_pending_one_may_not_be_runnable() {
        let broken = Facts { workflow: Err("steps wait in a circle".into()), ..facts() };
        is(&broken, "not_runnable", "circle", "fails it");
        let half = Facts { steps: vec![step("noop", "pending")], ..facts() };
        is(&half, "half_made", "1 of its 2", "55s");
        let old = Facts { age: HALF_MADE, ..half };
        is(&old, "waiting", "next in line", "free slot");
        let mut strange = view();
        strange.supported.functions.remove("echo");
        let explanation = explain(&facts(), &strange);
        assert_eq!(explanation.reason, "unknown_action");
        assert!(explanation.because.contains("function \"echo\" of step echo"), "{explanation:?}");
    }

    #[test]
    fn a_pending_one_that_nothing_keeps_waits_for_a_slot_or_a_worker() {
        is(&facts(), "waiting", "next in line; 2 workers hold 20", "free slot");
        is(&Facts { ahead: 3, ..facts() }, "waiting", "3 executions were due before it", "slot");
        let alone = Facts { workers: 0, held: 0, ..facts() };
        is(&alone, "no_worker_seen", "no worker", "orchestrator-worker run");
    }

    #[test]
    fn a_running_one_is_somewhere() {
        let mut facts = held_by("pod-1");
        is(&facts, "running", "pod-1 runs it and is between two steps", "cancel");
        facts.steps[0] =
            StepFact { attempt: 2, running_for: Some(65 * SECOND), ..step("noop", "running") };
        is(&facts, "running", "in step noop (attempt 2, for 1m 5s)", "cancel");
        facts.steps[1] = step("echo", "running");
        is(&facts, "running", "1m 5s), echo (between attempts)", "cancel");
        is(&held_by(RELEASED), "released", "handed it back", "at once");
    }

    #[test]
    fn a_running_one_may_have_lost_its_worker() {
        let silent = Facts { lock: Some(lock("pod-1", 20, Some(10))), ..held_by("pod-1") };
        is(&silent, "orphaned", "pod-1 holds it and has not renewed its lease for 20s", "30s");
        let dead = Facts { lock: Some(lock("pod-1", 400, None)), ..held_by("pod-1") };
        is(&dead, "orphaned", "for 6m 40s", "takes it over");
        let gone = Facts { lock: None, ..held_by("pod-1") };
        is(&gone, "lock_missing", "its lock row is gone", "after 1m 0s");
    }

    #[test]
    fn a_running_one_may_be_the_orchestrators_own() {
        let own = Facts { lock: Some(lock("go-1", 3, Some(60))), ..held_by("") };
        is(&own, "run_by_orchestrator", "as go-1, whose lock holds for 1m 0s", "hands off");
        let corpse = Facts { lock: None, ..held_by("") };
        is(&corpse, "run_by_orchestrator", "no lock on it any more", "retry");
    }

    #[test]
    fn one_that_has_ended_says_how() {
        let ended = |status: &str, error: Option<&str>| Facts {
            status: Some(status.into()),
            error: error.map(Into::into),
            ..facts()
        };
        is(&ended("success", None), "succeeded", "every step succeeded", "nothing");
        is(&ended("success", Some("skipped over x")), "succeeded", "skipped over x", "nothing");
        is(&ended("failed", Some("step noop failed: no")), "failed", "step noop failed", "retry");
        let mut silent = ended("failed", None);
        is(&silent, "failed", "no reason was recorded", "retry");
        silent.steps[1] = StepFact { error: Some("exit code 3".into()), ..step("echo", "failed") };
        is(&silent, "failed", "step echo failed: exit code 3", "retry");
        is(&ended("cancelled", None), "cancelled", "somebody cancelled it", "retry");
        let being = |owner: &str| Facts { owner: owner.into(), ..ended("cancelled", None) };
        is(&being("pod-1"), "being_cancelled", "while pod-1 held it", "next renewal");
        is(&being(RELEASED), "being_cancelled", "handed back", "any worker");
    }

    #[test]
    fn a_state_that_there_is_not_is_nobodys() {
        is(&Facts { status: None, ..facts() }, "unknown_state", "NULL", "no worker takes it");
        let odd = Facts { status: Some("paused".into()), ..facts() };
        is(&odd, "unknown_state", "unknown status \"paused\"", "no worker takes it");
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, expected) in [
            (0, "0ms"),
            (59, "59s"),
            (61, "1m 1s"),
            (3_600, "1h 0m"),
            (90_061, "1d 1h"),
            (8_640_000, "100d 0h"),
        ] {
            assert_eq!(shown(Duration::from_secs(seconds)), expected);
        }
    }
}
