//! Rows that no honest orchestrator writes.
//!
//! **Invariant:** each gives a typed error that names its step and what is wrong, or a workflow that
//! can be run as it stands; none panics.

use std::{str::FromStr, time::Duration};

use http::{HeaderName, HeaderValue, Method, Uri};

use orchestrator_worker::domain::{
    definition::{Definition, RecordedStep},
    request::{LONGEST_URL, MOST_HEADERS, Request, RequestError},
    step::{Action, LONGEST_TIMEOUT, Resume, Step, StepError},
    workflow::{OnFailure, RunMode, Workflow, WorkflowError},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::graphs::{definition, step};

fn shell() -> RecordedStep {
    RecordedStep {
        executor_type: Some("shell".into()),
        shell_script: Some("true".into()),
        ..step("s")
    }
}

fn error_of(step: RecordedStep) -> WorkflowError {
    Workflow::try_new(&definition(vec![step])).expect_err("it is malformed")
}

fn json(column: &'static str, expected: &'static str, problem: &str) -> StepError {
    StepError::Json { column, expected, problem: problem.into() }
}

#[test]
fn each_malformed_column_of_a_step_has_its_error() {
    let texts = "a JSON object of texts";
    let object = "a JSON object";
    let func = || step("s");
    let script = |text: &str| RecordedStep { shell_script: Some(text.into()), ..shell() };
    let env = |text: &str| RecordedStep { shell_env: Some(text.into()), ..shell() };
    let parameters = |text: &str| RecordedStep { parameters: Some(text.into()), ..func() };
    let negative = |column, value| StepError::Negative { column, value };
    let end_of_text = "EOF while parsing an object at line 1 column 1";
    for (row, error) in [
        (RecordedStep { executor_type: None, ..func() }, StepError::NoExecutor),
        (RecordedStep { executor_type: Some(String::new()), ..func() }, StepError::NoExecutor),
        (RecordedStep { shell_script: None, ..shell() }, StepError::NoScript),
        (script(""), StepError::NoScript),
        (script(" \n\t"), StepError::NoScript),
        (script("echo\0"), StepError::Nul("shell_script")),
        (env(r#"{"A":"x\u0000"}"#), StepError::Nul("shell_env")),
        (env(r#"{"A\u0000":"x"}"#), StepError::Nul("shell_env")),
        (env("[1]"), json("shell_env", object, "it is another value")),
        (env("{"), json("shell_env", object, end_of_text)),
        (env(r#"{"A":[1]}"#), json("shell_env", texts, "the value of \"A\" is not a text")),
        (env(r#"{"A":{}}"#), json("shell_env", texts, "the value of \"A\" is not a text")),
        (env(r#"{"":"x"}"#), json("shell_env", texts, "\"\" cannot name a variable")),
        (env(r#"{"A=B":"x"}"#), json("shell_env", texts, "\"A=B\" cannot name a variable")),
        (parameters("7"), json("parameters", object, "it is another value")),
        (parameters("{"), json("parameters", object, end_of_text)),
        (parameters(r#"{"resume":"maybe"}"#), StepError::Resume("\"maybe\"".into())),
        (parameters(r#"{"resume":null}"#), StepError::Resume("null".into())),
        (RecordedStep { timeout: Some(-1), ..func() }, negative("timeout", -1)),
        (RecordedStep { retries: Some(i64::MIN), ..func() }, negative("retries", i64::MIN)),
    ] {
        assert_eq!(error_of(row), WorkflowError::Step { name: "s".into(), error });
    }
    let nested = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let deep = RecordedStep { parameters: Some(format!("{{\"a\":{nested}}}")), ..step("s") };
    assert!(error_of(deep).to_string().contains("recursion limit exceeded"));
}

fn http(url: &str) -> RecordedStep {
    RecordedStep { executor_type: Some("http".into()), http_url: Some(url.into()), ..step("s") }
}

fn request_of(row: &RecordedStep) -> Request {
    match Step::try_new(row).expect("it is well made").action {
        Action::Http(request) => *request,
        other => panic!("no request: {other:?}"),
    }
}

#[test]
fn each_malformed_url_and_method_has_its_error() {
    let call = || http("http://h/");
    let url = |problem: &str| RequestError::Url(problem.into());
    let method = |word: &str| RecordedStep { http_method: Some(word.into()), ..call() };
    let control = "it holds a control character or a backslash";
    let beginning = "it does not begin with http:// or https://";
    let scheme = |scheme: &str| RequestError::Scheme(scheme.into());
    let long = format!("http://h/{}", "x".repeat(LONGEST_URL));
    let too_long = url(&format!("it is longer than {LONGEST_URL} bytes"));
    for (row, error) in [
        (RecordedStep { http_url: None, ..call() }, RequestError::NoUrl),
        (http(""), RequestError::NoUrl),
        (http(" "), RequestError::NoUrl),
        (http("h"), url(beginning)),
        (http("http:/h/"), url(beginning)),
        (http("http:h"), url(beginning)),
        (http("//h/"), url(beginning)),
        (http("ftp://h/"), scheme("ftp")),
        (http("file:///etc/passwd"), scheme("file")),
        (http(" http://h/"), scheme(" http")),
        (http("gopher+much+longer+than+that://h/"), scheme("gopher+much+longer+t")),
        (http("http://"), url("empty host")),
        (http("http://:80/"), url("empty host")),
        (http("http://h:65536/"), url("invalid port number")),
        (http("http://h:x/"), url("invalid port number")),
        (http("http://[::1/"), url("invalid IPv6 address")),
        (http("http://[v1.x]/"), url("invalid IPv6 address")),
        (http("http://1.2.3.256/"), url("invalid IPv4 address")),
        (http("http://a b/"), url("invalid international domain name")),
        (http("http://h/\r\nHost: other"), url(control)),
        (http("http://h/\n"), url(control)),
        (http("http://h/\t"), url(control)),
        (http("http://h/\0"), url(control)),
        (http("http://h/\u{85}"), url(control)),
        (http("http://h\\@other/"), url(control)),
        (http(&long), too_long),
        (method("GET /"), RequestError::Method("GET /".into())),
        (method("GET\r\nX: y"), RequestError::Method("GET\r\nX: y".into())),
        (method(" "), RequestError::Method(" ".into())),
        (method("GÉT"), RequestError::Method("GÉT".into())),
        (method("CONNECT"), RequestError::Method("CONNECT".into())),
    ] {
        let error = StepError::Request(error);
        assert_eq!(error_of(row), WorkflowError::Step { name: "s".into(), error });
    }
}

#[test]
fn each_malformed_header_has_its_error() {
    let headers =
        |text: &str| RecordedStep { http_headers: Some(text.into()), ..http("http://h/") };
    let name = |name: &str| RequestError::HeaderName(name.into());
    let value = |name: &str| RequestError::HeaderValue(name.into());
    let many: Vec<String> = (0..=MOST_HEADERS).map(|n| format!("\"h{n}\":\"\"")).collect();
    for (row, error) in [
        (headers(r#"{"":"x"}"#), name("")),
        (headers(r#"{"A B":"x"}"#), name("A B")),
        (headers(r#"{"A:":"x"}"#), name("A:")),
        (headers(r#"{"A\r\nB":"x"}"#), name("A\r\nB")),
        (headers(r#"{"Ä":"x"}"#), name("Ä")),
        (headers(r#"{"A":"x\r\nB: y"}"#), value("A")),
        (headers(r#"{"A":"x\n"}"#), value("A")),
        (headers(r#"{"A":"x\u0000"}"#), value("A")),
        (headers(r#"{"Host":""}"#), value("Host")),
        (headers(r#"{"Host":"a b"}"#), value("Host")),
        (headers(r#"{"Host":"a/b"}"#), value("Host")),
        (headers(r#"{"Host":"u@h"}"#), value("Host")),
        (headers(r#"{"a":"x","A":"y"}"#), RequestError::HeaderTwice("a".into())),
        (headers(&format!("{{{}}}", many.join(","))), RequestError::TooManyHeaders(many.len())),
    ] {
        let error = StepError::Request(error);
        assert_eq!(error_of(row), WorkflowError::Step { name: "s".into(), error });
    }
    let (object, texts) = ("a JSON object", "a JSON object of texts");
    for (text, error) in [
        ("[1]", json("http_headers", object, "it is another value")),
        (r#"{"A":[1]}"#, json("http_headers", texts, "the value of \"A\" is not a text")),
    ] {
        assert_eq!(error_of(headers(text)), WorkflowError::Step { name: "s".into(), error });
    }
}

#[test]
fn a_request_is_taken_as_it_is_meant() {
    for (written, url) in [
        ("HTTP://Host.Example", "http://host.example/"),
        ("https://h/a b?q=a b#part", "https://h/a%20b?q=a%20b"),
        ("http://0x7f.1:8080/", "http://127.0.0.1:8080/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://017700000001/", "http://127.0.0.1/"),
        ("http://1.2.3.4./", "http://1.2.3.4/"),
        ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ] {
        assert_eq!(request_of(&http(written)).url.as_str(), url, "{written}");
    }
    for (written, method) in
        [("", "GET"), ("get", "GET"), ("Post", "POST"), ("PURGE", "PURGE"), ("purge", "purge")]
    {
        let row = RecordedStep { http_method: Some(written.into()), ..http("http://h/") };
        assert_eq!(request_of(&row).method, method);
    }
    let headers =
        r#"{"X-A":" a\t","X-B":1,"Content-Length":"7","Connection":"close","Host":"other"}"#;
    let row = RecordedStep {
        http_headers: Some(headers.into()),
        http_body: Some("{\"a\": 1}\n".into()),
        ..http("http://h/")
    };
    let request = request_of(&row);
    let texts = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("plain characters")));
    let mut texts: Vec<String> = texts.collect();
    texts.sort();
    assert_eq!(texts, ["host: other", "x-a: a", "x-b: 1"]);
    assert_eq!(request.body.as_deref(), Some("{\"a\": 1}\n"));
    assert_eq!(request_of(&http("http://h/")).body, None);
}

#[test]
fn secrets_of_a_request_are_not_shown_with_it() {
    let secret = "hunter2";
    let row = RecordedStep {
        http_headers: Some(format!(r#"{{"X-Key":"{secret}"}}"#)),
        http_body: Some(secret.into()),
        ..http(&format!("https://u:{secret}@h:444/{secret}?key={secret}"))
    };
    let shown = format!("{:?}", Step::try_new(&row).expect("it is well made"));
    assert!(shown.contains("https://h:444") && shown.contains("x-key"), "{shown}");
    assert!(!shown.contains(secret), "{shown}");
    assert!(!format!("{:?}", request_of(&row).headers).contains(secret));
    for url in ["ftp://u:hunter2@h/", "https://u:hunter2@/", "https://u:hunter2@h:x/"] {
        assert!(!error_of(http(url)).to_string().contains(secret), "{url}");
    }
}

#[test]
fn each_malformed_place_in_the_graph_has_its_error() {
    let row = |id: &str| RecordedStep { name: Some(format!("name of {id}")), ..step(id) };
    let after = |id: &str, text: &str| RecordedStep { dependencies: Some(text.into()), ..row(id) };
    let name = || String::from("name of a");
    let unknown = |dependency: &str| WorkflowError::UnknownDependency {
        name: name(),
        dependency: dependency.into(),
    };
    let circle =
        |ids: &[&str]| WorkflowError::Cycle(ids.iter().map(|id| format!("name of {id}")).collect());
    for (rows, error) in [
        (vec![row("a"), row("b"), row("a")], WorkflowError::Duplicate(name())),
        (vec![after("a", r#"["b"]"#)], unknown("b")),
        (vec![after("a", r#"["A"]"#)], unknown("A")),
        (vec![after("a", r#"[""]"#)], unknown("")),
        (vec![after("a", r#"["a"]"#)], circle(&["a", "a"])),
        (vec![after("a", r#"["b"]"#), after("b", r#"["a"]"#)], circle(&["a", "b", "a"])),
        (
            vec![RecordedStep { run_mode: Some("Serial".into()), ..row("a") }],
            WorkflowError::RunMode { name: name(), word: "Serial".into() },
        ),
        (
            vec![RecordedStep { on_failure: Some("retry".into()), ..row("a") }],
            WorkflowError::OnFailure { name: name(), word: "retry".into() },
        ),
    ] {
        assert_eq!(Workflow::try_new(&definition(rows)), Err(error));
    }
    for text in ["7", "{}", "[", "[1]", "[null]", "[[\"a\"]]", "a", "[\"a\",]"] {
        let error = error_of(after("a", text));
        let is_named = |named: &str| *named == name();
        assert!(
            matches!(&error, WorkflowError::Dependencies { name, .. } if is_named(name)),
            "{text}: {error}"
        );
    }
}

#[test]
fn more_steps_than_can_be_run_are_refused_before_they_are_read() {
    let too_many = Workflow::MAX_STEPS + 1;
    let rows = vec![RecordedStep::default(); too_many];
    assert_eq!(Workflow::try_new(&definition(rows)), Err(WorkflowError::TooManySteps(too_many)));
}

#[test]
fn a_step_without_a_name_is_named_by_its_id_in_errors_too() {
    for name in [None, Some(String::new())] {
        let row = RecordedStep { name: name.clone(), ..step("the-id") };
        let workflow = Workflow::try_new(&definition(vec![row.clone()])).expect("it is well made");
        assert_eq!(workflow.nodes()[0].step.name, "the-id");
        let error = error_of(RecordedStep { executor_type: None, ..row });
        assert_eq!(
            error,
            WorkflowError::Step { name: "the-id".into(), error: StepError::NoExecutor }
        );
    }
}

#[test]
fn empty_and_null_columns_mean_their_defaults() {
    for empty in [None, Some(""), Some(" "), Some("null")] {
        let text = empty.map(String::from);
        let call = RecordedStep {
            http_headers: text.clone(),
            http_method: text.clone().filter(String::is_empty),
            ..http("http://h/")
        };
        assert!(request_of(&call).headers.is_empty() && request_of(&call).method == Method::GET);
        let row = RecordedStep {
            shell_env: text.clone(),
            parameters: text.clone(),
            dependencies: text,
            ..shell()
        };
        let workflow = Workflow::try_new(&definition(vec![row])).expect("it is well made");
        let node = &workflow.nodes()[0];
        assert_eq!(node.mode, RunMode::Serial);
        assert_eq!(node.on_failure, OnFailure::Abort);
        assert_eq!(node.step.resume, Resume::Rerun);
        assert_eq!(node.step.timeout, Duration::from_secs(30));
        assert_eq!(node.step.retries, 3);
    }
}

#[test]
fn numbers_beyond_reason_are_cut_to_what_can_be_kept() {
    let row = RecordedStep { timeout: Some(i64::MAX), retries: Some(i64::MAX), ..step("s") };
    let step = Step::try_new(&row).expect("it is well made");
    assert_eq!((step.timeout, step.retries), (LONGEST_TIMEOUT, u32::MAX));
}

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
