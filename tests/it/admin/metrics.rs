//! `/metrics`: the names that dashboards and alerts are built on, and that they move.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{Gated, get};
use crate::{
    contract::world::World,
    crash::Served,
    openmetrics::Metrics,
    process::{CEILING, Worker},
    stores::on_every_store,
};

on_every_store! {
    an_execution_moves_the_metrics
    a_takeover_is_counted_by_its_cause
}

/// Every metric that a worker may have, less `orchestrator_worker_`: kind, name, labels.
const NAMES: [(&str, &str, &[&str]); 41] = [
    ("counter", "polls", &["result"]),
    ("histogram", "poll_duration_seconds", &[]),
    ("counter", "claims", &["kind"]),
    ("counter", "takeovers", &["cause"]),
    ("counter", "executions_finished", &["workflow", "result"]),
    ("histogram", "execution_duration_seconds", &[]),
    ("histogram", "execution_queue_seconds", &[]),
    ("gauge", "executions_active", &[]),
    ("counter", "step_attempts", &["executor", "result"]),
    ("histogram", "step_attempt_duration_seconds", &[]),
    ("counter", "step_retries", &[]),
    ("gauge", "steps_active", &[]),
    ("counter", "step_output_truncated", &[]),
    ("counter", "lease_acquire", &["result"]),
    ("histogram", "lease_acquire_duration_seconds", &[]),
    ("histogram", "lease_hold_duration_seconds", &[]),
    ("counter", "lease_renew", &["result"]),
    ("counter", "lease_lost", &["reason"]),
    ("gauge", "lease_remaining_seconds", &[]),
    ("gauge", "leases_held", &[]),
    ("counter", "fenced_writes", &[]),
    ("gauge", "queue_depth", &["status"]),
    ("gauge", "queue_oldest_age_seconds", &[]),
    ("gauge", "backlog_executions", &[]),
    ("gauge", "backlog_oldest_age_seconds", &[]),
    ("gauge", "not_due_executions", &[]),
    ("gauge", "orphaned_executions", &[]),
    ("gauge", "slots", &["state"]),
    ("gauge", "db_pool_connections", &["state"]),
    ("histogram", "db_client_operation_duration_seconds", &["operation"]),
    ("counter", "db_errors", &["kind"]),
    ("gauge", "standing_by", &["reason"]),
    ("gauge", "draining", &[]),
    ("gauge", "drain_duration_seconds", &[]),
    ("counter", "drain_abandoned", &[]),
    ("gauge", "drain_contract_ok", &[]),
    ("gauge", "database_warnings", &["kind"]),
    ("gauge", "k8s_feature_enabled", &["feature"]),
    ("counter", "k8s_events", &["result"]),
    ("info", "build", &["version"]),
    ("counter", "telemetry_spans", &["result"]),
];

impl Metrics {
    pub fn is(&self, name: &str, labels: &str, value: f64) -> bool {
        (self.value(name, labels) - value).abs() < f64::EPSILON
    }
}

/// Reads and checks the metrics.
pub async fn of(worker: &Worker) -> Metrics {
    let said = get(worker, "/metrics").await;
    assert_eq!(said.status, StatusCode::OK);
    assert_eq!(said.kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let metrics = Metrics::parse(&said.text);
    for (name, family) in &metrics.0 {
        let short = name.strip_prefix("orchestrator_worker_").expect("our prefix");
        let known = NAMES.iter().find(|(_, name, _)| *name == short);
        let (kind, _, labels) = known.unwrap_or_else(|| panic!("{name} is not in the list"));
        assert_eq!(family.kind, *kind, "{name}");
        for sample in &family.samples {
            let found: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
            let expected: BTreeSet<&str> = labels.iter().copied().collect();
            assert_eq!(&found - &BTreeSet::from(["le"]), expected, "{sample:?}");
        }
    }
    metrics
}

/// Reads the metrics until each of these samples has its value.
async fn wait_for(worker: &Worker, samples: &[(&str, &str, f64)]) -> Metrics {
    let began = Instant::now();
    loop {
        let metrics = of(worker).await;
        let missing = samples.iter().find(|(name, labels, value)| {
            !metrics.is(&format!("orchestrator_worker_{name}"), labels, *value)
        });
        let Some(missing) = missing else { return metrics };
        assert!(began.elapsed() < CEILING, "never came: {missing:?} in {metrics:#?}");
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Reads the metrics until this one is greater than 0.
async fn wait_until_it_moves(worker: &Worker, name: &str) {
    let began = Instant::now();
    while of(worker).await.value(&format!("orchestrator_worker_{name}"), "") <= 0.0 {
        assert!(began.elapsed() < CEILING, "{name} never moved");
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Samples that only have to be there: each is greater than 0.
fn moved(metrics: &Metrics, samples: &[(&str, &str)]) {
    for (name, labels) in samples {
        let value = metrics.value(&format!("orchestrator_worker_{name}"), labels);
        assert!(value > 0.0, "{name} {labels} did not move: {metrics:#?}");
    }
}

async fn an_execution_moves_the_metrics<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    // A label is a text like any other.
    let gated = Gated::apply(&url, r#"the "odd" one \"#);
    gated.submit(&url);
    let settings = [
        ("ORCHESTRATOR_WORKER__STEP__BACKOFF__BASE", "1ms"),
        // There is no cluster to ask.
        ("ORCHESTRATOR_WORKER__POD__DEAD_OWNER_WATCH", "app=w"),
    ];
    let worker = Worker::start(&url, "a", &settings);
    gated.wait_until_begun();
    let version = format!("version={:?}", env!("CARGO_PKG_VERSION"));
    let held = wait_for(
        &worker,
        &[
            ("build_info", &version, 1.0),
            ("claims_total", r#"kind="fresh""#, 1.0),
            ("executions_active", "", 1.0),
            ("steps_active", "", 1.0),
            ("leases_held", "", 1.0),
            ("slots", r#"state="total""#, 10.0),
            ("standing_by", r#"reason="cordoned""#, 0.0),
            ("standing_by", r#"reason="superseded""#, 0.0),
            ("draining", "", 0.0),
        ],
    )
    .await;
    moved(&held, &[("polls_total", r#"result="work""#)]);
    let features = &held.0["orchestrator_worker_k8s_feature_enabled"].samples;
    assert!(matches!(&**features, [off] if off.value == 0.0), "{features:?}");
    // The watchdog tells of it, which looks once a second as long as there is nothing to watch.
    wait_until_it_moves(&worker, "lease_remaining_seconds").await;
    assert!(held.is("orchestrator_worker_execution_duration_seconds_count", "", 0.0));
    // Counted before the claim or after it.
    let depth = |status| held.value("orchestrator_worker_queue_depth", status);
    let depths = (depth(r#"status="pending""#), depth(r#"status="running""#));
    assert!(depths == (1.0, 0.0) || depths == (0.0, 1.0), "{depths:?}");

    gated.open();
    worker.wait_for("execution.finished");
    let ended = wait_for(
        &worker,
        &[
            ("executions_finished_total", r#"workflow="the \"odd\" one \\",result="success""#, 1.0),
            ("execution_duration_seconds_count", "", 1.0),
            ("executions_active", "", 0.0),
            ("steps_active", "", 0.0),
            ("leases_held", "", 0.0),
            ("lease_remaining_seconds", "", 0.0),
            ("step_attempts_total", r#"executor="shell",result="success""#, 2.0),
            ("step_attempts_total", r#"executor="shell",result="failed""#, 1.0),
            ("step_attempts_total", r#"executor="func",result="success""#, 1.0),
            ("step_attempt_duration_seconds_count", "", 4.0),
            ("step_retries_total", "", 1.0),
            ("fenced_writes_total", "", 0.0),
        ],
    )
    .await;
    moved(
        &ended,
        &[
            ("polls_total", r#"result="empty""#),
            ("poll_duration_seconds_count", ""),
            ("poll_duration_seconds_sum", ""),
            ("lease_renew_total", r#"result="held""#),
            ("db_client_operation_duration_seconds_count", r#"operation="claim""#),
            ("db_client_operation_duration_seconds_count", r#"operation="renew""#),
            ("db_client_operation_duration_seconds_count", r#"operation="advance""#),
            ("db_client_operation_duration_seconds_count", r#"operation="survey""#),
            ("db_client_operation_duration_seconds_count", r#"operation="queue""#),
        ],
    );
}

async fn a_takeover_is_counted_by_its_cause<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let gated = Gated::apply(&url, "it");
    gated.submit(&url);
    let short = [("ORCHESTRATOR_WORKER__LOCK__TTL", "8s")];
    let mut a = Worker::start(&url, "a", &short);
    gated.wait_until_begun();
    a.signal(Signal::KILL);
    a.wait();
    let deadline = [short[0], ("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "1s")];
    let mut b = Worker::start(&url, "b", &deadline);
    let expired = ("takeovers_total", r#"cause="lease_expired""#, 1.0);
    wait_for(&b, &[expired, ("claims_total", r#"kind="takeover""#, 1.0)]).await;
    b.signal(Signal::TERM);
    b.wait();
    let c = Worker::start(&url, "c", &short);
    wait_for(&c, &[("takeovers_total", r#"cause="released""#, 1.0)]).await;
    gated.open();
    c.wait_for("execution.finished");
}
