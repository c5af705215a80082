//! Ends that a trace has yet to be told of: whoever made one notes that it is told, or another tells of it.

use std::time::Duration;

use orchestrator_worker::{
    domain::id::{ExecutionId, Owner},
    ports::{
        control::Control,
        executions::{Advance, Advanced, Claim, ExecutionStore},
        traced::{Telling, TracedEnd, Untold},
    },
};
use tokio::join;

use super::{Subject, world::*, writes::*};

const TOLD_MS: u64 = 1_700_000_000_000;

fn named(name: &str) -> Owner {
    Owner::try_new(name).expect("a name")
}

fn end_of(claim: &Claim) -> TracedEnd {
    TracedEnd { execution: claim.lease.execution.clone(), fence: claim.lease.fence }
}

/// `a` has ended it, and has told what ended by [`TOLD_MS`].
async fn ended<S: Subject>(world: &World<S>) -> Claim {
    let claim = world.a_claims(chain(&["one"])).await;
    let ended = vec![failed(&claim, "one")];
    let end = Advance { ended, finish: Some(failure()), told_ms: Some(TOLD_MS), ..advance(&claim) };
    assert_eq!(send(&world.a, &end).await, Ok(Advanced::Recorded));
    assert_eq!(mark(world, &claim.lease.execution).await, "~untold:a");
    // And again: its answer may have been lost.
    assert_eq!(send(&world.a, &end).await, Ok(Advanced::Recorded));
    assert_eq!(mark(world, &claim.lease.execution).await, "~untold:a");
    claim
}

async fn mark<S: Subject>(world: &World<S>, id: &ExecutionId) -> String {
    world.lock(id, "owner").await.expect("a lock row")
}

async fn expires_within<S: Subject>(world: &World<S>, id: &ExecutionId, seconds: i64) -> bool {
    let at = S::moved(S::now(), seconds * 1000);
    world.lock(id, &format!("expires_at <= {at}")).await.as_deref() == Some("1")
}

pub async fn an_end_that_is_told_has_a_tombstone_like_any_other<S: Subject>() {
    let world = World::<S>::new().await;
    let (told, other) = (ended(&world).await, ended(&world).await);
    let (id, end) = (&told.lease.execution, end_of(&told));
    let elsewhere = TracedEnd { fence: other.lease.fence, ..end.clone() };
    for (owner, end) in [("b", &end), ("a", &elsewhere)] {
        let (owner, ends) = (named(owner), std::slice::from_ref(end));
        assert_eq!(world.b.note_told(&owner, ends, Telling::Done).await, Ok(()));
        assert_eq!(mark(&world, id).await, "~untold:a", "by {owner}: {end:?}");
    }
    assert!(!expires_within(&world, id, 120).await);
    for _ in 0..2 {
        let ends = [end.clone(), end_of(&world.a_claims(chain(&["one"])).await)];
        assert_eq!(world.a.note_told(&named("a"), &ends, Telling::Done).await, Ok(()));
        assert_eq!(mark(&world, id).await, "~finished");
        assert!(expires_within(&world, id, 60).await);
        assert_eq!(mark(&world, &ends[1].execution).await, "a", "what is held stays so");
        assert_eq!(mark(&world, &other.lease.execution).await, "~untold:a");
    }
    assert_eq!(world.a.note_told(&named("a"), &[], Telling::Done).await, Ok(()));
}

pub async fn an_end_that_nobody_tells_of_goes_to_one_other_and_to_the_next<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = ended(&world).await;
    let (id, end) = (&claim.lease.execution, end_of(&claim));
    let held = world.a_claims(chain(&["one"])).await;
    world.pass(Untold::PATIENCE.saturating_sub(Duration::from_secs(10))).await;
    assert_eq!(world.b.take_untold(&named("b"), 10).await, Ok(vec![]), "not yet");
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(world.b.take_untold(&named("b"), 0).await, Ok(vec![]));
    let untold = |owner: &str| Untold { end: end.clone(), owner: owner.into(), told_ms: TOLD_MS };
    let names = [named("b"), named("c")];
    let (b, c) = join!(world.a.take_untold(&names[0], 10), world.b.take_untold(&names[1], 10));
    let (b, c) = (b.expect("an answer"), c.expect("an answer"));
    assert_eq!([b.clone(), c].concat(), [untold("a")], "one of both");
    let (first, second) = if b.is_empty() { ("c", "d") } else { ("b", "d") };
    assert_eq!(mark(&world, id).await, format!("~untold:{first}"));
    assert_eq!(
        world.a.note_told(&named("a"), std::slice::from_ref(&end), Telling::Done).await,
        Ok(())
    );
    assert_eq!(mark(&world, id).await, format!("~untold:{first}"), "it came too late");

    world.pass(Untold::PATIENCE).await;
    let taken = world.b.take_untold(&named(second), 10).await;
    assert_eq!(taken, Ok(vec![untold(first)]), "it was not heard of again");
    assert_eq!(world.b.note_told(&named(second), &[end], Telling::Done).await, Ok(()));
    world.pass(Untold::PATIENCE).await;
    assert_eq!(world.b.take_untold(&named("e"), 10).await, Ok(vec![]));
    assert_eq!(mark(&world, &held.lease.execution).await, "a");
}

pub async fn an_end_that_is_being_told_is_left_to_whoever_tells_it<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = ended(&world).await;
    for _ in 0..2 {
        world.pass(Duration::from_secs(60)).await;
        let under_way = [end_of(&claim)];
        assert_eq!(world.a.note_told(&named("a"), &under_way, Telling::UnderWay).await, Ok(()));
        assert_eq!(world.b.take_untold(&named("b"), 10).await, Ok(vec![]));
    }
    world.pass(Untold::PATIENCE).await;
    let taken = world.b.take_untold(&named("b"), 10).await.expect("an answer");
    assert_eq!(taken[0].told_ms, TOLD_MS, "that stays");
}

pub async fn what_is_run_again_is_not_hindered_by_an_untold_end<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = ended(&world).await;
    let id = &claim.lease.execution;
    world.b.retry(id).await.expect("it has failed");
    let again = only(world.b.claim(&who("b"), 10).await.expect("a claim"));
    assert_eq!((&again.lease.execution, mark(&world, id).await.as_str()), (id, "b"));
    assert_eq!(world.a.note_told(&named("a"), &[end_of(&claim)], Telling::Done).await, Ok(()));
    assert_eq!(mark(&world, id).await, "b");
}
