//! Secrets in every place where a step may hold one, and none of them in logs, spans or metrics.

use orchestrator_worker::telemetry;

use super::trees::{Own, Scene};
use crate::{
    contract::sqlite::File,
    http::server::{Act, Server},
    process::json,
};

/// Stands in everything that nobody may see.
const PLANTED: &str = "planted";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_step_holds_or_prints_is_logged_traced_or_counted() {
    let scene = Scene::<Own<File>>::new().await;
    let server = Server::always(Act::answer(
        "200 OK",
        "X-Token: planted-answer-header\r\n",
        "planted-answer",
    ))
    .await;
    let refusing = Server::always(Act::answer("418 No", "", "planted-refusal")).await;
    let url = |server: &Server| {
        let url = server.url("/planted-path?token=planted-query");
        url.replace("http://", "http://planted-user:planted-password@")
    };
    let (url, refusing) = (url(&server), url(&refusing));
    let steps = format!(
        "- {{name: ask, http: {{method: POST, url: '{url}', headers: {{X-Key: planted-header}}, body: planted-body}}}}
- {{name: say, depends_on: [ask], retries: 1, on_failure: skip, env: {{KEY: planted-env}}, shell: 'echo planted-output $PASSED; echo planted-error >&2; exit 3'}}
- {{name: call, depends_on: [say], func: echo, parameters: {{secret: planted-parameter}}}}
- {{name: beg, depends_on: [call], retries: 1, on_failure: skip, http: {{url: '{refusing}'}}}}
- {{name: wait, depends_on: [beg], timeout: 1s, retries: 0, on_failure: skip, shell: 'echo planted-late; sleep 100'}}"
    );
    let worker = scene.worker_with_flags(
        "a",
        &[
            ("ORCHESTRATOR_WORKER__SHELL__PASS_ENV", "PASSED"),
            ("PASSED", "planted-passed"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=planted-otlp"),
        ],
        &["-vv"],
    );
    let id = scene.submit(&steps, &[]);
    scene.wait_for_state(&id, "success");
    let expected = "
RUN it [success]
  wait it
  hold it [a released]
    step ask [success]
      POST [1 success]
    step beg [failure failed]
      GET [1 failed failed]
      GET [2 failed failed]
    step call [success]
      echo [1 success]
    step say [failure failed]
      sh [1 failed failed]
      sh [2 failed failed]
    step wait [timeout timeout]
      sh [1 timeout timeout]
";
    scene.looks(&id, &[], expected).await;
    let shown = json(&scene.url(), ["show", &id]).to_string();
    assert!(shown.contains(": planted-refusal"), "for whoever may see it: {shown}");
    assert!(server.seen()[0].header("x-key").is_some_and(|key| key.contains(PLANTED)));

    for request in scene.keeper.requests() {
        let body = String::from_utf8_lossy(&request.body);
        assert!(!body.contains(PLANTED), "{body}");
    }
    telemetry::install_tls();
    let metrics = reqwest::Client::builder().no_proxy().build().expect("a client");
    let metrics = metrics.get(format!("http://{}/metrics", worker.admin())).send().await;
    let metrics = metrics.expect("it answers").text().await.expect("a text");
    assert!(metrics.contains("orchestrator_worker_telemetry_spans_total{result=\"sent\"}"));
    assert!(!metrics.contains(PLANTED), "{metrics}");
    let lines = worker.lines();
    assert!(lines.len() > 20, "it was told to say everything");
    for line in lines {
        assert!(!line.to_string().contains(PLANTED), "{line}");
    }
}
