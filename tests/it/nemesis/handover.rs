//! How long an execution stands still when its worker goes: from a SIGKILL, and from a hand-back after
//! SIGTERM, until another has begun its step again. 6 of each; 200 with `ORCHESTRATOR_TEST_SCALE=soak`.

use std::{collections::BTreeMap, io::Write, time::Duration};

use rustix::process::Signal;
use sqlx::Row as _;
use tokio::time::Instant;

use super::{
    history::What,
    workload::{LONG, Workload, append, ask},
};
use crate::{
    contract::world::World,
    mysql::{Database, Server},
    process::{Worker, is_soak, wait_until},
    stores::on_both_servers,
};

on_both_servers! {
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
        let workload = Workload::new();
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
            if rows.len() < 2 * WORKERS {
                self.workload.submit(&self.world.a, LONG).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn has_begun(&self, (execution, fence): &(String, u64)) -> bool {
        self.workload.effects().iter().any(|effect| {
            effect.what == What::Start && effect.execution == *execution && effect.fence == *fence
        })
    }

    /// Waits until others have begun all of it again, or none of it is left to do.
    fn wait_until_taken_over(&self, held: &[(String, u64)]) {
        wait_until("another goes on", || {
            let effects = self.workload.effects();
            let goes_on = |(execution, fence): &(String, u64)| {
                let later =
                    effects.iter().any(|it| it.execution == *execution && it.fence > *fence);
                let ended =
                    effects.iter().any(|it| it.execution == *execution && it.what == What::End);
                later || ended
            };
            held.iter().all(goes_on).then_some(())
        });
    }

    /// Lets workers go, some at a time, in turn, until there are enough figures.
    async fn measure(&mut self, go: impl Fn(&mut Self, usize) -> Instant) -> Vec<Duration> {
        let count = if is_soak() { 200 } else { 6 };
        let mut figures = Vec::new();
        for round in 0.. {
            let places: Vec<usize> = (0..GO).map(|n| (round * GO + n) % WORKERS).collect();
            let held = self.held(&places).await;
            let gone: Vec<Instant> = places.iter().map(|place| go(self, *place)).collect();
            for (place, since) in places.iter().zip(gone) {
                self.wait_until_taken_over(&held[place]);
                figures.push(since.elapsed());
            }
            if figures.len() >= count {
                break;
            }
            for place in places {
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

fn say(what: &str, figures: &[Duration]) {
    let at = |percent: usize| figures[(figures.len() - 1) * percent / 100].as_secs_f64();
    let text = format!(
        "{what}: p50 {:.2} s, p99 {:.2} s, longest {:.2} s of {}",
        at(50),
        at(99),
        at(100),
        figures.len()
    );
    writeln!(std::io::stderr(), "{text}").expect("somebody listens");
}

async fn what_a_killed_worker_held_goes_on_after_its_ttl<S: Server>() {
    let mut crew = Crew::<S>::new().await;
    let figures = crew
        .measure(|crew, place| {
            crew.workers[place].signal(Signal::KILL);
            let since = Instant::now();
            crew.workers[place].wait();
            since
        })
        .await;
    say(&format!("{}: takeover after SIGKILL at a TTL of 10 s", S::NAME), &figures);
    assert!(figures[0] > Duration::from_secs(5), "a lease that was just renewed is not taken");
    assert!(crew.lost("lost/lease_expired").await >= 3);
}

async fn what_a_drained_worker_hands_back_goes_on_at_the_next_look<S: Server>() {
    let mut crew = Crew::<S>::new().await;
    let figures = crew
        .measure(|crew, place| {
            crew.workers[place].signal(Signal::TERM);
            crew.workers[place].wait_for("execution.handed_back");
            Instant::now()
        })
        .await;
    say(&format!("{}: hand-over after SIGTERM, from the hand-back on", S::NAME), &figures);
    assert!(crew.lost("drained/-").await >= 3);
    assert_eq!(crew.lost("lost/lease_expired").await, 0, "no lease had to run out");
}
