//! What a script finds in its environment.
//!
//! **Invariant:** nothing of this process's environment but the names listed here and those that
//! an operator passes on; a step cannot disguise its key, fence or attempt.

use std::collections::BTreeMap;

use super::protocol::Spec;
use crate::ports::runner::Attempt;

/// Passed on where this process has them.
const INHERITED: [&str; 4] = ["PATH", "LANG", "LC_ALL", "TZ"];
/// Where this process has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const KEY: &str = "ORCHESTRATOR_IDEMPOTENCY_KEY";
const FENCE: &str = "ORCHESTRATOR_FENCE";
const ATTEMPT: &str = "ORCHESTRATOR_ATTEMPT";

/// What is the same for all scripts.
#[derive(Clone, Debug)]
pub struct Environment {
    common: BTreeMap<String, String>,
}

impl Environment {
    pub fn new(pass_env: &BTreeMap<String, String>) -> Self {
        let mut common = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
        for name in INHERITED {
            #[expect(
                clippy::disallowed_methods,
                reason = "these belong to the system, they are not settings of ours"
            )]
            if let Ok(value) = std::env::var(name) {
                common.insert(name.to_owned(), value);
            }
        }
        common.extend(pass_env.clone());
        Self { common }
    }

    /// Later ones win: the common ones, `HOME` and `TMPDIR`, the trace, the step's own
    /// `shell_env`, what names the attempt.
    pub fn of_script(
        &self,
        attempt: &Attempt,
        shell_env: &BTreeMap<String, String>,
        folder: &str,
    ) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        for name in ["HOME", "TMPDIR"] {
            environment.insert(name.to_owned(), folder.to_owned());
        }
        environment.extend(self.common.clone());
        environment.extend(attempt.trace.clone());
        environment.extend(shell_env.clone());
        let own = [
            ("ORCHESTRATOR_EXECUTION_ID", attempt.execution.to_string()),
            ("ORCHESTRATOR_STEP_ID", attempt.step.id.to_string()),
            (KEY, attempt.idempotency_key.clone()),
            (FENCE, attempt.fence.to_string()),
            (ATTEMPT, attempt.number.to_string()),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
        environment
    }
}

/// The entries that no script of another attempt has: by them its processes are known.
pub fn marks(spec: &Spec) -> Vec<Vec<u8>> {
    let entry = |name: &str| {
        let value = spec.environment.get(name).map_or("", String::as_str);
        format!("{name}={value}").into_bytes()
    };
    [KEY, FENCE, ATTEMPT].map(entry).into()
}

#[cfg(test)]
mod tests {
    use super::{super::super::testing::Bench, *};
    use crate::domain::step::Action;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_step_overrides_all_but_what_names_its_attempt() {
        let pass_env = map(&[("TOKEN", "secret"), ("TZ", "UTC"), ("PATH", "/p"), ("LANG", "C")]);
        let environment =
            Environment::new(&map(&[("LC_ALL", "C")]).into_iter().chain(pass_env).collect());
        let shell_env = map(&[("TZ", "CET"), ("TRACEPARENT", "mine"), (FENCE, "999")]);
        let action = Action::Shell { script: "true".into(), env: shell_env.clone() };
        let attempt = Bench::default().attempt(action);
        assert_eq!(
            environment.of_script(&attempt, &shell_env, "/folder"),
            map(&[
                ("HOME", "/folder"),
                ("LANG", "C"),
                ("LC_ALL", "C"),
                ("ORCHESTRATOR_ATTEMPT", "1"),
                ("ORCHESTRATOR_EXECUTION_ID", "execution"),
                ("ORCHESTRATOR_FENCE", "7"),
                ("ORCHESTRATOR_IDEMPOTENCY_KEY", "key"),
                ("ORCHESTRATOR_STEP_ID", "step"),
                ("PATH", "/p"),
                ("TMPDIR", "/folder"),
                ("TOKEN", "secret"),
                ("TRACEPARENT", "mine"),
                ("TZ", "CET"),
            ])
        );
    }
}
