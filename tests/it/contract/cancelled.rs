//! Cancelled executions whose owner is gone: a watcher ends them, and nobody runs them.

use orchestrator_worker::{
    domain::{
        death::{EndedBy, PodEnd},
        id::Beat,
        lease::Renewal,
        recovery::{Cause, Held, TakeOver},
    },
    ports::executions::{Advance, AdvanceError, Advanced, ExecutionStore},
};

use super::{Subject, world::*, writes::*};

async fn b_tidies<S: Subject>(world: &World<S>, seen: Held, cause: Cause) {
    let id = seen.execution.clone();
    let was_held = world.execution(&id, "ow_owner").await.as_deref() != Some("");
    let batch = world.b.take_over(&who("b"), &[TakeOver { seen, cause }]).await;
    let batch = batch.expect("a takeover");
    assert!(is_nothing(&batch), "cancelled work goes to nobody");
    let is_let_go = world.execution(&id, "ow_owner").await.as_deref() == Some("");
    assert_eq!(batch.tidied.contains(&id), was_held && is_let_go, "whoever ends it knows it");
}

pub async fn a_dead_owners_cancelled_execution_is_ended_and_goes_to_nobody<S: Subject>() {
    let world = World::<S>::new().await;
    let node = Some("n-1".into());
    let killed = Cause::PodEnded(PodEnd { by: EndedBy::OomKill, exit_code: 137, node });
    for cause in [
        Cause::LeaseExpired,
        Cause::LeaseMissing,
        Cause::ContainerRestarted,
        Cause::Released,
        Cause::NodeLost(Some("n-1".into())),
        killed,
    ] {
        let claim = world.a_claims(fork()).await;
        let id = &claim.lease.execution;
        let sent = Advance { ended: vec![succeeded(&claim, "one")], ..advance(&claim) };
        assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
        let two = match &cause {
            Cause::LeaseExpired => "lost/lease_expired/a",
            Cause::LeaseMissing => {
                world.drop_lock(id).await;
                "lost/lease_missing/a"
            }
            Cause::Released => {
                assert_eq!(hand_back(&world.a, &claim).await, Ok(Advanced::Recorded));
                "drained/-/a"
            }
            Cause::NodeLost(_) => "lost/node_lost (node n-1)/a",
            Cause::ContainerRestarted => "lost/container_restarted/a",
            Cause::PodEnded(_) => "lost/oom_killed (exit code 137, node n-1)/a",
            Cause::OrchestratorSilent => unreachable!("it was never a worker's"),
        };
        world.edit(id, "status='cancelled', error='by ann'").await;
        let seen = world.held(id).await.expect("it is seen");
        assert!(seen.cancelled);
        b_tidies(&world, seen.clone(), cause.clone()).await;

        assert_eq!(world.status(id).await, "cancelled");
        assert_eq!(world.execution(id, "error").await.as_deref(), Some("by ann"));
        assert!(world.execution(id, "finished_at").await.is_some());
        assert!(world.execution(id, "duration").await.is_some());
        assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
        let fence = claim.lease.fence.to_string();
        assert_eq!(world.execution(id, "ow_fence").await, Some(fence));
        assert_eq!(
            world.steps(id, &["one", "two", "last"]).await,
            ["success", "failed", "skipped"]
        );
        for name in ["two", "last"] {
            let error = world.step(id, name, "error").await;
            assert_eq!(error.as_deref(), Some("stopped because the execution was cancelled"));
        }
        assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("success/-/a"));
        assert_eq!(world.attempt(id, "two", 1).await.as_deref(), Some(two));
        // Without a tombstone the Go service might run it again.
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
        let minute = format!("expires_at > {}", S::moved(S::now(), 50_000));
        assert_eq!(world.lock(id, &minute).await.as_deref(), Some("1"));
        assert_eq!(world.held(id).await, None);

        // Another watcher has seen the same, and is late.
        let before = world.everything().await;
        b_tidies(&world, seen, cause).await;
        assert_eq!(world.everything().await, before);
    }
}

pub async fn a_cancelled_execution_is_left_to_an_owner_who_lives<S: Subject>() {
    let world = World::<S>::new().await;
    let execution = ["ow_fence=ow_fence+1", "ow_owner='c'", "ow_owner=''", "status='running'"];
    let lock = ["ow_beat=ow_beat+1", "owner='c', ow_fence=ow_fence+1", "owner='go-1', ow_fence=0"];
    let edits =
        execution.iter().map(|set| (*set, true)).chain(lock.iter().map(|set| (*set, false)));
    for (set, of_execution) in edits {
        let claim = world.a_claims(fork()).await;
        let id = &claim.lease.execution;
        world.edit(id, "status='cancelled'").await;
        let seen = world.held(id).await.expect("it is held");
        if of_execution {
            world.edit(id, set).await;
        } else {
            world.edit_lock(id, set).await;
        }
        let before = world.everything().await;
        b_tidies(&world, seen, Cause::LeaseExpired).await;
        assert_eq!(world.everything().await, before, "{set}");
    }
    // Or one who has just put his lock row back.
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    world.edit(id, "status='cancelled'").await;
    world.drop_lock(id).await;
    let seen = world.held(id).await.expect("it is held");
    let lease = std::slice::from_ref(&claim.lease);
    assert_eq!(world.a.renew(TTL, Beat(2), lease).await, Ok(vec![Renewal::Cancelled]));
    let before = world.everything().await;
    b_tidies(&world, seen, Cause::LeaseMissing).await;
    assert_eq!(world.everything().await, before);
}

pub async fn a_cancellation_after_the_survey_is_not_overrun<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    let running = world.held(id).await.expect("it is held");
    world.edit(id, "status='cancelled'").await;
    let before = world.everything().await;
    b_tidies(&world, running, Cause::LeaseExpired).await;
    assert_eq!(world.everything().await, before, "nothing cancelled is started again");
    // At the next survey it is seen as what it is.
    b_tidies(&world, world.held(id).await.expect("it is held"), Cause::LeaseExpired).await;
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
}

pub async fn an_end_and_a_cancellation_at_one_moment_agree<S: Subject>() {
    let world = World::<S>::new().await;
    for _ in 0..12 {
        let claim = world.a_claims(chain(&["one"])).await;
        let id = &claim.lease.execution;
        let ended = vec![succeeded(&claim, "one")];
        let sent = Advance { ended, finish: Some(success()), ..advance(&claim) };
        let cancel = format!(
            "UPDATE workflow_executions SET status='cancelled' WHERE id='{id}' AND status='running'"
        );
        let (answer, cancelled) = tokio::join!(send(&world.a, &sent), world.subject.exec(&cancel));
        let (expected, status) = match cancelled {
            0 => (Advanced::Recorded, "success"),
            _ => (Advanced::Cancelled, "cancelled"),
        };
        assert_eq!(answer, Ok(expected));
        assert_eq!(world.status(id).await, status);
        assert_eq!(world.step(id, "one", "status").await.as_deref(), Some("success"));
        assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
    }
}

pub async fn a_former_owner_adds_no_success_to_what_was_tidied<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    world.edit(id, "status='cancelled'").await;
    b_tidies(&world, world.held(id).await.expect("it is held"), Cause::LeaseExpired).await;
    let before = world.everything().await;
    let lease = std::slice::from_ref(&claim.lease);
    assert_eq!(world.a.renew(TTL, Beat(9), lease).await, Ok(vec![Renewal::Ended]));
    for (kind, sent) in every_kind(&claim) {
        let adds = !sent.started.is_empty() || !sent.retrying.is_empty();
        if adds || sent.ended.iter().any(|end| end.succeeded) {
            assert_eq!(send(&world.a, &sent).await, Err(AdvanceError::Fenced), "{kind}");
        }
    }
    assert_eq!(world.everything().await, before);
}
