//! Whole rows, every column of any kind.
//!
//! **Invariant:** each gives a typed error that says what is wrong, or a workflow that can be run as it
//! stands.

use std::str::FromStr;

use http::{HeaderName, HeaderValue, Method, Uri};
use orchestrator_worker::domain::{
    definition::{Definition, RecordedStep},
    step::{Action, LONGEST_TIMEOUT, Step},
    workflow::Workflow,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::cases;
use crate::graphs::definition;

/// Texts of every kind, among them those that nearly are what a column holds.
fn any_text() -> impl Strategy<Value = Option<String>> {
    let nearly = select(vec![
        "",
        " ",
        "null",
        "[]",
        "{}",
        "[\"\"]",
        "[\"a\"]",
        "[\"a\",\"a\"]",
        "{\"a\":1}",
        "{\"a\":null}",
        "{\"\":1}",
        "{\"resume\":\"fail\"}",
        "{\"resume\":{}}",
        "{\"func\":\"\"}",
        "{\"func\":7}",
        "serial",
        "parallel",
        "abort",
        "skip",
        "shell",
        "func",
        "http",
        "http://h",
        "https://u:p@[::1]:1/%zz?\"{}|^`\\",
        "http://0/ \u{3000}é?ü",
        "{\"Host\":\"\\u00e9\"}",
        "POST",
        "a",
        "a\0b",
        "\u{feff}{}",
        "1e999",
        "[[[[",
        "\"",
    ]);
    option::of(prop_oneof![3 => nearly.prop_map(String::from), 1 => any::<String>()])
}

fn any_row() -> impl Strategy<Value = RecordedStep> {
    let number = || option::of(prop_oneof![Just(0), Just(-1), any::<i64>()]);
    let kind = || select(vec![None, Some("shell"), Some("http")]);
    let url = || option::of("https?://[^\0-\u{1f}]{1,40}");
    (any::<bool>(), kind(), url(), vec(any_text(), 12), number(), number(), number()).prop_map(
        |(is_a, kind, url, texts, timeout, retries, order)| {
            let mut texts = texts.into_iter();
            let mut text = || texts.next().flatten();
            let id = if is_a { Some("a".into()) } else { text() };
            let kind = kind.map(String::from).or_else(&mut text);
            RecordedStep {
                id: id.unwrap_or_default().into(),
                name: text(),
                executor_type: kind,
                http_method: text(),
                http_url: url.or_else(&mut text),
                http_headers: text(),
                http_body: text(),
                shell_script: text(),
                shell_env: text(),
                parameters: text(),
                dependencies: text(),
                run_mode: text(),
                on_failure: None,
                timeout,
                retries,
                order,
            }
        },
    )
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn any_text_in_any_column_gives_an_error_or_a_step_that_can_be_run(row in any_row()) {
        match Step::try_new(&row) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(step) => {
                prop_assert!(!step.name.is_empty() || step.id.as_str().is_empty());
                prop_assert!(!step.timeout.is_zero() && step.timeout <= LONGEST_TIMEOUT);
                if let Action::Http(request) = &step.action {
                    let line = |text: &str| !text.contains(char::is_control);
                    prop_assert!(["http", "https"].contains(&request.url.scheme()));
                    prop_assert!(request.url.has_host() && line(request.url.as_str()));
                    prop_assert!(Uri::from_str(request.url.as_str()).is_ok(), "{}", request.url);
                    prop_assert!(Method::from_str(request.method.as_str()).is_ok());
                    for (name, value) in &request.headers {
                        prop_assert!(HeaderName::from_str(name.as_str()).is_ok());
                        prop_assert!(HeaderValue::from_bytes(value.as_bytes()).is_ok());
                    }
                }
                if let Action::Shell { script, env } = &step.action {
                    prop_assert!(!script.trim().is_empty() && !script.contains('\0'));
                    for (key, value) in env {
                        prop_assert!(!key.is_empty() && !key.contains(['=', '\0']));
                        prop_assert!(!value.contains('\0'));
                    }
                }
            }
        }
    }

    #[test]
    fn any_rows_give_an_error_or_a_graph_whose_edges_lead_to_its_steps(
        rows in vec(any_row(), 0..5), modes in vec(any_text(), 5), failures in vec(any_text(), 5),
    ) {
        let mut rows = rows;
        for ((row, mode), failure) in rows.iter_mut().zip(modes).zip(failures) {
            row.run_mode = mode;
            row.on_failure = failure;
        }
        match Workflow::try_new(&definition(rows.clone())) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(workflow) => {
                prop_assert_eq!(workflow.nodes().len(), rows.len());
                for (id, node) in workflow.ids().zip(workflow.nodes()) {
                    for dependency in &node.dependencies {
                        prop_assert!(workflow.node(*dependency).dependents.contains(&id));
                    }
                }
            }
        }
    }

    #[test]
    fn a_definition_reads_back_from_its_text_as_it_was(rows in vec(any_row(), 0..5)) {
        let before = definition(rows);
        let text = before.to_text();
        prop_assert_eq!(&Definition::from_text(&text).expect("it was just written"), &before);
        prop_assert_eq!(Definition::hash(&text), Definition::hash(&before.clone().to_text()));
    }
}
