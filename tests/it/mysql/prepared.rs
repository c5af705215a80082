//! What the server is asked to prepare.

use std::collections::BTreeSet;

use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    domain::id::{Beat, FINISHED},
    ports::executions::{Advance, Advanced, Claim, ExecutionStore},
};
use secrecy::SecretString;

use super::{Database, MySql};
use crate::contract::{Subject, world::*, writes::*};

/// How often the user of this database has sent a command, by the server's own count.
async fn sent(database: &Database<MySql>, command: &str) -> u64 {
    let sql = format!(
        "SELECT COUNT_STAR FROM performance_schema.events_statements_summary_by_user_by_event_name \
         WHERE USER='{}' AND EVENT_NAME='statement/com/{command}'",
        database.user_name()
    );
    database.one(&sql).await.and_then(|count| count.parse().ok()).expect("a count")
}

mod on_mysql {
    use super::*;

    /// A statement that is prepared for one use makes the next one wait for 40 ms, see `session.rs`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn statements_stay_prepared_whatever_the_sizes_of_the_batches() {
        let world = World::<Database<MySql>>::new().await;
        let url = world.subject.user("ALL").await;
        let worker =
            MySqlStore::open(Settings::new(SecretString::from(url))).await.expect("a store");
        let template = world.apply(&workflow("w", chain(&["one"]))).await;
        for size in 1..=10 {
            for _ in 0..size {
                world.submit(&template).await;
            }
            let all = worker.claim(&who("a"), size).await.expect("a claim").claims;
            assert_eq!(all.len(), size);
            let leases: Vec<_> = all.iter().map(|claim| claim.lease.clone()).collect();
            worker.renew(TTL, Beat(2), &leases).await.expect("a renewal");
            let end = |claim: &Claim| Advance {
                ended: vec![succeeded(claim, "one")],
                finish: Some(success()),
                ..advance(claim)
            };
            let answers = worker.advance(&all.iter().map(end).collect::<Vec<_>>()).await;
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            worker.survey().await.expect("a survey");
        }
        let prepared = sent(&world.subject, "Prepare").await;
        let used = sent(&world.subject, "Execute").await;
        assert!(prepared > 0 && prepared < used, "{prepared} prepared, {used} used");
        assert_eq!(sent(&world.subject, "Close stmt").await, 0);
    }

    /// The executions, their lock rows, their steps, and the attempts; each execution under a fence of its own.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ends_that_come_together_take_one_statement_of_each_kind() {
        let world = World::<Database<MySql>>::new().await;
        let url = world.subject.user("ALL").await;
        let worker =
            MySqlStore::open(Settings::new(SecretString::from(url))).await.expect("a store");
        let template = world.apply(&workflow("w", chain(&["one"]))).await;
        for size in [2, 3, 5, 10, 17, 50] {
            let mut all = Vec::new();
            for _ in 0..size {
                world.submit(&template).await;
                all.push(claim_one(&worker, "a").await);
            }
            let fences: BTreeSet<_> = all.iter().map(|claim| claim.lease.fence).collect();
            assert_eq!(fences.len(), size);
            let end = |claim: &Claim| Advance {
                ended: vec![succeeded(claim, "one")],
                finish: Some(success()),
                ..advance(claim)
            };
            let ends: Vec<_> = all.iter().map(end).collect();
            let before = sent(&world.subject, "Execute").await;
            let answers = worker.advance(&ends).await;
            assert_eq!(sent(&world.subject, "Execute").await - before, 4, "{size} ends");
            assert_eq!(answers, vec![Ok(Advanced::Recorded); size]);
            for claim in &all {
                let id = &claim.lease.execution;
                assert_eq!(world.status(id).await, "success");
                assert_eq!(world.steps(id, &["one"]).await, ["success"]);
                assert_eq!(world.lock(id, "owner").await.as_deref(), Some(FINISHED));
            }
        }
    }
}
