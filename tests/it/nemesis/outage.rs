//! A network that swallows everything, at the default TTL of 30 s: how long it may, and how soon the
//! work is dead whose lease nobody can renew. With `ORCHESTRATOR_TEST_SCALE=soak` outages grow by a second each
//! until one aborts.
//!
//! **Invariant:** nothing runs any more when another may take it over.

use std::time::Duration;

use rustix::process::Signal;
use sqlx::Row as _;
use tokio::time::{Instant, sleep};

use super::{
    history::{Effect, What},
    say,
    workload::{LONG, Workload, ask},
};
use crate::{
    contract::world::World,
    mysql::{Database, Server},
    process::{Worker, is_soak, wait_until},
    proxy::{Mode, Proxy},
    stores::on_both_servers,
};

on_both_servers! {
    an_outage_of_18_seconds_aborts_nothing_and_a_longer_one_kills_within_the_ttl
}

/// A renewal every 5 s, and retries of it every second, leave about 19 s of 26 to the deadline.
const SHORT: Duration = Duration::from_secs(18);
const TTL: Duration = Duration::from_secs(30);
/// So long after a renewal the next is about to be sent: no outage begins at a worse moment.
const WORST: Duration = Duration::from_millis(4_800);

async fn an_outage_of_18_seconds_aborts_nothing_and_a_longer_one_kills_within_the_ttl<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let workload = Workload::with_long(2_000, 0.1);
    workload.apply(&world.a).await;
    let proxy = Proxy::start(Database::<S>::address()).await;
    let url = world.subject.url(Some(proxy.address()));
    let settings = [
        ("ORCHESTRATOR_WORKER__LOCK__TTL", "30s"),
        ("ORCHESTRATOR_WORKER__LOCK__RENEW_EVERY", "5s"),
        ("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "4s"),
    ];
    let mut worker = Worker::start(&url, "a", &settings);
    worker.wait_for("worker.started");
    assert!(workload.submit(&world.a, LONG).await);
    wait_until("the step runs", || workload.has_begun().then_some(()));

    let outage = Outage { server: world.subject.url(None), proxy, worker: &worker };
    assert!(outage.is_survived(SHORT).await);
    assert_eq!(starts(&workload), 1, "it goes on as if nothing had been");
    let Outage { proxy, .. } = outage;

    proxy.set(Mode::BlackHole);
    let since = Instant::now();
    let mut last = (workload.effects().len(), Instant::now());
    // Three seconds without a tick: it is dead since the last one.
    while last.1.elapsed() < Duration::from_secs(3) {
        let effects = workload.effects().len();
        if effects > last.0 {
            last = (effects, Instant::now());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let killed = last.1 - since;
    say(&format!(
        "{}: from a black hole to the death of what ran, at a TTL of 30 s: {:.2} s",
        S::NAME,
        killed.as_secs_f64()
    ));
    assert!(killed < TTL, "before anybody may take it over");
    worker.wait_for("lease.lost");
    proxy.set(Mode::Pass);
    if is_soak() {
        wait_until("it runs again", || (starts(&workload) > 1).then_some(()));
        let outage = Outage { server: world.subject.url(None), proxy, worker: &worker };
        let mut survived = SHORT;
        while outage.is_survived(survived + Duration::from_secs(1)).await {
            survived += Duration::from_secs(1);
        }
        say(&format!("{}: the longest outage that aborts nothing: {survived:?}", S::NAME));
    }
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}

struct Outage<'a> {
    /// Undisturbed.
    server: String,
    proxy: Proxy,
    worker: &'a Worker,
}

impl Outage<'_> {
    /// Whether the lease outlives so long a silence from the worst moment on.
    async fn is_survived(&self, length: Duration) -> bool {
        let lost = self.worker.logged("lease.lost");
        self.is_renewed_or(|| false).await;
        sleep(WORST).await;
        self.proxy.set(Mode::BlackHole);
        sleep(length).await;
        self.proxy.set(Mode::Pass);
        self.is_renewed_or(|| self.worker.logged("lease.lost") > lost).await
            && self.worker.logged("lease.lost") == lost
    }

    /// Waits for the next renewal, or for what comes before it.
    async fn is_renewed_or(&self, comes: impl Fn() -> bool) -> bool {
        let before = self.beat().await;
        while !comes() {
            if self.beat().await != before {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    }

    async fn beat(&self) -> Option<u64> {
        let beat =
            "SELECT ow_beat FROM distributed_locks WHERE lock_key LIKE 'workflow_execution:%'";
        ask(&self.server, beat).await.expect("the tables").first().map(|row| row.get(0))
    }
}

fn starts(workload: &Workload) -> usize {
    let is_start = |effect: &&Effect| effect.what == What::Start;
    workload.effects().iter().filter(is_start).count()
}
