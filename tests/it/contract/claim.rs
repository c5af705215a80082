//! Claims: who gets what, in which order, and what is put back or refused instead.

use std::{collections::BTreeSet, time::Duration};

use orchestrator_worker::{
    domain::{
        deferral::Deferral, eligibility::Eligibility, id::ExecutionId, intake::HALF_MADE,
        plan::Finish, recovery::Cause, trace::Origin,
    },
    ports::{
        control::{Control, Start, Submission},
        executions::{ClaimKind, ExecutionStore},
    },
};
use tokio::task::JoinSet;

use super::{Subject, world::*};

pub async fn the_oldest_due_comes_first_and_no_more_than_asked<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut ids = Vec::new();
    for age in [1, 5, 3, 4, 2] {
        let id = world.submit(&template).await;
        let created = S::moved(S::now(), -age * 60_000);
        world.edit(&id, &format!("created_at={created}")).await;
        ids.push((age, id));
    }
    ids.sort();
    let oldest_first: Vec<ExecutionId> = ids.into_iter().rev().map(|(_, id)| id).collect();

    let first = world.a.claim(&who("a"), 2).await.expect("a claim");
    let taken: Vec<_> = first.claims.iter().map(|claim| claim.lease.execution.clone()).collect();
    assert_eq!(taken, oldest_first[..2]);
    assert!(first.claims[0].age >= Duration::from_secs(299), "{:?}", first.claims[0].age);
    assert_eq!(first.claims[0].kind, ClaimKind::Fresh);

    let rest = world.b.claim(&who("b"), 50).await.expect("a claim");
    let taken: Vec<_> = rest.claims.iter().map(|claim| claim.lease.execution.clone()).collect();
    assert_eq!(taken, oldest_first[2..]);
    assert!(is_nothing(&world.a.claim(&who("a"), 50).await.expect("a claim")));
    assert!(is_nothing(&world.a.claim(&who("a"), 0).await.expect("a claim")));
}

pub async fn two_claimers_never_share_an_execution<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut all = BTreeSet::new();
    for _ in 0..60 {
        all.insert(world.submit(&template).await);
    }
    let mut claimers = JoinSet::new();
    for name in ["a", "b", "c", "d"] {
        let store = world.subject.store().await;
        claimers.spawn(async move {
            let mut mine = Vec::new();
            // A batch may come up short while others work on the same rows: only the queue says
            // that nothing is left.
            while store.queue(&Eligibility::default()).await.expect("numbers").due > 0 {
                let batch = store.claim(&who(name), 7).await.expect("a claim");
                mine.extend(claims(batch).into_keys());
            }
            mine
        });
    }
    let taken: Vec<ExecutionId> = claimers.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), all.len(), "none twice");
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), all);
}

pub async fn the_first_starts_are_committed_with_the_claim<S: Subject>() {
    let world = World::<S>::new().await;
    let mut steps = fan(&["left", "right"]);
    steps.push(after(step("last"), &["left", "right"]));
    let template = world.apply(&workflow("w", steps)).await;
    let id = world.submit(&template).await;

    let claim = claim_one(&world.a, "a").await;
    assert_eq!(started(&claim), ["left", "right"]);
    assert_eq!(claim.plan.finish, None);
    assert_eq!(claim.slots.iter().map(|slot| slot.attempt).collect::<Vec<_>>(), [1, 1, 0]);

    assert_eq!(world.status(&id).await, "running");
    assert_eq!(world.execution(&id, "ow_owner").await.as_deref(), Some("a"));
    assert_eq!(world.execution(&id, "ow_claim").await.as_deref(), Some(claim.lease.nonce.as_str()));
    assert!(world.execution(&id, "started_at").await.is_some());
    assert_eq!(
        world.steps(&id, &["left", "right", "last"]).await,
        ["running", "running", "pending"]
    );
    let fence = claim.lease.fence.to_string();
    assert_eq!(world.execution(&id, "ow_fence").await, Some(fence.clone()));
    assert_eq!(world.step(&id, "left", "ow_fence").await, Some(fence.clone()));
    assert_eq!(world.step(&id, "last", "ow_fence").await, Some(fence.clone()), "stamped too");
    assert_eq!(world.step(&id, "left", "ow_attempt").await.as_deref(), Some("1"));
    assert!(world.step(&id, "left", "started_at").await.is_some());
    assert_eq!(world.attempt(&id, "left", 1).await.as_deref(), Some("-/-/a"));
    assert_eq!(world.attempt(&id, "last", 1).await, None);
    assert_eq!(world.lock(&id, "owner").await.as_deref(), Some("a"));
    assert_eq!(world.lock(&id, "ow_fence").await, Some(fence));
    assert_eq!(world.lock(&id, "ow_beat").await.as_deref(), Some("1"));
}

pub async fn an_execution_without_steps_is_claimed_with_its_end<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", Vec::new())).await;
    world.submit(&template).await;
    let claim = claim_one(&world.a, "a").await;
    let success = orchestrator_worker::domain::execution::ExecutionState::Success;
    assert_eq!(claim.plan.finish, Some(Finish { state: success, error: None }));
}

pub async fn the_fence_grows_with_every_claim<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    let mut last = 0;
    for _ in 0..3 {
        let claim = claim_one(&world.a, "a").await;
        assert!(claim.lease.fence.0 > last);
        last = claim.lease.fence.0;
        // Somebody retries it, more crudely than we would.
        world.edit(&id, "status='pending', ow_owner=''").await;
        world.subject.exec("DELETE FROM distributed_locks").await;
    }
    // A row that was once fenced by a clock far ahead does not fall behind itself.
    world.edit(&id, "ow_fence=8000000000000000000").await;
    assert_eq!(claim_one(&world.a, "a").await.lease.fence.0, 8_000_000_000_000_000_001);
}

pub async fn what_is_not_due_or_not_pending_is_left_alone<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let later = S::moved(S::now(), 3_600_000);
    for set in [
        format!("created_at={later}"),
        format!("ow_not_before={later}"),
        "status='cancelled'".into(),
        "status='success'".into(),
        "status='running'".into(),
        "ow_fence=9000000000000000000".into(),
        format!("ow_fence=9000000000000000000, created_at={later}"),
    ] {
        let id = world.submit(&template).await;
        world.edit(&id, &set).await;
    }
    assert!(is_nothing(&world.a.claim(&who("a"), 50).await.expect("a claim")));
    let queue = world.a.queue(&Eligibility::default()).await.expect("numbers");
    assert_eq!((queue.later, queue.running), (2, 0));
    assert_eq!(queue.oldest_due, Duration::ZERO);

    world.pass(HOUR).await;
    assert_eq!(world.a.claim(&who("a"), 50).await.expect("a claim").claims.len(), 2);
}

pub async fn a_row_without_times_is_due<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    world.edit(&id, "created_at=NULL, updated_at=NULL").await;
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(claim.lease.execution, id);
    assert_eq!(claim.age, HALF_MADE, "old enough for whatever waits for its age");
}

pub async fn a_live_foreign_lock_defers_and_does_not_block_the_head<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let locked = world.submit(&template).await;
    let free = world.submit(&template).await;
    world.edit(&locked, &format!("created_at={}", S::moved(S::now(), -60_000))).await;
    world.foreign_lock(&locked, "go-1", 300).await;

    let batch = world.a.claim(&who("a"), 1).await.expect("a claim");
    assert!(batch.claims.is_empty());
    assert_eq!(batch.deferred, [(locked.clone(), Deferral::Locked)]);
    assert_eq!(world.status(&locked).await, "pending");
    assert_eq!(world.lock(&locked, "owner").await.as_deref(), Some("go-1"), "untouched");
    assert_eq!(world.execution(&locked, "ow_owner").await.as_deref(), Some(""));

    assert_eq!(only(world.a.claim(&who("a"), 1).await.expect("a claim")).lease.execution, free);
    // It comes back after its back-off, and again.
    world.pass(Duration::from_secs(10)).await;
    let batch = world.a.claim(&who("a"), 1).await.expect("a claim");
    assert_eq!(batch.deferred, [(locked.clone(), Deferral::Locked)]);
    assert_eq!(
        world.a.queue(&Eligibility::default()).await.expect("numbers").due,
        1,
        "a short back-off counts as due"
    );
}

pub async fn an_expired_foreign_lock_and_a_tombstone_hinder_nobody<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let expired = world.submit(&template).await;
    let ended = world.submit(&template).await;
    let released = world.submit(&template).await;
    world.foreign_lock(&expired, "go-1", -1).await;
    world.foreign_lock(&ended, "~finished", 60).await;
    world.foreign_lock(&released, "~released", 60).await;
    let claims = claims(world.a.claim(&who("a"), 10).await.expect("a claim"));
    assert_eq!(claims.len(), 3);
    for id in [expired, ended, released] {
        assert_eq!(world.lock(&id, "owner").await.as_deref(), Some("a"));
    }
}

pub async fn a_young_half_made_execution_waits_and_an_old_one_is_completed<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one", "two"]).await;
    let gone = format!("DELETE FROM workflow_step_executions WHERE step_id='{}'", step_id("two"));
    assert_eq!(world.subject.exec(&gone).await, 1);

    let batch = world.a.claim(&who("a"), 1).await.expect("a claim");
    assert!(batch.claims.is_empty());
    assert_eq!(batch.deferred, [(id.clone(), Deferral::HalfMade)]);
    assert_eq!(world.status(&id).await, "pending");
    assert_eq!(world.execution(&id, "ow_owner").await.as_deref(), Some(""));
    assert_eq!(world.execution(&id, "started_at").await, None);
    assert_eq!(world.execution(&id, "ow_plan").await, None, "its template may still change");
    assert_eq!(world.lock(&id, "owner").await, None);
    assert_eq!(world.step(&id, "one", "status").await.as_deref(), Some("pending"));

    world.pass(HOUR).await;
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["running", "pending"]);
    assert_eq!(world.step(&id, "two", "ow_fence").await, Some(claim.lease.fence.to_string()));
    assert_eq!(world.step(&id, "two", "id").await.as_deref(), Some(claim.slots[1].id.as_str()));
}

pub async fn an_unknown_function_waits_for_newer_workers_and_fails_in_the_end<S: Subject>() {
    let world = World::<S>::new().await;
    let mut steps = chain(&["one", "two"]);
    steps[1].parameters = Some(r#"{"func":"brew"}"#.into());
    let template = world.apply(&workflow("w", steps)).await;
    let id = world.submit(&template).await;

    let batch = world.a.claim(&who("a"), 10).await.expect("a claim");
    assert!(batch.claims.is_empty());
    assert!(matches!(&batch.deferred[..], [(it, Deferral::Unknown(what))]
        if *it == id && what.contains("brew") && what.contains("two")));
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["pending", "pending"]);

    world.pass(HOUR).await;
    let mut impatient = who("a");
    impatient.unknown_after = Duration::ZERO;
    let batch = world.a.claim(&impatient, 10).await.expect("a claim");
    assert!(batch.claims.is_empty() && batch.deferred.is_empty());
    assert_eq!(batch.refused[0].0, id);
    assert!(batch.refused[0].1.contains("brew"), "{}", batch.refused[0].1);
    assert_eq!(world.status(&id).await, "failed");
    assert_eq!(world.execution(&id, "error").await.as_ref(), Some(&batch.refused[0].1));
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["skipped", "skipped"]);
}

pub async fn of_duplicate_step_rows_the_first_id_counts<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    for (row, status) in [("00-first", "pending"), ("zz-last", "success")] {
        let insert = format!(
            "INSERT INTO workflow_step_executions(id, execution_id, step_id, status) \
             VALUES ('{row}', '{id}', '{}', '{status}')",
            step_id("one")
        );
        world.subject.exec(&insert).await;
    }
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(started(&claim), ["one"]);
    assert_eq!(claim.slots[0].id.as_str(), "00-first");
}

pub async fn the_plan_of_the_first_claim_is_kept_though_the_template_is_edited<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one", "two"]).await;
    let before = claim_one(&world.a, "a").await;

    let mut edited = workflow("chain", chain(&["one", "two", "three"]));
    edited.steps[0].parameters = Some(r#"{"func":"noop","more":1}"#.into());
    world.apply(&edited).await;
    let later = world.submit(&edited.template).await;

    let taken = only(
        world.b_takes_over(&id, orchestrator_worker::domain::recovery::Cause::LeaseExpired).await,
    );
    assert_eq!(taken.workflow, before.workflow);
    let fresh = claim_one(&world.b, "b").await;
    assert_eq!(fresh.lease.execution, later);
    assert_eq!(fresh.workflow.nodes().len(), 3);
}

pub async fn numbers_at_their_end_stop_no_claim<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    let most = "UPDATE workflow_step_executions SET ow_attempt=4294967295, ow_key_gen=4294967295, \
                retry_count=9223372036854775807";
    assert_eq!(world.subject.exec(most).await, 1);
    world.edit(&id, "ow_claims=4294967295, ow_run=4294967295").await;
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(started(&claim), ["one"]);
    let slot = &claim.slots[0];
    assert_eq!((slot.attempt, slot.key_gen, slot.retry_count), (u32::MAX, u32::MAX, u32::MAX));
    assert_eq!(world.attempt(&id, "one", u32::MAX).await.as_deref(), Some("-/-/a"));
    world.edit(&id, "ow_claims=4294967295").await;
    let cause = orchestrator_worker::domain::recovery::Cause::LeaseExpired;
    let refused = world.b_takes_over(&id, cause).await.refused;
    assert_eq!(refused.len(), 1, "it was lost as often as can be counted");
}

pub async fn what_names_nothing_that_can_be_run_is_failed_with_the_reason<S: Subject>() {
    let world = World::<S>::new().await;
    let all = "WHERE id IN (SELECT execution_id FROM workflow_step_executions)";
    for (sql, reason) in [
        (format!("UPDATE workflow_executions SET template_id=NULL {all}"), "it names no template"),
        (
            format!("UPDATE workflow_executions SET template_id='t' {all}"),
            "its template t does not exist any more",
        ),
        (
            "DELETE FROM steps WHERE id='step-two'".into(),
            "step step-two of its template does not exist any more",
        ),
        (
            "UPDATE workflow_template_steps SET run_mode='both' WHERE step_id='step-two'".into(),
            "step \"two\" has run_mode \"both\", which is neither \"serial\" nor \"parallel\"",
        ),
        (
            "UPDATE workflow_step_executions SET status='paused' WHERE step_id='step-two'".into(),
            "step two has an unknown status \"paused\"",
        ),
    ] {
        let id = world.submit_chain(&["one", "two"]).await;
        assert_eq!(world.subject.exec(&sql).await, 1, "{sql}");
        let batch = world.a.claim(&who("a"), 10).await.expect("a claim");
        assert!(batch.claims.is_empty() && batch.deferred.is_empty());
        assert_eq!(batch.refused, [(id.clone(), reason.to_owned())]);
        assert_eq!(world.status(&id).await, "failed");
        assert_eq!(world.execution(&id, "error").await.as_deref(), Some(reason));
        assert_eq!(world.execution(&id, "ow_owner").await.as_deref(), Some(""));
        assert_eq!(world.execution(&id, "ow_plan").await, None, "a retry reads what was mended");
        for column in ["started_at", "finished_at", "duration"] {
            assert!(world.execution(&id, column).await.is_some(), "{column}");
        }
        assert_eq!(world.steps(&id, &["one", "two"]).await, ["skipped", "skipped"]);
        assert_eq!(world.lock(&id, "owner").await.as_deref(), Some("~finished"));
        for table in ["workflow_executions", "workflow_step_executions", "steps"] {
            world.subject.exec(&format!("DELETE FROM {table}")).await;
        }
        world.subject.exec("DELETE FROM workflow_template_steps").await;
    }
}

/// A trace must not fall apart because its executions are read in another way.
pub async fn an_execution_has_one_origin_for_whoever_looks_at_it_or_claims_it<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one", "two"]))).await;
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let submission = Submission {
        template: template.to_string(),
        created_by: "ann".into(),
        start: Start::Now,
        traceparent: Some(given.parse().expect("a place in a trace")),
    };
    let id = world.a.submit(&submission).await.expect("it is submitted").execution;
    assert_eq!(world.execution(&id, "ow_traceparent").await.as_deref(), Some(given));

    let shown = world.b.show(&id).await.expect("it is there");
    let created = shown.summary.created_at.map(|time| time.0);
    assert_eq!(shown.origin.created_ms, created);
    assert!(!shown.origin.schema.is_empty());
    assert_eq!((shown.origin.run, shown.origin.traceparent.as_str()), (0, given));
    let claimed = claim_one(&world.a, "a").await;
    assert_eq!(claimed.origin, shown.origin);
    let taken = only(world.b_takes_over(&id, Cause::LeaseExpired).await);
    assert!(taken.origin.started_ms >= created, "{taken:?}");
    let shown_now = world.a.show(&id).await.expect("it is there").origin;
    assert_eq!(taken.origin, shown_now);
    let before = Origin { started_ms: None, ..shown_now };
    assert_eq!(before, shown.origin, "nothing else is new");

    // Another of the same template has another, and nobody's trace.
    let other = world.submit(&template).await;
    let other = world.a.show(&other).await.expect("it is there").origin;
    assert_eq!((other.traceparent.as_str(), &other.schema), ("", &shown.origin.schema));
}
