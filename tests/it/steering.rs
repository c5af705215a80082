//! An operator steers real workers: what is cancelled stops, what is paused waits, what failed is
//! retried.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    contract::world::World,
    crash::Served,
    process::{Worker, json, wait_until},
};

macro_rules! steering {
    ($module:ident, $subject:ty) => {
        mod $module {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_cancelled_execution_stops_and_is_taken_up_again_by_a_retry() {
                crate::steering::a_cancelled_execution_stops_and_is_taken_up_again_by_a_retry::<
                    $subject,
                >()
                .await;
            }
        }
    };
}

steering!(on_sqlite_file, crate::contract::sqlite::File);
steering!(on_mysql, crate::mysql::Database<crate::mysql::MySql>);
steering!(on_mariadb, crate::mysql::Database<crate::mysql::MariaDb>);

/// Two steps; the second writes its process's id and waits for a gate.
fn gated(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("gated.yaml");
    let text = format!(
        r#"
name: gated
steps:
  - name: first
    shell: echo done
  - name: second
    depends_on: [first]
    timeout: 10m
    env: {{DIR: "{}"}}
    shell: |
      echo $$ > "$DIR/pid.$ORCHESTRATOR_ATTEMPT"
      until [ -e "$DIR/gate" ]; do sleep 0.05; done
"#,
        folder.display()
    );
    fs::write(&file, text).expect("it can be written");
    file
}

fn wait_for_attempt(folder: &TempDir, attempt: u32) -> String {
    let path = folder.path().join(format!("pid.{attempt}"));
    let pid = || fs::read_to_string(&path).ok().filter(|pid| pid.ends_with('\n'));
    wait_until("the second step begins", pid).trim().to_owned()
}

fn wait_for_state(url: &str, execution: &str, state: &str) -> Value {
    wait_until(&format!("it is {state}"), || {
        let shown = json(url, ["show", execution]);
        let is_let_go = shown["owner"].is_null();
        (shown["state"] == state && is_let_go).then_some(shown)
    })
}

fn states(shown: &Value) -> Vec<&str> {
    let steps = shown["steps"].as_array().expect("steps");
    steps.iter().map(|step| step["state"].as_str().expect("a state")).collect()
}

pub async fn a_cancelled_execution_stops_and_is_taken_up_again_by_a_retry<S: Served>() {
    let world = World::<S>::new().await;
    let (folder, url) = (tempfile::tempdir().expect("a folder"), world.subject.url());
    let file = gated(folder.path());
    json(&url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    let mut worker = Worker::start(&url, "a", &[]);
    worker.wait_for("worker.started");

    let paused = json(&url, ["pause", "gated"]);
    assert_eq!(paused[0]["changed"], true);
    let submitted = json(&url, ["submit", "gated"]);
    let execution = submitted["execution"].as_str().expect("an id");
    // One that is not paused goes through meanwhile, so the worker had its chance at the other too.
    let hello = folder.path().join("hello.yaml");
    fs::write(&hello, "name: hello\nsteps:\n  - name: hi\n    func: noop\n").expect("a file");
    json(&url, ["apply".as_ref(), "-f".as_ref(), hello.as_os_str()]);
    json(&url, ["submit", "hello", "--wait"]);
    assert_eq!(json(&url, ["show", execution])["state"], "pending");
    json(&url, ["resume", "gated"]);

    let pid = wait_for_attempt(&folder, 1);
    let cancelled = json(&url, ["cancel", execution]);
    assert_eq!((&cancelled[0]["was"], &cancelled[0]["owner"]), (&"running".into(), &"a".into()));
    let shown = wait_for_state(&url, execution, "cancelled");
    assert_eq!(states(&shown), ["success", "failed"]);
    assert_eq!(shown["steps"][1]["attempts"][0]["outcome"], "cancelled");
    assert!(!Path::new("/proc").join(pid).exists(), "nothing of it runs any more");

    let retried = json(&url, ["retry", execution]);
    assert_eq!(retried["retried"][0], execution);
    wait_for_attempt(&folder, 2);
    fs::write(folder.path().join("gate"), "").expect("it can be written");
    let shown = wait_for_state(&url, execution, "success");
    assert_eq!(states(&shown), ["success", "success"]);
    assert_eq!(shown["steps"][0]["attempts"].as_array().map(Vec::len), Some(1), "it stayed done");

    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}
