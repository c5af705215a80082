//! A collector that is away while a worker works: silent at first, then gone, and back in the end. 90 s;
//! ten minutes with `ORCHESTRATOR_TEST_SCALE=soak`.
//!
//! **Invariant:** beside it works another whose collector is there, at the same pace: they are compared.

use std::{fs, net::TcpListener};

use axum::http::StatusCode;
use serde_json::Value;
use tokio::time::{Duration, Instant, interval, sleep};

use super::{
    collector::Collector,
    trees::{Own, PATIENCE, Scene},
};
use crate::{
    admin::metrics,
    contract::{Subject, sqlite::File, world::World},
    process::{Worker, is_soak},
};

const STEPS: &str = "- {name: one, func: noop}\n- {name: two, depends_on: [one], func: noop}";
/// `RUN`, `wait`, `hold`, `claim`, and for each step itself, its attempt and the commit of its end.
const SPANS: u64 = 4 + 2 * 3;
const EVERY: Duration = Duration::from_millis(100);
/// Of memory.
const KIB_MORE: u64 = 10 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_costs_a_line_a_minute_little_memory_and_spans_that_are_counted() {
    let away = Duration::from_secs(if is_soak() { 600 } else { 90 });
    let with = Scene::<Own<File>>::new().await;
    let without = Scene::<Own<File>>::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let place = silent.local_addr().expect("an address");
    let endpoint = format!("http://{place}");
    let workers = [
        with.worker("with", &[]),
        without.worker(
            "without",
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000"),
            ],
        ),
    ];
    let scenes = [&with, &without];
    let mut submitted = 0;
    let mut silent = Some(silent);
    let began = Instant::now();
    let mut pace = interval(EVERY);
    while began.elapsed() < away {
        pace.tick().await;
        for scene in scenes {
            match submitted {
                0 => drop(scene.submit(STEPS, &[])),
                _ => drop(scene.world.submit(&"it".into()).await),
            }
        }
        submitted += 1;
        if began.elapsed() > away / 2 {
            // Whoever comes now is refused.
            silent.take();
        }
    }
    for scene in scenes {
        all_succeeded(&scene.world, submitted).await;
    }
    let [kib_with, kib_without] = [&workers[0], &workers[1]].map(peak_kib);
    let said = workers[1].lines().into_iter().filter(is_of_telemetry).count() as u64;
    println!(
        "{submitted} executions in {away:?}: {kib_with} KiB with a collector, {kib_without} KiB \
         without, {said} lines"
    );
    assert!(kib_without <= kib_with + KIB_MORE, "{kib_without} KiB instead of {kib_with}");
    assert!((1..=away.as_secs().div_ceil(60)).contains(&said), "{said} lines in {away:?}");

    let back = Collector::start_at(TcpListener::bind(place).expect("it was free"), StatusCode::OK);
    for scene in scenes {
        scene.world.submit(&"it".into()).await;
    }
    workers[1].wait_for("telemetry.export_recovered");
    let all = SPANS * (submitted as u64 + 1);
    assert_eq!(counted(&workers[0], all).await, [all, 0, 0]);
    assert_eq!(with.keeper.spans().len() as u64, all, "what a collector gets when it is there");
    let [sent, failed, dropped] = counted(&workers[1], all).await;
    assert_eq!(back.spans().len() as u64, sent);
    assert!(dropped > 0 && sent + failed + dropped == all, "{sent} + {failed} + {dropped}");
    println!("{all} spans without a collector: {failed} failed, {dropped} dropped, {sent} sent");
}

/// Spans that were sent, that failed and that were dropped, once there are so many.
async fn counted(worker: &Worker, all: u64) -> [u64; 3] {
    let began = Instant::now();
    loop {
        let metrics = metrics::of(worker).await;
        let counts = ["sent", "failed", "dropped"].map(|result| {
            let name = "orchestrator_worker_telemetry_spans_total";
            let value = metrics.value(name, &format!("result=\"{result}\""));
            format!("{value:.0}").parse::<u64>().expect("it counts")
        });
        if counts.iter().sum::<u64>() == all {
            return counts;
        }
        assert!(began.elapsed() < PATIENCE, "{counts:?} of {all}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn peak_kib(worker: &Worker) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", worker.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn is_of_telemetry(line: &Value) -> bool {
    line["event"].as_str().is_some_and(|event| event.starts_with("telemetry."))
}

async fn all_succeeded(world: &World<File>, submitted: usize) {
    let count = "SELECT COUNT(*) FROM workflow_executions WHERE status='success'";
    let began = Instant::now();
    while world.subject.one(count).await != Some(submitted.to_string()) {
        assert!(began.elapsed() < PATIENCE, "they do not all succeed");
        sleep(Duration::from_millis(50)).await;
    }
}
