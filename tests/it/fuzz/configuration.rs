//! Configuration: files and variables.

use std::{collections::BTreeMap, fs, path::Path};

use orchestrator_worker::config::{Config, Flags, Setting, Surroundings};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{any_bytes, cases, damaged, pieces};

const PIECES: &[&str] = &[
    "slots: 3\n",
    "lock: {ttl: 20s}\n",
    "lock:\n",
    "  ttl: 20s\n",
    "  renew_every: 1s\n",
    "claim:\n",
    "  include: [a, b]\n",
    "  batch: 5\n",
    "database: {url: 'sqlite:a.db'}\n",
    "name: w\n",
    "http:\n",
    "  deny: ['10.0.0.0/8']\n",
    "  body: {sent: 1MiB}\n",
    "admin: {listen: 'off'}\n",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "~",
    "'",
    "\n",
    "&a ",
    "*a",
    "1e9",
    "-1",
    "null\n",
    "\t",
    "---\n",
];
const GOOD: &str = "name: alpha\nslots: 7\npoll_interval: 250ms\nlock: {ttl: 20s, renew_every: 4s}\n\
                    claim: {batch: 3, include: [a, 'b c']}\nhttp:\n  deny: [Example.COM]\n  body: {sent: 64KiB}\n\
                    retention: {success: 30days}\ndatabase: {url: 'mysql://u:p@h:1/d'}\nlog: {filter: info}\n";

const VARIABLES: &[&str] = &[
    "SLOTS",
    "LOCK__TTL",
    "CLAIM__INCLUDE",
    "DATABASE__URL",
    "DATABASE__PASSWORD_FILE",
    "HTTP__DENY",
    "LOG__FILTER",
    "SHELL__GRACE",
    "SHELL__LIMITS__MEMORY",
    "ADMIN__LISTEN",
    "NAME",
    "STEP__BACKOFF__CAP",
    "NO__SUCH",
    "",
];
const VALUES: &[&str] = &[
    "",
    "3",
    "0",
    "-1",
    "20s",
    "1h",
    "a,b",
    ",",
    "sqlite::memory:",
    "mysql://u:p%40@h/d?x=y",
    "off",
    "10.0.0.0/8",
    "512MiB",
    "99999999999999999999GiB",
    "info,a=b",
    "true",
    "0.0.0.0:1",
    "~",
    "\u{0}",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => damaged(GOOD), 3 => pieces(PIECES, 10), 1 => any_bytes()]
}

fn variables() -> impl Strategy<Value = BTreeMap<String, String>> {
    let value = prop_oneof![4 => select(VALUES).prop_map(String::from), 1 => any_bytes()];
    let variable = (select(VARIABLES), value)
        .prop_map(|(name, value)| (format!("ORCHESTRATOR_WORKER__{name}"), value));
    vec(variable, 0..3).prop_map(|all| all.into_iter().collect())
}

fn around(folder: &Path, env: BTreeMap<String, String>) -> Surroundings {
    Surroundings {
        env,
        hostname: "host".into(),
        suffix: "abc123".into(),
        directory: "/here".into(),
        files: vec![folder.join("c.yaml")],
    }
}

/// Settings as `config show` prints them, as variables.
fn as_variables(settings: &[Setting]) -> BTreeMap<String, String> {
    let name =
        |key: &str| format!("ORCHESTRATOR_WORKER__{}", key.to_uppercase().replace('.', "__"));
    let shown = |setting: &Setting| {
        // Without its password, and in other words than it is given in; and a password needs it.
        let is_given = !["database.url", "database.password_file"].contains(&&*setting.key);
        setting.value.clone().filter(|_| is_given).map(|value| (name(&setting.key), value))
    };
    settings.iter().filter_map(shown).collect()
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn a_configuration_is_refused_in_a_sentence_or_accepted_again_as_it_is_shown(
        text in text(), env in variables(),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("c.yaml"), &text).expect("it can be written");
        let surroundings = around(folder.path(), env);
        let config = match Config::load(&Flags::default(), &surroundings) {
            Ok(config) => config,
            Err(error) => {
                prop_assert!(!error.to_string().trim().is_empty());
                return Ok(());
            }
        };
        let is_plain = |name: &str| !name.is_empty() && name.trim() == name && !name.contains(',');
        // A list is shown as a variable takes it, with commas between its names.
        if !config.worker.eligibility.names().all(is_plain) {
            return Ok(());
        }
        let settings = Config::settings(&Flags::default(), &surroundings);
        let settings = settings.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let empty = tempfile::tempdir().expect("a folder");
        let shown = around(empty.path(), as_variables(&settings));
        let again = Config::load(&Flags::default(), &shown);
        let again = again.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(config.worker, again.worker);
        prop_assert_eq!(config.log, again.log);
        prop_assert_eq!(config.shell.limits, again.shell.limits);
        prop_assert_eq!(config.http.policy, again.http.policy);
    }
}
