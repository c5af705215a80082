//! Section "quick start" of the lock guide: a database, and an execution that is run under its lock.
//!
//! `cargo run --example quick_start mysql://user@host/database`, after `orchestrator-worker migrate`; or
//! without an address, on an SQLite file in the temporary folder.

use std::{env, error::Error};

use orchestrator_worker::{
    domain::definition::{Definition, RecordedStep},
    orchestrator::{Database, Executed, Orchestrator},
    ports::control::{About, Start, Submission},
};
use sqlx::MySqlPool;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let database = match env::args().nth(1) {
        Some(url) => Database::from(MySqlPool::connect(&url).await?),
        None => env::temp_dir().join("quick-start.db").into(),
    };
    println!("{:?}", run(database).await?);
    Ok(())
}

pub async fn run(database: Database) -> Result<Executed, Box<dyn Error>> {
    let orchestrator = Orchestrator::new(database);
    let id = submit(&orchestrator).await?;
    // It is claimed, its lease renewed for as long as it runs, and its end recorded.
    Ok(orchestrator.execute_workflow(&id).await?)
}

/// An execution of a workflow of one step, as `orchestrator-worker submit` makes one.
pub async fn submit(orchestrator: &Orchestrator) -> Result<String, Box<dyn Error>> {
    let greet = RecordedStep {
        id: "quick-start-greet".into(),
        name: Some("greet".into()),
        executor_type: Some("func".into()),
        parameters: Some(r#"{"func":"echo","message":"hello"}"#.into()),
        ..RecordedStep::default()
    };
    let workflow = Definition {
        template: "quick-start".into(),
        name: "quick start".into(),
        steps: vec![greet],
    };
    let control = orchestrator.control().await?;
    control.apply(&workflow, &About::default()).await?;
    let submission = Submission {
        template: workflow.name,
        created_by: "the quick start".into(),
        start: Start::Now,
        traceparent: None,
    };
    Ok(control.submit(&submission).await?.execution.to_string())
}
