//! What commands print for programs is what `docs/json.md` shows; and what they print for people fits
//! 80 columns.
//!
//! **Invariant:** every command that takes `--output json` is on the page, and the page's shapes are
//! those of what the binary printed.

mod shape;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use clap::CommandFactory;
use orchestrator_worker::cli::Cli;
use serde_json::Value;
use tempfile::TempDir;

use self::shape::{Json, Shape};
use crate::{
    crash::Served,
    process::{Follower, Worker, binary, end_of, wait_until},
    stores::on_every_store,
};

on_every_store! {
    every_command_prints_the_shape_that_its_page_shows
    every_table_fits_80_columns_whatever_is_in_it
}

/// Headings of the page that are commands, and the block below each.
fn page() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let text = fs::read_to_string(path).expect("there is a page");
    let section = |section: &str| {
        let (command, rest) = section.split_once("`\n").expect("a heading");
        let (_, rest) =
            rest.split_once("```text\n").unwrap_or_else(|| panic!("no block: {command}"));
        let (block, _) = rest.split_once("\n```").expect("a block ends");
        (command.to_owned(), block.to_owned())
    };
    text.split("\n## `").skip(1).map(section).collect()
}

#[test]
fn every_command_that_prints_json_is_on_the_page() {
    let mut cli = Cli::command();
    cli.build();
    let page = page();
    let told: BTreeSet<&str> = page.keys().map(|command| named(command)).collect();
    let mut there = BTreeSet::new();
    for command in cli.get_subcommands() {
        let takes_json =
            |of: &clap::Command| of.get_arguments().any(|one| one.get_id() == "output");
        let mut add = |name: String, of| {
            if takes_json(of) {
                there.insert(name);
            }
        };
        add(command.get_name().to_owned(), command);
        for nested in command.get_subcommands() {
            add(format!("{} {}", command.get_name(), nested.get_name()), nested);
        }
    }
    assert_eq!(told, there.iter().map(String::as_str).collect());
}

/// The command without what follows: `locks show` of `locks show KEY`.
fn named(command: &str) -> &str {
    let end = command.find(|c: char| c.is_uppercase() || c == '-').unwrap_or(command.len());
    command[..end].trim_end()
}

/// What commands printed on one store.
struct Samples {
    url: String,
    folder: TempDir,
    shapes: BTreeMap<&'static str, Shape>,
}

impl Samples {
    fn new(url: String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { url, folder, shapes: BTreeMap::new() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = binary();
        command.current_dir(self.folder.path()).args(["--database-url", &self.url]);
        command.env("ORCHESTRATOR_WORKER__ADMIN__LISTEN", "off").args(line.split(' '));
        command
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), text).expect("it can be written");
    }

    /// Types a line and takes what it prints as one of the command's samples.
    fn take(&mut self, command: &'static str, line: &str) -> Value {
        let ended = end_of(self.command(line).args(["--output", "json"]));
        self.add(command, "", &ended.stdout);
        serde_json::from_str(&ended.stdout).expect("it was read before")
    }

    /// Types a line that prints an object a line.
    fn watch(&self, line: &str) -> Follower {
        Follower::spawn(self.command(line).args(["--output", "json"]))
    }

    /// What is told until an execution has ended.
    fn take_changes(&mut self, watcher: Follower) {
        let (lines, _) = watcher.end();
        assert!(lines.len() > 1, "{lines:?}");
        for line in lines {
            self.add("show EXECUTION --watch", "change", &line);
        }
    }

    /// The text must be one document and nothing else.
    fn add(&mut self, command: &'static str, path: &str, text: &str) {
        let json: Json =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"));
        let before = self.shapes.remove(command).unwrap_or_default();
        self.shapes.insert(command, before.and(Shape::of(path, &json)));
    }

    fn submit(&mut self, template: &str) -> String {
        let submitted = self.take("submit TEMPLATE", &format!("submit {template}"));
        submitted["execution"].as_str().expect("an id").to_owned()
    }
}

const GOOD: &str = "
name: good
steps:
- {name: one, shell: echo done}
- {name: two, mode: parallel, on_failure: skip, func: noop}
";
const BAD: &str = "
name: bad
steps:
- {name: one, retries: 0, shell: exit 3}
- {name: two, depends_on: [one], func: noop}
";
const LONG: &str = "
name: long
steps:
- {name: one, timeout: 1h, shell: echo begun; sleep 3600}
- {name: two, depends_on: [one], func: noop}
";

async fn every_command_prints_the_shape_that_its_page_shows<S: Served>() {
    let subject = S::create().await;
    let mut samples = Samples::new(subject.url());
    prepare(&mut samples, &subject).await;
    run_and_look(&mut samples);
    steer(&mut samples);
    let shown = page();
    let shapes: BTreeMap<String, String> = samples
        .shapes
        .iter()
        .map(|(command, shape)| ((*command).into(), shape.to_string()))
        .collect();
    let differences: Vec<String> = shapes
        .iter()
        .map(|(command, shape)| (command, shown.get(command).map_or("", String::as_str), shape))
        .filter(|(_, pinned, printed)| pinned != printed)
        .map(|(command, pinned, printed)| format!("`{command}`:\n{}", difference(pinned, printed)))
        .collect();
    assert!(differences.is_empty(), "other shapes are printed:\n{}", differences.join("\n"));
    assert_eq!(shapes.keys().collect::<Vec<_>>(), shown.keys().collect::<Vec<_>>());
}

/// Lines of the first with `-`, of the second with `+`, what both begin and end with left out.
fn difference(pinned: &str, printed: &str) -> String {
    let (mut before, mut after): (Vec<&str>, Vec<&str>) =
        (pinned.lines().collect(), printed.lines().collect());
    for _ in 0..2 {
        let same = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
        before.drain(..same);
        after.drain(..same);
        before.reverse();
        after.reverse();
    }
    let marked = |mark: &str, lines: Vec<&str>| {
        lines.iter().flat_map(|line| [mark, " ", line, "\n"]).collect::<String>()
    };
    marked("-", before) + &marked("+", after)
}

/// The tables, the workflows, and rows as nobody writes them.
async fn prepare<S: Served>(samples: &mut Samples, subject: &S) {
    samples.take("doctor", "doctor --dry-run");
    samples.take("migrate", "migrate --dry-run");
    samples.take("migrate", "migrate");
    samples.take("backlog list", "backlog list");
    for (file, text) in [("good.yaml", GOOD), ("bad.yaml", BAD), ("long.yaml", LONG)] {
        samples.write(file, text);
        samples.take("apply", &format!("apply -f {file}"));
    }
    let old = S::moved(S::now(), -30 * 24 * 3_600_000);
    for odd in [
        format!("INSERT INTO workflow_executions(id, created_at) VALUES ('old', {old})"),
        format!(
            "INSERT INTO workflow_executions(id, template_id, ow_owner, error, created_by, started_at, \
             finished_at, ow_not_before, created_at) SELECT 'older', id, 'x', 'x', 'x', {old}, {old}, {old}, {old} \
             FROM workflow_templates WHERE name='good'"
        ),
        "INSERT INTO workflow_executions(id, status) VALUES ('odd', NULL)".to_owned(),
        "INSERT INTO workflow_step_executions(id, execution_id, status) VALUES ('odd', 'odd', NULL)"
            .to_owned(),
        format!(
            "INSERT INTO distributed_locks(lock_key, owner, expires_at) VALUES ('mine', 'me', {})",
            S::moved(S::now(), 3_600_000)
        ),
    ] {
        subject.exec(&odd).await;
    }
    samples.take("migrate", "migrate");
    samples.take("backlog list", "backlog list");
}

fn run_and_look(samples: &mut Samples) {
    let later = samples.take("submit TEMPLATE", "submit good --after 1h");
    let (good, bad) = (samples.submit("good"), samples.submit("bad"));
    samples.take("graph TEMPLATE", "graph bad");
    samples.take("explain EXECUTION", &format!("explain {good}"));
    samples.take("run --until-idle", "run --until-idle");
    for execution in [&good, &bad, "odd"] {
        samples.take("graph TEMPLATE", &format!("graph {good}"));
        samples.take("show EXECUTION", &format!("show {execution}"));
        samples.take("logs EXECUTION", &format!("logs {execution}"));
    }
    for execution in [&good, "odd"] {
        samples.take("explain EXECUTION", &format!("explain {execution}"));
    }
    let watcher = samples.watch(&format!("show {bad} --watch"));
    samples.take_changes(watcher);
    samples.take("retry EXECUTION", "retry --failed --dry-run");
    samples.take("retry EXECUTION", &format!("retry {bad}"));
    let later = later["execution"].as_str().expect("an id");
    samples.take("show EXECUTION", &format!("show {later}"));
    samples.take("cancel EXECUTION", &format!("cancel {later}"));
    samples.take("cancel EXECUTION", &format!("cancel {later}"));
}

fn steer(samples: &mut Samples) {
    for line in ["pause good", "pause --all"] {
        samples.take("pause TEMPLATE", line);
    }
    samples.take("pause", "pause");
    for line in ["resume --all", "resume good"] {
        samples.take("resume TEMPLATE", line);
    }
    let worker = Worker::start(&samples.url, "a", &[]);
    let long = samples.submit("long");
    let show = format!("show {long}");
    wait_until("the step has printed", || {
        let shown = samples.take("show EXECUTION", &show);
        shown["steps"][0]["output"].is_string().then_some(())
    });
    for (command, line) in [("workers", "workers"), ("locks list", "locks list")] {
        samples.take(command, line);
    }
    let listed = samples.take("list", "list");
    let watcher = samples.watch("list --watch");
    for _ in listed.as_array().expect("a list") {
        samples.add("list", "", &format!("[{}]", watcher.line()));
    }
    drop(watcher);
    for key in [&long, "mine"] {
        samples.take("locks show KEY", &format!("locks show {key}"));
    }
    samples.take("explain EXECUTION", &format!("explain {long}"));
    // From before the cancellation on, while somebody holds it.
    let watcher = samples.watch(&format!("{show} --watch"));
    samples.add("show EXECUTION --watch", "change", &watcher.line());
    samples.take("cancel EXECUTION", &format!("cancel {long}"));
    samples.take_changes(watcher);
    let watcher = samples.watch("submit good --watch");
    samples.take_changes(watcher);
    samples.take("show EXECUTION", "submit good --wait");
    drop(worker);
    for line in ["locks clean --expired --dry-run", "locks clean --expired"] {
        samples.take("locks clean", line);
    }
    samples.take("backlog release", "backlog release --all");
    samples.take("doctor", "doctor --templates --dry-run");
    samples.take("config show", "config show");
}

/// A word that no line can be broken at.
fn long(word: &str) -> String {
    format!("{word}-").repeat(20) + word
}

async fn every_table_fits_80_columns_whatever_is_in_it<S: Served>() {
    let subject = S::create().await;
    let url = subject.url();
    let samples = Samples::new(url.clone());
    let (template, step, owner) = (long("template"), long("step"), &long("owner")[..120]);
    let error = "the message of the failure is longer than a line ".repeat(9) + &long("error");
    samples.write(
        "long.yaml",
        &format!(
            "name: {template}\nsteps:\n- {{name: {step}, shell: 'echo {step}; [ ! -e go ]'}}\n- {{name: \
             {step}2, depends_on: [{step}], retries: 0, func: fail, parameters: {{message: {error}}}}}\n"
        ),
    );
    samples.write(
        "gate.yaml",
        &format!("name: gate\nsteps:\n- {{name: {step}, shell: sleep 3600}}\n"),
    );
    let fits = |line: &str| {
        let ended = end_of(&mut samples.command(line));
        assert_ne!(ended.stdout, "", "{line} prints a table");
        for printed in ended.stdout.lines() {
            assert!(printed.chars().count() <= 80, "{line}: {printed:?} in\n{}", ended.stdout);
        }
        ended.stdout
    };
    let id = |printed: String| printed.trim_end().to_owned();
    fits("doctor --dry-run");
    fits("migrate --dry-run");
    fits("migrate");
    subject
        .exec(&format!(
            "INSERT INTO workflow_executions(id, status, created_at) VALUES ('old', 'pending', {})",
            S::moved(S::now(), -30 * 24 * 3_600_000)
        ))
        .await;
    fits("apply -f long.yaml");
    fits("doctor --templates --dry-run");
    fits("apply -f gate.yaml");
    fits(&format!("graph {template}"));
    let failed = id(fits(&format!("submit {template}")));
    fits(&format!("explain {failed}"));
    for line in ["pause", "pause --all", "resume --all", "resume", "pause"] {
        let names = if line.ends_with("pause") || line == "resume" { &template } else { "" };
        fits(format!("{line} {names}").trim_end());
    }
    fits("pause");
    fits(&format!("explain {failed}"));
    fits(&format!("resume {template}"));
    fits("run --until-idle");
    for command in ["show", "explain", "graph"] {
        fits(&format!("{command} {failed}"));
    }
    let _worker = Worker::start(&url, owner, &[]);
    let running = id(fits("submit gate"));
    wait_until("it runs", || fits(&format!("show {running}")).contains("held by").then_some(()));
    for line in ["list", "workers", "locks list", "backlog list", "config show"] {
        fits(line);
    }
    for command in ["show", "explain", "locks show", "cancel"] {
        fits(&format!("{command} {running}"));
    }
    fits("locks clean --expired");
    fits("retry --failed --dry-run");
    fits("backlog release --all");
}
