//! Workflows that this process has already read and checked, by the hash of their stored plan.
//!
//! **Invariant:** a hash stands for one text for ever, so an entry never goes stale.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::domain::{
    definition::Definition,
    id::{PlanHash, StepId, TemplateId},
    workflow::{Workflow, WorkflowError},
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
    known: Mutex<HashMap<PlanHash, Checked>>,
}

impl Plans {
    /// Beyond this many the memory starts anew.
    const MOST: usize = 1_000;

    pub fn get(&self, hash: &PlanHash) -> Option<Checked> {
        self.known.lock().expect("no panic while it is held").get(hash).cloned()
    }

    /// Checks a plan's text and remembers the answer under its hash.
    pub fn learn(&self, text: &str) -> (PlanHash, Checked) {
        let hash = Definition::hash(text);
        if let Some(checked) = self.get(&hash) {
            return (hash, checked);
        }
        let checked = check(text);
        let mut known = self.known.lock().expect("no panic while it is held");
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(hash, checked.clone());
        (hash, checked)
    }
}

fn check(text: &str) -> Checked {
    let definition =
        Definition::from_text(text).map_err(|error| PlanError::Text(error.to_string()))?;
    Ok(Arc::new(Workflow::try_new(&definition)?))
}
