//! Claims under leases that are kept elsewhere: what is due, by name, and how rows stand.

use std::time::Duration;

use orchestrator_worker::{
    domain::{deferral::Deferral, id::ExecutionId, lease::Renewal},
    ports::{control::Control, rows::RowStore},
};

use super::{Subject, world::*};

const MINUTE: Duration = Duration::from_secs(60);

pub async fn what_is_due_is_named_oldest_first_and_left_alone<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut ids = Vec::new();
    for age in [2, 3, 1] {
        let id = world.submit(&template).await;
        let created = S::moved(S::now(), -age * 60_000);
        world.edit(&id, &format!("created_at={created}")).await;
        ids.push(id);
    }
    let later = world.submit(&template).await;
    let in_an_hour = S::moved(S::now(), 3_600_000);
    world.edit(&later, &format!("ow_not_before={in_an_hour}")).await;
    let paused = world.apply(&workflow("paused", chain(&["one"]))).await;
    world.submit(&paused).await;
    let which = orchestrator_worker::ports::control::Pausable::Template(paused.to_string());
    world.a.pause(&which).await.expect("it is paused");

    let before = world.everything().await;
    let due = async |limit| world.a.due(&who("a"), limit).await.expect("an answer");
    assert_eq!(due(10).await, [ids[1].clone(), ids[0].clone(), ids[2].clone()]);
    assert_eq!(due(2).await, [ids[1].clone(), ids[0].clone()]);
    assert_eq!(world.everything().await, before);
}

pub async fn those_that_are_named_are_claimed_if_they_still_are_due_and_no_others<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.submit(&template).await);
    }
    let [first, taken, late, locked, other] = &ids[..] else { panic!("five") };
    let in_an_hour = S::moved(S::now(), 3_600_000);
    world.edit(late, &format!("ow_not_before={in_an_hour}")).await;
    world.foreign_lock(locked, "go-1", 60).await;
    world.edit(taken, "status='running', ow_fence=77").await;

    let unknown = ExecutionId::from("nobody-knows");
    let named = [first, taken, late, locked, &unknown].map(Clone::clone);
    let mut batch = world.a.claim_these(&who("a"), &named).await.expect("a claim");
    assert_eq!(batch.deferred, [(locked.clone(), Deferral::Locked)]);
    batch.deferred.clear();
    let claim = only(batch);
    assert_eq!(claim.lease.execution, *first);
    assert_eq!(started(&claim), ["one"]);
    assert_eq!(world.status(other).await, "pending");
    assert_eq!(world.execution(taken, "ow_fence").await.as_deref(), Some("77"));
    assert!(is_nothing(&world.b.claim_these(&who("b"), &named).await.expect("a claim")));
    assert!(is_nothing(&world.b.claim_these(&who("b"), &[]).await.expect("nothing")));
}

pub async fn what_others_hold_is_put_off_for_longer_each_time_while_it_is_pending<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let (waits, runs) = (world.submit(&template).await, world.submit(&template).await);
    world.a.claim_these(&who("a"), std::slice::from_ref(&runs)).await.expect("a claim");
    let both = [waits.clone(), runs.clone()];
    let untouched = world.execution(&runs, "ow_not_before").await;
    let mut last = String::new();
    for _ in 0..3 {
        world.a.put_off(&both).await.expect("it is put off");
        let until = world.execution(&waits, "ow_not_before").await.expect("a time");
        assert!(until > last, "{until} comes after {last}");
        last = until;
        assert_eq!(world.a.due(&who("a"), 10).await.expect("an answer"), []);
    }
    assert_eq!(world.execution(&runs, "ow_not_before").await, untouched);
    assert_eq!(world.status(&waits).await, "pending");
    world.pass(MINUTE).await;
    assert_eq!(world.a.due(&who("a"), 10).await.expect("an answer"), [waits]);
}

pub async fn a_lease_stands_by_its_row_alone_and_nothing_is_renewed<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut leases = Vec::new();
    for _ in 0..4 {
        let id = world.submit(&template).await;
        let batch = world.a.claim_these(&who("a"), &[id]).await.expect("a claim");
        leases.push(only(batch).lease);
    }
    world.drop_lock(&leases[0].execution).await;
    world.a.cancel(&leases[1].execution).await.expect("it is cancelled");
    world.edit(&leases[2].execution, "ow_fence=ow_fence+1").await;
    world.edit(&leases[3].execution, "ow_owner='~released'").await;

    let before = world.everything().await;
    let standing = world.a.standing(TTL, &leases).await.expect("an answer");
    let expected = [Renewal::Held, Renewal::Cancelled, Renewal::Lost, Renewal::Ended];
    assert_eq!(standing, expected);
    assert_eq!(world.a.standing(TTL, &[]).await.expect("nothing"), []);
    assert_eq!(world.everything().await, before);
}
