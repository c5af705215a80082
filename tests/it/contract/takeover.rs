//! Takeovers: what is taken of a dead worker, and what no watcher gets.

use std::{collections::BTreeSet, time::Duration};

use orchestrator_worker::{
    domain::{
        deferral::Deferral,
        execution::AttemptOutcome,
        id::{Beat, ExecutionId},
        lease::Renewal,
        recovery::{Cause, Held, TakeOver},
    },
    ports::{
        executions::{
            Advance, AdvanceError, Advanced, Batch, Claim, ClaimKind, ExecutionStore, StepEnd,
        },
        traced::Former,
    },
};
use tokio::task::JoinSet;

use super::{Subject, world::*, writes::*};

/// `b` tries to take over what it has seen.
async fn b_takes<S: Subject>(world: &World<S>, seen: Held, cause: Cause) -> Batch {
    world.b.take_over(&who("b"), &[TakeOver { seen, cause }]).await.expect("a takeover")
}

/// `a` holds an execution of which one step is done, one in flight, one tried again, and these wait for
/// all of them.
async fn half_done<S: Subject>(world: &World<S>, last: &[&str]) -> Claim {
    let first = ["done", "flight", "tried"];
    let mut steps = fan(&first);
    steps[2].retries = Some(2);
    steps.extend(last.iter().map(|name| after(step(name), &first)));
    let claim = world.a_claims(steps).await;
    let sent = Advance {
        ended: vec![succeeded(&claim, "done")],
        retrying: vec![retry(&claim, "tried")],
        started: vec![start_after_retry(&claim, "tried")],
        ..advance(&claim)
    };
    assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
    claim
}

pub async fn a_dead_owners_execution_goes_on_where_it_stood<S: Subject>() {
    let world = World::<S>::new().await;
    let before = half_done(&world, &["last"]).await;
    let id = &before.lease.execution;
    let began = world.execution(id, "started_at").await;

    let taken = only(world.b_takes_over(id, Cause::LeaseExpired).await);
    let cause = Cause::LeaseExpired;
    assert_eq!(taken.kind, ClaimKind::TakenOver { from: Some("a".into()), cause });
    assert!(taken.lease.fence > before.lease.fence);
    assert_ne!(taken.lease.nonce, before.lease.nonce);
    assert_eq!(taken.workflow, before.workflow);
    // What was in flight runs again under the same key, as a new attempt; what is done does not.
    assert_eq!(started(&taken), ["flight", "tried"]);
    for (name, attempt, key_gen, retry_count) in [("flight", 2, 0, 0), ("tried", 3, 1, 1)] {
        let it = slot(&taken, name);
        assert_eq!(it.id, slot(&before, name).id);
        assert_eq!((it.attempt, it.key_gen, it.retry_count), (attempt, key_gen, retry_count));
        assert_eq!(world.step(id, name, "ow_attempt").await, Some(attempt.to_string()));
        assert_eq!(world.step(id, name, "ow_key_gen").await, Some(key_gen.to_string()));
        assert_eq!(world.step(id, name, "retry_count").await, Some(retry_count.to_string()));
    }
    let names = ["done", "flight", "tried", "last"];
    assert_eq!(world.steps(id, &names).await, ["success", "running", "running", "pending"]);

    let fence = taken.lease.fence.to_string();
    for (column, expected) in [
        ("status", "running"),
        ("ow_owner", "b"),
        ("ow_fence", fence.as_str()),
        ("ow_claim", taken.lease.nonce.as_str()),
        ("ow_claims", "1"),
    ] {
        assert_eq!(world.execution(id, column).await.as_deref(), Some(expected), "{column}");
    }
    assert_eq!(world.execution(id, "started_at").await, began);
    for (name, stamp) in [("flight", &taken), ("last", &taken), ("done", &before)] {
        let expected = Some(stamp.lease.fence.to_string());
        assert_eq!(world.step(id, name, "ow_fence").await, expected, "{name}");
    }
    for (column, expected) in [("owner", "b"), ("ow_fence", fence.as_str()), ("ow_beat", "1")] {
        assert_eq!(world.lock(id, column).await.as_deref(), Some(expected), "{column}");
    }
    for (name, attempt, expected) in [
        ("done", 1, "success/-/a"),
        ("flight", 1, "lost/lease_expired/a"),
        ("flight", 2, "-/-/b"),
        ("tried", 1, "failed/exit status 1/a"),
        ("tried", 2, "lost/lease_expired/a"),
        ("tried", 3, "-/-/b"),
    ] {
        assert_eq!(world.attempt(id, name, attempt).await.as_deref(), Some(expected), "{name}");
    }
    assert_eq!(world.attempt(id, "last", 1).await, None);
}

pub async fn a_step_that_must_not_run_twice_is_failed_instead<S: Subject>() {
    let world = World::<S>::new().await;
    let mut steps = chain(&["one", "two"]);
    steps[0].parameters = Some(r#"{"func":"noop","resume":"fail"}"#.into());
    let claim = world.a_claims(steps).await;
    let id = &claim.lease.execution;
    let taken = only(world.b_takes_over(id, Cause::LeaseExpired).await);
    assert_eq!(started(&taken), [""; 0]);
    assert_eq!(taken.plan.fail.len(), 1);
    assert_eq!(slot(&taken, "one").attempt, 1);
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("lost/lease_expired/a"));
    // As its driver records it.
    let end = StepEnd { outcome: AttemptOutcome::Lost, ..failed(&taken, "one") };
    let sent = Advance {
        ended: vec![end],
        skipped: vec![skip(&taken, "two")],
        finish: Some(failure()),
        ..advance(&taken)
    };
    assert_eq!(send(&world.b, &sent).await, Ok(Advanced::Recorded));
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("lost/lease_expired/a"));
}

pub async fn nothing_is_taken_that_has_moved_on<S: Subject>() {
    let world = World::<S>::new().await;
    let execution = [
        "ow_fence=ow_fence+1",
        "ow_owner='c'",
        "ow_owner='~released'",
        "ow_owner=''",
        "status='success', ow_owner=''",
        "status='failed', ow_owner=''",
        "status='cancelled'",
        "status='pending', ow_owner=''",
    ];
    let lock = [
        "ow_beat=ow_beat+1",
        "ow_beat=0",
        "ow_fence=ow_fence+1",
        "owner='c', ow_fence=ow_fence+1",
        "owner='go-1', ow_fence=0, ow_beat=0",
    ];
    let edits =
        execution.iter().map(|set| (*set, true)).chain(lock.iter().map(|set| (*set, false)));
    for (set, of_execution) in edits {
        let claim = world.a_claims(chain(&["one"])).await;
        let id = &claim.lease.execution;
        let seen = world.held(id).await.expect("it is held");
        if of_execution {
            world.edit(id, set).await;
        } else {
            world.edit_lock(id, set).await;
        }
        let before = world.everything().await;
        assert!(is_nothing(&b_takes(&world, seen, Cause::LeaseExpired).await), "{set}");
        assert_eq!(world.everything().await, before, "{set}");
        world.edit(id, "status='failed', ow_owner=''").await;
    }
    let claim = world.a_claims(chain(&["one"])).await;
    let seen = world.held(&claim.lease.execution).await.expect("it is held");
    let unknown = Held { execution: "nobody-knows".into(), ..seen };
    assert!(is_nothing(&b_takes(&world, unknown, Cause::LeaseExpired).await));
    assert!(is_nothing(&world.b.take_over(&who("b"), &[]).await.expect("a takeover")));
}

pub async fn a_lock_row_that_came_back_keeps_its_owner<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    world.drop_lock(id).await;
    let seen = world.held(id).await.expect("it is held");
    // The owner was alive after all, and has put it back.
    let answer = world.a.renew(TTL, Beat(1), std::slice::from_ref(&claim.lease)).await;
    assert_eq!(answer, Ok(vec![Renewal::Held]));
    let before = world.everything().await;
    assert!(is_nothing(&b_takes(&world, seen, Cause::LeaseMissing).await));
    assert_eq!(world.everything().await, before);
}

pub async fn a_missing_lock_row_is_no_obstacle<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    world.drop_lock(id).await;
    let taken = only(world.b_takes_over(id, Cause::LeaseMissing).await);
    assert_eq!(started(&taken), ["one"]);
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("lost/lease_missing/a"));
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("b"));
}

pub async fn what_stands_in_the_place_of_the_lock_decides<S: Subject>() {
    let world = World::<S>::new().await;
    let now = S::now();
    let (later, past) = (S::moved(now, 300_000), S::moved(now, -1_000));
    for (set, cause, is_taken) in [
        // A mark is nobody's.
        ("owner='~released'", Cause::LeaseExpired, true),
        ("owner='~finished'", Cause::LeaseExpired, true),
        // The Go service does not count its renewals: only its expiry says that it is gone.
        (
            &*format!("owner='go-1', ow_fence=0, ow_beat=0, expires_at={later}"),
            Cause::LeaseExpired,
            false,
        ),
        (
            &*format!("owner='go-1', ow_fence=0, ow_beat=0, expires_at={past}"),
            Cause::LeaseExpired,
            true,
        ),
        // A row under another fence was watched to stand still, or was not watched at all.
        ("owner='c', ow_fence=ow_fence+1, ow_beat=9", Cause::LeaseExpired, true),
        ("owner='c', ow_fence=ow_fence+1, ow_beat=9", Cause::Released, false),
        // One under the fence that was handed back is as dead as that fence.
        ("ow_beat=9", Cause::Released, true),
        (&*format!("expires_at={past}"), Cause::Released, true),
    ] {
        let claim = world.a_claims(chain(&["one"])).await;
        let id = &claim.lease.execution;
        if cause == Cause::Released {
            world.edit(id, "ow_owner='~released'").await;
        }
        world.edit_lock(id, set).await;
        let seen = world.held(id).await.expect("it is held");
        let before = world.everything().await;
        let taken = claims(b_takes(&world, seen, cause.clone()).await);
        assert_eq!(taken.len(), usize::from(is_taken), "{set}, {cause:?}");
        if !is_taken {
            assert_eq!(world.everything().await, before, "{set}, {cause:?}");
        }
    }
}

pub async fn a_former_owner_is_refused_by_every_verb<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    let taken = only(world.b_takes_over(id, Cause::LeaseExpired).await);
    refused_by_every_verb(&world, &claim).await;
    // And whatever becomes of the execution after it.
    assert_eq!(hand_back(&world.b, &taken).await, Ok(Advanced::Recorded));
    refused_by_every_verb(&world, &claim).await;
    world.drop_lock(id).await;
    refused_by_every_verb(&world, &claim).await;
    world.edit(id, "status='cancelled'").await;
    refused_by_every_verb(&world, &claim).await;
}

/// Nothing is written for a claim that was superseded.
async fn refused_by_every_verb<S: Subject>(world: &World<S>, claim: &Claim) {
    let before = world.everything().await;
    let lease = std::slice::from_ref(&claim.lease);
    assert_eq!(world.a.renew(TTL, Beat(99), lease).await, Ok(vec![Renewal::Lost]));
    assert_eq!(hand_back(&world.a, claim).await, Err(AdvanceError::Fenced));
    for (kind, sent) in every_kind(claim) {
        assert_eq!(send(&world.a, &sent).await, Err(AdvanceError::Fenced), "{kind}");
    }
    let finish = Some(cancelled());
    let sent = Advance { finish, ..advance(claim) };
    assert_eq!(send(&world.a, &sent).await, Err(AdvanceError::Fenced));
    assert_eq!(world.everything().await, before);
}

pub async fn of_many_watchers_each_execution_goes_to_one<S: Subject>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let mut all = BTreeSet::new();
    for _ in 0..30 {
        all.insert(world.submit(&template).await);
    }
    let held = claims(world.a.claim(&who("a"), 50).await.expect("a claim"));
    for claim in held.values().step_by(3) {
        assert_eq!(hand_back(&world.a, claim).await, Ok(Advanced::Recorded));
    }
    let survey = world.b.survey().await.expect("a survey");
    let due: Vec<TakeOver> = survey
        .into_iter()
        .map(|seen| match seen.by.name() {
            None => TakeOver { seen, cause: Cause::Released },
            Some(_) => TakeOver { seen, cause: Cause::LeaseExpired },
        })
        .collect();
    let mut watchers = JoinSet::new();
    for (place, name) in ["b", "c", "d"].into_iter().enumerate() {
        let store = world.subject.store().await;
        // Each in an order of its own, as surveys come.
        let mut due = due.clone();
        due.rotate_left(place * 10);
        watchers.spawn(async move {
            let mut mine = Vec::new();
            for some in due.chunks(7) {
                let batch = store.take_over(&who(name), some).await.expect("a takeover");
                mine.extend(claims(batch).into_keys().map(|id| (id, name)));
            }
            mine
        });
    }
    let taken: Vec<(ExecutionId, &str)> = watchers.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), all.len(), "none twice");
    for (id, name) in &taken {
        assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(*name));
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some(*name));
    }
    assert_eq!(taken.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>(), all);
}

pub async fn a_success_at_the_moment_of_a_takeover_counts_or_is_refused<S: Subject>() {
    let world = World::<S>::new().await;
    for _ in 0..12 {
        let claim = world.a_claims(chain(&["one", "two"])).await;
        let id = &claim.lease.execution;
        let seen = world.held(id).await.expect("it is held");
        let sent = Advance {
            ended: vec![succeeded(&claim, "one")],
            started: vec![start(&claim, "two")],
            ..advance(&claim)
        };
        let (answer, mut batch) =
            tokio::join!(send(&world.a, &sent), b_takes(&world, seen.clone(), Cause::LeaseExpired));
        if let Some((_, Deferral::Unwritable(_))) = batch.deferred.first() {
            // It met that very write, and leaves what it was made to for others.
            let due = [TakeOver { seen, cause: Cause::LeaseExpired }];
            let third = world.subject.store().await;
            batch = third.take_over(&who("c"), &due).await.expect("a takeover");
        }
        let taken = only(batch);
        match answer {
            // Acknowledged: it never runs again. What it started is in flight.
            Ok(Advanced::Recorded) => {
                assert_eq!(started(&taken), ["two"]);
                assert_eq!(slot(&taken, "two").attempt, 2);
                assert_eq!(world.step(id, "one", "ow_attempt").await.as_deref(), Some("1"));
            }
            Err(AdvanceError::Fenced) => {
                assert_eq!(started(&taken), ["one"]);
                assert_eq!(world.step(id, "one", "output").await, None);
                assert_eq!(world.attempt(id, "two", 1).await, None);
            }
            other => panic!("neither recorded nor refused: {other:?}"),
        }
        world.edit(id, "status='failed', ow_owner=''").await;
    }
}

pub async fn an_end_at_the_moment_of_a_takeover_is_one_of_both<S: Subject>() {
    let world = World::<S>::new().await;
    for _ in 0..12 {
        let claim = world.a_claims(chain(&["one"])).await;
        let id = &claim.lease.execution;
        let seen = world.held(id).await.expect("it is held");
        let ended = vec![succeeded(&claim, "one")];
        let sent = Advance { ended, finish: Some(success()), ..advance(&claim) };
        let (answer, batch) =
            tokio::join!(send(&world.a, &sent), b_takes(&world, seen, Cause::LeaseExpired));
        let taken = claims(batch);
        let (status, owner) = match answer {
            Ok(Advanced::Recorded) => ("success", "~finished"),
            Err(AdvanceError::Fenced) => ("running", "b"),
            other => panic!("neither recorded nor refused: {other:?}"),
        };
        assert_eq!(taken.len(), usize::from(status == "running"), "{status}");
        assert_eq!(world.status(id).await, status);
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some(owner));
        world.edit(id, "ow_owner=''").await;
    }
}

pub async fn a_hand_back_at_the_moment_of_a_takeover_leaves_one_holder<S: Subject>() {
    let world = World::<S>::new().await;
    for _ in 0..12 {
        let claim = world.a_claims(chain(&["one"])).await;
        let id = &claim.lease.execution;
        let seen = world.held(id).await.expect("it is held");
        let (answer, batch) =
            tokio::join!(hand_back(&world.a, &claim), b_takes(&world, seen, Cause::LeaseExpired));
        let owner = match answer {
            Ok(_) => "~released",
            Err(AdvanceError::Fenced) => "b",
            Err(other) => panic!("neither handed back nor refused: {other:?}"),
        };
        assert_eq!(claims(batch).len(), usize::from(owner == "b"));
        assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(owner));
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some(owner));
    }
}

pub async fn what_fell_when_every_worker_was_away_is_taken_after_a_day<S: Subject>() {
    let world = World::<S>::new().await;
    let dead = world.a_claims(chain(&["one"])).await;
    let released = world.a_claims(chain(&["one"])).await;
    assert_eq!(hand_back(&world.a, &released).await, Ok(Advanced::Recorded));
    world.pass(24 * HOUR).await;
    assert_eq!(world.b.reap(100).await, Ok(1), "the mark, and not the dead owner's row");
    world.pass(Duration::from_secs(1)).await;
    only(world.b_takes_over(&dead.lease.execution, Cause::LeaseExpired).await);
    only(world.b_takes_over(&released.lease.execution, Cause::Released).await);
}

pub async fn what_a_dead_owner_has_left_is_told_to_whoever_asks<S: Subject>() {
    let world = World::<S>::new().await;
    let before = half_done(&world, &[]).await;
    let (id, fence) = (&before.lease.execution, before.lease.fence);
    let taken = only(world.b_takes_over(id, Cause::LeaseExpired).await);
    assert_eq!(taken.former, Some(fence));

    let former =
        |id: &ExecutionId, fence, told_ms| Former { execution: id.clone(), fence, told_ms };
    let of = [former(id, fence, i64::MAX), former(&"nobody".into(), fence, i64::MAX)];
    let remains = world.b.remains(&of).await.expect("it answers");
    let [told] = &remains[..] else { panic!("one of them: {remains:?}") };
    assert_eq!(
        (&told.execution, told.state.as_str(), told.workflow.as_str()),
        (id, "running", "w")
    );
    assert_eq!(told.origin.created_ms, before.origin.created_ms);
    assert!(told.origin.started_ms.is_some_and(|at| at <= told.now_ms), "{told:?}");
    let mut attempts: Vec<_> = told
        .attempts
        .iter()
        .map(|it| (it.step_name.as_str(), it.number, it.outcome, it.executor.as_str()))
        .collect();
    attempts.sort_unstable_by_key(|it| (it.0.to_owned(), it.1));
    let (failed, lost) = (Some(AttemptOutcome::Failed), Some(AttemptOutcome::Lost));
    assert_eq!(
        attempts,
        [("flight", 1, lost, "func"), ("tried", 1, failed, "func"), ("tried", 2, lost, "func")],
        "what ended under its lease its owner has told itself"
    );
    assert!(told.attempts.iter().all(|attempt| !attempt.has_ended));
    for attempt in &told.attempts {
        assert!(attempt.started_ms <= told.now_ms, "{attempt:?}");
        assert!(attempt.finished_ms.is_some_and(|at| at >= attempt.started_ms), "{attempt:?}");
    }
    // What ended after its last renewal its owner has told nobody.
    let ended = async |told_ms| {
        let remains = world.b.remains(&[former(id, fence, told_ms)]).await.expect("it answers");
        let ended = remains[0].attempts.iter().filter(|attempt| attempt.has_ended);
        ended.map(|it| (it.step_name.clone(), it.outcome, it.finished_ms)).collect::<Vec<_>>()
    };
    let before = ended(0).await;
    let [(name, outcome, Some(finished))] = &before[..] else { panic!("one has: {before:?}") };
    assert_eq!((name.as_str(), *outcome), ("done", Some(AttemptOutcome::Success)));
    // The step and its attempt are written one after the other.
    assert_eq!(ended(*finished - 100).await, before);
    assert_eq!(ended(*finished).await, []);
    // Of the lease that goes on nothing is left.
    let of = [former(id, taken.lease.fence, i64::MAX)];
    assert_eq!(world.a.remains(&of).await.expect("it answers")[0].attempts, []);
}
