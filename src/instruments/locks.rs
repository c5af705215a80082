//! The metrics of the lock library.
//!
//! **Invariant:** no label holds a key or an owner.

use std::time::Duration;

use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use super::{Buckets, ByReason, ByResult, as_seconds};

/// What became of plain keys, in seconds and numbers; a clone is the same metrics.
#[derive(Clone, Debug)]
pub struct LockMetrics {
    acquires: Family<ByResult, Counter>,
    acquire_duration: Histogram,
    hold_duration: Histogram,
    renewals: Family<ByResult, Counter>,
    lost: Family<ByReason, Counter>,
}

impl Default for LockMetrics {
    fn default() -> Self {
        Self {
            acquires: Family::default(),
            acquire_duration: Buckets.new_metric(),
            hold_duration: Buckets.new_metric(),
            renewals: Family::default(),
            lost: Family::default(),
        }
    }
}

impl LockMetrics {
    /// Names them in a registry of the program: `lease_acquire_total{result}` (`acquired`,
    /// `reentered`, `held`, `error`), `lease_acquire_duration_seconds` with all retries,
    /// `lease_hold_duration_seconds`, `lease_renew_total{result}` (`held`, `lost`, `error`) and
    /// `lease_lost_total{reason}` (`deadline`, `taken`).
    pub fn register(&self, registry: &mut Registry) {
        let Self { acquires, acquire_duration, hold_duration, renewals, lost } = self.clone();
        registry.register("lease_acquire", "Locks asked for", acquires);
        let help = "From the first try to the answer";
        registry.register_with_unit(
            "lease_acquire_duration",
            help,
            Unit::Seconds,
            acquire_duration,
        );
        let help = "From the acquisition to the release or the loss";
        registry.register_with_unit("lease_hold_duration", help, Unit::Seconds, hold_duration);
        registry.register("lease_renew", "Locks asked to be renewed", renewals);
        registry.register("lease_lost", "Locks that ended before their release", lost);
    }

    /// A text of their own, for a program without a registry: `orchestrator_worker_lease_…`.
    pub fn encode(&self) -> String {
        let mut registry = Registry::with_prefix("orchestrator_worker");
        self.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a String cannot fail");
        text
    }

    pub fn acquired(&self, result: &'static str, took: Duration) {
        self.acquires.get_or_create(&ByResult { result }).inc();
        self.acquire_duration.observe(as_seconds(took));
    }

    pub fn renewed(&self, result: &'static str) {
        self.renewals.get_or_create(&ByResult { result }).inc();
    }

    pub fn ended(&self, held: Duration) {
        self.hold_duration.observe(as_seconds(held));
    }

    pub fn lost(&self, reason: &'static str) {
        self.lost.get_or_create(&ByReason { reason }).inc();
    }

    /// How many asked for a lock with this result.
    pub fn acquires(&self, result: &'static str) -> u64 {
        self.acquires.get_or_create(&ByResult { result }).get()
    }
}
