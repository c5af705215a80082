//! What a broken network does to the store: nothing is lost, nothing is done twice, nobody waits for
//! ever.

use std::{future::Future, time::Duration};

use orchestrator_worker::{
    adapters::mysql::MySqlStore,
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        id::{Beat, ExecutionId},
        lease::{LeaseTerms, Renewal},
        plan::Finish,
        recovery::{Cause, Holder, TakeOver},
    },
    ports::{
        control::{About, Control, Start, Submission},
        executions::{
            Advance, AdvanceError, Advanced, Claim, ExecutionStore, StepEnd, StepStart, StoreError,
        },
        traced::{Telling, TracedEnd},
    },
};
use tokio::time::{Instant, timeout};

use super::{Database, Server};
use crate::{
    contract::{Row, Subject, world::*},
    proxy::{CEILING, COMMIT, Mode, Proxy},
};

/// A migrated database, a store that speaks to it through a proxy, and one that does not.
struct Net<S: Server> {
    database: Database<S>,
    proxy: Proxy,
    far: MySqlStore,
    near: MySqlStore,
}

impl<S: Server> Net<S> {
    async fn new() -> Self {
        let database = Database::<S>::make().await;
        let near = database.open(None).await;
        near.migrate(false).await.expect("it is migrated");
        let proxy = Proxy::start(Database::<S>::address()).await;
        let far = database.open(Some(proxy.address())).await;
        Self { database, proxy, far, near }
    }

    async fn submit(&self, names: &[&str]) -> ExecutionId {
        let definition = workflow("net", chain(names));
        self.near.apply(&definition, &About::default()).await.expect("it is applied");
        let template = definition.template.to_string();
        let submission = Submission {
            template,
            created_by: String::new(),
            start: Start::Now,
            traceparent: None,
        };
        self.near.submit(&submission).await.expect("it is submitted").execution
    }

    async fn column(&self, id: &ExecutionId, column: &str) -> String {
        let sql = format!("SELECT {column} FROM workflow_executions WHERE id='{id}'");
        self.database.one(&sql).await.unwrap_or_default()
    }
}

/// Must end within the limits that the store gives itself: connecting, the work, and once more for
/// what became of it.
async fn ends<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(CEILING, future).await.unwrap_or_else(|_| panic!("{what} went on for ever"))
}

/// The end of a claim's only step, and of its execution.
fn end_of(claim: &Claim) -> Advance {
    let slot = &claim.slots[0];
    let mut advance = Advance::new(claim.lease.clone());
    advance.ended.push(StepEnd {
        step: slot.id.clone(),
        attempt: slot.attempt,
        succeeded: true,
        outcome: AttemptOutcome::Success,
        output: Some("done".into()),
        error: None,
        retry_count: 0,
    });
    advance.finish = Some(Finish { state: ExecutionState::Success, error: None });
    advance
}

pub async fn a_black_holed_server_costs_an_error_and_a_connection_and_no_more<S: Server>() {
    let net = Net::<S>::new().await;
    net.submit(&["one"]).await;
    let claim = claim_one(&net.far, "a").await;
    let leases = [claim.lease.clone()];
    net.far.renew(TTL, Beat(2), &leases).await.expect("renewed");
    net.submit(&["one"]).await;

    net.proxy.set(Mode::BlackHole);
    let (advances, who_a) = ([end_of(&claim)], who("a"));
    let (renewed, claimed, advanced, surveyed) = ends("a call into a black hole", async {
        tokio::join!(
            net.far.renew(TTL, Beat(3), &leases),
            net.far.claim(&who_a, 10),
            net.far.advance(&advances),
            net.far.survey(),
        )
    })
    .await;
    assert!(matches!(renewed, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))));
    assert!(matches!(claimed, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))));
    assert!(surveyed.is_err());
    assert!(matches!(
        &advanced[..],
        [Err(AdvanceError::Store(StoreError::Unknown(_) | StoreError::Unavailable(_)))]
    ));
    net.proxy.has_at_most(0).await;

    net.proxy.set(Mode::Pass);
    let renewed = ends("a renewal", net.far.renew(TTL, Beat(4), &leases)).await;
    assert_eq!(renewed, Ok(vec![Renewal::Held]));
    let advanced = ends("an advance", net.far.advance(&advances)).await;
    assert_eq!(advanced, [Ok(Advanced::Recorded)]);
    assert_eq!(net.column(&claim.lease.execution, "status").await, "success");
    claim_one(&net.far, "a").await;
}

pub async fn a_refused_connection_is_an_error_at_once_and_the_next_call_works<S: Server>() {
    let net = Net::<S>::new().await;
    net.submit(&["one"]).await;
    net.proxy.set(Mode::Refuse);
    let began = Instant::now();
    let claimed = ends("a claim", net.far.claim(&who("a"), 10)).await;
    assert!(matches!(claimed, Err(StoreError::Unavailable(_))), "{claimed:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "nobody waits for a closed door");
    net.proxy.set(Mode::Pass);
    claim_one(&net.far, "a").await;
}

pub async fn a_claim_whose_commit_went_unanswered_is_adopted<S: Server>() {
    let net = Net::<S>::new().await;
    let id = net.submit(&["one"]).await;
    net.proxy.set(Mode::HoldAnswer(COMMIT));
    let claim = only(ends("the claim", net.far.claim(&who("a"), 10)).await.expect("adopted"));
    assert_eq!(net.column(&id, "ow_claim").await, claim.lease.nonce.as_str());
    assert_eq!(started(&claim), ["one"]);
    let renewed = net.far.renew(TTL, Beat(2), std::slice::from_ref(&claim.lease)).await;
    assert_eq!(renewed, Ok(vec![Renewal::Held]));
    assert!(is_nothing(&net.near.claim(&who("b"), 10).await.expect("a look")));
    assert_eq!(net.far.advance(&[end_of(&claim)]).await, [Ok(Advanced::Recorded)]);
}

pub async fn a_claim_whose_commit_never_arrived_is_abandoned_and_free<S: Server>() {
    let net = Net::<S>::new().await;
    let id = net.submit(&["one"]).await;
    net.proxy.set(Mode::LoseRequest(COMMIT));
    let claimed = ends("the claim", net.far.claim(&who("a"), 10)).await;
    assert!(matches!(claimed, Err(StoreError::Unavailable(_))), "{claimed:?}");
    assert_eq!(net.column(&id, "status").await, "pending");
    // The old transaction was ended with its connection, so nobody waits for its locks.
    let claim = claim_one(&net.near, "b").await;
    assert_eq!(claim.lease.execution, id);
    assert_eq!(claim.slots[0].attempt, 1);
}

pub async fn a_claim_that_nobody_could_ask_about_is_taken_over_and_driven_once<S: Server>() {
    let net = Net::<S>::new().await;
    let id = net.submit(&["one"]).await;
    net.proxy.set(Mode::HoldAnswer(COMMIT));
    let who_a = who("a");
    let (claimed, ()) = ends("the claim", async {
        tokio::join!(net.far.claim(&who_a, 10), async {
            net.proxy.has_silenced().await;
            net.proxy.set(Mode::BlackHole);
        })
    })
    .await;
    assert!(matches!(claimed, Err(StoreError::Unknown(_))), "{claimed:?}");
    assert_eq!(net.column(&id, "status").await, "running");

    // Nobody drives it, nobody renews it: after its time it goes to whoever watched it.
    let survey = net.near.survey().await.expect("a survey");
    assert_eq!(survey.len(), 1);
    assert_eq!(survey[0].by, Holder::Owner("a".into()));
    let due = TakeOver { seen: survey[0].clone(), cause: Cause::LeaseExpired };
    let taken = only(net.near.take_over(&who("b"), &[due]).await.expect("a takeover"));
    assert_eq!((taken.lease.execution.clone(), taken.slots[0].attempt), (id, 2));
    assert_eq!(net.near.advance(&[end_of(&taken)]).await, [Ok(Advanced::Recorded)]);
}

pub async fn an_advance_that_went_unanswered_is_sent_again<S: Server>() {
    let net = Net::<S>::new().await;
    let id = net.submit(&["one"]).await;
    let claim = claim_one(&net.far, "a").await;
    net.proxy.set(Mode::HoldAnswer(COMMIT));
    let answers = ends("the advance", net.far.advance(&[end_of(&claim)])).await;
    assert!(matches!(answers[..], [Err(AdvanceError::Store(StoreError::Unknown(_)))]));
    assert_eq!(net.column(&id, "status").await, "success", "it was done");
    let again = ends("the advance", net.far.advance(&[end_of(&claim)])).await;
    assert_eq!(again, [Ok(Advanced::Recorded)]);
    let attempts = net.database.rows("SELECT outcome FROM ow_attempts").await;
    let outcomes: Vec<_> = attempts.into_iter().flat_map(Row::into_values).collect();
    assert_eq!(outcomes, [Some("success".to_owned())]);
}

pub async fn what_was_noted_of_an_end_without_an_answer_is_noted_again_or_comes_up_again<
    S: Server,
>() {
    let net = Net::<S>::new().await;
    net.submit(&["one"]).await;
    let claim = claim_one(&net.far, "a").await;
    let end = Advance { told_ms: Some(0), ..end_of(&claim) };
    assert_eq!(net.far.advance(&[end]).await, [Ok(Advanced::Recorded)]);
    let lease = &claim.lease;
    let ends_of_it = [TracedEnd { execution: lease.execution.clone(), fence: lease.fence }];
    let later = async || {
        let expires = Database::<S>::moved("expires_at", -90_000);
        let sql = format!("UPDATE distributed_locks SET expires_at={expires}");
        net.database.exec(&sql).await;
    };
    let mark = async || net.database.one("SELECT owner FROM distributed_locks").await;
    let (b, c) = (who("b").owner, who("c").owner);

    later().await;
    net.proxy.set(Mode::HoldAnswer(COMMIT));
    let taken = ends("taking it", net.far.take_untold(&b, 10)).await;
    assert!(matches!(taken, Err(StoreError::Unknown(_))), "{taken:?}");
    assert_eq!(mark().await.as_deref(), Some("~untold:b"), "it was done");
    assert_eq!(net.near.take_untold(&c, 10).await, Ok(vec![]), "b may be telling");
    later().await;
    let taken = net.near.take_untold(&c, 10).await.expect("an answer");
    assert_eq!((taken.len(), taken[0].owner.as_str()), (1, "b"));

    net.proxy.set(Mode::HoldAnswer("~finished"));
    let noted = ends("noting it", net.far.note_told(&c, &ends_of_it, Telling::Done)).await;
    assert!(matches!(noted, Err(StoreError::Unknown(_))), "{noted:?}");
    assert_eq!(mark().await.as_deref(), Some("~finished"), "it was done");
    assert_eq!(net.far.note_told(&c, &ends_of_it, Telling::Done).await, Ok(()));
    assert_eq!(mark().await.as_deref(), Some("~finished"));
}

pub async fn the_locks_of_a_silent_connection_stand_in_nobodys_way<S: Server>() {
    let net = Net::<S>::new().await;
    net.submit(&["one"]).await;
    let claim = claim_one(&net.far, "a").await;
    // The advance holds its rows on the server when its connection falls silent.
    net.proxy.set(Mode::LoseRequest(COMMIT));
    let answers = ends("the advance", net.far.advance(&[end_of(&claim)])).await;
    assert!(matches!(answers[..], [Err(AdvanceError::Store(StoreError::Unknown(_)))]));
    let began = Instant::now();
    let again = ends("the advance", net.far.advance(&[end_of(&claim)])).await;
    assert_eq!(again, [Ok(Advanced::Recorded)]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

pub async fn a_silent_connection_is_ended_though_the_first_that_tries_falls_silent_too<
    S: Server,
>() {
    let net = Net::<S>::new().await;
    net.submit(&["one"]).await;
    let claim = claim_one(&net.far, "a").await;
    net.proxy.set(Mode::LoseRequest(COMMIT));
    let answers = ends("the advance", net.far.advance(&[end_of(&claim)])).await;
    assert!(matches!(answers[..], [Err(AdvanceError::Store(StoreError::Unknown(_)))]));
    net.proxy.set(Mode::LoseRequest("KILL CONNECTION"));
    ends("a survey", net.far.survey()).await.expect_err("it falls silent");
    net.proxy.has_silenced().await;
    let again = ends("the advance", net.far.advance(&[end_of(&claim)])).await;
    assert_eq!(again, [Ok(Advanced::Recorded)]);
}

pub async fn no_acknowledged_write_is_lost_over_callers_that_stop_waiting<S: Server>() {
    const STEPS: u32 = 60;
    let net = Net::<S>::new().await;
    let names: Vec<String> = (0..STEPS).map(|n| format!("s{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    net.submit(&names).await;
    // Some callers stop waiting before anything has happened, most in the middle, some too late.
    let mut claim = None;
    for place in 0..40 {
        let patience = Duration::from_micros(200 * place);
        if let Ok(Ok(batch)) = timeout(patience, net.far.claim(&who("a"), 1)).await {
            claim = batch.claims.into_iter().next();
        }
        if claim.is_some() {
            break;
        }
    }
    let claim = match claim {
        Some(claim) => claim,
        None => claim_of_nobody(&net).await,
    };
    let mut acknowledged = Vec::new();
    let mut unheard = 0;
    for place in 0..names.len() {
        let advance = end_and_start(&claim, place);
        let patience = Duration::from_micros(u64::try_from(place).expect("few") % 30 * 150);
        if let Ok(answers) =
            timeout(patience, net.far.advance(std::slice::from_ref(&advance))).await
        {
            assert_eq!(answers, [Ok(Advanced::Recorded)]);
        } else {
            unheard += 1;
            // Whoever did not hear the answer sends it again.
            assert_eq!(net.far.advance(&[advance]).await, [Ok(Advanced::Recorded)]);
        }
        acknowledged.push(claim.slots[place].id.to_string());
        let sql = "SELECT id FROM workflow_step_executions WHERE status='success'";
        let rows = net.database.rows(sql).await.into_iter();
        let there: Vec<_> = rows.flat_map(Row::into_values).flatten().collect();
        for step in &acknowledged {
            assert!(there.contains(step), "step {step} was acknowledged and is gone");
        }
    }
    assert!(unheard > 5, "only {unheard} callers stopped waiting");
    let attempts =
        net.database.one("SELECT COUNT(*) FROM ow_attempts WHERE outcome='success'").await;
    assert_eq!(attempts, Some(STEPS.to_string()));
}

pub async fn a_plan_that_a_server_lost_is_stored_again<S: Server>() {
    let net = Net::<S>::new().await;
    net.submit(&["one"]).await;
    let plan = net.column(&claim_one(&net.far, "a").await.lease.execution, "HEX(ow_plan)").await;
    // A failover that loses the last writes: other connections, and the plan is gone.
    net.proxy.set(Mode::Refuse);
    net.proxy.has_at_most(0).await;
    assert_eq!(net.database.exec("DELETE FROM ow_plans").await, 1);
    net.proxy.set(Mode::Pass);
    net.submit(&["one"]).await;
    let claim = loop {
        // A lane learns of its broken connection by an error.
        match ends("a claim", net.far.claim(&who("a"), 10)).await {
            Ok(batch) => break only(batch),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
    };
    assert_eq!(net.column(&claim.lease.execution, "HEX(ow_plan)").await, plan);
    let stored = net.database.one("SELECT HEX(sha256) FROM ow_plans").await;
    assert_eq!(stored, Some(plan));
}

pub async fn a_renewal_that_falls_silent_is_given_up_while_there_is_time_for_another<S: Server>() {
    let net = Net::<S>::new().await;
    net.submit(&["one"]).await;
    let leases = [claim_one(&net.far, "a").await.lease];
    let terms = LeaseTerms::try_new(LeaseTerms::SHORTEST_TTL, Duration::from_secs(2));
    let ttl = terms.expect("the shortest").ttl();
    net.far.renew(ttl, Beat(2), &leases).await.expect("renewed");
    for (mode, beat) in [
        (Mode::HoldAnswer("UPDATE distributed_locks"), 3),
        (Mode::LoseRequest("distributed_locks"), 5),
    ] {
        net.proxy.set(mode);
        let began = Instant::now();
        let silent = ends("a renewal", net.far.renew(ttl, Beat(beat), &leases)).await;
        assert!(silent.is_err(), "{silent:?}");
        assert!(began.elapsed() < Duration::from_millis(1_900), "{:?}", began.elapsed());
        let again = ends("a renewal", net.far.renew(ttl, Beat(beat + 1), &leases)).await;
        assert_eq!(again, Ok(vec![Renewal::Held]));
    }
}

/// Claims the only execution, unless it is in the hands of a caller who no longer waited: then it is
/// a dead worker's, and is taken over.
async fn claim_of_nobody<S: Server>(net: &Net<S>) -> Claim {
    // Comes after every claim that was begun, so it knows what became of them.
    let fresh = ends("a claim", net.far.claim(&who("a"), 1)).await.expect("a claim");
    if let Some(claim) = fresh.claims.into_iter().next() {
        return claim;
    }
    let seen = net.near.survey().await.expect("a survey").remove(0);
    let due = TakeOver { seen, cause: Cause::LeaseExpired };
    only(net.far.take_over(&who("a"), &[due]).await.expect("a takeover"))
}

/// The end of the step at `place` of a chain, and the start of the next or the end of all.
fn end_and_start(claim: &Claim, place: usize) -> Advance {
    let slot = &claim.slots[place];
    let mut advance = Advance::new(claim.lease.clone());
    let attempt = slot.attempt.max(1);
    advance.ended.push(StepEnd {
        step: slot.id.clone(),
        attempt,
        succeeded: true,
        outcome: AttemptOutcome::Success,
        output: Some(format!("output of {place}")),
        error: None,
        retry_count: 0,
    });
    match claim.slots.get(place + 1) {
        Some(next) => advance.started.push(StepStart {
            step: next.id.clone(),
            attempt: 1,
            key_gen: 0,
            retry_count: 0,
        }),
        None => advance.finish = Some(Finish { state: ExecutionState::Success, error: None }),
    }
    advance
}
