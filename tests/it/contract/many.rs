//! Many at once: more than one transaction takes, and several at one moment.

use orchestrator_worker::{
    domain::{
        id::{ExecutionId, FINISHED},
        plan::Finish,
        recovery::{Cause, TakeOver},
    },
    ports::executions::{
        Advance, AdvanceError, Advanced, Claim, ExecutionStore, HandBack, StepEnd, StoreError,
    },
};
use tokio::task::JoinSet;

use super::{Subject, world::*, writes::*};

/// More than a store does in one transaction.
const MANY: usize = 60;

/// So many executions of one step, all claimed by `a`.
async fn claimed<S: Subject>(world: &World<S>) -> Vec<Claim> {
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    for _ in 0..MANY {
        world.submit(&template).await;
    }
    let mut all = Vec::new();
    while all.len() < MANY {
        let batch = world.a.claim(&who("a"), MANY).await.expect("a claim");
        assert!(!batch.claims.is_empty(), "all are due");
        all.extend(batch.claims);
    }
    all
}

fn end_of(claim: &Claim) -> Advance {
    let ended = vec![succeeded(claim, "one")];
    Advance { ended, finish: Some(success()), ..advance(claim) }
}

pub async fn many_ends_in_one_call_are_answered_in_their_order<S: Subject>() {
    let world = World::<S>::new().await;
    let all = claimed(&world).await;
    let (too_long, cancelled, fenced) = (3, 49, 57);
    let mut sent: Vec<Advance> = all.iter().map(end_of).collect();
    let output = Some("x".repeat(65_536));
    sent[too_long].ended = vec![StepEnd { output, ..succeeded(&all[too_long], "one") }];
    world.edit(&all[cancelled].lease.execution, "status='cancelled'").await;
    world.edit(&all[fenced].lease.execution, "ow_fence=ow_fence+1").await;
    let answers = world.a.advance(&sent).await;
    assert_eq!(answers.len(), MANY);
    for (place, answer) in answers.iter().enumerate() {
        let is_right = if place == too_long {
            matches!(answer, Err(AdvanceError::Store(StoreError::Data(_))))
        } else if place == cancelled {
            *answer == Ok(Advanced::Cancelled)
        } else if place == fenced {
            *answer == Err(AdvanceError::Fenced)
        } else {
            *answer == Ok(Advanced::Recorded)
        };
        assert!(is_right, "{place}: {answer:?}");
    }
    let ended = "SELECT COUNT(*) FROM workflow_executions WHERE status='success'";
    assert_eq!(world.subject.one(ended).await, Some((MANY - 3).to_string()));
    let steps = "SELECT COUNT(*) FROM workflow_step_executions WHERE status='success'";
    assert_eq!(world.subject.one(steps).await, Some((MANY - 2).to_string()));
}

/// What is alike may be written by one statement.
pub async fn many_ends_in_one_call_are_recorded_each_with_its_own_words<S: Subject>() {
    let world = World::<S>::new().await;
    let all = claimed(&world).await;
    let (empty, none, long, retried) = (2, 5, 11, 23);
    let (failing, told) = (16..20, 30..40);
    let mut sent: Vec<Advance> = all.iter().map(end_of).collect();
    for (place, advance) in sent.iter_mut().enumerate() {
        let end = &mut advance.ended[0];
        end.output = match place {
            _ if place == empty => Some(String::new()),
            _ if place == none => None,
            _ if place == long => Some("long ".repeat(5_000)),
            _ => Some(format!("of {place}, 'quoted' \u{1f980}")),
        };
        if failing.contains(&place) {
            let error = format!("exit status {}", place / 2);
            *end = StepEnd { error: Some(error.clone()), ..failed(&all[place], "one") };
            advance.finish = Some(Finish { error: Some(error), ..failure() });
        }
        if told.contains(&place) {
            advance.told_ms = Some(place as u64 / 2);
        }
        if place == retried {
            end.retry_count = 4;
        }
    }
    assert_eq!(world.a.advance(&sent).await, vec![Ok(Advanced::Recorded); MANY]);
    for (place, claim) in all.iter().enumerate() {
        let (id, end) = (&claim.lease.execution, &sent[place].ended[0]);
        let word = if failing.contains(&place) { "failed" } else { "success" };
        assert_eq!(world.status(id).await, word, "{place}");
        assert_eq!(world.execution(id, "error").await, end.error, "{place}");
        assert_eq!(world.steps(id, &["one"]).await, [word], "{place}");
        assert_eq!(world.step(id, "one", "output").await, end.output, "{place}");
        assert_eq!(world.step(id, "one", "error").await, end.error, "{place}");
        let retries = world.step(id, "one", "retry_count").await;
        assert_eq!(retries, Some(end.retry_count.to_string()), "{place}");
        let attempt = world.attempt(id, "one", 1).await;
        let cause = end.error.as_deref().unwrap_or("-");
        assert_eq!(attempt, Some(format!("{word}/{cause}/a")), "{place}");
        let owner = world.lock(id, "owner").await.expect("it lingers");
        if let Some(told_ms) = sent[place].told_ms {
            assert_eq!(owner, claim.lease.owner.untold(), "{place}");
            assert_eq!(world.lock(id, "ow_beat").await, Some(told_ms.to_string()), "{place}");
        } else {
            assert_eq!(owner, FINISHED, "{place}");
        }
    }
}

pub async fn ends_under_each_others_fences_are_refused<S: Subject>() {
    let world = World::<S>::new().await;
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(world.a_claims(chain(&["one"])).await);
    }
    let mut sent: Vec<Advance> = all.iter().map(end_of).collect();
    (sent[1].lease.fence, sent[2].lease.fence) = (sent[2].lease.fence, sent[1].lease.fence);
    let untouched = world.everything().await;
    let fenced = Err(AdvanceError::Fenced);
    let answers = world.a.advance(&sent).await;
    let recorded = Ok(Advanced::Recorded);
    assert_eq!(answers, [recorded.clone(), fenced.clone(), fenced, recorded]);
    let after = world.everything().await;
    for claim in &all[1..=2] {
        let id = claim.lease.execution.as_str();
        for row in untouched.iter().filter(|row| row.contains(id)) {
            assert!(after.contains(row), "changed: {row}");
        }
    }
}

pub async fn many_are_handed_back_and_taken_over_in_one_call<S: Subject>() {
    let world = World::<S>::new().await;
    let all = claimed(&world).await;
    let fenced = 55;
    world.edit(&all[fenced].lease.execution, "ow_fence=ow_fence+1").await;
    let returns: Vec<HandBack> = all.iter().map(given_back).collect();
    let answers = world.a.hand_back(&returns).await;
    for (place, answer) in answers.iter().enumerate() {
        let expected =
            if place == fenced { Err(AdvanceError::Fenced) } else { Ok(Advanced::Recorded) };
        assert_eq!(*answer, expected, "{place}");
    }
    assert_eq!(answers.len(), MANY);

    let survey = world.b.survey().await.expect("a survey");
    assert_eq!(survey.len(), MANY);
    let due: Vec<TakeOver> = survey
        .into_iter()
        .map(|seen| {
            let released = seen.by.name().is_none();
            TakeOver { seen, cause: if released { Cause::Released } else { Cause::LeaseExpired } }
        })
        .collect();
    let taken = claims(world.b.take_over(&who("b"), &due).await.expect("a takeover"));
    let ids: Vec<ExecutionId> = all.into_iter().map(|claim| claim.lease.execution).collect();
    assert!(ids.iter().all(|id| taken.contains_key(id)));
}

pub async fn ends_of_one_execution_at_one_moment_are_all_recorded<S: Subject>() {
    let world = World::<S>::new().await;
    let names: Vec<String> = (0..8).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for _ in 0..4 {
        let claim = world.a_claims(fan(&names)).await;
        let mut senders = JoinSet::new();
        for name in &names {
            let store = world.subject.store().await;
            let sent = Advance { ended: vec![succeeded(&claim, name)], ..advance(&claim) };
            senders.spawn(async move { send(&store, &sent).await });
        }
        let answers = senders.join_all().await;
        assert_eq!(answers, vec![Ok(Advanced::Recorded); names.len()]);
        let id = &claim.lease.execution;
        assert_eq!(world.steps(id, &names).await, vec!["success"; names.len()]);
        for name in &names {
            assert_eq!(world.attempt(id, name, 1).await.as_deref(), Some("success/-/a"));
        }
    }
}
