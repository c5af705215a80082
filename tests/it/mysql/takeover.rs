//! Takeovers of executions whose rows the database refuses to write.

use orchestrator_worker::{
    domain::{
        deferral::Deferral,
        execution::AttemptOutcome,
        id::ExecutionId,
        recovery::{Cause, TakeOver},
    },
    ports::executions::{Advance, AdvanceError, Claim, ExecutionStore, StepEnd},
};

use super::{Database, Server};
use crate::contract::{Subject, world::*};

/// The server refuses a value of every UPDATE of a step row for which `condition` holds.
async fn refuse<S: Server>(world: &World<Database<S>>, condition: &str) {
    let trigger = format!(
        "CREATE TRIGGER refuses BEFORE UPDATE ON workflow_step_executions FOR EACH ROW BEGIN \
         IF {condition} THEN SIGNAL SQLSTATE '22003' SET MYSQL_ERRNO=1264, \
         MESSAGE_TEXT='no such value'; END IF; END"
    );
    world.subject.exec(&trigger).await;
}

/// Two executions whose worker is dead: of the first one no step can be started again.
async fn two_of_a_dead_worker<S: Server>(
    world: &World<Database<S>>,
    condition: &str,
) -> (Claim, ExecutionId, Vec<TakeOver>) {
    let template = world.apply(&workflow("w", chain(&["one", "two"]))).await;
    let (bad, good) = (world.submit(&template).await, world.submit(&template).await);
    let mut claims = claims(world.a.claim(&who("a"), 10).await.expect("a claim"));
    refuse(world, &format!("NEW.execution_id='{bad}' AND {condition}")).await;
    let survey = world.b.survey().await.expect("a survey").into_iter();
    let due = survey.map(|seen| TakeOver { seen, cause: Cause::LeaseExpired }).collect();
    (claims.remove(&bad).expect("it is claimed"), good, due)
}

pub async fn an_execution_that_cannot_be_taken_over_is_failed_with_all_that_is_open_of_it<
    S: Server,
>() {
    let world = World::<Database<S>>::new().await;
    let condition = "NEW.status='running' AND NEW.ow_attempt > OLD.ow_attempt";
    let (dead, good, due) = two_of_a_dead_worker(&world, condition).await;
    let id = &dead.lease.execution;
    let batch = world.b.take_over(&who("b"), &due).await.expect("a takeover");
    assert_eq!(batch.claims.len(), 1);
    assert_eq!(batch.claims[0].lease.execution, good);
    assert!(batch.refused[0].1.contains("no such value"), "{:?}", batch.refused);
    assert_eq!(world.execution(id, "error").await.as_ref(), Some(&batch.refused[0].1));
    assert_eq!(world.status(id).await, "failed");
    assert_eq!(world.steps(id, &["one", "two"]).await, ["failed", "skipped"]);
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("lost/lease_expired/a"));
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
    assert_eq!(world.held(id).await, None);

    // The dead worker's last write comes late.
    let mut late = Advance::new(dead.lease.clone());
    late.ended.push(StepEnd {
        step: dead.slots[0].id.clone(),
        attempt: 1,
        succeeded: false,
        outcome: AttemptOutcome::Failed,
        output: Some("late".into()),
        error: Some("late".into()),
        retry_count: 0,
    });
    assert_eq!(world.a.advance(&[late]).await, [Err(AdvanceError::Fenced)]);
    assert_eq!(world.step(id, "one", "output").await, None);
}

pub async fn an_execution_that_can_neither_be_taken_over_nor_failed_is_left_alone<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let condition = "NEW.updated_at <> OLD.updated_at OR NEW.finished_at IS NOT NULL";
    let (dead, good, due) = two_of_a_dead_worker(&world, &format!("({condition})")).await;
    let id = &dead.lease.execution;
    let batch = world.b.take_over(&who("b"), &due).await.expect("a takeover");
    assert_eq!(batch.claims.len(), 1);
    assert_eq!(batch.claims[0].lease.execution, good);
    assert!(matches!(&batch.deferred[..], [(it, Deferral::Unwritable(_))] if it == id));
    assert_eq!(world.status(id).await, "running", "nothing is half done");
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some("a"));
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("a"));
    assert!(is_nothing(&world.b.take_over(&who("b"), &due).await.expect("nothing")));
}
