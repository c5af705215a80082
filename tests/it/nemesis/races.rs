//! A worker and the Go service reach for the same execution at the same moment: 200 times here, 10,000
//! times with `ORCHESTRATOR_TEST_SCALE=soak`; with the guard trigger and without, and with a Go service whose clock
//! is right.
//!
//! **Invariant:** who has begun what is told by the effects of both alone, and who came first by the
//! server.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use futures_util::future::join_all;
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
    without_the_guard_a_go_service_whose_clock_is_right_begins_nothing_that_a_worker_has_begun
}

/// By which a clock is ahead that takes every lease for expired.
const HOUR: u64 = 3600;
/// Races at one time, where the Go service waits a second and again for a lock that it believes.
const LANES: u64 = 20;

struct Races<S: Server> {
    world: World<Database<S>>,
    dir: TempDir,
    /// Of the Go service's clock.
    ahead: u64,
}

impl<S: Server> Races<S> {
    async fn new(ahead: u64) -> Self {
        let world = World::<Database<S>>::new().await;
        world.apply(&workflow("w", chain(&["one"]))).await;
        Self { world, dir: tempfile::tempdir().expect("a folder"), ahead }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// All races; what was begun and ended, and how the Go service fared.
    async fn run(&self, lanes: u64) -> (Vec<Effect>, BTreeMap<Fared, u32>) {
        let count = if is_soak() { 10_000 } else { 200 };
        let mut fared = BTreeMap::new();
        for one in join_all((0..lanes).map(|lane| self.lane(lane, count / lanes))).await.concat() {
            *fared.entry(one).or_default() += 1;
        }
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        (text.lines().filter_map(Effect::parse).collect(), fared)
    }

    /// Races for one execution after the other.
    async fn lane(&self, seed: u64, count: u64) -> Vec<Fared> {
        let mut twin = Twin::new(self.world.subject.url(None), self.log(), self.ahead);
        let mut random = StdRng::seed_from_u64(seed);
        let mut fared = Vec::new();
        for _ in 0..count {
            let execution = self.world.submit(&"template-w".into()).await;
            // A claim takes a dozen statements, the Go service reads and starts in a few.
            let late = Duration::from_micros(random.random_range(0..15_000));
            let rival = async {
                sleep(late).await;
                twin.run(execution.as_str()).await
            };
            let log = self.log();
            let (one, ()) = tokio::join!(rival, work(&self.world, &log));
            fared.push(one);
            self.end(&execution).await;
        }
        fared
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
        let unlock = format!(
            "DELETE FROM distributed_locks WHERE lock_key='workflow_execution:{execution}'"
        );
        if self.ahead > 0 {
            self.world.subject.exec(&unlock).await;
        }
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
    let races = Races::<S>::new(HOUR).await;
    races.world.a.guard(false).await.expect("it is guarded");
    let (effects, fared) = races.run(1).await;
    let both = begun_by_both(&effects);
    say(&format!("{}: races with the guard: {fared:?}, {both} begun by both", S::NAME));
    assert_eq!(both, 0);
    each_has_a_share(&fared);
}

fn each_has_a_share(fared: &BTreeMap<Fared, u32>) {
    assert!(fared.contains_key(&Fared::Ran), "the Go service had its share");
    assert!(fared.keys().any(|fared| *fared != Fared::Ran), "and the worker");
}

async fn without_the_guard_only_a_start_by_the_id_alone_comes_beside_a_worker<S: Server>() {
    let races = Races::<S>::new(HOUR).await;
    races.note_claims().await;
    let (effects, fared) = races.run(1).await;
    let both = begun_by_both(&effects);
    say(&format!("{}: races without it: {fared:?}, {both} begun by both", S::NAME));
    // A worker never begins what the Go service has begun: it was there first each time.
    let claims = races.world.subject.rows("SELECT former FROM claims").await;
    assert!(!claims.is_empty(), "the worker had its share");
    let other = claims.iter().find(|row| row["former"].as_deref() != Some("pending"));
    assert_eq!(other, None, "a worker began it second");
}

/// It believes a lease while that stands, and what is left of one that has ended.
async fn without_the_guard_a_go_service_whose_clock_is_right_begins_nothing_that_a_worker_has_begun<
    S: Server,
>() {
    let races = Races::<S>::new(0).await;
    let (effects, fared) = races.run(LANES).await;
    let both = begun_by_both(&effects);
    say(&format!("{}: races with a right clock: {fared:?}, {both} begun by both", S::NAME));
    assert_eq!(both, 0);
    each_has_a_share(&fared);
}
