//! What a step has printed is seen while it runs.

use orchestrator_worker::{
    domain::{execution::AttemptOutcome, recovery::Cause},
    ports::{
        control::Control,
        executions::{
            Advance, Advanced, Claim, ExecutionStore, StepEnd, StepRetry, StepStart, StoreError,
        },
    },
};

use super::{Subject, world::*};

async fn advanced<S: Subject>(world: &World<S>, advance: Advance) {
    assert_eq!(world.a.advance(&[advance]).await, [Ok(Advanced::Recorded)]);
}

/// The first attempt at the first step says something.
async fn says(store: &impl ExecutionStore, claim: &Claim, attempt: u32, text: &str) -> bool {
    let noted = store.note_output(&claim.lease, &claim.slots[0].id, attempt, text).await;
    noted.expect("the store answers")
}

pub async fn what_a_step_has_printed_is_seen_while_it_runs_and_its_end_has_the_last_word<
    S: Subject,
>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one", "two"]).await;
    let claim = claim_one(&world.a, "a").await;
    let output = async || world.b.show(&id).await.expect("it is shown").steps[0].output.clone();
    for text in ["half a w\u{f6}r", "half a w\u{f6}r", "half a w\u{f6}rd"] {
        assert!(says(&world.a, &claim, 1, text).await);
        assert_eq!(output().await.as_deref(), Some(text));
        assert_eq!(world.steps(&id, &["one", "two"]).await, ["running", "pending"]);
    }
    let long = "x".repeat(65_536);
    let refused = world.a.note_output(&claim.lease, &claim.slots[0].id, 1, &long).await;
    assert!(matches!(refused, Err(StoreError::Data(_))), "{refused:?}");
    assert_eq!(output().await.as_deref(), Some("half a w\u{f6}rd"));

    let mut end = Advance::new(claim.lease.clone());
    end.ended.push(StepEnd {
        step: claim.slots[0].id.clone(),
        attempt: 1,
        succeeded: true,
        outcome: AttemptOutcome::Success,
        output: Some("all".into()),
        error: None,
        retry_count: 0,
    });
    advanced(&world, end).await;
    assert!(!says(&world.a, &claim, 1, "late").await, "it has ended");
    assert_eq!(output().await.as_deref(), Some("all"));
    let waiting = &claim.slots[1].id;
    let noted = world.a.note_output(&claim.lease, waiting, 0, "early").await;
    assert_eq!(noted, Ok(false), "it does not run yet");
}

pub async fn nobody_but_the_running_attempt_writes_its_output<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    let claim = claim_one(&world.a, "a").await;
    let step = claim.slots[0].id.clone();
    let mut again = Advance::new(claim.lease.clone());
    again.retrying.push(StepRetry {
        step: step.clone(),
        attempt: 1,
        outcome: AttemptOutcome::Failed,
        error: "it broke".into(),
        key_gen: 1,
        retry_count: 1,
    });
    advanced(&world, again).await;
    let mut start = Advance::new(claim.lease.clone());
    start.started.push(StepStart { step, attempt: 2, key_gen: 1, retry_count: 1 });
    advanced(&world, start).await;
    assert!(says(&world.a, &claim, 2, "the second").await);
    assert!(!says(&world.a, &claim, 1, "the first").await, "it has a later attempt");

    let taken = only(world.b_takes_over(&id, Cause::LeaseExpired).await);
    assert!(!says(&world.a, &claim, 2, "the former").await, "it has another holder");
    assert_eq!(world.step(&id, "one", "output").await.as_deref(), Some("the second"));
    assert!(says(&world.b, &taken, 3, "the third").await);
    assert_eq!(world.step(&id, "one", "output").await.as_deref(), Some("the third"));
}
