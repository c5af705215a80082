//! The SQLite store beside rows that break a statement.

use std::time::Duration;

use orchestrator_worker::{
    domain::{deferral::Deferral, id::ExecutionId, recovery::Cause},
    ports::executions::{ExecutionStore, HandBack},
};

use crate::contract::{Subject, sqlite::File, world::*};

/// Three executions of one step, oldest first.
async fn three(world: &World<File>) -> Vec<ExecutionId> {
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut ids = Vec::new();
    for age in [3, 2, 1] {
        let id = world.submit(&template).await;
        let created = File::moved(File::now(), -age * 60_000);
        world.edit(&id, &format!("created_at={created}")).await;
        ids.push(id);
    }
    ids
}

/// Whoever sets `column` of this execution's rows in `table` is refused.
async fn refuse_updates(
    world: &World<File>,
    table: &str,
    of: &str,
    column: &str,
    id: &ExecutionId,
) {
    let trigger = format!(
        "CREATE TRIGGER \"no_{table}_{column}_{id}\" BEFORE UPDATE OF {column} ON {table} \
         WHEN OLD.{of}='{id}' BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    );
    world.subject.exec(&trigger).await;
}

#[tokio::test]
async fn an_execution_whose_rows_cannot_be_started_is_failed_and_the_others_are_claimed() {
    let world = World::<File>::new().await;
    let ids = three(&world).await;
    for id in &ids[..2] {
        refuse_updates(&world, "workflow_step_executions", "execution_id", "started_at", id).await;
    }

    let batch = world.a.claim(&who("a"), 10).await.expect("a claim");
    let claimed: Vec<_> = batch.claims.iter().map(|claim| &claim.lease.execution).collect();
    assert_eq!(claimed, [&ids[2]]);
    assert_eq!(batch.refused.len(), 2, "{:?}", batch.refused);
    for (id, reason) in &batch.refused {
        assert!(reason.contains("not this one"), "{reason}");
        assert_eq!(world.status(id).await, "failed");
        assert_eq!(world.execution(id, "error").await.as_ref(), Some(reason));
        assert_eq!(world.steps(id, &["one"]).await, ["skipped"]);
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
        assert_eq!(world.attempt(id, "one", 1).await, None);
    }
}

#[tokio::test]
async fn an_execution_that_cannot_even_be_failed_is_put_off() {
    let world = World::<File>::new().await;
    let ids = three(&world).await;
    refuse_updates(&world, "workflow_executions", "id", "status", &ids[0]).await;
    let batch = world.a.claim(&who("a"), 2).await.expect("a claim");
    assert_eq!(batch.claims.len(), 1);
    assert!(matches!(&batch.deferred[..], [(id, Deferral::Unwritable(_))] if *id == ids[0]));
    assert_eq!(world.status(&ids[0]).await, "pending");
    assert_eq!(world.lock(&ids[0], "owner").await, None);
    assert_eq!(claim_one(&world.b, "b").await.lease.execution, ids[2]);
    world.pass(Duration::from_secs(59)).await;
    assert!(is_nothing(&world.b.claim(&who("b"), 10).await.expect("a claim")));
    let drop = format!("DROP TRIGGER \"no_workflow_executions_status_{}\"", ids[0]);
    world.subject.exec(&drop).await;
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(claim_one(&world.b, "b").await.lease.execution, ids[0]);
}

#[tokio::test]
async fn a_row_that_breaks_a_takeover_keeps_no_other_from_being_taken_over() {
    let world = World::<File>::new().await;
    let ids = three(&world).await;
    let claims = claims(world.a.claim(&who("a"), 10).await.expect("a claim"));
    let returns: Vec<HandBack> = claims
        .into_values()
        .map(|claim| HandBack { lease: claim.lease, drained: Vec::new() })
        .collect();
    assert!(world.a.hand_back(&returns).await.iter().all(Result::is_ok));
    refuse_updates(&world, "workflow_step_executions", "execution_id", "started_at", &ids[1]).await;

    let due = world.b.survey().await.expect("a survey").into_iter();
    let due: Vec<_> = due
        .map(|seen| orchestrator_worker::domain::recovery::TakeOver {
            seen,
            cause: Cause::Released,
        })
        .collect();
    let batch = world.b.take_over(&who("b"), &due).await.expect("a takeover");
    assert_eq!(batch.claims.len(), 2);
    assert_eq!(batch.refused.len(), 1);
    assert_eq!(world.status(&ids[1]).await, "failed");
    assert_eq!(world.steps(&ids[1], &["one"]).await, ["failed"]);
    assert_eq!(world.held(&ids[1]).await, None);
}
