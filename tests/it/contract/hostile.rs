//! What comes at a bad moment, or stands in rows that anybody may have written.

use orchestrator_worker::{
    domain::{
        eligibility::Eligibility,
        execution::{AttemptOutcome, ExecutionState},
        id::Beat,
        lease::{Lease, Renewal},
        plan::Finish,
        recovery::Cause,
    },
    ports::{
        control::Control,
        executions::{Advance, Advanced, Claim, ExecutionStore, HandBack, StepEnd},
    },
};

use super::{Subject, world::*};

/// The end of a claim's only step and of its execution.
fn end_of(claim: &Claim, state: ExecutionState) -> Advance {
    let succeeded = state == ExecutionState::Success;
    let mut advance = Advance::new(claim.lease.clone());
    advance.ended.push(StepEnd {
        step: claim.slots[0].id.clone(),
        attempt: claim.slots[0].attempt,
        succeeded,
        outcome: if succeeded { AttemptOutcome::Success } else { AttemptOutcome::Failed },
        output: None,
        error: None,
        retry_count: 0,
    });
    advance.finish = Some(Finish { state, error: None });
    advance
}

async fn renewed<S: Subject>(world: &World<S>, lease: &Lease) -> Renewal {
    let answers = world.a.renew(TTL, Beat(2), std::slice::from_ref(lease)).await;
    answers.expect("a renewal").remove(0)
}

/// A renewal that was under way meets what its own process has written meanwhile.
pub async fn what_we_let_go_of_ourselves_is_never_reported_as_lost<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    for (state, recorded) in [
        (ExecutionState::Success, Advanced::Recorded),
        (ExecutionState::Failed, Advanced::Recorded),
        (ExecutionState::Success, Advanced::Cancelled),
    ] {
        let id = world.submit(&template).await;
        let claim = claim_one(&world.a, "a").await;
        if recorded == Advanced::Cancelled {
            world.b.cancel(&id).await.expect("it is cancelled");
        }
        assert_eq!(world.a.advance(&[end_of(&claim, state)]).await, [Ok(recorded)]);
        assert_eq!(renewed(&world, &claim.lease).await, Renewal::Ended, "{state:?} {recorded:?}");
        assert_eq!(world.lock(&id, "owner").await.as_deref(), Some("~finished"), "untouched");
        // Though its tombstone is gone too.
        world.subject.exec("DELETE FROM distributed_locks").await;
        assert_eq!(renewed(&world, &claim.lease).await, Renewal::Ended);
        assert_eq!(world.lock(&id, "owner").await, None, "what has ended is not locked again");
    }

    let id = world.submit(&template).await;
    let lease = claim_one(&world.a, "a").await.lease;
    let returned = HandBack { lease: lease.clone(), drained: Vec::new() };
    assert_eq!(world.a.hand_back(&[returned]).await, [Ok(Advanced::Recorded)]);
    assert_eq!(renewed(&world, &lease).await, Renewal::Ended);
    let taken = only(world.b_takes_over(&id, Cause::Released).await);
    assert_eq!(renewed(&world, &lease).await, Renewal::Lost, "by now it is another's");

    // Somebody ends it under its holder's hands.
    world.edit(&id, "status='success'").await;
    let answers = world.b.renew(TTL, Beat(2), std::slice::from_ref(&taken.lease)).await;
    assert_eq!(answers, Ok(vec![Renewal::Lost]));
}

/// Whoever waits until nothing is left must not wait for what no worker takes.
pub async fn only_what_workers_hold_or_have_handed_back_counts_as_running<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let corpse = world.submit(&template).await;
    world.edit(&corpse, "status='running'").await;
    let running = async || {
        let queue = world.a.queue(&Eligibility::default()).await.expect("numbers");
        assert_eq!(queue.due, 0);
        queue.running
    };
    assert_eq!(running().await, 0, "the orchestrator's own");
    world.submit(&template).await;
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(running().await, 1);
    let returned = HandBack { lease: claim.lease, drained: Vec::new() };
    assert_eq!(world.a.hand_back(&[returned]).await, [Ok(Advanced::Recorded)]);
    assert_eq!(running().await, 1, "somebody will take it");
}
