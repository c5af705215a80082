//! Time that the plans of one execution take in all, per step, at 10,000 and at 100,000 steps. The
//! ratio of both is what the promise of linear time is about: it stays near 1.
//!
//! `cargo bench --bench plan`

#[path = "../tests/it/graphs.rs"]
mod graphs;

use std::time::Duration;

use orchestrator_worker::domain::workflow::Workflow;
use tokio::time::Instant;

const AT_ONCE: usize = 16;
/// Runs of each, of which the fastest counts.
const RUNS: usize = 5;

fn main() {
    println!("{:10} {:>14} {:>14} {:>8}", "graph", "ns/step 10,000", "100,000", "ratio");
    for (shape, workflow_of) in graphs::SHAPES {
        let small = nanoseconds_a_step(&workflow_of(10_000));
        let large = nanoseconds_a_step(&workflow_of(100_000));
        println!("{shape:10} {small:14.0} {large:14.0} {:8.2}", large / small);
    }
}

fn nanoseconds_a_step(workflow: &Workflow) -> f64 {
    let fastest = (0..RUNS).map(|_| time_of(workflow)).min().expect("it ran at least once");
    let steps = u32::try_from(workflow.nodes().len()).expect("a bench is smaller than that");
    fastest.as_secs_f64() * 1e9 / f64::from(steps)
}

fn time_of(workflow: &Workflow) -> Duration {
    let began = Instant::now();
    std::hint::black_box(graphs::drive(workflow, AT_ONCE));
    began.elapsed()
}
