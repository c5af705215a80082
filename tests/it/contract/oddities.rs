//! Rows that no claim and no survey meets.

use std::time::Duration;

use orchestrator_worker::{
    domain::{
        recovery::{Cause, Holder, ORCHESTRATOR_SILENT, TakeOver},
        step::Resume,
    },
    ports::executions::{ClaimKind, ExecutionStore},
};

use super::{Subject, world::*};

/// An execution in the middle of which the orchestrator itself is: "one" done, "two" running.
async fn half_run<S: Subject>(world: &World<S>) -> orchestrator_worker::domain::id::ExecutionId {
    let id = world.submit_chain(&["one", "two", "three"]).await;
    let now = S::now();
    world.edit(&id, &format!("status='running', started_at={now}, updated_at={now}")).await;
    for (step, status) in [("one", "success"), ("two", "running")] {
        let sql = format!(
            "UPDATE workflow_step_executions SET status='{status}' WHERE execution_id='{id}' AND \
             step_id='{}'",
            step_id(step)
        );
        assert_eq!(world.subject.exec(&sql).await, 1);
    }
    id
}

pub async fn what_the_orchestrator_left_running_is_adopted_when_its_lock_has_expired<S: Subject>() {
    let world = World::<S>::new().await;
    let id = half_run(&world).await;
    let orphans = async || world.b.orphans().await.expect("a look");
    assert!(orphans().await.is_empty(), "it has only just begun");
    world.foreign_lock(&id, "go-1", 300).await;
    world.pass(Duration::from_secs(299)).await;
    assert!(orphans().await.is_empty(), "its lock holds");
    assert!(world.held(&id).await.is_none(), "no worker's survey shows it");
    world.pass(Duration::from_secs(2)).await;
    let seen = orphans().await;
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].execution, &seen[0].by), (&id, &Holder::Orchestrator));

    let due = TakeOver { seen: seen[0].clone(), cause: Cause::OrchestratorSilent };
    // It has renewed its lock since: nothing is taken.
    let renewed = format!("UPDATE distributed_locks SET expires_at={}", S::moved(S::now(), 60_000));
    world.subject.exec(&renewed).await;
    let batch = world.b.take_over(&who("b"), std::slice::from_ref(&due)).await;
    assert!(is_nothing(&batch.expect("a takeover")));
    world.pass(HOUR).await;
    let claim = only(world.b.take_over(&who("b"), &[due]).await.expect("a takeover"));
    let kind = ClaimKind::TakenOver { from: None, cause: Cause::OrchestratorSilent };
    assert_eq!((claim.kind.clone(), started(&claim)), (kind, vec!["two".to_owned()]));
    assert_eq!(claim.workflow.nodes()[1].step.resume, Resume::Rerun);
    assert_eq!(world.lock(&id, "owner").await.as_deref(), Some("b"));
    assert!(orphans().await.is_empty());

    // Without a lock row only its age speaks for its being dead.
    let world = World::<S>::new().await;
    half_run(&world).await;
    world.pass(ORCHESTRATOR_SILENT.saturating_sub(Duration::from_secs(30))).await;
    assert!(world.b.orphans().await.expect("a look").is_empty());
    world.pass(Duration::from_secs(31)).await;
    assert_eq!(world.b.orphans().await.expect("a look").len(), 1);
}

pub async fn a_status_that_there_is_not_is_failed_when_nobody_has_touched_it<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut odd = Vec::new();
    for set in ["status=NULL", "status=''", "status='resting'"] {
        let id = world.submit(&template).await;
        world.edit(&id, set).await;
        odd.push(id);
    }
    let good = world.submit(&template).await;
    assert!(world.a.fail_unknown(HOUR).await.expect("a look").is_empty(), "somebody may mend it");
    world.pass(HOUR + Duration::from_secs(1)).await;
    let failed = world.a.fail_unknown(HOUR).await.expect("a look");
    let mut ids: Vec<_> = failed.iter().map(|(id, _)| id.clone()).collect();
    ids.sort();
    odd.sort();
    assert_eq!(ids, odd);
    for (id, reason) in failed {
        assert_eq!(world.status(&id).await, "failed");
        assert_eq!(world.execution(&id, "error").await, Some(reason));
        assert_eq!(world.execution(&id, "ow_fence").await.as_deref(), Some("1"));
    }
    assert_eq!(world.status(&good).await, "pending");
    assert!(world.b.fail_unknown(HOUR).await.expect("a look").is_empty(), "once");
}
