//! A worker and the Go service reach for the same execution at the same moment: 200 times here, 10,000
//! times with `ORCHESTRATOR_TEST_SCALE=soak`; with the guard trigger and without.
//!
//! **Invariant:** who has begun what is told by the effects of both alone, and who came first by the
//! server.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use orchestrator_worker::{
    domain::id::ExecutionId,
    ports::{
        control::Control,
        executions::{Advance, Advanced, ExecutionStore},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    history::{Effect, Rows, Rule, violations},
    say,
    twin::{Fared, Twin},
    workload::append,
};
use crate::{
    contract::{Subject, world::*, writes::*},
    mysql::{Database, Server},
    process::is_soak,
    stores::on_both_servers,
};

on_both_servers! {
    with_the_guard_no_execution_is_ever_begun_by_both
    without_the_guard_only_a_start_by_the_id_alone_comes_beside_a_worker
}

/// Races for one execution after the other.
struct Races<S: Server> {
    world: World<Database<S>>,
    dir: TempDir,
    twin: Twin,
    random: StdRng,
    fared: BTreeMap<Fared, u32>,
}

impl<S: Server> Races<S> {
    async fn new() -> Self {
        let world = World::<Database<S>>::new().await;
        world.apply(&workflow("w", chain(&["one"]))).await;
        let dir = tempfile::tempdir().expect("a folder");
        let twin = Twin::new(world.subject.url(None), dir.path().join("log"), 3600);
        let random = StdRng::seed_from_u64(7);
        Self { world, dir, twin, random, fared: BTreeMap::new() }
    }

    async fn run(&mut self) -> Vec<Effect> {
        let count = if is_soak() { 10_000 } else { 200 };
        for _ in 0..count {
            let execution = self.world.submit(&"template-w".into()).await;
            let log = self.dir.path().join("log");
            // A claim takes a dozen statements, the Go service reads and starts in a few.
            let late = Duration::from_micros(self.random.random_range(0..15_000));
            let twin = async {
                sleep(late).await;
                self.twin.run(execution.as_str()).await
            };
            let (fared, ()) = tokio::join!(twin, work(&self.world, &log));
            *self.fared.entry(fared).or_default() += 1;
            self.end(&execution).await;
        }
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().filter_map(Effect::parse).collect()
    }

    /// Has the server note what every claim found, in the order of the row's changes: a worker's own line
    /// comes after its claim, and a start by the id alone may come in between.
    async fn note_claims(&self) {
        let subject = &self.world.subject;
        subject.exec("CREATE TABLE claims (former VARCHAR(191) NOT NULL)").await;
        subject
            .exec(
                "CREATE TRIGGER note_claims AFTER UPDATE ON workflow_executions FOR EACH ROW \
                 INSERT INTO claims SELECT OLD.status FROM DUAL WHERE NEW.ow_fence <> OLD.ow_fence",
            )
            .await;
    }

    /// What the trigger kept from both, because each gave way to the other, is not left over.
    async fn end(&self, execution: &ExecutionId) {
        if self.world.status(execution).await == "pending" {
            self.world.a.cancel(execution).await.expect("it is cancelled");
        }
        self.world.subject.exec("DELETE FROM distributed_locks").await;
    }
}

/// Claims what there is and runs it.
async fn work<S: Server>(world: &World<Database<S>>, log: &std::path::Path) {
    for claim in world.a.claim(&who("a"), 1).await.expect("a claim").claims {
        let (execution, fence) = (&claim.lease.execution, claim.lease.fence);
        append(log, &format!("start {execution} one {fence} 1 k"));
        sleep(Duration::from_millis(10)).await;
        append(log, &format!("end {execution} one {fence} 1 k"));
        let sent = Advance {
            ended: vec![succeeded(&claim, "one")],
            finish: Some(success()),
            ..advance(&claim)
        };
        let answer = send(&world.a, &sent).await;
        assert!(answer == Ok(Advanced::Recorded) || answer.is_err(), "{answer:?}");
    }
}

fn begun_by_both(effects: &[Effect]) -> usize {
    let found = violations(effects, &Rows::default());
    let both: BTreeSet<String> =
        found.into_iter().filter(|it| it.rule == Rule::TwoRunners).map(|it| it.step.0).collect();
    both.len()
}

async fn with_the_guard_no_execution_is_ever_begun_by_both<S: Server>() {
    let mut races = Races::<S>::new().await;
    races.world.a.guard(false).await.expect("it is guarded");
    let effects = races.run().await;
    let both = begun_by_both(&effects);
    say(&format!("{}: races with the guard: {:?}, {both} begun by both", S::NAME, races.fared));
    assert_eq!(both, 0);
    assert!(races.fared.contains_key(&Fared::Ran), "the Go service had its share");
    assert!(races.fared.keys().any(|fared| *fared != Fared::Ran), "and the worker");
}

async fn without_the_guard_only_a_start_by_the_id_alone_comes_beside_a_worker<S: Server>() {
    let mut races = Races::<S>::new().await;
    races.note_claims().await;
    let effects = races.run().await;
    let both = begun_by_both(&effects);
    say(&format!("{}: races without it: {:?}, {both} begun by both", S::NAME, races.fared));
    // A worker never begins what the Go service has begun: it was there first each time.
    let claims = races.world.subject.rows("SELECT former FROM claims").await;
    assert!(!claims.is_empty(), "the worker had its share");
    let other = claims.iter().find(|row| row["former"].as_deref() != Some("pending"));
    assert_eq!(other, None, "a worker began it second");
}
