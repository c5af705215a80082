//! Advances: what is recorded, in full, as often as it is sent, and each for itself.

use orchestrator_worker::{
    domain::{execution::AttemptOutcome, plan::Finish},
    ports::executions::{
        Advance, AdvanceError, Advanced, ExecutionStore, StepEnd, StepRetry, StoreError,
    },
};

use super::{Subject, world::*, writes::*};

const RECORDED: Result<Advanced, AdvanceError> = Ok(Advanced::Recorded);

pub async fn what_ended_and_what_starts_next_are_recorded_together<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    let two = StepEnd { error: Some("exit status 3".into()), ..failed(&claim, "two") };
    let sent = Advance {
        ended: vec![succeeded(&claim, "one"), two],
        started: vec![start(&claim, "last")],
        ..advance(&claim)
    };
    assert_eq!(send(&world.a, &sent).await, RECORDED);

    assert_eq!(world.steps(id, &["one", "two", "last"]).await, ["success", "failed", "running"]);
    for (name, column, expected) in [
        ("one", "output", Some("output of one")),
        ("one", "error", None),
        ("two", "output", Some("output of two")),
        ("two", "error", Some("exit status 3")),
        ("two", "ow_attempt", Some("1")),
        ("last", "ow_attempt", Some("1")),
        ("last", "ow_key_gen", Some("0")),
        ("last", "finished_at", None),
    ] {
        assert_eq!(world.step(id, name, column).await.as_deref(), expected, "{name} {column}");
    }
    for (name, column) in [
        ("one", "finished_at"),
        ("one", "duration"),
        ("two", "finished_at"),
        ("two", "duration"),
        ("last", "started_at"),
    ] {
        assert!(world.step(id, name, column).await.is_some(), "{name} {column}");
    }
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("success/-/a"));
    assert_eq!(world.attempt(id, "two", 1).await.as_deref(), Some("failed/exit status 3/a"));
    assert_eq!(world.attempt(id, "last", 1).await.as_deref(), Some("-/-/a"));
    assert_eq!(world.status(id).await, "running");
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("a"));
}

pub async fn a_retry_keeps_the_step_running_and_tells_the_next_key<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    let began = world.step(id, "one", "started_at").await;
    // A definite "no": the next attempt asks under the next key.
    let sent = Advance { retrying: vec![retry(&claim, "one")], ..advance(&claim) };
    assert_eq!(send(&world.a, &sent).await, RECORDED);
    let standing = async |name: &str| {
        let mut words = Vec::new();
        for column in ["status", "ow_attempt", "ow_key_gen", "retry_count", "error"] {
            words.push(world.step(id, name, column).await.unwrap_or_else(|| "-".into()));
        }
        words.join("/")
    };
    assert_eq!(standing("one").await, "running/1/1/1/exit status 1");
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("failed/exit status 1/a"));
    let sent = Advance { started: vec![start_after_retry(&claim, "one")], ..advance(&claim) };
    assert_eq!(send(&world.a, &sent).await, RECORDED);
    assert_eq!(standing("one").await, "running/2/1/1/exit status 1");
    assert_eq!(world.step(id, "one", "started_at").await, began);
    assert_eq!(world.attempt(id, "one", 2).await.as_deref(), Some("-/-/a"));

    // Whether a timed-out effect was had is unknown: the same key.
    let timeout = StepRetry {
        outcome: AttemptOutcome::Timeout,
        error: "timed out after 30s".into(),
        key_gen: 0,
        ..retry(&claim, "two")
    };
    let sent = Advance { retrying: vec![timeout], ..advance(&claim) };
    assert_eq!(send(&world.a, &sent).await, RECORDED);
    assert_eq!(standing("two").await, "running/1/0/1/timed out after 30s");
    assert_eq!(world.attempt(id, "two", 1).await.as_deref(), Some("timeout/timed out after 30s/a"));

    let end = StepEnd { attempt: 2, retry_count: 1, ..succeeded(&claim, "one") };
    let sent = Advance { ended: vec![end], ..advance(&claim) };
    assert_eq!(send(&world.a, &sent).await, RECORDED);
    assert_eq!(standing("one").await, "success/2/1/1/-");
    assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("failed/exit status 1/a"));
    assert_eq!(world.attempt(id, "one", 2).await.as_deref(), Some("success/-/a"));
}

pub async fn an_end_leaves_a_tombstone_and_nobody_who_holds_it<S: Subject>() {
    let world = World::<S>::new().await;
    let failed_with = "step one failed: exit status 1";
    for (finish, word, error) in
        [(success(), "success", None), (failure(), "failed", Some(failed_with))]
    {
        let claim = world.a_claims(fork()).await;
        let id = &claim.lease.execution;
        let sent = Advance {
            ended: vec![succeeded(&claim, "one"), succeeded(&claim, "two")],
            skipped: vec![skip(&claim, "last")],
            finish: Some(finish),
            ..advance(&claim)
        };
        assert_eq!(send(&world.a, &sent).await, RECORDED);
        assert_eq!(world.status(id).await, word);
        assert_eq!(world.execution(id, "error").await.as_deref(), error);
        assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
        assert!(world.execution(id, "finished_at").await.is_some());
        assert!(world.execution(id, "duration").await.is_some());
        assert_eq!(world.steps(id, &["one", "last"]).await, ["success", "skipped"]);
        let reason = world.step(id, "last", "error").await;
        assert_eq!(reason.as_deref(), Some("skipped because step one failed"));
        assert_eq!(world.attempt(id, "last", 1).await, None);

        let fence = claim.lease.fence.to_string();
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
        assert_eq!(world.lock(id, "ow_fence").await, Some(fence));
        for (seconds, past) in [(50, "1"), (70, "0")] {
            let at = S::moved(S::now(), seconds * 1000);
            let is_later = world.lock(id, &format!("expires_at > {at}")).await;
            assert_eq!(is_later.as_deref(), Some(past), "a minute");
        }
        assert_eq!(world.held(id).await, None);
        assert!(is_nothing(&world.b.claim(&who("b"), 10).await.expect("a claim")));
    }
}

pub async fn what_is_sent_twice_is_recorded_once<S: Subject>() {
    let world = World::<S>::new().await;
    let kinds = every_kind(&world.a_claims(fork()).await).len();
    for place in 0..kinds {
        let claim = world.a_claims(fork()).await;
        let (kind, sent) = every_kind(&claim).swap_remove(place);
        assert_eq!(send(&world.a, &sent).await, RECORDED, "{kind}");
        let once = world.everything_but_times().await;
        assert_eq!(send(&world.a, &sent).await, RECORDED, "{kind}, again");
        assert_eq!(world.everything_but_times().await, once, "{kind}");
        // Over whichever connection.
        assert_eq!(send(&world.b, &sent).await, RECORDED, "{kind}, a third time");
        assert_eq!(world.everything_but_times().await, once, "{kind}");
    }
}

pub async fn a_retry_that_comes_late_does_not_turn_a_key_back<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let first = Advance {
        retrying: vec![retry(&claim, "one")],
        started: vec![start_after_retry(&claim, "one")],
        ..advance(&claim)
    };
    assert_eq!(send(&world.a, &first).await, RECORDED);
    let second = StepRetry { attempt: 2, key_gen: 2, retry_count: 2, ..retry(&claim, "one") };
    let second = Advance { retrying: vec![second], ..advance(&claim) };
    assert_eq!(send(&world.a, &second).await, RECORDED);
    // The first one's copy was held up in the network: its key was refused for good.
    let before = world.everything().await;
    let late = Advance { started: Vec::new(), ..first };
    assert_eq!(send(&world.a, &late).await, Err(AdvanceError::Fenced));
    assert_eq!(world.everything().await, before);
}

pub async fn nothing_to_record_is_recorded<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let before = world.everything().await;
    assert_eq!(world.a.advance(&[]).await, []);
    assert_eq!(send(&world.a, &advance(&claim)).await, RECORDED);
    assert_eq!(world.everything().await, before);
}

pub async fn one_that_is_fenced_or_refused_does_not_hurt_the_others<S: Subject>() {
    let world = World::<S>::new().await;
    let mut claims = Vec::new();
    for _ in 0..5 {
        claims.push(world.a_claims(fork()).await);
    }
    world.edit(&claims[1].lease.execution, "ow_fence=ow_fence+1").await;
    let stamp = format!(
        "UPDATE workflow_step_executions SET ow_fence=ow_fence+1 WHERE execution_id='{}'",
        claims[1].lease.execution
    );
    world.subject.exec(&stamp).await;
    world.edit(&claims[3].lease.execution, "status='cancelled'").await;
    let too_long = StepEnd { output: Some("x".repeat(65_536)), ..succeeded(&claims[2], "one") };
    let mut sent: Vec<Advance> = claims
        .iter()
        .map(|claim| Advance {
            ended: vec![succeeded(claim, "one"), succeeded(claim, "two")],
            finish: Some(success()),
            ..advance(claim)
        })
        .collect();
    sent[2].ended[0] = too_long;
    sent[4].finish = None;
    let untouched = world.everything().await;

    let answers = world.a.advance(&sent).await;
    assert_eq!(answers[0], RECORDED);
    assert_eq!(answers[1], Err(AdvanceError::Fenced));
    assert!(matches!(&answers[2], Err(AdvanceError::Store(StoreError::Data(_)))), "{answers:?}");
    assert_eq!(answers[3], Ok(Advanced::Cancelled));
    assert_eq!(answers[4], RECORDED);
    assert_eq!(answers.len(), 5);
    let mut statuses = Vec::new();
    for claim in &claims {
        statuses.push(world.status(&claim.lease.execution).await);
    }
    assert_eq!(statuses, ["success", "running", "running", "cancelled", "running"]);
    for (place, word) in [(0, "success"), (3, "success"), (4, "success")] {
        let id = &claims[place].lease.execution;
        assert_eq!(world.steps(id, &["one", "two"]).await, [word, word], "{place}");
    }
    let after = world.everything().await;
    for place in [1, 2] {
        let id = claims[place].lease.execution.as_str();
        for row in untouched.iter().filter(|row| row.contains(id)) {
            assert!(after.contains(row), "changed: {row}");
        }
    }
    // What was refused can still be recorded without the text.
    sent[2].ended[0].output = None;
    assert_eq!(send(&world.a, &sent[2]).await, RECORDED);
}

pub async fn two_advances_of_one_execution_are_recorded_in_their_order<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    let first = Advance {
        ended: vec![succeeded(&claim, "one"), succeeded(&claim, "two")],
        started: vec![start(&claim, "last")],
        ..advance(&claim)
    };
    let last = StepEnd { attempt: 1, ..succeeded(&claim, "last") };
    let second = Advance { ended: vec![last], finish: Some(success()), ..advance(&claim) };
    assert_eq!(world.a.advance(&[first, second]).await, [RECORDED, RECORDED]);
    assert_eq!(world.status(id).await, "success");
    assert_eq!(world.steps(id, &["one", "two", "last"]).await, ["success"; 3]);
}

pub async fn an_end_that_meets_a_cancellation_is_recorded_as_cancelled<S: Subject>() {
    let world = World::<S>::new().await;
    let planned: [(&str, Finish); 3] =
        [("success", success()), ("failed", failure()), ("cancelled", cancelled())];
    for (word, finish) in planned {
        let claim = world.a_claims(fork()).await;
        let id = &claim.lease.execution;
        world.edit(id, "status='cancelled', error='by ann'").await;
        let ended = vec![succeeded(&claim, "one")];
        let sent = Advance { ended, finish: Some(finish), ..advance(&claim) };
        assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Cancelled), "{word}");

        assert_eq!(world.status(id).await, "cancelled");
        assert_eq!(world.execution(id, "error").await.as_deref(), Some("by ann"));
        assert!(world.execution(id, "finished_at").await.is_some());
        assert!(world.execution(id, "duration").await.is_some());
        assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
        assert_eq!(world.lock(id, "owner").await.as_deref(), Some("~finished"));
        // What was done stays done; the rest is closed, whatever the worker knew of it.
        let steps = world.steps(id, &["one", "two", "last"]).await;
        assert_eq!(steps, ["success", "failed", "skipped"], "{word}");
        for name in ["two", "last"] {
            let error = world.step(id, name, "error").await;
            assert_eq!(error.as_deref(), Some("stopped because the execution was cancelled"));
            assert!(world.step(id, name, "finished_at").await.is_some());
        }
        assert!(world.step(id, "two", "duration").await.is_some());
        assert_eq!(world.attempt(id, "one", 1).await.as_deref(), Some("success/-/a"));
        assert_eq!(world.attempt(id, "two", 1).await.as_deref(), Some("cancelled/-/a"));
        assert_eq!(world.held(id).await, None);

        let once = world.everything_but_times().await;
        assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Cancelled), "{word}, again");
        assert_eq!(world.everything_but_times().await, once);
    }
}

pub async fn what_ends_in_a_cancelled_execution_is_recorded_before_its_end<S: Subject>() {
    let world = World::<S>::new().await;
    let claim = world.a_claims(fork()).await;
    let id = &claim.lease.execution;
    world.edit(id, "status='cancelled'").await;
    let sent = Advance { ended: vec![succeeded(&claim, "one")], ..advance(&claim) };
    assert_eq!(send(&world.a, &sent).await, RECORDED);
    assert_eq!(world.steps(id, &["one", "two"]).await, ["success", "running"]);
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some("a"), "still to be ended");
}

pub async fn a_step_that_no_worker_started_ends_without_an_attempt<S: Subject>() {
    let world = World::<S>::new().await;
    let mut steps = chain(&["one"]);
    steps[0].parameters = Some(r#"{"func":"noop","resume":"fail"}"#.into());
    let template = world.apply(&workflow("w", steps)).await;
    let id = world.submit(&template).await;
    // The Go service had begun it, was lost, and somebody set the execution to pending.
    let running =
        format!("UPDATE workflow_step_executions SET status='running' WHERE execution_id='{id}'");
    assert_eq!(world.subject.exec(&running).await, 1);
    let claim = claim_one(&world.a, "a").await;
    let (_, reason) = &claim.plan.fail[0];
    let lost = StepEnd {
        outcome: AttemptOutcome::Lost,
        output: None,
        error: Some(reason.clone()),
        ..failed(&claim, "one")
    };
    let finish = claim.plan.finish.clone();
    let sent = Advance { ended: vec![lost], finish, ..advance(&claim) };
    assert_eq!(send(&world.a, &sent).await, RECORDED);
    assert_eq!(world.status(&id).await, "failed");
    assert_eq!(world.step(&id, "one", "error").await.as_ref(), Some(reason));
    assert_eq!(world.subject.one("SELECT COUNT(*) FROM ow_attempts").await.as_deref(), Some("0"));
}
