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
        executions::{ExecutionStore, HandBack},
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
    assert_eq!(world.a.hand_back(&[returned]).await, [Ok(())]);
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
