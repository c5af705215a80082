//! What holds for every execution, whatever its graph and whatever happens to it.
//!
//! **Invariant:** every story is told by [`simulation`], which checks each plan against its own
//! model; the tests here say over which stories.

mod simulation;

use std::collections::BTreeSet;

use orchestrator_worker::domain::{
    definition::{Definition, RecordedStep},
    execution::ExecutionState,
    plan::Recorded,
    step::Resume,
    workflow::{Workflow, WorkflowError},
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::graphs;
use simulation::{Event, Simulation};

/// A step's row, and the numbers of those that it waits for.
fn any_step() -> impl Strategy<Value = (RecordedStep, Vec<usize>)> {
    let words = (
        select(vec![None, Some("serial"), Some("parallel"), Some("parallel")]),
        select(vec![None, Some("abort"), Some("skip"), Some("skip")]),
        select(vec![None, Some("{}"), Some(r#"{"resume":"rerun"}"#), Some(r#"{"resume":"fail"}"#)]),
    );
    (words, 0_i64..6, vec(any::<usize>(), 0..4)).prop_map(
        |((mode, failure, parameters), order, after)| {
            let row = RecordedStep {
                run_mode: mode.map(Into::into),
                on_failure: failure.map(Into::into),
                parameters: parameters.map(Into::into),
                order: Some(order),
                ..graphs::step("")
            };
            (row, after)
        },
    )
}

/// Up to forty steps. Dependencies point to any step with `circles`, else to earlier ones only; as
/// `order` is free, the order in which ready steps are taken is not the order of dependencies.
fn any_definition(circles: bool) -> impl Strategy<Value = Definition> {
    vec(any_step(), 0..40).prop_map(move |steps| {
        let all = steps.len();
        let number = |n: usize| format!("s{n}");
        let rows = steps.into_iter().enumerate().map(|(n, (row, after))| {
            let choice = if circles { all } else { n };
            let after = after.into_iter().filter(|_| choice > 0);
            let after: Vec<String> = after.map(|pick| number(pick % choice)).collect();
            RecordedStep {
                id: number(n).into(),
                name: Some(number(n)),
                dependencies: Some(format!("{after:?}")),
                ..row
            }
        });
        graphs::definition(rows.collect())
    })
}

fn any_workflow() -> impl Strategy<Value = Workflow> {
    any_definition(false).prop_map(|definition| {
        Workflow::try_new(&definition).expect("dependencies on earlier steps make no circle")
    })
}

/// Ends of steps are frequent; a cancellation comes in about every fourth story of full length.
fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        80 => any::<usize>().prop_map(|which| Event::Succeed { which }),
        30 => any::<usize>().prop_map(|which| Event::Fail { which }),
        10 => (1_usize..=5).prop_map(|at_once| Event::Crash { at_once }),
        3 => Just(Event::Drain),
        1 => Just(Event::Cancel),
    ]
}

fn any_story() -> impl Strategy<Value = Vec<Event>> {
    vec(any_event(), 0..60)
}

fn any_row() -> impl Strategy<Value = Recorded> {
    let failed = Recorded::Failed { reason: "as recorded".into() };
    select(vec![
        Recorded::Unstarted,
        Recorded::Unstarted,
        Recorded::InFlight,
        Recorded::Success,
        Recorded::Success,
        Recorded::Skipped,
        failed,
    ])
}

proptest! {
    #[test]
    fn every_execution_keeps_the_order_and_comes_to_an_end(
        workflow in any_workflow(), at_once in 1_usize..=5, story in any_story(),
    ) {
        let told = Simulation::new(&workflow, at_once).tell(&story);
        prop_assert!(told.finish.state.is_final());
        prop_assert!(told.plans <= story.len() + workflow.nodes().len() + 2);
    }

    #[test]
    fn any_rows_lead_to_an_end_even_those_that_no_worker_writes(
        workflow in any_workflow(), rows in vec(any_row(), 40), at_once in 1_usize..=5,
        story in any_story(),
    ) {
        let rows = rows[..workflow.nodes().len()].to_vec();
        let told = Simulation::resumed(&workflow, rows.clone(), at_once).tell(&story);
        prop_assert!(told.finish.state.is_final());
        for (before, (after, starts)) in rows.iter().zip(told.rows.iter().zip(&told.starts)) {
            if !matches!(before, Recorded::Unstarted | Recorded::InFlight) {
                prop_assert!(before == after && *starts == 0, "{before:?} became {after:?}");
            }
        }
    }

    #[test]
    fn without_a_crash_no_step_starts_twice_and_without_a_failure_each_starts_once(
        workflow in any_workflow(), at_once in 1_usize..=5, story in any_story(),
    ) {
        let calm: Vec<Event> =
            story.into_iter().filter(|event| !matches!(event, Event::Crash { .. } | Event::Drain)).collect();
        let told = Simulation::new(&workflow, at_once).tell(&calm);
        prop_assert!(told.starts.iter().all(|starts| *starts <= 1));
        let happy = Simulation::new(&workflow, at_once).tell(&[]);
        prop_assert!(happy.starts.iter().all(|starts| *starts == 1));
        prop_assert_eq!(happy.finish.state, ExecutionState::Success);
        prop_assert_eq!(happy.finish.error, None);
    }

    #[test]
    fn crashes_do_not_change_how_an_execution_without_failures_ends(
        workflow in any_workflow(), lives in vec(1_usize..=5, 1..12), ends in 0_usize..4,
    ) {
        let mut story = Vec::new();
        for at_once in &lives {
            story.extend(vec![Event::Succeed { which: *at_once }; ends]);
            story.push(Event::Crash { at_once: *at_once });
        }
        let told = Simulation::new(&workflow, lives[0]).tell(&story);
        for (node, (row, starts)) in workflow.nodes().iter().zip(told.rows.iter().zip(&told.starts)) {
            match (row, node.step.resume) {
                (Recorded::Success, Resume::Rerun) => prop_assert!(*starts >= 1),
                (Recorded::Success | Recorded::Failed { .. }, Resume::Fail) => {
                    prop_assert_eq!(*starts, 1);
                }
                (Recorded::Skipped | Recorded::Failed { .. }, _) => {
                    prop_assert_eq!(told.finish.state, ExecutionState::Failed);
                }
                (Recorded::Unstarted | Recorded::InFlight, _) => prop_assert!(false, "{row:?}"),
            }
        }
    }

    #[test]
    fn a_circle_is_refused_with_its_steps_named_and_anything_else_is_not(
        definition in any_definition(true),
    ) {
        let dependencies = |name: &str| -> Vec<String> {
            let row = definition.steps.iter().find(|row| row.id.as_str() == name);
            let text = row.and_then(|row| row.dependencies.as_deref()).expect("it was generated");
            serde_json::from_str(text).expect("it was generated")
        };
        match Workflow::try_new(&definition) {
            Ok(workflow) => {
                for node in workflow.nodes() {
                    let names: BTreeSet<_> = dependencies(&node.step.name).into_iter().collect();
                    let kept = node.dependencies.iter().map(|id| workflow.node(*id).step.name.clone());
                    prop_assert_eq!(names, kept.collect::<BTreeSet<_>>());
                }
                prop_assert!(ends_when_leaves_are_cut(&definition, dependencies));
            }
            Err(WorkflowError::Cycle(names)) => {
                prop_assert!(names.len() >= 2 && names.first() == names.last());
                let distinct: BTreeSet<_> = names.iter().collect();
                prop_assert_eq!(distinct.len(), names.len() - 1);
                for pair in names.windows(2) {
                    prop_assert!(dependencies(&pair[1]).contains(&pair[0]), "{:?}", names);
                }
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

/// Whether nothing is left after cutting, again and again, steps whose dependencies are cut.
fn ends_when_leaves_are_cut(
    definition: &Definition,
    dependencies: impl Fn(&str) -> Vec<String>,
) -> bool {
    let mut left: BTreeSet<String> =
        definition.steps.iter().map(|row| row.id.to_string()).collect();
    while !left.is_empty() {
        let free = |id: &String| dependencies(id).iter().all(|other| !left.contains(other));
        let cut: Vec<String> = left.iter().filter(|id| free(id)).cloned().collect();
        if cut.is_empty() {
            return false;
        }
        for id in &cut {
            left.remove(id);
        }
    }
    true
}

#[test]
fn an_execution_without_steps_succeeds_at_once() {
    let workflow = Workflow::try_new(&graphs::definition(Vec::new())).expect("it is well made");
    let told = Simulation::new(&workflow, 1).tell(&[]);
    assert_eq!((told.finish.state, told.plans), (ExecutionState::Success, 1));
}
