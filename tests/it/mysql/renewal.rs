//! Renewals beside clients that keep rows locked.

use std::time::Duration;

use orchestrator_worker::{
    domain::{
        id::Beat,
        lease::{Lease, Renewal},
    },
    ports::executions::ExecutionStore,
};
use tokio::time::Instant;

use super::{Database, Server};
use crate::contract::{Subject, world::*};

/// Less than any wait for a lock.
const WITHOUT_WAITING: Duration = Duration::from_millis(900);

/// Leases of so many executions, all held by "a".
async fn held<S: Server>(world: &World<Database<S>>, count: usize) -> Vec<Lease> {
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    for _ in 0..count {
        world.submit(&template).await;
    }
    let claims = world.a.claim(&who("a"), count).await.expect("a claim").claims;
    assert_eq!(claims.len(), count);
    claims.into_iter().map(|claim| claim.lease).collect()
}

async fn renewed<S: Server>(
    world: &World<Database<S>>,
    beat: u64,
    leases: &[Lease],
) -> (Vec<Renewal>, Duration) {
    let began = Instant::now();
    let answers = world.a.renew(TTL, Beat(beat), leases).await.expect("a renewal");
    (answers, began.elapsed())
}

/// The beats of the lock rows.
async fn beats<S: Server>(world: &World<Database<S>>, leases: &[Lease]) -> Vec<String> {
    let mut beats = Vec::new();
    for lease in leases {
        beats.push(world.lock(&lease.execution, "ow_beat").await.unwrap_or("none".into()));
    }
    beats
}

fn deletion_of_the_lock(lease: &Lease) -> String {
    let key = format!("workflow_execution:{}", lease.execution);
    format!("DELETE FROM distributed_locks WHERE lock_key='{key}'")
}

pub async fn one_locked_lock_row_costs_no_other_lease<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let leases = held(&world, 20).await;
    let client = world.subject.open_transaction(&[deletion_of_the_lock(&leases[7])]).await;
    let mut expected = vec![Renewal::Held; 20];
    expected[7] = Renewal::Unanswered;

    let (answers, _) = renewed(&world, 2, &leases).await;
    assert_eq!(answers, expected);
    // The first one has waited for the lock; no later one does.
    for number in [3, 4] {
        let (answers, took) = renewed(&world, number, &leases).await;
        assert_eq!(answers, expected);
        assert!(took < WITHOUT_WAITING, "{took:?}");
    }
    let mut numbers = vec!["4"; 20];
    numbers[7] = "1";
    assert_eq!(beats(&world, &leases).await, numbers);

    drop(client);
    wait_for_the_lock(&world, &leases[7]).await;
    assert_eq!(renewed(&world, 5, &leases).await.0, [Renewal::Held; 20]);
    assert_eq!(beats(&world, &leases).await, vec!["5"; 20]);
}

pub async fn a_gone_lock_row_whose_execution_is_locked_costs_no_other_lease<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let leases = held(&world, 3).await;
    assert_eq!(world.subject.exec(&deletion_of_the_lock(&leases[1])).await, 1);
    let id = &leases[1].execution;
    let edit = format!("UPDATE workflow_executions SET created_by='me' WHERE id='{id}'");
    let client = world.subject.open_transaction(&[edit]).await;
    let (answers, took) = renewed(&world, 2, &leases).await;
    assert_eq!(answers, [Renewal::Held, Renewal::Unanswered, Renewal::Held]);
    assert!(took < WITHOUT_WAITING, "{took:?}");
    assert_eq!(beats(&world, &leases).await, ["2", "none", "2"]);

    drop(client);
    wait_for_the_lock(&world, &leases[1]).await;
    assert_eq!(renewed(&world, 3, &leases).await.0, [Renewal::Held; 3]);
    assert_eq!(beats(&world, &leases).await, ["3", "3", "3"]);
}

pub async fn a_gone_lock_row_that_cannot_be_put_back_costs_no_other_lease<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let mut leases = held(&world, 3).await;
    // An insert locks the key after its own too: the last one has none.
    leases.sort_by(|a, b| a.execution.cmp(&b.execution));
    assert_eq!(world.subject.exec(&deletion_of_the_lock(&leases[2])).await, 1);
    // Somebody takes its place, and has not made up his mind.
    let key = format!("workflow_execution:{}", leases[2].execution);
    let insert = format!(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at) VALUES ('{key}', 'x', NOW(3))"
    );
    let client = world.subject.open_transaction(&[insert]).await;
    let (answers, _) = renewed(&world, 2, &leases).await;
    assert_eq!(answers, [Renewal::Held, Renewal::Held, Renewal::Unanswered]);
    assert_eq!(beats(&world, &leases).await, ["2", "2", "none"]);

    drop(client);
    wait_for_the_lock(&world, &leases[2]).await;
    assert_eq!(renewed(&world, 3, &leases).await.0, [Renewal::Held; 3]);
}

/// A client's locks go a moment after the client.
async fn wait_for_the_lock<S: Server>(world: &World<Database<S>>, lease: &Lease) {
    let id = &lease.execution;
    world
        .subject
        .exec(&format!("SELECT id FROM workflow_executions WHERE id='{id}' FOR UPDATE"))
        .await;
    let key = format!("SELECT id FROM distributed_locks WHERE lock_key='workflow_execution:{id}'");
    world.subject.exec(&format!("{key} FOR UPDATE")).await;
}
