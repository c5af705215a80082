//! What a worker sends while it drives an execution, by the names of its steps.

use orchestrator_worker::{
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        intake::StepSlot,
        plan::Finish,
    },
    ports::executions::{
        Advance, AdvanceError, Advanced, Claim, ExecutionStore, HandBack, StepEnd, StepRetry,
        StepSkip, StepStart,
    },
};

/// Sends one advance.
pub async fn send(
    store: &impl ExecutionStore,
    advance: &Advance,
) -> Result<Advanced, AdvanceError> {
    let mut answers = store.advance(std::slice::from_ref(advance)).await;
    assert_eq!(answers.len(), 1, "one answer");
    answers.remove(0)
}

/// Hands one execution back.
pub async fn hand_back(
    store: &impl ExecutionStore,
    claim: &Claim,
) -> Result<Advanced, AdvanceError> {
    let mut answers = store.hand_back(&[given_back(claim)]).await;
    assert_eq!(answers.len(), 1, "one answer");
    answers.remove(0)
}

/// A hand-back that interrupts what runs.
pub fn given_back(claim: &Claim) -> HandBack {
    let running = claim.plan.start.iter().map(|id| &claim.slots[id.index()]);
    let drained = running.map(|slot| (slot.id.clone(), slot.attempt)).collect();
    HandBack { lease: claim.lease.clone(), drained }
}

/// An advance that is still to be filled.
pub fn advance(claim: &Claim) -> Advance {
    Advance::new(claim.lease.clone())
}

pub fn slot<'c>(claim: &'c Claim, name: &str) -> &'c StepSlot {
    let mut ids = claim.workflow.ids();
    let id = ids.find(|id| claim.workflow.node(*id).step.name == name).expect("a step's name");
    &claim.slots[id.index()]
}

/// The next attempt at a step, its first if the claim has not started it.
pub fn start(claim: &Claim, name: &str) -> StepStart {
    let slot = slot(claim, name);
    StepStart { attempt: slot.attempt + 1, ..StepStart::of(slot) }
}

pub fn succeeded(claim: &Claim, name: &str) -> StepEnd {
    let slot = slot(claim, name);
    StepEnd {
        step: slot.id.clone(),
        attempt: slot.attempt,
        succeeded: true,
        outcome: AttemptOutcome::Success,
        output: Some(format!("output of {name}")),
        error: None,
        retry_count: slot.retry_count,
    }
}

pub fn failed(claim: &Claim, name: &str) -> StepEnd {
    StepEnd {
        succeeded: false,
        outcome: AttemptOutcome::Failed,
        error: Some("exit status 1".into()),
        ..succeeded(claim, name)
    }
}

/// A definite failure after which the step is tried again.
pub fn retry(claim: &Claim, name: &str) -> StepRetry {
    let slot = slot(claim, name);
    StepRetry {
        step: slot.id.clone(),
        attempt: slot.attempt,
        outcome: AttemptOutcome::Failed,
        error: "exit status 1".into(),
        key_gen: slot.key_gen + 1,
        retry_count: slot.retry_count + 1,
    }
}

/// The start that follows [`retry`].
pub fn start_after_retry(claim: &Claim, name: &str) -> StepStart {
    let slot = slot(claim, name);
    let retry_count = slot.retry_count + 1;
    StepStart { key_gen: slot.key_gen + 1, retry_count, ..start(claim, name) }
}

pub fn skip(claim: &Claim, name: &str) -> StepSkip {
    let reason = "skipped because step one failed".into();
    StepSkip { step: slot(claim, name).id.clone(), reason }
}

pub fn success() -> Finish {
    Finish { state: ExecutionState::Success, error: None }
}

pub fn failure() -> Finish {
    let error = Some("step one failed: exit status 1".into());
    Finish { state: ExecutionState::Failed, error }
}

pub fn cancelled() -> Finish {
    Finish { state: ExecutionState::Cancelled, error: None }
}

/// One advance of each kind, of an execution whose `one` and `two` run and whose `last` waits.
pub fn every_kind(claim: &Claim) -> Vec<(&'static str, Advance)> {
    let new = || advance(claim);
    let (one, two) = (succeeded(claim, "one"), succeeded(claim, "two"));
    vec![
        ("a start", Advance { started: vec![start(claim, "last")], ..new() }),
        ("a success", Advance { ended: vec![one.clone()], ..new() }),
        ("a failure", Advance { ended: vec![failed(claim, "one")], ..new() }),
        ("a retry", Advance { retrying: vec![retry(claim, "one")], ..new() }),
        (
            "a retry and its start",
            Advance {
                retrying: vec![retry(claim, "one")],
                started: vec![start_after_retry(claim, "one")],
                ..new()
            },
        ),
        ("a skip", Advance { skipped: vec![skip(claim, "last")], ..new() }),
        (
            "successes and a start",
            Advance {
                ended: vec![one.clone(), two.clone()],
                started: vec![start(claim, "last")],
                ..new()
            },
        ),
        (
            "a success as the end",
            Advance { ended: vec![one, two.clone()], finish: Some(success()), ..new() },
        ),
        (
            "a failure as the end",
            Advance {
                ended: vec![failed(claim, "one"), two],
                skipped: vec![skip(claim, "last")],
                finish: Some(failure()),
                ..new()
            },
        ),
        ("an end alone", Advance { finish: Some(success()), ..new() }),
    ]
}
