//! Servers and rows that somebody has set up in his own way.

use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    domain::{
        id::Beat,
        lease::Renewal,
        recovery::{Cause, Holder, TakeOver},
    },
    ports::{
        control::{Cancelled, Control},
        executions::{Advanced, ExecutionStore, HandBack, StoreError},
    },
};
use secrecy::SecretString;

use super::{Database, Server};
use crate::contract::{Subject, world::*};

pub async fn the_reaper_spares_living_leases_under_every_sql_mode<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let id = world.submit_chain(&["one"]).await;
    claim_one(&world.a, "a").await;
    for key in ["workflow_template:1", "mine"] {
        let insert = format!(
            "INSERT INTO distributed_locks(lock_key, owner, expires_at) VALUES ('{key}', 'x', NOW(3))"
        );
        world.subject.exec(&insert).await;
    }
    world.pass(HOUR).await;

    // The mode of a session is the server's own at its begin. Whoever connects beside this test in
    // that moment must be able to live with it too.
    let settings =
        Settings { work_lanes: 1, ..Settings::new(SecretString::from(world.subject.url(None))) };
    let before = world.subject.one("SELECT @@GLOBAL.sql_mode").await.unwrap_or_default();
    let odd = format!("SET GLOBAL sql_mode='{before},NO_BACKSLASH_ESCAPES'");
    world.subject.exec(&odd).await;
    let store = MySqlStore::open(settings).await;
    world.subject.exec(&format!("SET GLOBAL sql_mode='{before}'")).await;
    assert_eq!(store.expect("a store").reap(10).await, Ok(2));
    assert_eq!(world.lock(&id, "owner").await.as_deref(), Some("a"));
    assert_eq!(
        world.subject.one("SELECT COUNT(*) FROM distributed_locks").await.as_deref(),
        Some("1")
    );
}

pub async fn a_status_in_other_letters_is_met_like_any_other<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let template = world.apply(&workflow("w", chain(&["one", "two"]))).await;
    let (ended, going_on) = (world.submit(&template).await, world.submit(&template).await);
    let claims = claims(world.a.claim(&who("a"), 10).await.expect("a claim"));
    world.edit(&ended, "status='Cancelled'").await;
    world.edit(&going_on, "status='RUNNING'").await;
    let leases = [claims[&ended].lease.clone(), claims[&going_on].lease.clone()];
    let renewed = world.a.renew(TTL, Beat(2), &leases).await;
    assert_eq!(renewed, Ok(vec![Renewal::Cancelled, Renewal::Held]));
    let met = world.b.cancel(&ended).await;
    assert_eq!(met, Ok(Cancelled::Cancelled));

    let returned = HandBack { lease: leases[1].clone(), drained: Vec::new() };
    assert_eq!(world.a.hand_back(&[returned]).await, [Ok(Advanced::Recorded)]);
    let mut due = Vec::new();
    for seen in world.b.survey().await.expect("a survey") {
        assert_eq!(seen.cancelled, seen.execution == ended);
        let is_released = seen.by == Holder::Released;
        let cause = if is_released { Cause::Released } else { Cause::LeaseExpired };
        due.push(TakeOver { seen, cause });
    }
    assert_eq!(due.len(), 2);
    let taken = only(world.b.take_over(&who("b"), &due).await.expect("a takeover"));
    assert_eq!(taken.lease.execution, going_on);
    assert_eq!(world.held(&ended).await, None, "it does not come back at every look");
    assert_eq!(world.steps(&ended, &["one", "two"]).await, ["failed", "skipped"]);
}

pub async fn a_worker_at_work_takes_nothing_more_from_tables_that_need_a_newer_one<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let held = world.submit(&template).await;
    let claim = claim_one(&world.a, "a").await;
    let waits = world.submit(&template).await;
    world.subject.exec("UPDATE ow_meta SET version=2, oldest_reader=2").await;
    let too_new = |error: StoreError| {
        assert!(matches!(&error, StoreError::NotReady(_)), "{error:?}");
        assert!(error.to_string().contains("schema 2"), "{error}");
    };
    too_new(world.a.claim(&who("a"), 10).await.expect_err("a claim"));
    too_new(world.a.survey().await.expect_err("a survey"));
    assert_eq!(world.status(&waits).await, "pending");

    let lease = std::slice::from_ref(&claim.lease);
    assert_eq!(world.a.renew(TTL, Beat(2), lease).await, Ok(vec![Renewal::Held]));
    let returned = HandBack { lease: claim.lease.clone(), drained: Vec::new() };
    assert_eq!(
        world.a.hand_back(&[returned]).await,
        [Ok(Advanced::Recorded)],
        "what it holds it may let go of"
    );

    world.subject.exec("UPDATE ow_meta SET oldest_reader=1").await;
    assert_eq!(claim_one(&world.a, "a").await.lease.execution, waits);
    let taken = only(world.b_takes_over(&held, Cause::Released).await);
    assert_eq!(taken.lease.execution, held);
}
