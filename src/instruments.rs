//! Every metric by name and unit.
//!
//! **Invariant:** labels are bounded: a fleet's templates cannot make the registry grow for ever.
//! Names and meanings: `orchestrator_worker_` and what each `register` below says; seconds and
//! bytes throughout.

mod locks;

pub use locks::LockMetrics;

use std::{
    collections::HashSet,
    sync::{Mutex, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByResult {
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByKind {
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByCause {
    pub cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOperation {
    pub operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByState {
    pub state: &'static str,
}

/// The word of an execution's own column.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByStatus {
    pub status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByFeature {
    pub feature: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByWorkflow {
    pub workflow: String,
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByExecutor {
    pub executor: String,
    pub result: &'static str,
}

/// Spans by what became of them: `sent`, `failed` (the collector did not take them), `dropped` (no
/// room to keep them).
pub type SpanCounts = Family<ByResult, Counter>;

type Seconds = Gauge<f64, AtomicU64>;

/// Round edges, every service-level threshold (0.5 s, 1 s, 30 s, 60 s) among them.
#[derive(Clone, Copy, Debug)]
pub struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new([
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            60.0, 300.0, 1800.0, 7200.0,
        ])
    }
}

/// The worker's metrics and the registry that names them.
#[derive(Debug)]
pub struct Instruments {
    registry: Registry,
    workflows: Mutex<HashSet<String>>,
    pub polls: Family<ByResult, Counter>,
    pub poll_duration: Histogram,
    pub claims: Family<ByKind, Counter>,
    /// Those that were taken over, by why their former owner let go of them.
    pub takeovers: Family<ByCause, Counter>,
    finished: Family<ByWorkflow, Counter>,
    pub execution_duration: Histogram,
    pub executions_active: Gauge,
    pub step_attempts: Family<ByExecutor, Counter>,
    pub step_attempt_duration: Histogram,
    pub step_retries: Counter,
    pub steps_active: Gauge,
    pub lease_renew: Family<ByResult, Counter>,
    pub lease_lost: Family<ByReason, Counter>,
    pub lease_remaining: Seconds,
    pub leases_held: Gauge,
    pub fenced_writes: Counter,
    pub queue_depth: Family<ByStatus, Gauge>,
    pub not_due_executions: Gauge,
    pub queue_oldest_age: Seconds,
    pub backlog_executions: Gauge,
    pub backlog_oldest_age: Seconds,
    pub slots: Family<ByState, Gauge>,
    pub db_operation_duration: Family<ByOperation, Histogram, Buckets>,
    pub db_errors: Family<ByKind, Counter>,
    /// Of the database; see `doctor`.
    pub database_warnings: Family<ByKind, Gauge>,
    /// Of the pod; see `doctor`.
    pub drain_contract_ok: Gauge,
    /// What is asked of the Kubernetes API, and whether it may be.
    pub k8s_features: Family<ByFeature, Gauge>,
    /// Why this worker claims nothing for now.
    pub standing_by: Family<ByReason, Gauge>,
    /// Things to tell as events of Kubernetes: `written`, or `dropped`.
    pub k8s_events: Family<ByResult, Counter>,
    pub draining: Gauge,
    pub drain_duration: Seconds,
    pub drain_abandoned: Counter,
}

impl Default for Instruments {
    fn default() -> Self {
        Self::new()
    }
}

impl Instruments {
    /// Distinct workflow names that get a label of their own; further ones share `other`.
    const WORKFLOWS: usize = 200;

    pub fn new() -> Self {
        Self::with_spans(&SpanCounts::default())
    }

    /// With counts that another part of the process keeps.
    pub fn with_spans(spans: &SpanCounts) -> Self {
        let mut registry = Registry::with_prefix("orchestrator_worker");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running version", version);
        let r = &mut registry;
        r.register("telemetry_spans", "Spans by what became of them", SpanCounts::clone(spans));
        let mut made = Self {
            polls: counter_family(r, "polls", "Looks for work"),
            poll_duration: seconds(r, "poll_duration", "A claim, found work or not"),
            claims: counter_family(r, "claims", "Executions claimed: fresh or taken over"),
            takeovers: counter_family(r, "takeovers", "Those taken over, by why they were free"),
            finished: counter_family(r, "executions_finished", "Executions ended here"),
            execution_duration: seconds(r, "execution_duration", "Claim to end, on this worker"),
            executions_active: gauge(r, "executions_active", "Executions held by this worker"),
            step_attempts: counter_family(r, "step_attempts", "Attempts at steps that ended"),
            step_attempt_duration: seconds(r, "step_attempt_duration", "One attempt"),
            step_retries: counter(r, "step_retries", "Attempts after a failed one"),
            steps_active: gauge(r, "steps_active", "Steps running or between attempts"),
            lease_renew: counter_family(r, "lease_renew", "Leases asked to be renewed"),
            lease_lost: counter_family(r, "lease_lost", "Leases lost by this worker"),
            lease_remaining: gauge_seconds(r, "lease_remaining", "Until the nearest deadline"),
            leases_held: gauge(r, "leases_held", "Leases of this worker"),
            fenced_writes: counter(r, "fenced_writes", "Writes refused: no longer the holder"),
            queue_depth: gauge_family(
                r,
                "queue_depth",
                "Executions, held ones left out; read with max",
            ),
            not_due_executions: gauge(r, "not_due_executions", "Those pending for later"),
            queue_oldest_age: gauge_seconds(r, "queue_oldest_age", "Since the oldest became due"),
            backlog_executions: gauge(r, "backlog_executions", "Held; see `backlog`"),
            backlog_oldest_age: gauge_seconds(r, "backlog_oldest_age", "Of the oldest held"),
            slots: gauge_family(r, "slots", "Executions this worker may hold at once"),
            db_operation_duration: {
                let metric = Family::new_with_constructor(Buckets);
                let name = "db_client_operation_duration";
                r.register_with_unit(
                    name,
                    "One call of the store",
                    Unit::Seconds,
                    Family::clone(&metric),
                );
                metric
            },
            db_errors: counter_family(r, "db_errors", "Calls of the store that failed"),
            database_warnings: gauge_family(
                r,
                "database_warnings",
                "1: this was so when the worker began; see `doctor`",
            ),
            drain_contract_ok: {
                let ok = gauge(
                    r,
                    "drain_contract_ok",
                    "0: the pod's terms, or a step, did not fit the drain when the worker began",
                );
                ok.set(1);
                ok
            },
            k8s_features: gauge_family(
                r,
                "k8s_feature_enabled",
                "1: the Kubernetes API allows what this feature needs",
            ),
            standing_by: gauge_family(
                r,
                "standing_by",
                "1: for this reason nothing is claimed or taken over for now",
            ),
            k8s_events: counter_family(r, "k8s_events", "Events written, and things not told"),
            draining: gauge(r, "draining", "1 while the worker goes away"),
            drain_duration: gauge_seconds(r, "drain_duration", "How long the drain took"),
            drain_abandoned: counter(r, "drain_abandoned", "Executions not handed back in time"),
            registry: Registry::default(),
            workflows: Mutex::default(),
        };
        made.registry = registry;
        made
    }

    /// Counts an execution that ended here.
    pub fn finished(&self, workflow: &str, result: &'static str) {
        let workflow = {
            let mut known = self.workflows.lock().expect("no panic while it is held");
            if known.contains(workflow) {
                workflow
            } else if known.len() < Self::WORKFLOWS {
                known.insert(workflow.to_owned());
                workflow
            } else {
                "other"
            }
        };
        self.finished.get_or_create(&ByWorkflow { workflow: workflow.to_owned(), result }).inc();
    }

    /// The text that `/metrics` answers with.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let metric = Counter::default();
    registry.register(name, help, metric.clone());
    metric
}

fn counter_family<L>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Counter>
where
    L: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
{
    let metric = Family::default();
    registry.register(name, help, Family::clone(&metric));
    metric
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let metric = Gauge::default();
    registry.register(name, help, metric.clone());
    metric
}

fn gauge_family<L>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Gauge>
where
    L: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
{
    let metric = Family::default();
    registry.register(name, help, Family::clone(&metric));
    metric
}

fn gauge_seconds(registry: &mut Registry, name: &str, help: &str) -> Seconds {
    let metric = Seconds::default();
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

fn seconds(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let metric = Buckets.new_metric();
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

pub fn as_seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// For `duration_ms` in logs.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workflow_label_stops_growing() {
        let instruments = Instruments::new();
        for n in 0..1_000 {
            instruments.finished(&format!("w{n}"), "success");
        }
        let text = instruments.encode();
        let lines =
            text.lines().filter(|l| l.starts_with("orchestrator_worker_executions_finished_total"));
        assert_eq!(lines.count(), Instruments::WORKFLOWS + 1);
        assert!(text.contains(r#"workflow="other",result="success"} 800"#), "{text}");
    }
}
