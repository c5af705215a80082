//! HTTP steps through the whole program: the real binary on an SQLite file, against a server of the
//! test.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::server::{Act, Server};
use crate::process::{Worker, json, wait_until};

/// A folder with a database and a workflow in it.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn database(&self) -> String {
        format!("sqlite://{}", self.folder.path().join("store.db").display())
    }

    /// Puts a workflow of these steps in and submits it.
    fn submit(&self, steps: &str) -> String {
        let file = self.folder.path().join("calls.yaml");
        fs::write(&file, format!("name: calls\nsteps:\n{steps}")).expect("it can be written");
        json(&self.database(), ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
        let submitted = json(&self.database(), ["submit", "calls"]);
        submitted["execution"].as_str().expect("an id").to_owned()
    }

    fn show(&self, execution: &str) -> Value {
        json(&self.database(), ["show", execution])
    }

    fn wait_for(&self, execution: &str, state: &str) -> Value {
        wait_until(&format!("the execution is {state}"), || {
            let shown = self.show(execution);
            (shown["state"] == state).then_some(shown)
        })
    }

    fn worker(&self, name: &str) -> Worker {
        let quick = [
            ("ORCHESTRATOR_WORKER__STEP__BACKOFF__BASE", "1ms"),
            ("ORCHESTRATOR_WORKER__STEP__BACKOFF__CAP", "1ms"),
        ];
        Worker::start(&self.database(), name, &quick)
    }
}

fn outcomes(step: &Value) -> Vec<&str> {
    let attempts = step["attempts"].as_array().expect("attempts");
    attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_tried_again_under_a_new_key_after_503_and_its_output_is_shown() {
    let server = Server::start(|seen| match seen.header("orchestrator-attempt") {
        Some("1") => Act::answer("503 X", "Retry-After: 1\r\n", "not yet"),
        _ => Act::answer("201 X", "Set-Cookie: hunter2\r\nX-A: b\r\n", r#"{"done":true}"#),
    })
    .await;
    let bench = Bench::new();
    let url = server.url("/things");
    let execution = bench.submit(&format!(
        r#"
- name: call
  http: {{method: POST, url: "{url}", headers: {{Authorization: hunter2}}, body: {{a: 1}}}}
"#
    ));
    let mut worker = bench.worker("a");
    let shown = bench.wait_for(&execution, "success");

    let seen = server.seen();
    let header = |name: &str| -> Vec<&str> {
        seen.iter().map(|seen| seen.header(name).unwrap_or_default()).collect()
    };
    assert_eq!(seen[1].line, "POST /things HTTP/1.1");
    assert_eq!(seen[1].body, br#"{"a":1}"#);
    assert_eq!(header("orchestrator-attempt"), ["1", "2"]);
    assert_eq!(header("content-type"), ["application/json"; 2]);
    assert_eq!(header("authorization"), ["hunter2"; 2]);
    let (keys, fences) = (header("idempotency-key"), header("orchestrator-fence"));
    assert!(keys[0] != keys[1] && keys[0].len() == 64, "{keys:?}");
    assert_eq!(fences[0], fences[1]);

    let step = &shown["steps"][0];
    assert_eq!((outcomes(step), &step["retry_count"]), (vec!["failed", "success"], &json!(1)));
    let output: Value =
        serde_json::from_str(step["output"].as_str().expect("an output")).expect("JSON");
    let headers = json!({"content-length": "13", "x-a": "b"});
    let expected = json!({"status_code": 201, "headers": headers, "body": r#"{"done":true}"#});
    assert_eq!(output, expected);
    let retrying = worker.wait_for("step.retrying");
    let error = format!("{} answered 503 Service Unavailable", server.address);
    assert_eq!((&retrying["error"], &retrying["delay"]), (&json!(error), &json!("1s")));
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_when_its_worker_is_killed_is_sent_again_under_the_same_key() {
    let server = Server::start(|seen| match seen.header("orchestrator-attempt") {
        Some("1") => Act::Hang,
        _ => Act::ok("done"),
    })
    .await;
    let bench = Bench::new();
    let url = server.url("/");
    let execution = bench.submit(&format!(
        "- {{name: call, retries: 0, timeout: 100s, http: {{method: POST, url: \"{url}\"}}}}\n"
    ));
    let mut a = bench.worker("a");
    server.has_seen(1).await;
    let b = bench.worker("b");
    b.wait_for("worker.idle");

    a.signal(Signal::KILL);
    a.wait();
    server.was_left(1).await;

    let shown = bench.wait_for(&execution, "success");
    let step = &shown["steps"][0];
    assert_eq!((outcomes(step), &step["retry_count"]), (vec!["lost", "success"], &json!(0)));
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    let fence = |place: usize| -> u64 {
        seen[place].header("orchestrator-fence").expect("a fence").parse().expect("a number")
    };
    assert!(fence(0) < fence(1), "a receiver can tell the later worker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_ends_times_out_under_one_key_and_what_may_not_be_called_is_not() {
    let drip = Act::Repeat {
        head: "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".into(),
        piece: "x".into(),
        every: std::time::Duration::from_millis(20),
    };
    let server = Server::always(drip).await;
    let bench = Bench::new();
    let worker = bench.worker("a");
    let admin = worker.wait_for("admin.listening")["address"].as_str().expect("it").to_owned();
    let url = server.url("/");
    let execution = bench.submit(&format!(
        r#"
- {{name: drip, on_failure: skip, retries: 1, timeout: 1s, http: {{url: "{url}"}}}}
- {{name: admin, on_failure: skip, retries: 0, http: {{url: "http://{admin}/metrics"}}}}
- {{name: metadata, on_failure: skip, retries: 0, http: {{url: "http://169.254.169.254/"}}}}
"#
    ));
    let shown = bench.wait_for(&execution, "success");
    let steps = shown["steps"].as_array().expect("steps");
    let error = |place: usize| steps[place]["error"].as_str().expect("an error");
    assert_eq!((outcomes(&steps[0]), error(0)), (vec!["timeout"; 2], "timed out after 1s"));
    server.was_left(2).await;
    let seen = server.seen();
    assert_eq!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    let own = "127.0.0.1 is this worker's own admin port, which no step may call";
    assert_eq!(error(1), format!("may not call {admin}: {own}"));
    assert!(error(2).starts_with("may not call 169.254.169.254:80: "), "{}", error(2));
}
