//! What operators do to executions: cancel and retry.

use orchestrator_worker::{
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        id::{Beat, RELEASED},
        lease::Renewal,
        plan::Finish,
        recovery::{Cause, Holder},
    },
    ports::{
        control::{Cancelled, Control, ControlError},
        executions::{
            Advance, AdvanceError, Advanced, Claim, ExecutionStore, HandBack, StepEnd, StepStart,
        },
    },
};

use super::{Subject, world::*};

fn ended(claim: &Claim, place: usize, outcome: AttemptOutcome) -> StepEnd {
    let succeeded = outcome == AttemptOutcome::Success;
    StepEnd {
        step: claim.slots[place].id.clone(),
        attempt: claim.slots[place].attempt.max(1),
        succeeded,
        outcome,
        output: Some(format!("output of {place}")),
        error: (!succeeded).then(|| "it broke".into()),
        retry_count: 0,
    }
}

/// The first step of a chain of two has succeeded and the second has ended like this, and the
/// execution with it.
async fn end_in_the_second<S: Subject>(world: &World<S>, outcome: AttemptOutcome) -> Claim {
    let id = world.submit_chain(&["one", "two"]).await;
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(claim.lease.execution, id);
    let mut first = Advance::new(claim.lease.clone());
    first.ended.push(ended(&claim, 0, AttemptOutcome::Success));
    let second = claim.slots[1].id.clone();
    first.started.push(StepStart { step: second, attempt: 1, key_gen: 0, retry_count: 0 });
    let mut last = Advance::new(claim.lease.clone());
    last.ended.push(ended(&claim, 1, outcome));
    let state = match outcome {
        AttemptOutcome::Success => ExecutionState::Success,
        _ => ExecutionState::Failed,
    };
    last.finish = Some(Finish { state, error: None });
    for advance in [first, last] {
        assert_eq!(world.a.advance(&[advance]).await, [Ok(Advanced::Recorded)]);
    }
    claim
}

fn state_of(error: &ControlError) -> &str {
    match error {
        ControlError::WrongState { state, .. } => state,
        other => panic!("not about a state: {other}"),
    }
}

pub async fn a_pending_execution_is_cancelled_with_its_steps<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one", "two"]).await;
    assert_eq!(world.a.cancel(&id).await, Ok(Cancelled::Pending));
    assert_eq!(world.a.cancel(&id).await, Ok(Cancelled::Cancelled), "twice is once");
    assert_eq!(world.status(&id).await, "cancelled");
    assert!(world.execution(&id, "finished_at").await.is_some());
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["skipped", "skipped"]);
    assert!(is_nothing(&world.b.claim(&who("b"), 10).await.expect("a claim")));
    let error = world.a.cancel(&"no such".into()).await.expect_err("it is refused");
    assert_eq!(error, ControlError::NoExecution("no such".into()));
}

pub async fn a_running_execution_is_cancelled_by_its_holder_at_its_renewal<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one", "two"]).await;
    let claim = claim_one(&world.a, "a").await;
    let met = world.b.cancel(&id).await;
    assert_eq!(met, Ok(Cancelled::Running { owner: "a".into() }));
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["running", "pending"], "its holder's");
    let renewed = world.a.renew(TTL, Beat(2), std::slice::from_ref(&claim.lease)).await;
    assert_eq!(renewed, Ok(vec![Renewal::Cancelled]));

    let mut advance = Advance::new(claim.lease.clone());
    advance.ended.push(ended(&claim, 0, AttemptOutcome::Cancelled));
    advance.finish = Some(Finish { state: ExecutionState::Cancelled, error: None });
    assert_eq!(world.a.advance(&[advance]).await, [Ok(Advanced::Cancelled)]);
    assert_eq!(world.status(&id).await, "cancelled");
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["failed", "skipped"]);
    assert_eq!(world.execution(&id, "ow_owner").await.as_deref(), Some(""));
}

pub async fn a_released_execution_that_is_cancelled_is_tidied<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one", "two"]).await;
    let lease = claim_one(&world.a, "a").await.lease;
    let returned = HandBack { lease, drained: Vec::new() };
    assert_eq!(world.a.hand_back(&[returned]).await, [Ok(Advanced::Recorded)]);
    let met = world.b.cancel(&id).await;
    assert_eq!(met, Ok(Cancelled::Running { owner: RELEASED.into() }));
    let held = world.held(&id).await.expect("somebody has to end its steps");
    assert!(held.cancelled && held.by == Holder::Released);
    assert!(is_nothing(&world.b_takes_over(&id, Cause::Released).await));
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["failed", "skipped"]);
    assert_eq!(world.held(&id).await, None);
}

pub async fn what_has_ended_is_not_cancelled<S: Subject>() {
    let world = World::<S>::new().await;
    for (outcome, state) in
        [(AttemptOutcome::Success, "success"), (AttemptOutcome::Failed, "failed")]
    {
        let world = if outcome == AttemptOutcome::Success { &world } else { &World::new().await };
        let id = end_in_the_second::<S>(world, outcome).await.lease.execution;
        assert_eq!(state_of(&world.b.cancel(&id).await.expect_err("it is refused")), state);
        assert_eq!(world.status(&id).await, state);
    }
}

pub async fn a_failed_execution_is_retried_from_its_first_unfinished_step<S: Subject>() {
    let world = World::<S>::new().await;
    let first = end_in_the_second(&world, AttemptOutcome::Failed).await;
    let id = first.lease.execution.clone();
    world.b.retry(&id).await.expect("it is retried");
    assert_eq!(world.status(&id).await, "pending");
    assert_eq!(world.execution(&id, "error").await, None);
    assert_eq!(world.execution(&id, "ow_run").await.as_deref(), Some("1"));
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["success", "pending"]);
    assert_eq!(world.step(&id, "two", "error").await, None);
    assert_eq!(world.step(&id, "one", "output").await.as_deref(), Some("output of 0"));

    let again = claim_one(&world.b, "b").await;
    assert!(again.lease.fence > first.lease.fence);
    assert_eq!(started(&again), ["two"]);
    assert_eq!(again.slots[1].attempt, 2, "attempts are counted on");
    let mut last = Advance::new(again.lease.clone());
    last.ended.push(StepEnd { attempt: 2, ..ended(&again, 1, AttemptOutcome::Success) });
    last.finish = Some(Finish { state: ExecutionState::Success, error: None });
    assert_eq!(world.b.advance(&[last]).await, [Ok(Advanced::Recorded)]);
    assert_eq!(world.status(&id).await, "success");
}

pub async fn a_retry_shuts_out_the_former_claim<S: Subject>() {
    let world = World::<S>::new().await;
    let former = end_in_the_second(&world, AttemptOutcome::Failed).await;
    let id = former.lease.execution.clone();
    world.b.retry(&id).await.expect("it is retried");
    let mut late = Advance::new(former.lease.clone());
    let step = former.slots[1].id.clone();
    late.started.push(StepStart { step, attempt: 2, key_gen: 0, retry_count: 1 });
    assert_eq!(world.a.advance(&[late]).await, [Err(AdvanceError::Fenced)]);
    assert_eq!(world.steps(&id, &["two"]).await, ["pending"]);
    let renewed = world.a.renew(TTL, Beat(9), std::slice::from_ref(&former.lease)).await;
    assert_eq!(renewed, Ok(vec![Renewal::Lost]));
}

pub async fn a_retry_gives_a_new_key_only_after_a_definite_failure<S: Subject>() {
    for (outcome, key_gen) in
        [(AttemptOutcome::Failed, 1), (AttemptOutcome::Unanswered, 0), (AttemptOutcome::Timeout, 0)]
    {
        let world = World::<S>::new().await;
        let id = end_in_the_second(&world, outcome).await.lease.execution;
        world.b.retry(&id).await.expect("it is retried");
        let again = claim_one(&world.b, "b").await;
        assert_eq!(again.slots[1].key_gen, key_gen, "{outcome:?}");
    }
}

pub async fn what_is_still_held_or_has_succeeded_is_not_retried<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    let refusal = async || world.b.retry(&id).await.expect_err("it is refused");
    assert_eq!(state_of(&refusal().await), "pending");
    claim_one(&world.a, "a").await;
    assert_eq!(state_of(&refusal().await), "running");
    world.b.cancel(&id).await.expect("cancelled");
    let held = ControlError::StillHeld { execution: id.clone(), owner: "a".into() };
    assert_eq!(refusal().await, held, "its steps may still run");
    assert!(is_nothing(&world.b_takes_over(&id, Cause::LeaseExpired).await));
    world.b.retry(&id).await.expect("nobody holds it any more");
    assert_eq!(started(&claim_one(&world.b, "b").await), ["one"]);

    let world = World::<S>::new().await;
    let done = end_in_the_second(&world, AttemptOutcome::Success).await.lease.execution;
    let error = world.b.retry(&done).await.expect_err("it is refused");
    assert_eq!(state_of(&error), "success");
    assert_eq!(world.steps(&done, &["one", "two"]).await, ["success", "success"]);
}
