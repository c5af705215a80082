//! Whom somebody has been told of already.
//!
//! **Invariant:** it holds no more than its limit; beyond that the same may be told once more.

use std::{collections::HashSet, sync::Mutex};

use crate::domain::id::ExecutionId;

const MOST: usize = 10_000;

/// Executions that were told.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashSet<ExecutionId>>);

impl Told {
    /// Whether this one was not told before; from now on it was.
    pub fn is_news(&self, execution: &ExecutionId) -> bool {
        let mut told = self.0.lock().expect("no panic while it is held");
        if told.len() >= MOST {
            told.clear();
        }
        told.insert(execution.clone())
    }
}
