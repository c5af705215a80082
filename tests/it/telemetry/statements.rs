//! SQL statements in the log of a worker that is told to say everything.

use async_trait::async_trait;
use serde_json::Value;

use super::Run;
use crate::{
    contract::{sqlite::File, world::World},
    crash::Served,
    mysql::{Database, PASSWORD, Server},
    process::Ended,
    stores::on_every_store,
};

/// A secret in each place that a worker knows one from.
const WORKFLOW: &str = "
name: sealed-template
steps:
  - name: sealed-step
    env: {KEY: sealed-in-env}
    shell: echo \"sealed-output $PASSED\" # sealed-script
  - name: sealed-failure
    depends_on: [sealed-step]
    on_failure: skip
    retries: 0
    func: fail
    parameters: {message: sealed-error}
";

/// Statements of a claim, an advance and a commit, as far as the stores have them in common.
const STATEMENTS: [&str; 4] = [
    "INSERT INTO workflow_step_executions",
    "UPDATE workflow_executions SET status='running'",
    "SET status=?",
    "COMMIT",
];

fn run(database: &str, flags: &[&str]) -> Ended {
    let mut run = Run::of_text(WORKFLOW)
        .env("DATABASE_URL", database)
        .env("ORCHESTRATOR_WORKER__SHELL__PASS_ENV", "PASSED")
        .env("PASSED", "sealed-passed")
        .env("ORCHESTRATOR_WORKER__NAME", "sealed-worker")
        .flags(flags);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended
}

/// What was said of statements, each line's texts joined; and all other lines.
fn statements(ended: &Ended) -> (Vec<String>, Vec<String>) {
    let (mut statements, mut others) = (Vec::new(), Vec::new());
    for line in ended.stderr.lines() {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let text = |key: &str| said[key].as_str().unwrap_or_default();
        if text("target") == "sqlx::query" {
            assert_eq!(text("level"), "TRACE", "{line}");
            statements.push(format!("{} {}", text("summary"), text("db.statement")));
        } else {
            others.push(line.to_owned());
        }
    }
    (statements, others)
}

fn told_without_values(database: &str) {
    let (all, others) = statements(&run(database, &["-vv"]));
    let one_line = |text: &String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for wanted in STATEMENTS {
        assert!(all.iter().any(|said| one_line(said).contains(wanted)), "no {wanted} in {all:#?}");
    }
    let execution = others.iter().find_map(|line| {
        let said: Value = serde_json::from_str(line).expect("it was read before");
        (said["event"] == "execution.claimed").then(|| said["execution.id"].clone())
    });
    let execution = execution.expect("it was claimed");
    let execution = execution.as_str().expect("an id");
    for said in &all {
        assert!(!said.contains("sealed"), "a value is in {said}");
        assert!(!said.contains(execution), "a value is in {said}");
    }
    // Names are told elsewhere; secrets nowhere.
    for secret in ["sealed-in-env", "sealed-passed", "sealed-output", "sealed-script", PASSWORD] {
        assert!(!others.iter().any(|line| line.contains(secret)), "{secret} is in {others:#?}");
    }

    for flags in [&[][..], &["-v"]] {
        let (none, _) = statements(&run(database, flags));
        assert_eq!(none, [""; 0], "{flags:?}");
    }
}

on_every_store! {
    statements_are_told_without_their_values
}

async fn statements_are_told_without_their_values<S: Sealed>() {
    let world = World::<S>::new().await;
    told_without_values(&world.subject.sealed_url().await);
}

/// Opened with a password, where its kind has one.
#[async_trait]
trait Sealed: Served {
    async fn sealed_url(&self) -> String;
}

#[async_trait]
impl Sealed for File {
    async fn sealed_url(&self) -> String {
        self.url()
    }
}

#[async_trait]
impl<S: Server> Sealed for Database<S> {
    async fn sealed_url(&self) -> String {
        self.user("ALL").await
    }
}
