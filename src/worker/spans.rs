//! The trace model: what an execution's steps are told of its trace.
//!
//! **Invariant:** ids depend on what the rows say alone, so that every worker which ever holds an
//! execution has the same.

use std::collections::BTreeMap;

use crate::{
    domain::{
        id::ExecutionId,
        intake::StepSlot,
        step::Step,
        trace::{Trace, carried},
    },
    ports::executions::Claim,
};

/// One lease on an execution, as its trace sees it.
#[derive(Debug)]
pub struct Term {
    execution: ExecutionId,
    workflow: String,
    trace: Trace,
    sampled: bool,
}

impl Term {
    /// Of what was just claimed.
    pub fn new(claim: &Claim) -> Self {
        let trace = Trace::of(&claim.lease.execution, &claim.origin);
        Self {
            execution: claim.lease.execution.clone(),
            workflow: claim.workflow.name.clone(),
            sampled: trace.caller().is_some_and(|caller| caller.sampled),
            trace,
        }
    }

    /// What an attempt hands on to whatever it calls.
    pub fn carried(&self, step: &Step, slot: &StepSlot) -> BTreeMap<String, String> {
        let span = self.trace.attempt(&slot.id, slot.attempt);
        let context = self.trace.context(span, self.sampled);
        carried(context, &self.execution, &self.workflow, &step.name)
    }
}
