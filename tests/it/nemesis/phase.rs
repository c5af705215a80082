//! Where executions stood when a fault struck.

use std::{collections::BTreeMap, fmt};

use sqlx::Row as _;

use super::workload::ask;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// For a claim.
    Waiting,
    /// A worker has it, and a step is under way.
    InAStep,
    /// A worker has it, and no step is under way.
    BetweenSteps,
    HandedBack,
    /// Cancelled, and a worker has it still.
    Cancelled,
    /// The Go service runs it.
    Twins,
    /// The server did not answer: another fault had it.
    Unknown,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::InAStep => "in a step",
            Self::BetweenSteps => "between steps",
            Self::HandedBack => "handed back",
            Self::Cancelled => "cancelled",
            Self::Twins => "the Go service's",
            Self::Unknown => "times nobody could ask",
        })
    }
}

/// How many executions are in each phase now.
pub async fn phases(url: &str) -> BTreeMap<Phase, u32> {
    let sql = "SELECT e.status, e.ow_owner, EXISTS (SELECT 1 FROM workflow_step_executions s \
               WHERE s.execution_id=e.id AND s.status='running') FROM workflow_executions e \
               WHERE e.status IN ('pending','running') OR (e.status='cancelled' AND e.ow_owner>'')";
    let Ok(rows) = ask(url, sql).await else { return [(Phase::Unknown, 1)].into() };
    let mut counts = BTreeMap::new();
    for row in rows {
        let (status, owner): (String, String) = (row.get(0), row.get(1));
        let phase = match (status.as_str(), owner.as_str()) {
            ("pending", _) => Phase::Waiting,
            ("cancelled", _) => Phase::Cancelled,
            (_, "") => Phase::Twins,
            (_, "~released") => Phase::HandedBack,
            _ if row.get::<i64, _>(2) != 0 => Phase::InAStep,
            _ => Phase::BetweenSteps,
        };
        *counts.entry(phase).or_default() += 1;
    }
    counts
}
