//! Plans as stored: workflows that this process has already read and checked, by the hash of their
//! plan, and the steps of an execution as its plan has them.
//!
//! **Invariant:** a hash stands for one text for ever, so an entry never goes stale.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::{
    domain::{
        definition::Definition,
        id::{PlanHash, StepId, TemplateId},
        workflow::{Workflow, WorkflowError},
    },
    ports::control::StepDetail,
};

/// A checked workflow, or why the stored text is none.
pub type Checked = Result<Arc<Workflow>, PlanError>;

/// Why an execution has nothing that can be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("it names no template")]
    NoTemplate,
    #[error("its template {0} does not exist any more")]
    TemplateGone(TemplateId),
    #[error("step {0} of its template does not exist any more")]
    StepGone(StepId),
    #[error("the plan of its first claim is not in ow_plans any more")]
    PlanGone,
    #[error("its stored plan is not readable: {0}")]
    Text(String),
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
}

/// A bounded memory of checked workflows.
#[derive(Debug, Default)]
pub struct Plans {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    checked: HashMap<PlanHash, Checked>,
    /// Of their texts: what is kept of a text is a few times as large, however it is cut into steps.
    bytes: usize,
}

impl Plans {
    /// Beyond so many bytes of plans the memory starts anew, and larger ones are not kept.
    const MOST_BYTES: usize = 16 << 20;
    /// What each entry counts beside its text.
    const ENTRY_BYTES: usize = 1 << 10;

    pub fn get(&self, hash: &PlanHash) -> Option<Checked> {
        self.known.lock().expect("no panic while it is held").checked.get(hash).cloned()
    }

    /// Checks a plan's text and remembers the answer under its hash.
    pub fn learn(&self, text: &str) -> (PlanHash, Checked) {
        let hash = Definition::hash(text);
        if let Some(checked) = self.get(&hash) {
            return (hash, checked);
        }
        let checked = check(text);
        self.keep(hash, checked.clone(), text.len() + Self::ENTRY_BYTES);
        (hash, checked)
    }

    fn keep(&self, hash: PlanHash, checked: Checked, bytes: usize) {
        if bytes > Self::MOST_BYTES {
            return;
        }
        let mut known = self.known.lock().expect("no panic while it is held");
        if known.bytes + bytes > Self::MOST_BYTES {
            *known = Known::default();
        }
        // Two lanes may have learnt it at one time.
        if known.checked.insert(hash, checked).is_none() {
            known.bytes += bytes;
        }
    }
}

/// The steps of an execution in the order of its plan and under the names that they have there, once
/// there is a plan: its template may have been edited since. Without one they stay as they are.
pub fn as_planned(plan: Option<&str>, mut steps: Vec<(StepId, StepDetail)>) -> Vec<StepDetail> {
    if let Some(mut plan) = plan.and_then(|text| Definition::from_text(text).ok()) {
        plan.sort();
        let places: HashMap<&StepId, usize> =
            (0..).zip(&plan.steps).map(|(place, step)| (&step.id, place)).collect();
        let place = |id: &StepId| places.get(id).copied();
        steps.sort_by_key(|(id, _)| place(id).unwrap_or(usize::MAX));
        for (id, detail) in &mut steps {
            if let Some(place) = place(id) {
                detail.name.clone_from(&plan.steps[place].name);
                detail.executor_type.clone_from(&plan.steps[place].executor_type);
            }
        }
    }
    steps.into_iter().map(|(_, step)| step).collect()
}

fn check(text: &str) -> Checked {
    let definition =
        Definition::from_text(text).map_err(|error| PlanError::Text(error.to_string()))?;
    Ok(Arc::new(Workflow::try_new(&definition)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, bytes: usize) -> String {
        let definition =
            Definition { template: name.into(), name: "x".repeat(bytes), steps: Vec::new() };
        definition.to_text()
    }

    #[test]
    fn the_memory_is_bounded_by_bytes_and_not_by_numbers() {
        let plans = Plans::default();
        let small: Vec<PlanHash> =
            (0..2_000).map(|n| plans.learn(&text(&n.to_string(), 10)).0).collect();
        assert!(small.iter().all(|hash| plans.get(hash).is_some()), "small ones are all kept");
        let (large, checked) = plans.learn(&text("large", Plans::MOST_BYTES));
        assert!(checked.is_ok() && plans.get(&large).is_none(), "too large to be kept");
        let (half, _) = plans.learn(&text("half", Plans::MOST_BYTES / 2));
        let (other, _) = plans.learn(&text("other", Plans::MOST_BYTES / 2));
        assert!(plans.get(&other).is_some() && plans.get(&half).is_none());
        assert!(small.iter().all(|hash| plans.get(hash).is_none()), "it started anew");
    }
}
