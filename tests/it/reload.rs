//! What a worker takes over while it runs.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Worker, wait_until};

#[test]
fn a_hangup_takes_over_the_log_filter_of_a_file_or_says_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    let database = format!("sqlite://{}", folder.path().join("o.db").display());
    let filter = |filter: &str| {
        fs::write(&file, format!("log: {{filter: {filter:?}}}\n")).expect("it is written");
    };
    filter("info");
    let config = file.to_str().expect("a text");
    let mut worker = Worker::start_with(&database, "a", &[], &["--config", config]);
    worker.wait_for("worker.started");

    filter("info,sqlx=trace");
    worker.signal(Signal::HUP);
    let told = worker.wait_for("log.reloaded");
    assert_eq!(told["filter"], "info,sqlx=trace");
    let is_more = |line: &Value| line["level"] == "TRACE";
    wait_until("it logs more", || worker.lines().iter().any(is_more).then_some(()));

    filter("=");
    worker.signal(Signal::HUP);
    let told = worker.wait_for("log.reload_failed");
    assert!(told["error"].as_str().is_some_and(|it| it.contains("log.filter")), "{told}");
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}
