//! How long an execution stands still: from its submission until its step begins, and when its worker goes,
//! from a SIGKILL, or from a hand-back after SIGTERM, until another has begun its step again. 6 of each; 200
//! with `ORCHESTRATOR_TEST_SCALE=soak`.
//!
//! **Invariant:** figures are printed, and no test fails because one of them is large.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rustix::process::Signal;
use sqlx::Row as _;
use tokio::time::Instant;

use super::{
    history::What,
    say,
    workload::{LONG, Workload, append, ask},
};
use crate::{
    contract::world::World,
    mysql::{Database, Server},
    process::{Worker, is_soak, wait_until},
    stores::on_both_servers,
};

on_both_servers! {
    what_is_submitted_begins_at_the_next_look
    what_a_killed_worker_held_goes_on_after_its_ttl
    what_a_drained_worker_hands_back_goes_on_at_the_next_look
}

const WORKERS: usize = 6;
/// Of them at one time.
const GO: usize = 3;

/// Workers with their executions, all in one long step.
struct Crew<S: Server> {
    world: World<Database<S>>,
    workload: Workload,
    workers: Vec<Worker>,
}

impl<S: Server> Crew<S> {
    async fn new() -> Self {
        let world = World::<Database<S>>::new().await;
        // None comes to its end.
        let workload = Workload::with_long(60, 60.0);
        workload.apply(&world.a).await;
        append(&workload.log(), "");
        let mut crew = Self { world, workload, workers: Vec::new() };
        crew.workers = (0..WORKERS).map(|place| crew.worker(place)).collect();
        crew
    }

    fn worker(&self, place: usize) -> Worker {
        let settings = [
            ("ORCHESTRATOR_WORKER__LOCK__TTL", "10s"),
            ("ORCHESTRATOR_WORKER__LOCK__RENEW_EVERY", "3s"),
            ("ORCHESTRATOR_WORKER__POLL_INTERVAL", "1s"),
            ("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "4s"),
            ("ORCHESTRATOR_WORKER__POISON__CLAIMS", "10000"),
            ("ORCHESTRATOR_WORKER__SLOTS", "100"),
        ];
        Worker::start(&self.world.subject.url(None), &format!("w{place}"), &settings)
    }

    /// What each of these workers holds, once each is at work: the executions and their fences.
    async fn held(&self, places: &[usize]) -> BTreeMap<usize, Vec<(String, u64)>> {
        let sql = "SELECT ow_owner, id, ow_fence FROM workflow_executions WHERE status='running'";
        loop {
            let rows = ask(&self.world.subject.url(None), sql).await.expect("the tables");
            let mut held: BTreeMap<usize, Vec<(String, u64)>> = BTreeMap::new();
            for row in &rows {
                let (owner, one) = (row.get::<String, _>(0), (row.get(1), row.get(2)));
                let place = owner.strip_prefix('w').and_then(|place| place.parse().ok());
                if let Some(place) = place
                    && places.contains(&place)
                    && self.has_begun(&one)
                {
                    held.entry(place).or_default().push(one);
                }
            }
            if held.len() == places.len() {
                return held;
            }
            // Whoever looks next takes it: more, until each of these has one.
            if !self.is_waiting().await {
                assert!(self.workload.submit(&self.world.a, LONG).await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_waiting(&self) -> bool {
        let sql =
            "SELECT 1 FROM workflow_executions WHERE status='pending' OR ow_owner='~released'";
        !ask(&self.world.subject.url(None), sql).await.expect("the tables").is_empty()
    }

    fn has_begun(&self, (execution, fence): &(String, u64)) -> bool {
        self.workload.effects().iter().any(|effect| {
            effect.what == What::Start && effect.execution == *execution && effect.fence == *fence
        })
    }

    /// The newest fence under which each execution has begun.
    fn fences(&self) -> BTreeMap<String, u64> {
        let mut fences = BTreeMap::new();
        for effect in self.workload.effects() {
            let newest: &mut u64 = fences.entry(effect.execution).or_default();
            *newest = effect.fence.max(*newest);
        }
        fences
    }

    /// Lets workers go, some at a time, in turn, until enough have gone: a figure for each execution that
    /// one of them held, from when it was left until another goes on with it. `left_by` tells what a worker has
    /// left, `None` for all.
    async fn measure(
        &mut self,
        go: Signal,
        left_by: fn(&Worker) -> Option<BTreeSet<String>>,
    ) -> Vec<Duration> {
        let mut figures = Vec::new();
        for round in 0.. {
            let places: Vec<usize> = (0..GO).map(|n| (round * GO + n) % WORKERS).collect();
            let held = self.held(&places).await;
            for place in &places {
                self.workers[*place].signal(go);
            }
            let mut left: BTreeMap<&str, Instant> = BTreeMap::new();
            let mut goes_on = BTreeSet::new();
            let count: usize = held.values().map(Vec::len).sum();
            wait_until("others go on", || {
                for (place, held) in &held {
                    let left_by = left_by(&self.workers[*place]);
                    let is_left = |id: &str| left_by.as_ref().is_none_or(|some| some.contains(id));
                    for (id, _) in held.iter().filter(|(id, _)| is_left(id)) {
                        left.entry(id).or_insert_with(Instant::now);
                    }
                }
                let fences = self.fences();
                for (id, fence) in held.values().flatten() {
                    if let Some(since) = left.get(&**id)
                        && fences[id] > *fence
                        && goes_on.insert(id)
                    {
                        figures.push(since.elapsed());
                    }
                }
                (goes_on.len() == count).then_some(())
            });
            if (round + 1) * GO >= wanted() {
                break;
            }
            for place in places {
                self.workers[place].wait();
                self.workers[place] = self.worker(place);
            }
        }
        figures.sort();
        figures
    }

    async fn lost(&self, outcome: &str) -> u32 {
        let sql = format!(
            "SELECT CAST(COUNT(*) AS UNSIGNED) FROM ow_attempts WHERE CONCAT(outcome, '/', \
             COALESCE(cause, '-'))='{outcome}'"
        );
        ask(&self.world.subject.url(None), &sql).await.expect("the tables")[0].get(0)
    }
}

/// Submissions, or workers that go.
fn wanted() -> usize {
    if is_soak() { 200 } else { 6 }
}

/// Of figures in their order.
fn tell(what: &str, figures: &[Duration]) {
    let at = |percent: usize| figures[(figures.len() - 1) * percent / 100].as_secs_f64();
    say(&format!(
        "{what}: p50 {:.2} s, p99 {:.2} s, longest {:.2} s of {}",
        at(50),
        at(99),
        at(100),
        figures.len()
    ));
}

async fn what_is_submitted_begins_at_the_next_look<S: Server>() {
    let crew = Crew::<S>::new().await;
    for worker in &crew.workers {
        worker.wait_for("worker.idle");
    }
    let starts = || {
        let effects = crew.workload.effects().into_iter();
        effects.filter(|effect| effect.what == What::Start).count()
    };
    let mut figures = Vec::new();
    while figures.len() < wanted() {
        assert!(crew.workload.submit(&crew.world.a, LONG).await);
        let since = Instant::now();
        wait_until("it begins", || (starts() > figures.len()).then_some(()));
        figures.push(since.elapsed());
    }
    figures.sort();
    tell(&format!("{}: from a submission until its step begins", S::NAME), &figures);
    assert_eq!(starts(), figures.len(), "each began once");
}

async fn what_a_killed_worker_held_goes_on_after_its_ttl<S: Server>() {
    let mut crew = Crew::<S>::new().await;
    let figures = crew.measure(Signal::KILL, |_| None).await;
    tell(&format!("{}: takeover after SIGKILL at a TTL of 10 s", S::NAME), &figures);
    assert!(figures[0] > Duration::from_secs(5), "a lease that was just renewed is not taken");
    assert!(crew.lost("lost/lease_expired").await >= 3);
}

async fn what_a_drained_worker_hands_back_goes_on_at_the_next_look<S: Server>() {
    let mut crew = Crew::<S>::new().await;
    let handed_back = |worker: &Worker| {
        let lines = worker.lines().into_iter();
        let such = lines.filter(|line| line["event"] == "execution.handed_back");
        Some(such.filter_map(|line| Some(line["execution.id"].as_str()?.to_owned())).collect())
    };
    let figures = crew.measure(Signal::TERM, handed_back).await;
    tell(&format!("{}: hand-over after SIGTERM, from the hand-back on", S::NAME), &figures);
    assert!(crew.lost("drained/-").await >= 3);
    assert_eq!(crew.lost("lost/lease_expired").await, 0, "no lease had to run out");
}
