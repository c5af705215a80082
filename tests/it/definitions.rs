//! What rows are taken to mean: those that are odd and can be run, and what an error shows of those
//! that cannot. (Each kind of row that cannot is an entry of `bad_input`.)

use std::time::Duration;

use http::Method;
use orchestrator_worker::domain::{
    definition::RecordedStep,
    request::Request,
    step::{Action, LONGEST_TIMEOUT, Resume, Step, StepError},
    workflow::{OnFailure, RunMode, Workflow, WorkflowError},
};

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
