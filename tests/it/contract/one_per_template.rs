//! One execution of a template at a time, under the lock of the template.

use std::sync::Arc;

use orchestrator_worker::{
    domain::{
        deferral::Deferral,
        eligibility::Eligibility,
        explain::{View, explain},
        id::{Beat, ExecutionId},
        lease::Renewal,
        recovery::{Cause, TakeOver},
    },
    ports::{
        control::Control,
        executions::{Advance, Advanced, Batch, Claim, Claimant, ExecutionStore},
    },
};

use super::{Subject, world::*, writes::*};

const KEY: &str = "workflow_template:template-w";

/// A claimant that is set to have one execution a template.
fn one_each(name: &str) -> Claimant {
    let eligibility = Eligibility { one_per_template: true, ..Eligibility::default() };
    Claimant { eligibility: Arc::new(eligibility), ..who(name) }
}

/// So many pending executions of one template, oldest first.
async fn submitted<S: Subject>(world: &World<S>, many: usize) -> Vec<ExecutionId> {
    let template = world.apply(&workflow("w", chain(&["one", "two"]))).await;
    let mut all = Vec::new();
    for place in 0..many {
        let id = world.submit(&template).await;
        let age = 1_000 * i64::try_from(many - place).expect("few");
        world.edit(&id, &format!("created_at={}", S::moved(S::now(), -age))).await;
        all.push(id);
    }
    all
}

async fn claimed(store: &impl ExecutionStore, name: &str) -> Batch {
    store.claim(&one_each(name), 10).await.expect("a claim")
}

/// The owner of the template's lock row; `None` if there is none.
async fn template_owner<S: Subject>(world: &World<S>) -> Option<String> {
    world.subject.one(&format!("SELECT owner FROM distributed_locks WHERE lock_key='{KEY}'")).await
}

/// The claim of the first, and the second, which waits for it.
async fn one_of_two<S: Subject>(world: &World<S>) -> (Claim, ExecutionId) {
    let ids = submitted(world, 2).await;
    let claim = only(claimed(&world.a, "a").await);
    assert_eq!(claim.lease.execution, ids[0]);
    assert_eq!(template_owner(world).await.as_deref(), Some("a"));
    (claim, ids[1].clone())
}

/// The one that waits is claimed now, by `b`.
async fn is_next<S: Subject>(world: &World<S>, id: &ExecutionId) -> Claim {
    let claim = only(claimed(&world.b, "b").await);
    assert_eq!(claim.lease.execution, *id);
    assert_eq!(template_owner(world).await.as_deref(), Some("b"));
    claim
}

fn end_of(claim: &Claim) -> Advance {
    let skipped = vec![skip(claim, "two")];
    Advance {
        ended: vec![succeeded(claim, "one")],
        skipped,
        finish: Some(success()),
        ..advance(claim)
    }
}

pub async fn of_one_template_one_execution_is_claimed_and_the_next_when_it_has_ended<S: Subject>() {
    let world = World::<S>::new().await;
    let (claim, next) = one_of_two(&world).await;
    assert_eq!(world.status(&next).await, "pending");
    assert_eq!(world.lock(&next, "owner").await, None);
    assert!(is_nothing(&claimed(&world.b, "b").await));
    assert_eq!(send(&world.a, &end_of(&claim)).await, Ok(Advanced::Recorded));
    assert_eq!(template_owner(&world).await, None, "no mark stays on a template");
    is_next(&world, &next).await;
}

pub async fn many_of_a_template_keep_no_other_from_being_claimed<S: Subject>() {
    let world = World::<S>::new().await;
    let first = submitted(&world, 12).await.remove(0);
    let other = world.submit_chain(&["three"]).await;
    let claims = claimed(&world.a, "a").await.claims;
    let claimed_ids: Vec<&ExecutionId> = claims.iter().map(|it| &it.lease.execution).collect();
    assert_eq!(claimed_ids, [&first, &other], "beside the first one");
    let another = world.submit(&"template-chain".into()).await;
    assert!(is_nothing(&claimed(&world.b, "b").await), "{another} waits for its own template");
    let third = world.apply(&workflow("x", chain(&["four"]))).await;
    let third = world.submit(&third).await;
    let claim = only(claimed(&world.b, "b").await);
    assert_eq!(claim.lease.execution, third, "while it is busy");
}

/// A statement that locks the template, until so many seconds from now.
fn lock_of_the_orchestrator<S: Subject>(seconds: i64) -> String {
    let now = S::now();
    let expires = S::moved(now, seconds * 1000);
    format!(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) \
         VALUES ('{KEY}', 'go-1', {expires}, {now}, {now})"
    )
}

pub async fn what_is_asked_for_again_beside_a_template_is_claimed_once<S: Subject>() {
    let world = World::<S>::new().await;
    let ids = submitted(&world, 12).await;
    // The oldest names no template, so the next question meets it again.
    world.edit(&ids[0], "template_id=NULL").await;
    let batch = claimed(&world.a, "a").await;
    let refused: Vec<&ExecutionId> = batch.refused.iter().map(|(id, _)| id).collect();
    assert_eq!(refused, [&ids[0]]);
    assert_eq!(batch.deferred, []);
    assert_eq!(batch.claims.len(), 1);
    assert_eq!(batch.claims[0].lease.execution, ids[1]);
    // Server collations that take an id in other letters for the same one, and a filter that names it.
    let world = World::<S>::new().await;
    let ids = submitted(&world, 12).await;
    for id in &ids {
        world.edit(id, "template_id='TEMPLATE-W'").await;
    }
    let set = Eligibility {
        include: ["w".to_owned()].into(),
        one_per_template: true,
        ..Eligibility::default()
    };
    let who = Claimant { eligibility: Arc::new(set), ..who("a") };
    let batch = world.a.claim(&who, 10).await.expect("a claim, and not an endless one");
    assert!(batch.claims.len() <= 1);
}

pub async fn a_template_that_the_orchestrator_has_locked_waits_for_it<S: Subject>() {
    let world = World::<S>::new().await;
    let id = submitted(&world, 1).await.remove(0);
    world.subject.exec(&lock_of_the_orchestrator::<S>(600)).await;
    assert!(is_nothing(&claimed(&world.a, "a").await));
    let facts = world.b.facts(&id).await.expect("it is there");
    let eligibility = (*one_each("b").eligibility).clone();
    let supported = (*who("b").supported).clone();
    let view = View { supported, eligibility, ..View::default() };
    let explanation = explain(&facts, &view);
    assert_eq!(explanation.reason, "template_busy", "{explanation:?}");
    assert!(explanation.because.starts_with("go-1 runs another"), "{explanation:?}");

    world.subject.exec(&format!("DELETE FROM distributed_locks WHERE lock_key='{KEY}'")).await;
    world.subject.exec(&lock_of_the_orchestrator::<S>(-1)).await;
    let claim = only(claimed(&world.a, "a").await);
    assert_eq!(template_owner(&world).await.as_deref(), Some("a"));
    let next = world.submit(&"template-w".into()).await;
    assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Recorded));
    let facts = world.b.facts(&next).await.expect("it is there");
    let explanation = explain(&facts, &view);
    assert_eq!(explanation.reason, "template_busy", "{explanation:?}");
    assert!(explanation.because.contains("was handed back"), "{explanation:?}");
}

pub async fn a_lock_that_is_named_like_all_templates_pauses_none<S: Subject>() {
    let world = World::<S>::new().await;
    submitted(&world, 1).await;
    world.subject.exec(&lock_of_the_orchestrator::<S>(600).replace("template-w", "*")).await;
    only(claimed(&world.a, "a").await);
}

pub async fn an_execution_that_another_has_locked_keeps_no_template_locked<S: Subject>() {
    let world = World::<S>::new().await;
    let id = submitted(&world, 1).await.remove(0);
    world.foreign_lock(&id, "go-1", 300).await;
    let batch = claimed(&world.a, "a").await;
    assert_eq!(batch.deferred, [(id, Deferral::Locked)]);
    assert_eq!(template_owner(&world).await, None);
}

pub async fn what_is_refused_or_deferred_keeps_no_template_locked<S: Subject>() {
    let world = World::<S>::new().await;
    let ids = submitted(&world, 1).await;
    let sql = format!(
        "UPDATE steps SET parameters='{{\"func\":\"brew\"}}' WHERE id='{}'",
        step_id("one")
    );
    world.subject.exec(&sql).await;
    let batch = claimed(&world.a, "a").await;
    assert!(matches!(&batch.deferred[..], [(id, Deferral::Unknown(_))] if *id == ids[0]));
    assert_eq!(template_owner(&world).await, None);
    let sql = format!("UPDATE steps SET parameters='[' WHERE id='{}'", step_id("one"));
    world.subject.exec(&sql).await;
    world.pass(HOUR / 60).await;
    assert_eq!(claimed(&world.a, "a").await.refused.len(), 1);
    assert_eq!(template_owner(&world).await, None);
}

pub async fn the_lock_of_a_template_is_renewed_and_put_back_with_its_executions<S: Subject>() {
    let world = World::<S>::new().await;
    let (claim, _) = one_of_two(&world).await;
    let leases = [claim.lease.clone()];
    world.pass(TTL / 2).await;
    let renew = async |beat| world.a.renew(TTL, Beat(beat), &leases).await.expect("an answer");
    assert_eq!(renew(2).await, [Renewal::Held]);
    let far = format!(
        "SELECT COUNT(*) FROM distributed_locks WHERE ow_beat=2 AND expires_at > {}",
        S::moved(S::now(), 25_000)
    );
    assert_eq!(world.subject.one(&far).await.as_deref(), Some("2"), "both rows");
    for gone in [format!("lock_key='{KEY}'"), "1=1".into()] {
        world.subject.exec(&format!("DELETE FROM distributed_locks WHERE {gone}")).await;
        assert_eq!(renew(3).await, [Renewal::Held]);
        assert_eq!(template_owner(&world).await.as_deref(), Some("a"));
    }
    world
        .subject
        .exec(&format!("UPDATE distributed_locks SET owner='c', ow_fence=1 WHERE lock_key='{KEY}'"))
        .await;
    assert_eq!(renew(4).await, [Renewal::Lost], "another execution of the template may be running");
    assert_eq!(template_owner(&world).await.as_deref(), Some("c"));
}

pub async fn a_template_is_handed_back_and_taken_over_with_its_execution<S: Subject>() {
    let world = World::<S>::new().await;
    let (claim, next) = one_of_two(&world).await;
    let id = claim.lease.execution.clone();
    let due = async |cause| TakeOver { seen: world.held(&id).await.expect("it is held"), cause };
    let dead = due(Cause::LeaseExpired).await;
    let taken = only(world.b.take_over(&one_each("b"), &[dead]).await.expect("a takeover"));
    assert_eq!(template_owner(&world).await.as_deref(), Some("b"));
    assert!(is_nothing(&claimed(&world.a, "a").await));

    assert_eq!(hand_back(&world.b, &taken).await, Ok(Advanced::Recorded));
    assert_eq!(template_owner(&world).await, None);
    assert!(is_nothing(&claimed(&world.a, "a").await), "it goes on before another begins");
    // It waits for the orchestrator, and stays what it was.
    world.subject.exec(&lock_of_the_orchestrator::<S>(600)).await;
    let released = due(Cause::Released).await;
    let batch = world.b.take_over(&one_each("b"), &[released]).await.expect("a takeover");
    assert_eq!(batch.deferred, [(id.clone(), Deferral::TemplateBusy)]);
    assert_eq!(world.status(&id).await, "running");
    assert_eq!(world.execution(&id, "ow_owner").await.as_deref(), Some("~released"));
    world.subject.exec(&format!("DELETE FROM distributed_locks WHERE lock_key='{KEY}'")).await;
    let c = world.subject.store().await;
    let released = due(Cause::Released).await;
    let taken = only(c.take_over(&one_each("c"), &[released]).await.expect("a takeover"));
    assert_eq!(template_owner(&world).await.as_deref(), Some("c"));
    assert_eq!(send(&c, &end_of(&taken)).await, Ok(Advanced::Recorded));
    is_next(&world, &next).await;
}

pub async fn a_dead_owners_template_waits_for_the_takeover_however_long<S: Subject>() {
    let world = World::<S>::new().await;
    let (claim, next) = one_of_two(&world).await;
    world.pass(20 * HOUR).await;
    assert!(is_nothing(&claimed(&world.b, "b").await), "its execution is half run");
    assert_eq!(world.b.clean_locks(true).await, Ok(0));
    assert_eq!(world.b.reap(100).await, Ok(0));
    let seen = world.held(&claim.lease.execution).await.expect("it is held");
    let dead = TakeOver { seen, cause: Cause::LeaseExpired };
    let taken = only(world.b.take_over(&one_each("b"), &[dead]).await.expect("a takeover"));
    assert_eq!(send(&world.b, &end_of(&taken)).await, Ok(Advanced::Recorded));
    is_next(&world, &next).await;
}

pub async fn the_lock_of_a_template_whose_execution_is_gone_is_reaped<S: Subject>() {
    // The last one is written by somebody who knows nothing of workers.
    for edit in ["status='failed', ow_owner=''", "status='failed'"] {
        let world = World::<S>::new().await;
        let beside = world.submit_chain(&["three"]).await;
        let next = submitted(&world, 2).await.remove(1);
        let claims = claimed(&world.a, "a").await.claims;
        assert_eq!(claims.len(), 2, "of one batch, and so under one fence");
        let of_template =
            claims.iter().find(|it| it.lease.execution != beside).expect("it is there");
        world.edit(&of_template.lease.execution, edit).await;
        world.pass(TTL + HOUR / 30).await;
        assert_eq!(world.b.clean_locks(true).await, Ok(1), "{edit}");
        assert_eq!(world.b.reap(100).await, Ok(1), "{edit}");
        let claims = claimed(&world.b, "b").await.claims;
        assert!(claims.iter().any(|it| it.lease.execution == next), "{edit}");
    }
}

pub async fn whoever_is_not_set_to_lock_templates_frees_those_of_the_dead<S: Subject>() {
    let world = World::<S>::new().await;
    let (claim, next) = one_of_two(&world).await;
    only(world.b_takes_over(&claim.lease.execution, Cause::LeaseExpired).await);
    assert_eq!(template_owner(&world).await, None);
    is_next(&world, &next).await;
}

pub async fn a_cancelled_execution_frees_its_template_whoever_ends_it<S: Subject>() {
    let world = World::<S>::new().await;
    let (claim, next) = one_of_two(&world).await;
    let id = &claim.lease.execution;
    world.a.cancel(id).await.expect("cancelled");
    assert_eq!(template_owner(&world).await.as_deref(), Some("a"), "its holder may be at work");
    let seen = world.held(id).await.expect("it is held");
    let dead = TakeOver { seen, cause: Cause::LeaseExpired };
    assert!(is_nothing(&world.b.take_over(&one_each("b"), &[dead]).await.expect("it is tidied")));
    assert_eq!(template_owner(&world).await, None);
    let claim = is_next(&world, &next).await;
    world.a.cancel(&next).await.expect("cancelled");
    assert_eq!(send(&world.b, &end_of(&claim)).await, Ok(Advanced::Cancelled));
    assert_eq!(template_owner(&world).await, None);
}

pub async fn whoever_waits_for_a_template_never_takes_it_from_its_holder<S: Subject>() {
    let world = World::<S>::new().await;
    let ids = submitted(&world, 2).await;
    // Both were run before the setting.
    let claims = world.a.claim(&who("a"), 10).await.expect("a claim").claims;
    for claim in &claims {
        assert_eq!(hand_back(&world.a, claim).await, Ok(Advanced::Recorded));
    }
    let due = async |id| TakeOver {
        seen: world.held(id).await.expect("it is held"),
        cause: Cause::Released,
    };
    let both = [due(&ids[0]).await, due(&ids[1]).await];
    let mut batch = world.b.take_over(&one_each("b"), &both).await.expect("a takeover");
    let holder = batch.claims.remove(0);
    let waiting = batch.deferred.remove(0).0;
    let fence = holder.lease.fence.to_string();
    assert_eq!(world.execution(&waiting, "ow_fence").await, Some(fence), "of one batch");

    let c = world.subject.store().await;
    let batch = c.take_over(&one_each("c"), &[due(&waiting).await]).await.expect("a takeover");
    assert_eq!(batch.deferred, [(waiting.clone(), Deferral::TemplateBusy)]);
    assert_eq!(template_owner(&world).await.as_deref(), Some("b"));
    // Nor does its end free it.
    world.a.cancel(&waiting).await.expect("cancelled");
    let d = world.subject.store().await;
    assert!(is_nothing(
        &d.take_over(&one_each("d"), &[due(&waiting).await]).await.expect("tidied")
    ));
    assert_eq!(template_owner(&world).await.as_deref(), Some("b"));
    let renewals = world.b.renew(TTL, Beat(2), &[holder.lease]).await;
    assert_eq!(renewals, Ok(vec![Renewal::Held]));
}

pub async fn the_next_of_a_template_is_due_as_soon_as_that_is_free_and_the_oldest_is_next<
    S: Subject,
>() {
    let world = World::<S>::new().await;
    for id in submitted(&world, 4).await {
        let claim = only(claimed(&world.a, "a").await);
        assert_eq!(claim.lease.execution, id);
        assert_eq!(send(&world.a, &end_of(&claim)).await, Ok(Advanced::Recorded));
    }
}
