//! What `doctor` finds on servers with users, keys and engines.

use std::time::Duration;

use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    domain::{
        doctor::{Finding, Repaired, Repairs, Server as Found, Verdict, View, diagnose, repairs},
        execution::{AttemptOutcome, ExecutionState},
        id::Beat,
        lease::Renewal,
        plan::Finish,
        recovery::{Cause, TakeOver},
    },
    ports::{
        control::{About, Control},
        executions::{Advance, Advanced, ExecutionStore, HandBack, StepEnd},
    },
};
use secrecy::SecretString;

use super::{Database, Server};
use crate::contract::{
    Subject,
    doctor::{problem, problems, view},
    world::*,
};

async fn as_user(url: &str) -> MySqlStore {
    MySqlStore::open(Settings::new(SecretString::from(url))).await.expect("it may connect")
}

fn repair(finding: &Finding) -> &str {
    finding.repair.as_deref().expect("a problem says what to do")
}

pub async fn the_grants_that_are_named_are_what_a_worker_needs_and_no_more_is_asked<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let url = world.subject.user("SELECT").await;
    let store = as_user(&url).await;
    let missing = problems(&store.examine().await);
    let (grants, others): (Vec<_>, Vec<_>) = missing.iter().partition(|it| it.check == "grants");
    assert!(grants.iter().any(|it| it.found.contains("lacks DELETE on distributed_locks")));
    let [lock] = &others[..] else { panic!("{others:?}") };
    assert!(lock.check == "lock" && lock.repair.as_ref().is_some_and(|it| it.contains("INSERT")));
    for grant in grants {
        world.subject.exec(repair(grant)).await;
    }

    // Privileges on columns are read when a connection begins.
    let store = as_user(&url).await;
    assert_eq!(problems(&store.examine().await), []);
    live_through(&world, &store).await;

    let retaining = View { retention: true, ..view() };
    for grant in diagnose(&store.examine().await, &retaining, &Repaired::default()) {
        if grant.verdict == Verdict::Problem {
            world.subject.exec(repair(&grant)).await;
        }
    }
    world.pass(HOUR).await;
    let store = as_user(&url).await;
    let expired = store.expire(ExecutionState::Failed, TTL, 10).await;
    assert_eq!(expired, Ok(2));
    // Whoever runs scripts with it must not write them.
    let refused = store.apply(&workflow("new", chain(&["new"])), &About::default()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("command denied")));
}

/// Every verb of a worker, once.
async fn live_through<S: Server>(world: &World<Database<S>>, store: &MySqlStore) {
    let half = world.submit_chain(&["one", "two"]).await;
    let gone = format!("DELETE FROM workflow_step_executions WHERE step_id='{}'", step_id("two"));
    world.subject.exec(&gone).await;
    world
        .edit(&half, &format!("created_at={}", Database::<S>::moved("created_at", -120_000)))
        .await;
    let claim = claim_one(store, "b").await;
    assert_eq!(
        store.renew(TTL, Beat(2), std::slice::from_ref(&claim.lease)).await,
        Ok(vec![Renewal::Held])
    );
    let returned = HandBack { lease: claim.lease, drained: Vec::new() };
    assert_eq!(store.hand_back(&[returned]).await, [Ok(Advanced::Recorded)]);
    let seen = store.survey().await.expect("a survey").remove(0);
    let due = TakeOver { seen, cause: Cause::Released };
    let claim = only(store.take_over(&who("b"), &[due]).await.expect("a takeover"));
    let slot = &claim.slots[0];
    let mut advance = Advance::new(claim.lease.clone());
    advance.ended.push(StepEnd {
        step: slot.id.clone(),
        attempt: slot.attempt,
        succeeded: false,
        outcome: AttemptOutcome::Failed,
        output: Some("text".into()),
        error: Some("exit code 3".into()),
        retry_count: 0,
    });
    advance.finish =
        Some(Finish { state: ExecutionState::Failed, error: Some("step one failed".into()) });
    assert_eq!(store.advance(&[advance]).await, [Ok(Advanced::Recorded)]);
    world.pass(HOUR).await;
    assert_eq!(store.reap(10).await, Ok(1));
    let odd = world.submit(&"template-chain".into()).await;
    world.edit(&odd, "status='resting'").await;
    let failed = store.fail_unknown(Duration::ZERO).await.expect("a look");
    assert_eq!(failed.len(), 1);
}

pub async fn tables_that_a_user_may_not_see_are_not_made_but_granted<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let url = world.subject.user("").await;
    let (name, user) = (world.subject.one("SELECT DATABASE()").await, world.subject.user_name());
    let name = name.expect("a name");
    world.subject.exec(&format!("GRANT SELECT ON {name}.steps TO {user}")).await;
    let facts = as_user(&url).await.examine().await;
    assert_eq!(repairs(&facts), Repairs::default());
    let all = problems(&facts);
    assert!(all[0].check == "schema" && all[0].found.contains("may not see"), "{all:?}");
    for grant in all.iter().filter(|it| it.check == "grants") {
        assert!(
            repair(grant).starts_with("GRANT SELECT ON `"),
            "the rest cannot be seen: {grant:?}"
        );
        world.subject.exec(repair(grant)).await;
    }
    let all = problems(&as_user(&url).await.examine().await);
    assert!(all.iter().all(|it| it.check == "grants" || it.check == "lock"), "{all:?}");
}

pub async fn a_key_that_is_gone_is_made_by_the_statement_that_is_named<S: Server>() {
    let world = World::<Database<S>>::new().await;
    for (table, key) in [
        ("workflow_executions", "ow_held"),
        ("distributed_locks", "ow_expires"),
        ("distributed_locks", "idx_distributed_locks_lock_key"),
    ] {
        world.subject.exec(&format!("ALTER TABLE {table} DROP INDEX {key}")).await;
        let store = world.subject.store().await;
        let all = problems(&store.examine().await);
        assert_eq!(all[0].check, "indexes", "{all:?}");
        let sql = repair(&all[0]).trim_start_matches("add it with ");
        world.subject.exec(sql).await;
        assert_eq!(problems(&world.subject.store().await.examine().await), [], "{sql}");
    }
}

pub async fn a_table_without_transactions_is_named_with_the_statement_that_changes_it<S: Server>() {
    let world = World::<Database<S>>::new().await;
    // Longer keys are beyond that engine.
    let change =
        "ALTER TABLE distributed_locks MODIFY lock_key VARCHAR(200) NOT NULL, ENGINE=MyISAM";
    world.subject.exec(change).await;
    let found = problem(&world.subject.store().await.examine().await);
    assert_eq!(found.check, "server");
    assert!(found.found.contains("distributed_locks is kept by MyISAM"), "{found:?}");
    let sql = repair(&found).trim_start_matches("change it with ");
    world.subject.exec(sql).await;
    assert_eq!(problems(&world.subject.store().await.examine().await), []);
}

pub async fn the_server_is_named_with_its_settings<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let Ok(Found::MySql(server)) = world.a.examine().await.server else { panic!("no server") };
    assert_eq!(Some(&server.version), world.subject.one("SELECT VERSION()").await.as_ref());
    assert_eq!((&*server.autocommit, &*server.isolation), ("ON", "READ-COMMITTED"));
    assert_eq!(server.daylight_saving, None, "it keeps UTC");
    let flush = world.subject.one("SELECT @@innodb_flush_log_at_trx_commit").await;
    assert_eq!(server.flush_log.map(|it| it.to_string()), flush);
    let most = world.subject.one("SELECT @@max_prepared_stmt_count").await;
    assert_eq!(Some(server.statements.most.to_string()), most);
    assert!(server.statements.used > 0, "this very store keeps some");
}

pub async fn rows_in_a_zone_that_is_configured_are_of_now<S: Server>() {
    let world = World::<Database<S>>::new().await;
    world.foreign_lock(&"go".into(), "go-1", 300).await;
    let there = Database::<S>::moved("UTC_TIMESTAMP(3)", 8 * 3_600_000);
    world.edit_lock(&"go".into(), &format!("updated_at={there}")).await;
    let settings = Settings {
        time_offset: "+08:00".into(),
        ..Settings::new(SecretString::from(world.subject.url(None)))
    };
    let store = MySqlStore::open(settings).await.expect("a store");
    let clock = store.examine().await.clock.expect("there are tables");
    assert!(clock.orchestrator_ms.is_some_and(|it| it.abs() < 60_000), "{clock:?}");
    assert!(clock.ahead_ms.abs() < 5_000, "clocks are compared in UTC: {clock:?}");
}
