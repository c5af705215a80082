//! What a client does to the fleet that keeps rows locked, for as long as it likes: nothing but to the
//! executions whose rows they are.

use std::{sync::Arc, time::Duration};

use orchestrator_worker::{
    adapters::mysql::MySqlStore,
    domain::{
        deferral::Deferral,
        eligibility::Eligibility,
        execution::{AttemptOutcome, ExecutionState},
        id::ExecutionId,
        plan::Finish,
        recovery::{Cause, TakeOver},
    },
    ports::{
        control::Control,
        executions::{
            Advance, AdvanceError, Advanced, Batch, Claim, Claimant, ExecutionStore, HandBack,
            StepEnd, StepSkip, StoreError,
        },
    },
};
use sqlx::MySqlConnection;
use tokio::time::Instant;

use super::{Database, Server};
use crate::contract::{Subject, world::*};

/// Nothing that waits for a lock ends so soon: the store's own waits last two seconds.
const WITHOUT_WAITING: Duration = Duration::from_millis(1_900);

/// `count` executions of a chain of two, oldest first.
async fn submitted<S: Server>(world: &World<Database<S>>, count: usize) -> Vec<ExecutionId> {
    let template = world.apply(&workflow("w", chain(&["one", "two"]))).await;
    let mut ids = Vec::new();
    for place in 0..count {
        let id = world.submit(&template).await;
        let created = format!("created_at=NOW(3) - INTERVAL {} SECOND", 1_000 - place);
        world.edit(&id, &created).await;
        ids.push(id);
    }
    ids
}

/// A statement that edits the last step row of an execution, and locks it.
fn edit_of_a_step(id: &ExecutionId) -> String {
    format!(
        "UPDATE workflow_step_executions SET output='edited' WHERE execution_id='{id}' AND \
         step_id='{}'",
        step_id("two")
    )
}

fn taken(batch: &Batch) -> Vec<ExecutionId> {
    batch.claims.iter().map(|claim| claim.lease.execution.clone()).collect()
}

/// What was put off because its rows could not be written.
fn put_off(batch: &Batch) -> Vec<ExecutionId> {
    let unwritable = |(id, why): &(ExecutionId, Deferral)| match why {
        Deferral::Unwritable(_) => Some(id.clone()),
        _ => None,
    };
    batch.deferred.iter().filter_map(unwritable).collect()
}

async fn claim(store: &MySqlStore, who: &Claimant) -> (Batch, Duration) {
    let began = Instant::now();
    (store.claim(who, 50).await.expect("a claim"), began.elapsed())
}

pub async fn one_locked_step_row_keeps_no_other_execution_from_being_claimed<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let ids = submitted(&world, 7).await;
    let client = world.subject.open_transaction(&[edit_of_a_step(&ids[0])]).await;

    let batch = world.a.claim(&who("a"), 5).await.expect("a claim");
    assert_eq!(taken(&batch), ids[1..5]);
    assert_eq!(put_off(&batch), ids[..1]);
    assert_eq!(world.status(&ids[0]).await, "pending");
    assert_eq!(world.lock(&ids[0], "owner").await, None);

    // Nobody meets it again for a while, this process or another.
    for (store, name, id) in [(&world.a, "a", &ids[5]), (&world.b, "b", &ids[6])] {
        let began = Instant::now();
        let batch = store.claim(&who(name), 1).await.expect("a claim");
        assert_eq!(taken(&batch), std::slice::from_ref(id));
        assert!(began.elapsed() < WITHOUT_WAITING, "{:?}", began.elapsed());
    }
    drop(client);
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(claim_one(&world.b, "b").await.lease.execution, ids[0]);
}

/// A client that locks the lock row of the template of [`submitted`], found by its primary key: found by
/// its lock key, MariaDB would lock the gap before it too, and with it every key that is not there yet.
async fn locks_template<S: Server>(world: &World<Database<S>>) -> MySqlConnection {
    let id = "SELECT id FROM distributed_locks WHERE lock_key='workflow_template:template-w'";
    let id = world.subject.one(id).await.expect("it is there");
    let edit = format!("UPDATE distributed_locks SET created_at=NOW(3) WHERE id={id}");
    world.subject.open_transaction(&[edit]).await
}

pub async fn a_locked_template_row_keeps_no_other_template_from_being_claimed_or_taken_over<
    S: Server,
>() {
    let world = World::<Database<S>>::new().await;
    // More than go into one batch.
    let ids = submitted(&world, 60).await;
    let other = world.apply(&workflow("x", chain(&["three"]))).await;
    let others = [world.submit(&other).await, world.submit(&other).await];
    let expired = "INSERT INTO distributed_locks(lock_key, owner, expires_at) \
                   VALUES ('workflow_template:template-w', 'go-1', NOW(3) - INTERVAL 1 SECOND)";
    world.subject.exec(expired).await;
    let client = locks_template(&world).await;
    let one_each = |name| {
        let set = Eligibility { one_per_template: true, ..Eligibility::default() };
        Claimant { eligibility: Arc::new(set), ..who(name) }
    };
    // A call ends while its leases can still be renewed: on a slow server it takes a second one.
    let (mut claimed, mut deferred) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (batch, _) = claim(&world.a, &one_each("a")).await;
        claimed.extend(taken(&batch));
        deferred.extend(put_off(&batch));
    }
    assert_eq!(claimed, others[..1], "the second one waits for the first");
    assert_eq!(deferred, ids[..deferred.len()]);
    drop(client);
    world.pass(Duration::from_secs(60)).await;
    let id = taken(&claim(&world.a, &one_each("a")).await.0).remove(0);
    assert!(ids.contains(&id));

    let client = locks_template(&world).await;
    let survey = world.b.survey().await.expect("a survey").into_iter();
    let due: Vec<TakeOver> =
        survey.map(|seen| TakeOver { seen, cause: Cause::LeaseExpired }).collect();
    let batch = world.b.take_over(&one_each("b"), &due).await.expect("a takeover");
    assert_eq!(taken(&batch), others[..1]);
    assert_eq!(put_off(&batch), std::slice::from_ref(&id));
    drop(client);
    let d = world.subject.store().await;
    let survey = d.survey().await.expect("a survey").into_iter().filter(|it| it.execution == id);
    let due: Vec<TakeOver> =
        survey.map(|seen| TakeOver { seen, cause: Cause::LeaseExpired }).collect();
    assert_eq!(taken(&d.take_over(&one_each("d"), &due).await.expect("a takeover")), [id]);
}

pub async fn a_short_lease_is_not_used_up_by_waiting_for_locks<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let ids = submitted(&world, 4).await;
    let _client = world.subject.open_transaction(&[edit_of_a_step(&ids[1])]).await;
    let mut hasty = who("a");
    hasty.ttl = Duration::from_secs(8);

    // The first call has waited for so long that it brings nothing; what it learnt is not lost.
    let began = Instant::now();
    let first = world.a.claim(&hasty, 50).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(first.is_err(), "{first:?}");
    let (batch, took) = claim(&world.a, &hasty).await;
    assert_eq!(taken(&batch), [ids[0].clone(), ids[2].clone(), ids[3].clone()]);
    assert_eq!(put_off(&batch), [ids[1].clone()]);
    assert!(took < WITHOUT_WAITING, "{took:?}");
}

pub async fn many_locked_executions_are_put_off_without_a_wait_for_each<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let ids = submitted(&world, 50).await;
    let edits: Vec<String> = ids[..40].iter().map(edit_of_a_step).collect();
    let _client = world.subject.open_transaction(&edits).await;
    // A call ends while its leases can still be renewed: on a slow server it takes a second one.
    let (mut claimed, mut deferred) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (batch, _) = claim(&world.a, &who("a")).await;
        claimed.extend(taken(&batch));
        deferred.extend(put_off(&batch));
    }
    assert_eq!(claimed, ids[40..]);
    assert_eq!(deferred, ids[..40]);
}

pub async fn one_locked_step_row_keeps_no_other_execution_from_being_taken_over<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let ids = submitted(&world, 4).await;
    let claims: Vec<Claim> = world.a.claim(&who("a"), 50).await.expect("a claim").claims;
    let returns: Vec<HandBack> = claims
        .into_iter()
        .map(|claim| HandBack { lease: claim.lease, drained: Vec::new() })
        .collect();
    assert!(world.a.hand_back(&returns).await.iter().all(Result::is_ok));
    world.b.cancel(&ids[3]).await.expect("it is cancelled");
    let client = world.subject.open_transaction(&[edit_of_a_step(&ids[0])]).await;

    let due = |survey: Vec<_>| -> Vec<TakeOver> {
        survey.into_iter().map(|seen| TakeOver { seen, cause: Cause::Released }).collect()
    };
    let seen = due(world.b.survey().await.expect("a survey"));
    let batch = world.b.take_over(&who("b"), &seen).await.expect("a takeover");
    let mut got = taken(&batch);
    got.sort();
    let mut expected = ids[1..3].to_vec();
    expected.sort();
    assert_eq!(got, expected);
    assert_eq!(put_off(&batch), ids[..1]);
    assert_eq!(world.steps(&ids[3], &["one", "two"]).await, ["failed", "skipped"], "tidied");

    let left = world.held(&ids[0]).await.expect("it is still free");
    let again = [TakeOver { seen: left, cause: Cause::Released }];
    let began = Instant::now();
    assert!(is_nothing(&world.b.take_over(&who("b"), &again).await.expect("nothing")));
    assert!(began.elapsed() < WITHOUT_WAITING, "{:?}", began.elapsed());
    drop(client);
    let batch = world.a.take_over(&who("a"), &again).await.expect("a takeover");
    assert_eq!(only(batch).lease.execution, ids[0]);
}

pub async fn a_half_made_execution_is_completed_in_pieces<S: Server>() {
    const STEPS: usize = 6_000;
    let world = World::<Database<S>>::new().await;
    let names: Vec<String> = (0..STEPS).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let template = world.apply(&workflow("w", fan(&names))).await;
    let id = world.submit(&template).await;
    world.subject.exec("DELETE FROM workflow_step_executions").await;
    world.pass(HOUR).await;

    let count = "SELECT COUNT(*) FROM workflow_step_executions";
    let batch = world.a.claim(&who("a"), 1).await.expect("a claim");
    assert_eq!(batch.deferred, [(id.clone(), Deferral::HalfMade)]);
    assert_eq!(world.subject.one(count).await.as_deref(), Some("5000"));
    assert_eq!(world.status(&id).await, "pending");

    world.pass(HOUR).await;
    let claim = claim_one(&world.b, "b").await;
    assert_eq!(claim.slots.len(), STEPS);
    assert_eq!(world.subject.one(count).await, Some(STEPS.to_string()));
    let foreign = format!(
        "SELECT COUNT(*) FROM workflow_step_executions WHERE ow_fence <> {}",
        claim.lease.fence
    );
    assert_eq!(world.subject.one(&foreign).await.as_deref(), Some("0"), "all are stamped");
}

/// The end of a claim's first step, and of its execution where `state` says so.
fn end_of(claim: &Claim, state: Option<ExecutionState>) -> Advance {
    let slot = &claim.slots[0];
    let mut advance = Advance::new(claim.lease.clone());
    let succeeded = state != Some(ExecutionState::Failed);
    advance.ended.push(StepEnd {
        step: slot.id.clone(),
        attempt: slot.attempt,
        succeeded,
        outcome: if succeeded { AttemptOutcome::Success } else { AttemptOutcome::Failed },
        output: None,
        error: None,
        retry_count: 0,
    });
    advance.finish = state.map(|state| Finish { state, error: None });
    advance
}

pub async fn one_locked_step_row_keeps_no_other_advance_from_being_recorded<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    for _ in 0..30 {
        world.submit(&template).await;
    }
    let claims = world.a.claim(&who("a"), 50).await.expect("a claim").claims;
    let advances: Vec<Advance> =
        claims.iter().map(|claim| end_of(claim, Some(ExecutionState::Success))).collect();
    let edit = format!(
        "UPDATE workflow_step_executions SET output='edited' WHERE id='{}'",
        claims[3].slots[0].id
    );
    let client = world.subject.open_transaction(&[edit]).await;
    let is_locked = |answer: &Result<_, AdvanceError>| {
        matches!(answer, Err(AdvanceError::Store(StoreError::Unavailable(_))))
    };
    let (before, after) = advances.split_at(20);
    for (place, answer) in world.a.advance(before).await.iter().enumerate() {
        match place {
            3 => assert!(is_locked(answer), "{answer:?}"),
            _ => assert_eq!(*answer, Ok(Advanced::Recorded), "{place}"),
        }
    }
    // It is sent again, and keeps nobody waiting.
    for other in &after[..2] {
        let began = Instant::now();
        let answers = world.a.advance(&[advances[3].clone(), other.clone()]).await;
        assert!(is_locked(&answers[0]), "{answers:?}");
        assert_eq!(answers[1], Ok(Advanced::Recorded));
        assert!(began.elapsed() < WITHOUT_WAITING, "{:?}", began.elapsed());
    }
    drop(client);
    wait_for_the_lock(&world, &claims[3]).await;
    let answers = world.a.advance(&[advances[3].clone(), after[2].clone()]).await;
    assert_eq!(answers, [Ok(Advanced::Recorded), Ok(Advanced::Recorded)]);
    assert_eq!(world.status(&claims[3].lease.execution).await, "success");
}

/// A client's locks go a moment after the client.
async fn wait_for_the_lock<S: Server>(world: &World<Database<S>>, claim: &Claim) {
    let id = &claim.lease.execution;
    for (table, column) in
        [("workflow_executions", "id"), ("workflow_step_executions", "execution_id")]
    {
        let sql = format!("SELECT id FROM {table} WHERE {column}='{id}' FOR UPDATE");
        world.subject.exec(&sql).await;
    }
}

pub async fn an_abort_of_many_steps_is_recorded_in_pieces_and_its_end_last<S: Server>() {
    const STEPS: usize = 6_000;
    let world = World::<Database<S>>::new().await;
    let names: Vec<String> = (0..STEPS).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let template = world.apply(&workflow("w", fan(&names))).await;
    let id = world.submit(&template).await;
    let mut alone = who("a");
    alone.steps_at_once = 1;
    let claim = only(world.a.claim(&alone, 1).await.expect("a claim"));
    let mut advance = end_of(&claim, Some(ExecutionState::Failed));
    for slot in &claim.slots[1..] {
        advance.skipped.push(StepSkip { step: slot.id.clone(), reason: "aborted".into() });
    }
    // Its end meets a lock.
    let edit = format!("UPDATE workflow_executions SET created_by='me' WHERE id='{id}'");
    let client = world.subject.open_transaction(&[edit]).await;
    let answers = world.a.advance(std::slice::from_ref(&advance)).await;
    assert!(matches!(answers[0], Err(AdvanceError::Store(StoreError::Unavailable(_)))));
    let skipped = "SELECT COUNT(*) FROM workflow_step_executions WHERE status='skipped'";
    assert_eq!(world.subject.one(skipped).await.as_deref(), Some("5000"));
    assert_eq!(world.step(&id, "s0", "status").await.as_deref(), Some("failed"));
    assert_eq!(world.status(&id).await, "running");

    drop(client);
    wait_for_the_lock(&world, &claim).await;
    assert_eq!(world.a.advance(&[advance]).await, [Ok(Advanced::Recorded)]);
    assert_eq!(world.subject.one(skipped).await, Some((STEPS - 1).to_string()));
    assert_eq!(world.status(&id).await, "failed");
}
