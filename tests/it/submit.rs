//! `submit --wait`, as a script uses it: the exit code follows the result.

use std::{fs, path::Path, thread};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    contract::world::World,
    crash::Served,
    process::{Ended, Worker, binary, end_of, json, wait_until},
    stores::on_every_store,
};

on_every_store! {
    whoever_waits_learns_of_a_success_and_of_a_failure
    whoever_waits_learns_of_a_cancellation_and_the_work_stops
}

/// A workflow that succeeds, one that fails, and one that never ends by itself.
fn apply_workflows(url: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, script) in [
        ("good", "echo done"),
        ("bad", "echo 'no such thing' >&2; exit 7"),
        (
            "endless",
            "echo $$ > \"$DIR/pid.new\"; mv \"$DIR/pid.new\" \"$DIR/pid\"; exec sleep 1000",
        ),
    ] {
        let text = format!(
            "name: {name}\nsteps:\n- name: only\n  retries: 0\n  timeout: 1000s\n  env: {{DIR: '{}'}}\n  \
             shell: |\n    {script}\n",
            folder.path().display()
        );
        fs::write(folder.path().join(format!("{name}.yaml")), text).expect("it can be written");
    }
    json(url, ["apply".as_ref(), "-f".as_ref(), folder.path().as_os_str()]);
    folder
}

fn submit(url: &str, words: &[&str]) -> Ended {
    end_of(binary().args(["--database-url", url, "submit", "--wait"]).args(words))
}

async fn whoever_waits_learns_of_a_success_and_of_a_failure<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let _folder = apply_workflows(&url);
    let _worker = Worker::start(&url, "a", &[]);

    let good = submit(&url, &["good"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.stderr.starts_with("submitted good as "), "{good:?}");
    assert!(good.stdout.contains("state      success\n"), "{good:?}");

    let bad = submit(&url, &["bad", "--output", "json"]);
    assert_eq!(bad.code, Some(3), "{bad:?}");
    let shown: Value = serde_json::from_str(&bad.stdout).expect("JSON alone");
    let error = "step only failed: the script ended with exit code 7";
    assert_eq!((&shown["state"], &shown["error"]), (&"failed".into(), &error.into()));
    assert_eq!(shown["steps"][0]["output"], "no such thing\n");
}

async fn whoever_waits_learns_of_a_cancellation_and_the_work_stops<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let folder = apply_workflows(&url);
    let worker = Worker::start(&url, "a", &[]);

    let waiter = thread::spawn({
        let url = url.clone();
        move || submit(&url, &["endless"])
    });
    let pid = wait_until("the step runs", || fs::read_to_string(folder.path().join("pid")).ok());
    let process = format!("/proc/{}", pid.trim());
    assert!(Path::new(&process).exists());
    let cancel = "UPDATE workflow_executions SET status='cancelled' WHERE status='running'";
    assert_eq!(world.subject.exec(cancel).await, 1);

    let ended = waiter.join().expect("no panic");
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stdout.contains("state      cancelled\n"), "{ended:?}");
    assert_eq!(worker.wait_for("execution.finished")["result"], "cancelled");
    assert!(!Path::new(&process).exists(), "what was cancelled does not run any more");
}
