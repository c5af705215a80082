//! What the plans of a large execution cost in all. `cargo bench --bench plan` has the figures of an
//! optimised build.
//!
//! **Invariant:** what is asserted is counted; the times are printed, and the one ceiling on them is
//! far above any machine's linear time and far below a quadratic one.

use std::{io::Write, time::Duration};

use orchestrator_worker::domain::execution::ExecutionState;
use tokio::time::Instant;

use crate::graphs;

const CEILING: Duration = Duration::from_secs(120);

#[test]
fn the_plans_of_a_hundred_thousand_steps_take_linear_time_in_all() {
    for (shape, workflow_of) in graphs::SHAPES {
        for steps in [10_000_u32, 100_000] {
            let workflow = workflow_of(steps as usize);
            let began = Instant::now();
            let (finish, plans) = graphs::drive(&workflow, 4);
            let took = began.elapsed();
            assert_eq!(finish.state, ExecutionState::Success);
            assert_eq!(plans, steps as usize + 1, "one plan an end, and the first");
            assert!(took < CEILING, "{shape} of {steps} steps took {took:?}");
            // Straight to the terminal: the figure is to be seen when the test passes, too.
            writeln!(
                std::io::stderr(),
                "plans of a {shape} of {steps} steps, unoptimised: {:?} a step",
                took / steps
            )
            .expect("standard error takes a line");
        }
    }
}
