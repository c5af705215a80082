//! The kinds of action that this build runs.
//!
//! **Invariant:** each kind has one runner, and what is announced as supported is what is run.

pub mod func;
pub mod http;
pub mod output;
pub mod shell;
#[cfg(test)]
mod testing;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use self::{
    func::{FuncRegistry, FuncRunner},
    shell::{ShellRunner, ShellSettings},
};
use crate::{
    domain::intake::Supported,
    ports::runner::{Attempt, Outcome, StepRunner},
};

/// Hands each attempt to the runner of its kind.
#[derive(Clone, Default)]
pub struct Runners {
    by_kind: BTreeMap<String, Arc<dyn StepRunner>>,
}

impl Runners {
    /// Functions, and shell steps where settings for them are given.
    pub fn new(shell: Option<ShellSettings>, func: FuncRegistry) -> Self {
        let runners = Self::default().with(FuncRunner::new(func));
        match shell {
            Some(settings) => runners.with(ShellRunner::new(settings)),
            None => runners,
        }
    }

    /// Adds a runner for every kind that it supports; the last one added for a kind runs it.
    #[must_use]
    pub fn with(mut self, runner: impl StepRunner) -> Self {
        let runner: Arc<dyn StepRunner> = Arc::new(runner);
        for kind in runner.supported().kinds {
            self.by_kind.insert(kind, Arc::clone(&runner));
        }
        self
    }
}

#[async_trait]
impl StepRunner for Runners {
    fn supported(&self) -> Supported {
        let mut all = Supported::default();
        for (kind, runner) in &self.by_kind {
            all.kinds.insert(kind.clone());
            all.functions.extend(runner.supported().functions);
        }
        all
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        let kind = attempt.step.action.kind();
        match self.by_kind.get(kind) {
            Some(runner) => runner.run(attempt).await,
            None => unanswered(format!("this worker does not run steps of type {kind:?}")),
        }
    }
}

/// What becomes of an attempt that cannot begin, or breaks off without output.
fn unanswered(error: String) -> Outcome {
    Outcome::Unanswered { error: error.into(), output: None, retry_after: None, code: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{testing::Bench, *};
    use crate::domain::step::Action;

    #[tokio::test]
    async fn what_is_supported_is_what_is_run() {
        let runners = Runners::new(None, FuncRegistry::default());
        assert_eq!(
            runners.supported(),
            Supported {
                kinds: ["func".to_owned()].into(),
                functions: ["echo", "fail", "noop", "sleep"].map(str::to_owned).into(),
            }
        );
        let echo = Action::Func { name: "echo".into(), parameters: json!({"message": "hi"}) };
        let outcome = runners.run(Bench::default().attempt(echo)).await;
        assert_eq!(outcome, Outcome::Success { output: "hi".into(), code: None });
        let shell = Action::Shell { script: "true".into(), env: BTreeMap::new() };
        let outcome = runners.run(Bench::default().attempt(shell)).await;
        assert_eq!(
            outcome,
            unanswered("this worker does not run steps of type \"shell\"".to_owned())
        );
    }

    #[test]
    fn shell_steps_are_supported_where_they_are_set_up() {
        let runners = Runners::new(Some(ShellSettings::default()), FuncRegistry::empty());
        assert_eq!(runners.supported().kinds, ["func", "shell"].map(str::to_owned).into());
    }
}
