//! Executions: what waits, and what no version knows.

use std::time::Duration;

use super::{Finding, View, counted};
use crate::domain::{eligibility::Backlog, explain::shown};

/// Numbers of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Pending and due.
    pub due: u64,
    /// Pending and due later.
    pub later: u64,
    pub running: u64,
    /// Held as backlog unless a worker is told to run it.
    pub backlog: u64,
    pub oldest_backlog: Duration,
    /// Of a status that is NULL or that there is not.
    pub unknown: u64,
    /// Lock rows that nobody needs any more.
    pub expired_locks: u64,
}

pub(super) fn findings(rows: &Rows, view: &View) -> Vec<Finding> {
    let Rows { due, later, running, .. } = rows;
    let numbers = format!("{} due, {later} later, {running} running", counted(*due, "execution"));
    let mut found = vec![Finding::ok("rows", numbers)];
    if rows.unknown > 0 {
        found.push(Finding::warning(
            "rows",
            format!(
                "{} with a status that is NULL or that no version knows",
                counted(rows.unknown, "execution")
            ),
            format!(
                "give each a status that there is; a worker fails those that nobody touches for \
                 claim.unknown_after ({})",
                shown(view.unknown_after)
            ),
        ));
    }
    found.push(backlog(rows, view));
    found
}

fn backlog(rows: &Rows, view: &View) -> Finding {
    if rows.backlog == 0 {
        return Finding::ok("backlog", "none is held");
    }
    let many = counted(rows.backlog, "execution");
    let oldest = shown(rows.oldest_backlog);
    match view.backlog {
        Backlog::Run => {
            Finding::ok("backlog", format!("{many}, the oldest {oldest} old, will be run as set"))
        }
        Backlog::Hold => Finding::warning(
            "backlog",
            format!("{many} from before the first migration held, the oldest {oldest} old"),
            "orchestrator-worker backlog release --all lets them be claimed, `cancel` ends them; `backlog \
             list` shows them",
        ),
    }
}
