//! `--watch`, as somebody reads it on a terminal, and as a program reads it without one.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    contract::world::World,
    crash::Served,
    process::{Follower, Worker, binary, json, program, wait_until},
    stores::on_every_store,
};

on_every_store! {
    without_a_terminal_each_change_is_one_line_and_the_exit_code_follows_the_result
    programs_read_one_object_a_change_and_the_list_goes_on
    on_a_terminal_the_steps_are_drawn_over_themselves
}

/// Two steps, each of which waits for a gate; the second fails.
fn apply_gated(url: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        r#"
name: gated
steps:
  - name: first
    timeout: 10m
    env: {{GATE: "{folder}/1"}}
    shell: &wait until [ -e "$GATE" ]; do sleep 0.05; done; exit ${{GATE##*/1}}
  - name: second
    depends_on: [first]
    retries: 0
    timeout: 10m
    env: {{GATE: "{folder}/17"}}
    shell: *wait
"#,
        folder = folder.path().display()
    );
    let file = folder.path().join("gated.yaml");
    fs::write(&file, text).expect("it can be written");
    json(url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    folder
}

fn open(folder: &TempDir, gate: &str) {
    fs::write(folder.path().join(gate), "").expect("it can be written");
}

fn command(url: &str, words: &[&str]) -> Command {
    let mut command = binary();
    command.args(["--database-url", url]).args(words);
    command
}

/// What happens at once: an execution is read before its steps, so they may be told first.
fn both<T: Ord>(one: T, other: T) -> BTreeSet<T> {
    [one, other].into()
}

/// The times, which differ, as `_`.
fn timeless(line: &str) -> String {
    let Some((before, after)) = line.split_once(" after ") else { return line.to_owned() };
    let rest = after.find([':', ',']).map_or("", |at| &after[at..]);
    format!("{before} after _{rest}")
}

async fn without_a_terminal_each_change_is_one_line_and_the_exit_code_follows_the_result<
    S: Served,
>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let folder = apply_gated(&url);
    let watcher = Follower::spawn(&mut command(&url, &["submit", "gated", "--watch"]));
    let first = watcher.line();
    let execution = first.strip_suffix(": pending").expect("nobody has taken it").to_owned();

    let _worker = Worker::start(&url, "a", &[]);
    assert_eq!(
        both(watcher.line(), watcher.line()),
        both(format!("{execution}: running, held by a"), "first: running".to_owned())
    );
    open(&folder, "1");
    assert_eq!(timeless(&watcher.line()), "first: success after _");
    assert_eq!(watcher.line(), "second: running");
    open(&folder, "17");
    let (lines, code) = watcher.end();
    let told: Vec<String> = lines.iter().map(|line| timeless(line)).collect();
    let error = "the script ended with exit code 7";
    assert_eq!(
        told[..4],
        [
            format!("second: failed after _: {error}"),
            format!("{execution}: failed after _: step second failed: {error}"),
            String::new(),
            format!("execution  {execution}"),
        ]
    );
    assert_eq!(code, Some(3));

    let (again, code) = Follower::spawn(&mut command(&url, &["show", &execution, "--watch"])).end();
    let told: Vec<String> = again.iter().take(3).map(|line| timeless(line)).collect();
    let end = format!("{execution}: failed after _: step second failed: {error}");
    assert_eq!(
        told,
        ["first: success after _".into(), format!("second: failed after _: {error}"), end]
    );
    assert_eq!(code, Some(3), "of one that has ended already too");
}

async fn programs_read_one_object_a_change_and_the_list_goes_on<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let _folder = apply_gated(&url);
    let list = Follower::spawn(&mut command(&url, &["list", "--watch", "--output", "json"]));
    let lines = Follower::spawn(&mut command(&url, &["list", "--watch"]));
    let submitted = json(&url, ["submit", "gated"]);
    let execution = submitted["execution"].as_str().expect("an id");
    let told = |follower: &Follower| -> Value {
        serde_json::from_str(&follower.line()).expect("an object a line")
    };
    let first = told(&list);
    assert_eq!((&first["execution"], &first["state"]), (&execution.into(), &"pending".into()));
    assert_eq!(lines.line(), format!("{execution} (gated): pending"));

    let watcher =
        Follower::spawn(&mut command(&url, &["show", execution, "--watch", "--output", "json"]));
    assert_eq!(told(&watcher)["state"], "pending");
    let _worker = Worker::start(&url, "a", &[]);
    let started = [told(&watcher), told(&watcher)];
    assert!(started.iter().any(|change| change["owner"] == "a"), "{started:?}");
    assert!(
        started.iter().any(|change| change["step"] == "first" && change["attempts"] == 1),
        "{started:?}"
    );
    assert_eq!(told(&list)["owner"], "a");
    assert_eq!(lines.line(), format!("{execution} (gated): running, held by a"));

    json(&url, ["cancel", execution]);
    let (rest, code) = watcher.end();
    assert_eq!(code, Some(4));
    let last: Value =
        serde_json::from_str(rest.last().expect("a change")).expect("JSON to the end");
    assert_eq!((&last["step"], &last["state"]), (&Value::Null, &"cancelled".into()));
    assert_eq!(told(&list)["state"], "cancelled");
    assert!(lines.line().starts_with(&format!("{execution} (gated): cancelled")));
}

async fn on_a_terminal_the_steps_are_drawn_over_themselves<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let folder = apply_gated(&url);
    let _worker = Worker::start(&url, "a", &[]);
    let drawn = folder.path().join("drawn");
    let line = format!(
        "stty rows 24 cols 80; exec '{}' --database-url '{url}' submit gated --watch",
        env!("CARGO_BIN_EXE_orchestrator-worker")
    );
    // `script` gives a command a terminal of its own.
    let mut script = program("script");
    script.args(["-qefc", &line]).arg(&drawn).env("NO_COLOR", "1");
    let terminal = Follower::spawn(&mut script);
    let shows = |text: &str| {
        let seen = fs::read_to_string(&drawn).unwrap_or_default();
        seen.contains(text).then_some(seen)
    };
    wait_until("the first step is drawn as running", || shows("first   running      1"));
    open(&folder, "1");
    wait_until("the second step is drawn as running", || shows("second  running      1"));
    open(&folder, "17");
    let (_, code) = terminal.end();
    assert_eq!(code, Some(3));
    let seen = shows("\x1b[5A\r\x1b[J").expect("five lines are drawn over");
    assert!(!seen.contains("\x1b[1m") && !seen.contains("\x1b[3"), "no colours: {seen}");
    let (_, shown) = seen.rsplit_once("\x1b[?7h").expect("the last drawing leaves nothing");
    assert!(
        shown.starts_with("execution  ") && shown.contains("ended with exit code 7"),
        "{shown}"
    );
}
