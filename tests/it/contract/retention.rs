//! Which ended executions are deleted, and what goes with them.

use std::time::Duration;

use orchestrator_worker::{
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        plan::Finish,
    },
    ports::executions::{Advance, Advanced, Claim, ExecutionStore, StepEnd},
};

use super::{Subject, world::*};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The only step has succeeded.
async fn succeed<S: Subject>(world: &World<S>, claim: &Claim) {
    let mut advance = Advance::new(claim.lease.clone());
    advance.ended.push(StepEnd {
        step: claim.slots[0].id.clone(),
        attempt: 1,
        succeeded: true,
        outcome: AttemptOutcome::Success,
        output: None,
        error: None,
        retry_count: 0,
    });
    advance.finish = Some(Finish { state: ExecutionState::Success, error: None });
    assert_eq!(world.a.advance(&[advance]).await, [Ok(Advanced::Recorded)]);
}

/// How many executions, steps, attempts and templates there are.
async fn rows<S: Subject>(world: &World<S>) -> Vec<String> {
    let mut counts = Vec::new();
    for table in
        ["workflow_executions", "workflow_step_executions", "ow_attempts", "workflow_templates"]
    {
        let count = world.subject.one(&format!("SELECT COUNT(*) FROM {table}")).await;
        counts.push(count.expect("a number"));
    }
    counts
}

pub async fn what_ended_long_ago_is_deleted_with_all_that_belongs_to_it<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    for _ in 0..3 {
        world.submit(&template).await;
    }
    for claim in claims(world.a.claim(&who("a"), 3).await.expect("a claim")).values() {
        succeed(&world, claim).await;
    }
    world.pass(DAY).await;
    assert_eq!(world.a.expire(ExecutionState::Success, 2 * DAY, 10).await, Ok(0));
    assert_eq!(world.a.expire(ExecutionState::Failed, HOUR, 10).await, Ok(0));
    assert_eq!(
        world.a.expire(ExecutionState::Success, HOUR, 2).await,
        Ok(2),
        "not more than asked"
    );
    assert_eq!(rows(&world).await, ["1", "1", "1", "1"]);
    assert_eq!(world.b.expire(ExecutionState::Success, HOUR, 2).await, Ok(1));
    assert_eq!(rows(&world).await, ["0", "0", "0", "1"], "the template stays");
}

pub async fn what_has_not_ended_or_not_long_ago_is_kept<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    world.submit(&template).await;
    let running = claim_one(&world.a, "a").await;
    let pending = world.submit(&template).await;
    world.pass(10 * DAY).await;
    world.edit(&pending, &format!("ow_not_before={}", S::now())).await;
    // Older than the limit since its creation, but it has only just ended.
    let recent = claim_one(&world.a, "a").await;
    succeed(&world, &recent).await;
    // Of these only the end, or who holds it, speaks against it.
    let timeless = world.submit(&template).await;
    let old = S::moved(S::now(), -864_000_000);
    world.edit(&timeless, &format!("status='success', created_at={old}")).await;
    let held = world.submit(&template).await;
    let set = format!("status='cancelled', ow_owner='a', created_at={old}, finished_at={old}");
    world.edit(&held, &set).await;
    for state in ExecutionState::ALL.into_iter().filter(|state| state.is_final()) {
        assert_eq!(world.b.expire(state, HOUR, 100).await, Ok(0), "{state:?}");
    }
    assert_eq!(rows(&world).await[0], "4");
    assert_eq!(world.status(&running.lease.execution).await, "running");
}
