//! A run's spans, and collectors that are of no help.

use std::{net::TcpListener, time::Duration};

use axum::http::StatusCode;
use orchestrator_worker::{domain::key::hex, telemetry::FLUSH_DEADLINE};
use serde_json::Value;

use super::{
    Run,
    collector::{Collector, attribute},
    tree::{all_of_collector, draw},
};
use crate::process::Ended;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

fn lines(ended: &Ended) -> Vec<Value> {
    let object = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    ended.stderr.lines().map(object).collect()
}

fn events(ended: &Ended, event: &str) -> usize {
    lines(ended).iter().filter(|line| line["event"] == event).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runs_spans_arrive_as_one_trace_and_log_lines_name_them() {
    let collector = Collector::start(StatusCode::OK);
    let mut run = Run::of_example("skip")
        .env(ENDPOINT, &collector.endpoint())
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hush")
        .env("ORCHESTRATOR_WORKER__NAME", "worker-of-this")
        .flags(&["-vv"]);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");

    for request in collector.requests() {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/traces"));
        assert_eq!(request.headers["content-type"], "application/x-protobuf");
        assert_eq!(request.headers["authorization"], "Bearer hush");
        let holds = |text: &[u8]| request.body.windows(text.len()).any(|part| part == text);
        assert!(!holds(b"42 orders") && !holds(b"service is closed"), "outputs stay here");
    }
    assert!(!ended.stderr.contains("hush"), "a secret is never logged");

    let spans = collector.spans();
    for (resource, span) in &spans {
        assert_eq!(
            attribute(&resource.attributes, "service.name").as_deref(),
            Some("orchestrator-worker")
        );
        let version = attribute(&resource.attributes, "service.version");
        assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    }
    let trace = spans[0].1.trace_id.clone();
    let kept = all_of_collector(&collector);
    assert_eq!(kept.len(), spans.len(), "one trace");
    let drawn = draw(&kept, &[]).expect("a whole trace");
    let expected = "RUN skip [success]
  wait skip
  hold skip [worker-of-this released]
    step collect [success]
      sh [1 success]
    step exchange rates [failure failed]
      sh [1 failed failed]
    step send report [success]
      sh [1 success]";
    assert_eq!(drawn, expected);

    let lines = lines(&ended);
    let run = kept.iter().find(|span| span.name == "RUN skip").expect("it was run");
    let id = &run.attributes["cicd.pipeline.run.id"];
    let of_execution: Vec<&Value> =
        lines.iter().filter(|line| line["execution.id"] == id.as_str()).collect();
    assert!(of_execution.iter().any(|line| line["event"] == "execution.submitted"));
    for line in of_execution {
        assert_eq!(line["trace_id"], hex(&trace), "{line}");
        assert!(kept.iter().any(|span| line["span_id"] == span.id), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_standard_variables_say_where_spans_go_and_whose_they_are() {
    let collector = Collector::start(StatusCode::OK);
    let elsewhere = format!("{}/by/hand", collector.endpoint());
    let mut run = Run::of_example("hello")
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &elsewhere)
        .env("OTEL_SERVICE_NAME", "night shift");
    assert_eq!(run.end().code, Some(0));
    assert!(collector.requests().iter().all(|request| request.path == "/by/hand"));
    let (resource, _) = collector.spans().pop().expect("spans");
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("night shift"));

    let collector = Collector::start(StatusCode::OK);
    for (name, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let mut run = Run::of_example("hello").env(ENDPOINT, &collector.endpoint());
        run = run.env(name, value);
        assert_eq!(run.end().code, Some(0));
    }
    assert_eq!(collector.requests().len(), 0, "what is turned off sends nothing");

    let mut run = Run::of_example("hello")
        .env(ENDPOINT, &collector.endpoint())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    assert_eq!(events(&run.end(), "telemetry.protocol"), 1, "what is not spoken is told");
}

/// A run with a collector that is of no help: nothing of the work changes, and the end comes.
fn without_help(endpoint: &str) -> Ended {
    // Longer than the process may wait, so that only its own deadline can end the wait.
    let timeout = FLUSH_DEADLINE * 20;
    let mut run = Run::of_example("hello")
        .env(ENDPOINT, endpoint)
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", &timeout.as_millis().to_string());
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.ends_with("1 succeeded\n"), "{ended:?}");
    let work: u64 = lines(&ended)
        .iter()
        .find(|line| line["event"] == "execution.finished")
        .and_then(|line| line["duration_ms"].as_u64())
        .expect("it finished");
    assert!(Duration::from_millis(work) < FLUSH_DEADLINE, "the work waits for nobody: {ended:?}");
    assert!(ended.took < FLUSH_DEADLINE * 3, "{ended:?}");
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_there_or_refuses_costs_one_line() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr();
    let closed = format!("http://{}", closed.expect("an address"));
    assert_eq!(events(&without_help(&closed), "telemetry.export_failed"), 1);

    let refusing = Collector::start(StatusCode::FORBIDDEN);
    assert_eq!(events(&without_help(&refusing.endpoint()), "telemetry.export_failed"), 1);

    let nonsense = without_help("nonsense");
    assert_eq!(events(&nonsense, "telemetry.unavailable"), 1);
}

#[test]
fn a_collector_that_never_answers_delays_the_end_by_no_more_than_the_deadline() {
    // Connections are made, and nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let ended = without_help(&format!("http://{}", silent.local_addr().expect("an address")));
    assert_eq!(events(&ended, "telemetry.unflushed"), 1, "{ended:?}");
}
