//! Workflows that this process has already read and checked, by the hash of their stored plan.
//!
//! **Invariant:** a hash stands for one text for ever, so an entry never goes stale.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::domain::{
    definition::Definition,
    id::PlanHash,
    workflow::{Workflow, WorkflowError},
};

/// A checked workflow, or why the stored text is none.
pub type Checked = Result<Arc<Workflow>, PlanError>;

/// Why a stored plan cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
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
