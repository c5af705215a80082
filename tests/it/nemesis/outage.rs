//! A network that swallows everything, at the default TTL of 30 s: how long it may, and how soon the
//! work is dead whose lease nobody can renew.
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
    process::{Worker, wait_until},
    proxy::{Mode, Proxy},
    stores::on_both_servers,
};

on_both_servers! {
    an_outage_of_18_seconds_aborts_nothing_and_a_longer_one_kills_within_the_ttl
}

/// A renewal every 5 s, and retries of it every second, leave about 19 s of 26 to the deadline.
const SHORT: Duration = Duration::from_secs(18);
const TTL: Duration = Duration::from_secs(30);

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

    proxy.set(Mode::BlackHole);
    sleep(SHORT).await;
    proxy.set(Mode::Pass);
    let beat = "SELECT ow_beat FROM distributed_locks WHERE lock_key LIKE 'workflow_execution:%'";
    let beat = async || -> u64 {
        ask(&world.subject.url(None), beat).await.expect("the tables")[0].get(0)
    };
    let before = beat().await;
    while beat().await == before {
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(worker.logged("lease.lost"), 0);
    assert_eq!(starts(&workload), 1, "it goes on as if nothing had been");

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
    proxy.set(Mode::Pass);
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}

fn starts(workload: &Workload) -> usize {
    let is_start = |effect: &&Effect| effect.what == What::Start;
    workload.effects().iter().filter(is_start).count()
}
