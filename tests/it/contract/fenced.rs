//! Fences: what is refused, and that nothing at all of it is written.

use orchestrator_worker::{
    domain::{id::Fence, lease::Lease},
    ports::executions::{Advance, AdvanceError, Advanced, StepEnd, StepRetry, StepStart},
};

use super::{Subject, world::*, writes::*};

const FENCED: Result<Advanced, AdvanceError> = Err(AdvanceError::Fenced);

/// Sends what has to be refused, and looks at every row before and after.
async fn is_refused<S: Subject>(world: &World<S>, what: &str, sent: &Advance) {
    let before = world.everything().await;
    assert_eq!(send(&world.a, sent).await, FENCED, "{what}");
    assert_eq!(world.everything().await, before, "{what}");
}

pub async fn nothing_is_written_under_another_fence<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    for (kind, sent) in every_kind(&claim) {
        for fence in [claim.lease.fence.0 - 1, claim.lease.fence.0 + 1, 0] {
            let lease = Lease { fence: Fence(fence), ..claim.lease.clone() };
            is_refused(&world, kind, &Advance { lease, ..sent.clone() }).await;
        }
    }
}

pub async fn an_execution_is_not_ended_under_another_nonce<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    for (kind, sent) in every_kind(&claim).into_iter().filter(|(_, it)| it.finish.is_some()) {
        let lease = Lease { nonce: "of another claim".into(), ..claim.lease.clone() };
        is_refused(&world, kind, &Advance { lease, ..sent.clone() }).await;
        // Nor as cancelled.
        let finish = Some(cancelled());
        let lease = Lease { nonce: "of another claim".into(), ..claim.lease.clone() };
        world.edit(&claim.lease.execution, "status='cancelled'").await;
        is_refused(&world, kind, &Advance { lease, finish, ..sent }).await;
        world.edit(&claim.lease.execution, "status='running'").await;
    }
}

pub async fn one_row_that_has_moved_on_keeps_all_the_rest_from_being_written<S: Subject>() {
    let world = World::<S>::new().await;
    for (moved, what) in [
        ("one", "a step that ends"),
        ("two", "another that ends"),
        ("last", "one that will never start"),
    ] {
        let claim = world.a_claims(fork()).await;
        let stamp = format!(
            "UPDATE workflow_step_executions SET ow_fence=ow_fence+1 WHERE id='{}'",
            slot(&claim, moved).id
        );
        assert_eq!(world.subject.exec(&stamp).await, 1);
        let sent = Advance {
            ended: vec![succeeded(&claim, "one"), failed(&claim, "two")],
            skipped: vec![skip(&claim, "last")],
            finish: Some(failure()),
            ..advance(&claim)
        };
        is_refused(&world, what, &sent).await;
        let sent = Advance {
            ended: vec![succeeded(&claim, "one")],
            retrying: vec![retry(&claim, "two")],
            started: vec![start_after_retry(&claim, "two"), start(&claim, "last")],
            ..advance(&claim)
        };
        is_refused(&world, what, &sent).await;
    }
}

pub async fn a_recorded_success_is_never_overwritten<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let again = Advance {
        retrying: vec![retry(&claim, "one")],
        started: vec![start_after_retry(&claim, "one")],
        ..advance(&claim)
    };
    assert_eq!(send(&world.a, &again).await, Ok(Advanced::Recorded));
    let end = StepEnd { attempt: 2, retry_count: 1, ..succeeded(&claim, "one") };
    let ended = Advance { ended: vec![end], ..advance(&claim) };
    assert_eq!(send(&world.a, &ended).await, Ok(Advanced::Recorded));

    let new = || advance(&claim);
    for attempt in [1, 2, 3] {
        let what = format!("attempt {attempt}");
        let end = StepEnd { attempt, ..failed(&claim, "one") };
        is_refused(&world, &what, &Advance { ended: vec![end], ..new() }).await;
        let retry = StepRetry { attempt, ..retry(&claim, "one") };
        is_refused(&world, &what, &Advance { retrying: vec![retry], ..new() }).await;
        let start = StepStart { attempt, ..start(&claim, "one") };
        is_refused(&world, &what, &Advance { started: vec![start], ..new() }).await;
    }
    for attempt in [1, 3] {
        let end = StepEnd { attempt, ..succeeded(&claim, "one") };
        is_refused(&world, "another success", &Advance { ended: vec![end], ..new() }).await;
    }
    is_refused(&world, "a skip", &Advance { skipped: vec![skip(&claim, "one")], ..new() }).await;
}

pub async fn attempts_follow_one_another_and_none_is_left_out<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let new = || advance(&claim);
    for attempt in [3, 4, 17] {
        let start = StepStart { attempt, ..start(&claim, "one") };
        is_refused(&world, "a later start", &Advance { started: vec![start], ..new() }).await;
    }
    for attempt in [0, 2] {
        let end = StepEnd { attempt, ..succeeded(&claim, "one") };
        is_refused(&world, "another attempt's end", &Advance { ended: vec![end], ..new() }).await;
    }
    let end = StepEnd { attempt: 0, ..succeeded(&claim, "last") };
    is_refused(&world, "an end before any start", &Advance { ended: vec![end], ..new() }).await;
    let retry = StepRetry { attempt: 0, ..retry(&claim, "last") };
    is_refused(&world, "a retry before any start", &Advance { retrying: vec![retry], ..new() })
        .await;
    is_refused(&world, "a running step", &Advance { skipped: vec![skip(&claim, "one")], ..new() })
        .await;
}

pub async fn an_ended_execution_does_not_end_otherwise<S: Subject>() {
    let world = World::<S>::new().await;
    for (first, others) in
        [(success(), [failure(), cancelled()]), (failure(), [success(), cancelled()])]
    {
        let claim = world.a_claims(fork()).await;
        let sent = Advance { finish: Some(first), ..advance(&claim) };
        assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
        for finish in others {
            is_refused(&world, "another end", &Advance { finish: Some(finish), ..advance(&claim) })
                .await;
        }
    }
    // Nor does one end as cancelled that nobody has cancelled.
    let claim = world.a_claims(fork()).await;
    let sent = Advance { finish: Some(cancelled()), ..advance(&claim) };
    is_refused(&world, "an end as cancelled", &sent).await;
}

pub async fn an_operators_retry_shuts_the_former_claim_out<S: Subject>() {
    let world = World::<S>::new().await;
    let kinds = every_kind(&world.a_claims(fork()).await).len();
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    // As the protocol has it: pending again, the fence one higher on all its rows.
    world
        .edit(id, "status='pending', ow_fence=ow_fence+1, ow_owner='', ow_claim='', ow_claims=0")
        .await;
    let steps = format!(
        "UPDATE workflow_step_executions SET status='pending', ow_fence=ow_fence+1 \
         WHERE execution_id='{id}'"
    );
    assert_eq!(world.subject.exec(&steps).await, 3);
    for place in 0..kinds {
        let (kind, sent) = every_kind(&claim).swap_remove(place);
        is_refused(&world, kind, &sent).await;
    }
}
