//! What an execution does next.
//!
//! [`Progress`] is where an execution stands; [`plan`] takes from it what is to be done now and
//! marks that as done or running. The caller commits a plan before it acts on it.
//!
//! **Invariant:** a step starts only when all its dependencies are final, a serial step runs
//! alone, a final step never starts again, and every sequence of outcomes ends in a
//! [`Plan::finish`]. All plans of one execution together cost O((steps + edges) log steps).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    execution::{ExecutionState, StepState},
    step::Resume,
    workflow::{NodeId, OnFailure, RunMode, Workflow},
};

/// Longest reason kept from one step, in characters.
const REASON_CHARS: usize = 500;
/// Steps named one by one in the error of an execution that skipped over failures.
const NAMED_FAILURES: usize = 20;

/// Where a step stands, as its row says at the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Never started.
    Unstarted,
    /// Started by a worker that is gone: its outcome is unknown.
    InFlight,
    Success,
    Skipped,
    Failed {
        reason: String,
    },
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Success,
    Failed { reason: String },
}

/// What to do now. Nodes are in the order in which ready steps are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Start these (they count as running from now on).
    pub start: Vec<NodeId>,
    /// Stop these running steps; each still reports an end through [`Progress::ended`].
    pub stop: Vec<NodeId>,
    /// Record these in-flight steps as failed, with the reason.
    pub fail: Vec<(NodeId, String)>,
    /// Record these as skipped: they will never start.
    pub skip: Vec<NodeId>,
    /// The execution has ended like this.
    pub finish: Option<Finish>,
}

/// How an execution ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// `Success`, `Failed` or `Cancelled`.
    pub state: ExecutionState,
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Waiting,
    Ready,
    Running,
    Final,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Abort(NodeId),
    Cancel,
}

/// Where an execution stands.
#[derive(Clone, Debug)]
pub struct Progress {
    standing: Vec<Standing>,
    unmet: Vec<u32>,
    ready: BTreeSet<NodeId>,
    running: BTreeSet<NodeId>,
    in_flight: BTreeSet<NodeId>,
    must_not_rerun: Vec<NodeId>,
    /// Reasons of failed steps.
    failures: BTreeMap<NodeId, String>,
    open: usize,
    ending: Option<Ending>,
    stopped: bool,
    finished: bool,
}

impl Progress {
    /// `recorded` has one entry a node, in the order of [`Workflow::ids`].
    pub fn new(workflow: &Workflow, recorded: &[Recorded]) -> Self {
        assert_eq!(recorded.len(), workflow.nodes().len(), "one record a node");
        let mut progress = Self {
            standing: vec![Standing::Waiting; recorded.len()],
            unmet: workflow
                .nodes()
                .iter()
                .map(|n| u32::try_from(n.dependencies.len()).expect("MAX_STEPS fits"))
                .collect(),
            ready: workflow.ids().filter(|id| workflow.node(*id).dependencies.is_empty()).collect(),
            running: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            must_not_rerun: Vec::new(),
            failures: BTreeMap::new(),
            open: recorded.len(),
            ending: None,
            stopped: false,
            finished: false,
        };
        for id in &progress.ready {
            progress.standing[id.index()] = Standing::Ready;
        }
        for (id, record) in workflow.ids().zip(recorded) {
            match record {
                Recorded::Unstarted => {}
                Recorded::InFlight => match workflow.node(id).step.resume {
                    Resume::Rerun => {
                        progress.in_flight.insert(id);
                    }
                    Resume::Fail => progress.must_not_rerun.push(id),
                },
                Recorded::Success | Recorded::Skipped => progress.close(workflow, id, None),
                Recorded::Failed { reason } => progress.close(workflow, id, Some(reason)),
            }
        }
        progress
    }

    /// A running step has ended for good.
    pub fn ended(&mut self, workflow: &Workflow, id: NodeId, end: &End) {
        match end {
            End::Success => self.close(workflow, id, None),
            End::Failed { reason } => self.close(workflow, id, Some(reason)),
        }
    }

    /// Somebody cancelled the execution: nothing starts any more.
    pub fn cancel(&mut self) {
        self.ending = Some(Ending::Cancel);
        self.stopped = false;
    }

    /// Steps that were started and have not ended.
    pub fn running(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.running.iter().copied()
    }

    /// Which steps failed, without what they said: for logs.
    pub fn failed_steps(&self, workflow: &Workflow) -> Option<String> {
        failures(workflow, self, false)
    }

    /// Why running steps are stopped, if they are: the reason to record on each.
    pub fn stop_reason(&self, workflow: &Workflow) -> Option<String> {
        self.ending.map(|ending| match ending {
            Ending::Abort(id) => {
                format!("stopped because step {} failed", workflow.node(id).step.name)
            }
            Ending::Cancel => "stopped because the execution was cancelled".into(),
        })
    }

    fn close(&mut self, workflow: &Workflow, id: NodeId, failure: Option<&String>) {
        if self.standing[id.index()] == Standing::Final {
            return;
        }
        self.standing[id.index()] = Standing::Final;
        self.ready.remove(&id);
        self.running.remove(&id);
        self.in_flight.remove(&id);
        self.open -= 1;
        let node = workflow.node(id);
        if let Some(reason) = failure {
            self.failures.insert(id, reason.chars().take(REASON_CHARS).collect());
            if node.on_failure == OnFailure::Abort && self.ending.is_none() {
                self.ending = Some(Ending::Abort(id));
            }
        }
        for dependent in &node.dependents {
            let unmet = &mut self.unmet[dependent.index()];
            *unmet -= 1;
            if *unmet == 0 && self.standing[dependent.index()] == Standing::Waiting {
                self.standing[dependent.index()] = Standing::Ready;
                self.ready.insert(*dependent);
            }
        }
    }
}

/// Takes from `progress` what is to be done now. At most `at_once` steps run at one time; 0 starts
/// nothing (a worker that drains).
pub fn plan(workflow: &Workflow, progress: &mut Progress, at_once: usize) -> Plan {
    let mut plan = Plan::default();
    fail_what_must_not_rerun(workflow, progress, &mut plan);
    if progress.ending.is_some() {
        stop_all(workflow, progress, &mut plan);
    } else {
        start_ready(workflow, progress, at_once, &mut plan);
    }
    if progress.open == 0 && !progress.finished {
        progress.finished = true;
        plan.finish = Some(finish(workflow, progress));
    }
    plan
}

fn fail_what_must_not_rerun(workflow: &Workflow, progress: &mut Progress, plan: &mut Plan) {
    for id in std::mem::take(&mut progress.must_not_rerun) {
        let reason = String::from(
            "its worker was lost while it ran, its outcome is unknown, and parameters.resume is \
             \"fail\"",
        );
        progress.close(workflow, id, Some(&reason));
        plan.fail.push((id, reason));
    }
}

fn stop_all(workflow: &Workflow, progress: &mut Progress, plan: &mut Plan) {
    if progress.stopped {
        return;
    }
    progress.stopped = true;
    plan.stop.extend(progress.running.iter().copied());
    let reason = progress.stop_reason(workflow).expect("an execution that ends has a reason");
    for id in std::mem::take(&mut progress.in_flight) {
        if progress.standing[id.index()] != Standing::Final {
            progress.close(workflow, id, Some(&reason));
            plan.fail.push((id, reason.clone()));
        }
    }
    for id in workflow.ids() {
        if matches!(progress.standing[id.index()], Standing::Waiting | Standing::Ready) {
            progress.standing[id.index()] = Standing::Final;
            progress.open -= 1;
            plan.skip.push(id);
        }
    }
    progress.ready.clear();
}

fn start_ready(workflow: &Workflow, progress: &mut Progress, at_once: usize, plan: &mut Plan) {
    let serial = |id: &NodeId| workflow.node(*id).mode == RunMode::Serial;
    if progress.running.first().is_some_and(serial) {
        return;
    }
    while progress.running.len() < at_once {
        let Some(&head) = progress.ready.first() else { return };
        if serial(&head) && !progress.running.is_empty() {
            return;
        }
        progress.ready.remove(&head);
        progress.in_flight.remove(&head);
        progress.running.insert(head);
        progress.standing[head.index()] = Standing::Running;
        plan.start.push(head);
        if serial(&head) {
            return;
        }
    }
}

fn finish(workflow: &Workflow, progress: &Progress) -> Finish {
    let state = match progress.ending {
        Some(Ending::Abort(_)) => ExecutionState::Failed,
        Some(Ending::Cancel) => ExecutionState::Cancelled,
        None => ExecutionState::Success,
    };
    Finish { state, error: failures(workflow, progress, true) }
}

/// Which steps failed, and why if that is asked for.
fn failures(workflow: &Workflow, progress: &Progress, with_reasons: bool) -> Option<String> {
    let name = |id: NodeId| &workflow.node(id).step.name;
    match progress.ending {
        Some(Ending::Abort(id)) if with_reasons => {
            Some(format!("step {} failed: {}", name(id), progress.failures[&id]))
        }
        Some(Ending::Abort(id)) => Some(format!("step {} failed", name(id))),
        Some(Ending::Cancel) => None,
        None => skipped_over(workflow, progress, with_reasons),
    }
}

fn skipped_over(workflow: &Workflow, progress: &Progress, with_reasons: bool) -> Option<String> {
    if progress.failures.is_empty() {
        return None;
    }
    let mut parts: Vec<String> = progress
        .failures
        .iter()
        .take(NAMED_FAILURES)
        .map(|(id, reason)| match workflow.node(*id).step.name.as_str() {
            name if with_reasons => format!("{name} ({reason})"),
            name => name.to_owned(),
        })
        .collect();
    if progress.failures.len() > NAMED_FAILURES {
        parts.push(format!("and {} more", progress.failures.len() - NAMED_FAILURES));
    }
    Some(format!("skipped over failed steps: {}", parts.join(", ")))
}

impl Recorded {
    /// From a step row's status and error.
    pub fn from_row(state: StepState, error: Option<String>) -> Self {
        match state {
            StepState::Pending => Self::Unstarted,
            StepState::Running => Self::InFlight,
            StepState::Success => Self::Success,
            StepState::Skipped => Self::Skipped,
            StepState::Failed => {
                Self::Failed { reason: error.unwrap_or_else(|| "no reason was recorded".into()) }
            }
        }
    }
}
