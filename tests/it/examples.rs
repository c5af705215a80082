//! The example workflows, and those in the README, are ones that a worker runs, and they do what
//! their comments say.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator_worker::{cli::workflow_file, domain::workflow::Workflow};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{binary, end_of, unbroken};

/// A step as `show` tells it: name, state, output. `*` stands for any text.
type Step = (&'static str, &'static str, &'static str);

const HELLO: [Step; 2] =
    [("greet", "success", "hello from *\n"), ("tell the time", "success", "* UTC *\n")];

const RELEASE: [Step; 8] = [
    ("checkout", "success", "checking out version 1.4.2\n"),
    ("lint", "success", "no complaints\n"),
    ("test", "success", "suite unit passed\nsuite integration passed\n"),
    ("docs", "success", "12 pages written\n"),
    ("package", "success", "*  package.tar\n"),
    ("publish eu", "success", "publishing to eu under the key *\n"),
    ("publish us", "success", "publishing to us, attempt 1\n"),
    ("announce", "success", "version 1.4.2 is out"),
];

const SKIP: [Step; 3] = [
    ("collect", "success", "42 orders\n"),
    ("exchange rates", "failed", "asking for exchange rates\nthe service is closed today\n"),
    ("send report", "success", "report sent, without exchange rates\n"),
];

const SKIPPED: &str =
    "skipped over failed steps: exchange rates (the script ended with exit code 1)";

/// Each example, its steps, and the execution's error.
const EXAMPLES: [(&str, &[Step], Option<&str>); 3] =
    [("hello", &HELLO, None), ("release", &RELEASE, None), ("skip", &SKIP, Some(SKIPPED))];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples")
}

#[test]
fn every_workflow_in_the_readme_is_one() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&readme).expect("there is a README");
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let (workflow, _) = block.split_once("\n```").expect("it ends");
        workflow_file::parse(&readme, workflow, "test").expect("a workflow");
    }
}

#[test]
fn every_example_is_a_workflow_and_its_comments_teach() {
    let files = workflow_file::load(&folder(), "test").expect("the examples are right");
    let names: Vec<&str> = files.iter().map(|file| file.definition.name.as_str()).collect();
    assert_eq!(names, EXAMPLES.map(|(name, ..)| name));
    for file in files {
        let workflow = Workflow::try_new(&file.definition).expect("it can be run");
        assert!(workflow.nodes().len() > 1, "{}", file.definition.name);
        let text = std::fs::read_to_string(&file.path).expect("it was read before");
        assert!(text.starts_with("# "), "{} begins with what it is", file.path.display());
        assert!(!file.about.description.is_empty());
    }
}

#[test]
fn every_example_runs_to_its_end_and_is_shown_with_its_outputs() {
    for (name, steps, error) in EXAMPLES {
        let here = tempfile::tempdir().expect("a folder");
        let file = folder().join(format!("{name}.yaml"));
        let file = file.to_str().expect("UTF-8");
        let said = typed(&here, &["run", "--submit", file, "--until-idle"]);
        let execution = only_row(&said, name);
        let tail = error.map_or_else(String::new, |error| format!("{name}: {error} "));
        assert!(unbroken(&said).ends_with(&format!(" {name} {tail}1 succeeded")), "{said}");

        let shown = typed(&here, &["show", &execution, "--output", "json"]);
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["state"], "success", "{shown:#}");
        assert_eq!(shown["error"].as_str(), error, "{shown:#}");
        let told: Vec<_> = shown["steps"].as_array().expect("steps").iter().map(step).collect();
        assert_eq!(told.len(), steps.len(), "{told:?}");
        for ((name, state, output), expected) in told.iter().zip(steps) {
            assert_eq!((name.as_str(), state.as_str()), (expected.0, expected.1));
            assert!(is_like(output, expected.2), "{name}: {output:?}");
        }

        let table = typed(&here, &["show", &execution]);
        for (step, state, _) in steps {
            let row = table.lines().find(|line| line.starts_with(&format!("{step}  ")));
            assert!(row.is_some_and(|row| row.contains(state)), "{step} in {table}");
        }
    }
}

#[test]
fn steps_that_may_run_beside_each_other_do() {
    let here = tempfile::tempdir().expect("a folder");
    let file = folder().join("release.yaml");
    let line = ["run", "--submit", file.to_str().expect("UTF-8"), "--until-idle"];
    let execution = only_row(&typed(&here, &line), "release");
    let shown = typed(&here, &["show", &execution, "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let steps = shown["steps"].as_array().expect("steps");
    // Times as RFC 3339 in UTC with milliseconds: the texts are in the order of the times.
    let time = |step: &str, which: &str| {
        let step = steps.iter().find(|one| one["name"] == step).expect("a step");
        step[which].as_str().expect("a time").to_owned()
    };
    let beside = ["lint", "test", "docs"];
    let last_start = beside.map(|step| time(step, "started_at")).into_iter().max();
    let first_end = beside.map(|step| time(step, "finished_at")).into_iter().min();
    assert!(last_start < first_end, "{shown:#}");
    for step in ["publish eu", "publish us"] {
        assert!(time(step, "started_at") >= time("package", "finished_at"), "{shown:#}");
    }
}

#[test]
fn a_run_ends_with_its_last_execution_however_seldom_the_worker_looks_for_work() {
    let here = tempfile::tempdir().expect("a folder");
    let seldom = Duration::from_secs(60);
    let mut command = binary();
    command
        .current_dir(here.path())
        .env("ORCHESTRATOR_WORKER__ADMIN__LISTEN", "off")
        .env("ORCHESTRATOR_WORKER__POLL_INTERVAL", format!("{}s", seldom.as_secs()))
        .args(["run", "--until-idle", "--submit"])
        .arg(folder().join("hello.yaml"));
    // An end that is missed is missed now and then only.
    for _ in 0..25 {
        let ended = end_of(&mut command);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.took < seldom / 2, "{ended:?}");
    }
}

/// Types a command that succeeds in a folder whose database is the default one; returns what it
/// prints.
fn typed(here: &TempDir, line: &[&str]) -> String {
    let mut command = binary();
    command.current_dir(here.path()).env("ORCHESTRATOR_WORKER__ADMIN__LISTEN", "off").args(line);
    let ended = end_of(&mut command);
    assert_eq!(ended.code, Some(0), "{line:?}: {ended:?}");
    ended.stdout
}

/// The execution in the table at the end of a run: one row, a success of this workflow.
fn only_row(said: &str, workflow: &str) -> String {
    let lines: Vec<Vec<&str>> =
        said.lines().map(|line| line.split_whitespace().collect()).take(3).collect();
    let [head, row, gap] = &lines[..] else { panic!("{said}") };
    assert_eq!(head[..], ["EXECUTION", "STATE", "TOOK", "WORKFLOW"], "{said}");
    let [execution, "success", _, name] = row[..] else { panic!("{said}") };
    assert_eq!(name, workflow);
    assert!(gap.is_empty(), "{said}");
    execution.to_owned()
}

fn step(shown: &Value) -> (String, String, String) {
    let text = |key: &str| shown[key].as_str().unwrap_or_default().to_owned();
    (text("name"), text("state"), text("output"))
}

fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}
