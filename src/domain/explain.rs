//! Why an execution is not running, or what it is doing.
//!
//! **Invariant:** every execution has exactly one reason, the first that would have to be mended;
//! each says what will happen next, and what somebody can do where nothing will.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    definition::Definition, eligibility::Eligibility, execution::ExecutionState, id::Fence,
    intake::Supported, workflow::Workflow,
};

mod ended;
mod pending;
mod running;

/// How an execution stands, by the store's clock.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The state column's own word; `None` for NULL.
    pub status: Option<String>,
    pub error: Option<String>,
    /// Since its creation.
    pub age: Duration,
    /// Until it is due; zero if it is.
    pub due_in: Duration,
    /// Since it was due; zero if it is not.
    pub due_for: Duration,
    pub is_backlog: bool,
    pub fence: Fence,
    /// The owner column: empty, a mark, or a worker.
    pub owner: String,
    /// The provider that has its owner's lease; `None`: the lock table.
    pub kept_in: Option<String>,
    /// Its template's name, or its id where the template is gone.
    pub template: String,
    pub paused: Option<Paused>,
    pub lock: Option<LockFact>,
    pub template_lock: Option<LockFact>,
    /// A running execution of its template was handed back, and goes on first.
    pub template_handed_back: bool,
    /// The last worker that was lost with a step of it in its hands.
    pub lost: Option<Loss>,
    /// In the order in which they are taken.
    pub steps: Vec<StepFact>,
    /// What it would run, or why that cannot be run.
    pub workflow: Result<Arc<Workflow>, String>,
    /// Workers that hold a live lease on any execution, and how many executions they hold.
    pub workers: u64,
    pub held: u64,
    /// Pending executions that are due before it.
    pub ahead: u64,
}

/// The steps of `workflow` in its order, then the others; `steps` are by `steps.id`.
pub fn in_order(
    mut steps: BTreeMap<String, StepFact>,
    workflow: Option<&Workflow>,
) -> Vec<StepFact> {
    let nodes = workflow.map_or(&[][..], Workflow::nodes);
    let mut ordered: Vec<StepFact> =
        nodes.iter().filter_map(|node| steps.remove(node.step.id.as_str())).collect();
    ordered.extend(steps.into_values());
    ordered
}

/// What a stored plan would run.
pub fn workflow_of_plan(text: &str) -> Result<Arc<Workflow>, String> {
    let plan =
        Definition::from_text(text).map_err(|error| format!("its plan is broken: {error}"))?;
    Workflow::try_new(&plan).map(Arc::new).map_err(|error| error.to_string())
}

/// What a pause covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    Template,
    All,
}

/// The lock row of the execution, or of its template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockFact {
    pub owner: String,
    /// 0 for a row that the orchestrator wrote.
    pub fence: Fence,
    /// Since its last renewal.
    pub age: Duration,
    /// From a renewal to its expiry.
    pub ttl: Duration,
    /// `None`: it has expired.
    pub expires_in: Option<Duration>,
}

impl LockFact {
    /// Who keeps others away, and for how long if nobody renews it.
    fn holder(&self) -> Option<(&str, Duration)> {
        let expires_in = self.expires_in.filter(|_| !self.owner.starts_with('~'))?;
        Some((&self.owner, expires_in))
    }

    /// Of a template: a worker's stands until its execution is taken over, any other while it holds.
    fn keeps_template(&self) -> bool {
        !self.owner.starts_with('~') && (self.fence > Fence(0) || self.expires_in.is_some())
    }
}

/// A worker that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub owner: String,
    /// As it stands on the attempt ([`super::recovery::Cause::told`]).
    pub cause: String,
}

/// A step's row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepFact {
    pub name: String,
    pub status: Option<String>,
    pub error: Option<String>,
    pub attempt: u32,
    /// Since the running attempt began.
    pub running_for: Option<Duration>,
}

/// What a worker of this build and configuration would do.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub supported: Supported,
    pub eligibility: Eligibility,
    /// A worker with a free slot looks again within this time.
    pub look_within: Duration,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// A stable word for programs: `not_due`.
    pub reason: &'static str,
    pub because: String,
    pub next: String,
}

impl Explanation {
    fn new(reason: &'static str, because: impl Into<String>, next: impl Into<String>) -> Self {
        Self { reason, because: because.into(), next: next.into() }
    }
}

/// The one reason.
pub fn explain(facts: &Facts, view: &View) -> Explanation {
    let Some(word) = &facts.status else {
        return unknown_state("its status is NULL");
    };
    match ExecutionState::parse(word) {
        Ok(ExecutionState::Pending) => pending::explain(facts, view),
        Ok(ExecutionState::Running) => running::explain(facts),
        Ok(ExecutionState::Success) => ended::succeeded(facts),
        Ok(ExecutionState::Failed) => ended::failed(facts),
        Ok(ExecutionState::Cancelled) => ended::cancelled(facts),
        Err(error) => unknown_state(&format!("it has an {error}")),
    }
}

fn unknown_state(because: &str) -> Explanation {
    Explanation::new(
        "unknown_state",
        because,
        "no worker takes it; if nobody gives it a status that there is within `claim.unknown_after`, a \
         worker fails it",
    )
}

/// `3h 20m`: the two largest units, without fractions.
pub(super) fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days}d {hours}h"),
        (0, 1.., _) => format!("{hours}h {minutes}m"),
        (0, 0, 1..) => format!("{minutes}m {}s", seconds % 60),
        (0, 0, 0) if seconds > 0 => format!("{seconds}s"),
        (0, 0, 0) => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests;
