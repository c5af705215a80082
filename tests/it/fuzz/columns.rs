//! The columns that hold JSON: dependencies, headers, env.

use std::collections::BTreeSet;

use orchestrator_worker::domain::{
    definition::RecordedStep,
    step::{Action, Step},
    workflow::Workflow,
};
use proptest::prelude::*;

use super::{any_bytes, cases, damaged, pieces};
use crate::graphs::{definition, step};

const LIST: &[&str] = &[
    "[",
    "]",
    "[\"a\"",
    "\"a\"",
    "\"b\"",
    ",\"b\"",
    "\"\\u0061\"",
    "\"c\"",
    ",",
    "null",
    " ",
    "\"",
    "{",
    "}",
    "1",
    "\\",
    "\u{feff}",
];
const OBJECT: &[&str] = &[
    "{",
    "}",
    "{\"A\":\"x\"",
    ",\"B\":\"y\"",
    "\"A\"",
    ":",
    "\"Host\"",
    "\"a b\"",
    "\"\"",
    "1e9",
    "true",
    "null",
    ",",
    "\"x=\"",
    "\"\\u0000\"",
    "\"\\r\\n\"",
    "[",
    "]",
    " ",
    "\"ä\"",
    "\\",
    "\"A\":1",
];

fn list() -> impl Strategy<Value = String> {
    prop_oneof![pieces(LIST, 12), damaged(r#"["a", "b", "\u0063", "a"]"#), any_bytes()]
}

fn object() -> impl Strategy<Value = String> {
    let good = r#"{"A": "x", "X-B": 1.5, "Content-Type": "text/plain; q=1", "C": null}"#;
    prop_oneof![pieces(OBJECT, 16), damaged(good), any_bytes()]
}

/// What a column says: nothing stands for null.
fn json(text: &str) -> &str {
    Some(text.trim()).filter(|text| !text.is_empty()).unwrap_or("null")
}

/// Its entries as texts; none if it is empty.
fn entries(text: &str) -> Vec<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(json(text)).expect("it was accepted");
    let object = value.as_object().cloned().unwrap_or_default();
    let plain = |value: serde_json::Value| match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    object.into_iter().map(|(name, value)| (name, plain(value))).collect()
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn dependencies_that_are_accepted_name_steps_and_make_no_circle(a in list(), b in list()) {
        let after = |id: &str, text: &str| {
            RecordedStep { dependencies: Some(text.into()), ..step(id) }
        };
        let rows = vec![after("a", &a), after("b", &b), step("c")];
        let Ok(workflow) = Workflow::try_new(&definition(rows)) else { return Ok(()) };
        let mut done = BTreeSet::new();
        for _ in workflow.nodes() {
            let free = workflow.ids().find(|id| {
                !done.contains(id)
                    && workflow.node(*id).dependencies.iter().all(|id| done.contains(id))
            });
            done.extend(free);
        }
        prop_assert_eq!(done.len(), 3, "they wait for each other");
        for (node, text) in workflow.nodes().iter().zip([&a, &b]) {
            let named: Option<BTreeSet<String>> = serde_json::from_str(json(text)).expect("a list");
            let kept = node.dependencies.iter().map(|id| workflow.node(*id).step.id.to_string());
            prop_assert_eq!(named.unwrap_or_default(), kept.collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn headers_that_are_accepted_are_those_that_are_sent(text in object()) {
        let row = RecordedStep {
            executor_type: Some("http".into()),
            http_url: Some("http://h/".into()),
            http_headers: Some(text.clone()),
            ..step("s")
        };
        let Ok(Step { action: Action::Http(request), .. }) = Step::try_new(&row) else {
            return Ok(());
        };
        let entries = entries(&text);
        for (name, value) in &request.headers {
            let value = value.as_bytes();
            prop_assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{text}");
            let is_it = |(written, said): &&(String, String)| {
                written.eq_ignore_ascii_case(name.as_str())
                    && said.trim_matches([' ', '\t']).as_bytes() == value
            };
            prop_assert!(entries.iter().any(|entry| is_it(&entry)), "{name:?} is not in {text}");
        }
    }

    #[test]
    fn variables_that_are_accepted_can_be_given_to_a_process(text in object()) {
        let row = RecordedStep {
            executor_type: Some("shell".into()),
            shell_script: Some("true".into()),
            shell_env: Some(text.clone()),
            ..step("s")
        };
        let Ok(Step { action: Action::Shell { env, .. }, .. }) = Step::try_new(&row) else {
            return Ok(());
        };
        for (name, value) in &env {
            prop_assert!(!name.is_empty() && !name.contains(['=', '\0']), "{name:?}");
            prop_assert!(!value.contains('\0'), "{value:?}");
        }
        let mut written = entries(&text);
        written.sort();
        prop_assert_eq!(written, env.into_iter().collect::<Vec<_>>());
    }
}
