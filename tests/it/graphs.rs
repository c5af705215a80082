//! Workflows made for tests and measurements.
//!
//! **Invariant:** a step's name is its id, so that an error that names a step names one only.

use std::collections::VecDeque;

use orchestrator_worker::domain::{
    definition::{Definition, RecordedStep},
    plan::{End, Finish, Progress, Recorded, plan},
    workflow::Workflow,
};

/// A step that does nothing, as a row.
pub fn step(id: impl Into<String>) -> RecordedStep {
    let id = id.into();
    RecordedStep {
        id: id.clone().into(),
        name: Some(id),
        executor_type: Some("func".into()),
        ..RecordedStep::default()
    }
}

/// The same, in its place: after `dependencies`, and among ready steps at `order`.
pub fn step_after(id: String, order: usize, mode: &str, dependencies: &[String]) -> RecordedStep {
    RecordedStep {
        dependencies: Some(format!("{dependencies:?}")),
        order: Some(i64::try_from(order).expect("a small number")),
        run_mode: Some(mode.into()),
        ..step(id)
    }
}

pub fn definition(steps: Vec<RecordedStep>) -> Definition {
    Definition { template: "template".into(), name: "made for a test".into(), steps }
}

fn workflow(steps: Vec<RecordedStep>) -> Workflow {
    Workflow::try_new(&definition(steps)).expect("it is well made")
}

/// A kind of graph, of as many steps as one wants.
pub type Shape = fn(usize) -> Workflow;

pub const SHAPES: [(&str, Shape); 3] = [("chain", chain), ("wide", wide), ("layered", layered)];

/// Serial steps, each after the one before.
fn chain(steps: usize) -> Workflow {
    let after = |n: usize| if n == 0 { Vec::new() } else { vec![format!("s{}", n - 1)] };
    workflow((0..steps).map(|n| step_after(format!("s{n}"), n, "serial", &after(n))).collect())
}

/// Parallel steps that wait for nothing.
fn wide(steps: usize) -> Workflow {
    workflow((0..steps).map(|n| step_after(format!("s{n}"), n, "parallel", &[])).collect())
}

/// Layers of ten parallel steps; each waits for three of the layer before.
fn layered(steps: usize) -> Workflow {
    let after = |n: usize| match n / 10 {
        0 => Vec::new(),
        layer => (0..3).map(|k| format!("s{}", (layer - 1) * 10 + (n + 3 * k) % 10)).collect(),
    };
    workflow((0..steps).map(|n| step_after(format!("s{n}"), n, "parallel", &after(n))).collect())
}

/// Runs all steps to success, `at_once` at one time, the longest running one first; says how many
/// plans that took.
pub fn drive(workflow: &Workflow, at_once: usize) -> (Finish, usize) {
    let unstarted = vec![Recorded::Unstarted; workflow.nodes().len()];
    let mut progress = Progress::new(workflow, &unstarted);
    let mut running = VecDeque::new();
    for plans in 1.. {
        let next = plan(workflow, &mut progress, at_once);
        if let Some(finish) = next.finish {
            return (finish, plans);
        }
        running.extend(next.start);
        let oldest = running.pop_front().expect("an execution that has not ended runs something");
        progress.ended(workflow, oldest, &End::Success);
    }
    unreachable!("plans are counted without end")
}
