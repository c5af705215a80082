//! Facts made up for each reason.

use super::*;
use crate::domain::{
    definition::RecordedStep, eligibility::Backlog, id::RELEASED, intake::HALF_MADE,
};

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
        look_within: 20 * SECOND,
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
        due_for: 5 * SECOND,
        is_backlog: false,
        fence: Fence(0),
        owner: String::new(),
        kept_in: None,
        template: "report".into(),
        paused: None,
        lock: None,
        template_lock: None,
        template_handed_back: false,
        lost: None,
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
    let handed_back = Facts { template_handed_back: true, ..expired };
    is(&handed_back, "waiting", "next in line", "free slot");
    let explanation = explain(&handed_back, &view);
    assert_eq!(explanation.reason, "template_busy");
    assert!(explanation.because.contains("was handed back"), "{explanation:?}");
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
    let one = Facts { workers: 1, held: 1, ..facts() };
    is(&one, "waiting", "next in line; 1 worker holds 1 execution", "free slot");
    let late = Facts { due_for: 200 * SECOND, ahead: 1, ..facts() };
    let because = "due for 3m 20s and no worker has had a free slot for it: 1 execution was due";
    is(&late, "no_free_slots", because, "free slot");
    let alone = Facts { workers: 0, held: 0, ..late };
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
    let elsewhere = Facts { kept_in: Some("redis".into()), lock: None, ..held_by("pod-1") };
    is(&elsewhere, "running", "pod-1 runs it", "its lease is kept in redis");
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
