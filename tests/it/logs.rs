//! `logs`, as somebody reads it while and after another process runs the steps.

use std::{fs, path::Path};

use orchestrator_worker::ports::runner::TELL_EVERY;
use tempfile::TempDir;

use crate::{
    contract::world::World,
    crash::Served,
    process::{Follower, Worker, binary, json, run, wait_until},
    stores::on_every_store,
};

on_every_store! {
    whoever_follows_reads_each_step_and_learns_of_the_end
    whoever_follows_reads_what_a_running_step_prints
}

/// Two steps: the first prints what would steer a terminal, the second waits for a gate and fails.
fn apply_two(url: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        r#"
name: two
steps:
  - name: first
    shell: printf 'one\033[31m\n'
  - name: second
    depends_on: [first]
    retries: 0
    timeout: 10m
    env: {{DIR: "{}"}}
    shell: |
      echo before the gate
      until [ -e "$DIR/gate" ]; do sleep 0.05; done
      printf 'behind it'
      exit 7
"#,
        folder.path().display()
    );
    let file = folder.path().join("two.yaml");
    fs::write(&file, text).expect("it can be written");
    json(url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    folder
}

fn submit(url: &str) -> String {
    json(url, ["submit", "two"])["execution"].as_str().expect("an id").to_owned()
}

fn open_gate(folder: &Path) {
    fs::write(folder.join("gate"), "").expect("it can be written");
}

/// `logs -f` in a process of its own.
fn follow(url: &str, words: &[&str]) -> Follower {
    Follower::spawn(binary().args(["--database-url", url, "logs", "-f"]).args(words))
}

async fn whoever_follows_reads_what_a_running_step_prints<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let folder = apply_two(&url);
    let execution = submit(&url);
    let worker = Worker::start(&url, "a", &[]);
    let follower = follow(&url, &[&execution, "second"]);
    assert_eq!(follower.line(), "before the gate", "while the step runs");
    let shown = json(&url, ["show", &execution]);
    assert_eq!(
        (&shown["steps"][1]["state"], &shown["state"]),
        (&"running".into(), &"running".into())
    );

    open_gate(folder.path());
    let (lines, code) = follower.end();
    let rest = ["behind it", "error: the script ended with exit code 7"].map(str::to_owned);
    assert_eq!((lines, code), (rest.into(), Some(3)));
    drop(worker);

    fs::remove_file(folder.path().join("gate")).expect("it was there");
    let _silent = Worker::start(&url, "b", &[("ORCHESTRATOR_WORKER__SHELL__LIVE_OUTPUT", "false")]);
    let execution = submit(&url);
    let last = follow(&url, &[&execution, "second"]);
    let steps = || json(&url, ["show", &execution])["steps"][1].clone();
    wait_until("the step runs", || (steps()["state"] == "running").then_some(()));
    let since = tokio::time::Instant::now();
    // Nothing happens here: so much longer than it takes where it is on.
    wait_until("it would have been stored", || (since.elapsed() > TELL_EVERY * 2).then_some(()));
    assert!(steps()["output"].is_null(), "what is off is off");
    open_gate(folder.path());
    let (lines, _) = last.end();
    assert_eq!(lines[0], "before the gate", "and its end has it all");
}

async fn whoever_follows_reads_each_step_and_learns_of_the_end<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let folder = apply_two(&url);
    let execution = submit(&url);
    let follower = follow(&url, &[&execution]);
    let of_first = follow(&url, &[&execution, "first"]);
    let _worker = Worker::start(&url, "a", &[]);

    assert_eq!(follower.line(), "==> first <==");
    assert_eq!(follower.line(), "one\u{fffd}[31m", "what steers a terminal does not reach it");
    let (lines, code) = of_first.end();
    assert_eq!((lines, code), (vec!["one\u{fffd}[31m".to_owned()], Some(0)), "it has ended");

    open_gate(folder.path());
    let (lines, code) = follower.end();
    let second = [
        "",
        "==> second <==",
        "before the gate",
        "behind it",
        "error: the script ended with exit code 7",
    ];
    assert_eq!((lines, code), (second.map(str::to_owned).into(), Some(3)));

    let again = run(&url, ["logs", &execution]);
    let text = String::from_utf8(again.stdout).expect("UTF-8");
    let whole = format!("==> first <==\none\u{fffd}[31m\n{}\n", second.join("\n"));
    assert_eq!((text, again.status.code()), (whole, Some(0)));
    let of_second = run(&url, ["logs", "-f", &execution, "second"]);
    assert_eq!(of_second.status.code(), Some(3));
    assert!(of_second.stdout.starts_with(b"before the gate\nbehind it\nerror: "), "{of_second:?}");

    let shown = json(&url, ["logs", &execution, "first"]);
    assert_eq!(shown["steps"][0]["output"], "one\u{1b}[31m\n", "for programs as it is");
    let none = run(&url, ["logs", &execution, "third"]);
    assert_eq!(none.status.code(), Some(1));
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(said.contains("has no step \"third\"; its steps are: first, second"), "{said}");
}
