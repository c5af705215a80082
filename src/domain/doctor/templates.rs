//! Whether a stored template runs here, and whether it runs as in the orchestrator.
//!
//! **Invariant:** a template that is called runnable is one that intake admits: both ask
//! [`Workflow::try_new`] and [`Supported`].

use std::collections::BTreeSet;

use super::Finding;
use crate::domain::{
    definition::{Definition, RecordedStep},
    id::TemplateId,
    intake::Supported,
    step::{DEFAULT_RETRIES, DEFAULT_TIMEOUT, LONGEST_TIMEOUT},
    workflow::{NodeId, Workflow},
};

/// A template as it stands in the tables.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: TemplateId,
    pub name: String,
    /// Something may be submitted for it.
    pub is_active: bool,
    /// Or why it cannot be read, or kept.
    pub definition: Result<Definition, String>,
}

/// Runs, runs otherwise than in the orchestrator, or is refused.
pub fn template(stored: &Stored, supported: &Supported) -> Finding {
    let shown = if stored.name.is_empty() { stored.id.as_str() } else { &stored.name };
    let finding = match runnable(stored, supported) {
        Err(refusal) if stored.is_active => refusal,
        Err(refusal) => inactive(refusal),
        Ok((definition, workflow)) => runs(definition, &workflow),
    };
    Finding { template: Some(shown.into()), ..finding }
}

fn runnable<'s>(
    stored: &'s Stored,
    supported: &Supported,
) -> Result<(&'s Definition, Workflow), Finding> {
    let refused = |reason: &str| {
        Finding::problem(
            "template",
            format!("refused: {reason}"),
            "mend it (`orchestrator-worker apply -f FILE`, or in the orchestrator); until then its \
             executions are failed with this reason",
        )
    };
    let definition = stored.definition.as_ref().map_err(|reason| refused(reason))?;
    let workflow = Workflow::try_new(definition).map_err(|error| refused(&error.to_string()))?;
    match supported.unknown_of(&workflow) {
        None => Ok((definition, workflow)),
        Some(what) => Err(Finding::problem(
            "template",
            format!("refused: this version does not know {what}"),
            "run a worker that knows it beside this one; if none does for claim.unknown_after its \
             executions are failed",
        )),
    }
}

/// Nothing new is submitted for it, and what is pending is failed.
fn inactive(refusal: Finding) -> Finding {
    let found = format!("{} (inactive)", refusal.found);
    Finding::warning("template", found, refusal.repair.unwrap_or_default())
}

fn runs(definition: &Definition, workflow: &Workflow) -> Finding {
    let mut differences: Vec<String> = definition.steps.iter().flat_map(of_step).collect();
    differences.extend(of_order(definition, workflow));
    match differences.split_first() {
        None => Finding::ok("template", "runs"),
        Some((first, [])) => differs(first),
        Some((first, [second])) => differs(&format!("{first}; {second}")),
        Some((first, rest)) => differs(&format!("{first}; and {} more such", rest.len())),
    }
}

fn differs(what: &str) -> Finding {
    Finding::warning(
        "template",
        format!("runs differently: {what}"),
        "nothing where that is wanted; else write the value, or the dependency, that is meant",
    )
}

/// Values that are left open, and what they count as here.
fn of_step(step: &RecordedStep) -> Vec<String> {
    let mut found = Vec::new();
    let default = DEFAULT_TIMEOUT.as_secs();
    match step.timeout {
        None | Some(0) => found.push(format!("a timeout of 0 counts as {default} s")),
        Some(seconds) if seconds.unsigned_abs() > LONGEST_TIMEOUT.as_secs() => {
            let days = LONGEST_TIMEOUT.as_secs() / 86_400;
            found.push(format!("a timeout of more than {days} days is cut to that"));
        }
        Some(_) => {}
    }
    if step.retries.is_none() {
        found.push(format!("retries that are NULL count as {DEFAULT_RETRIES}"));
    }
    let is_open = |word: &Option<String>| word.as_deref().is_none_or(str::is_empty);
    if is_open(&step.run_mode) {
        found.push("an empty run_mode counts as serial".into());
    }
    if is_open(&step.on_failure) {
        found.push("an empty on_failure counts as abort".into());
    }
    let name = step.shown_name();
    found.into_iter().map(|what| format!("step {name:?}: {what}")).collect()
}

/// `ORDER BY "order"` of the orchestrator is the order of a constant text on MySQL.
fn of_order(definition: &Definition, workflow: &Workflow) -> Option<String> {
    let orders: BTreeSet<i64> =
        definition.steps.iter().map(|step| step.order.unwrap_or(0)).collect();
    (orders.len() > 1 && !is_a_chain(workflow)).then(|| {
        "steps that do not wait for each other are taken by `order`, which the orchestrator does not \
         apply on MySQL"
            .into()
    })
}

/// The dependencies alone leave one order.
fn is_a_chain(workflow: &Workflow) -> bool {
    let mut unmet: Vec<usize> =
        workflow.nodes().iter().map(|node| node.dependencies.len()).collect();
    let mut free: Vec<NodeId> = workflow.ids().filter(|id| unmet[id.index()] == 0).collect();
    let mut taken = 0;
    while let [only] = free[..] {
        taken += 1;
        free.clear();
        for dependent in &workflow.node(only).dependents {
            unmet[dependent.index()] -= 1;
            if unmet[dependent.index()] == 0 {
                free.push(*dependent);
            }
        }
    }
    taken == workflow.nodes().len()
}
