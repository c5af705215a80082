//! Bad input, as one corpus: rows and files that no honest program writes, each with how it is
//! written and what must become of it. To add one is to add an entry to one of the tables.
//!
//! **Invariant:** all entries for rows meet in one database, under one worker as the daemon builds it,
//! with honest executions between them. Each ends with a reason of its own, is refused at the prompt,
//! or runs where it is harmless; the honest ones succeed, and nothing is left held.

mod driver;
mod files;
mod graph;
mod on_one_store;
mod requests;
mod rows;
mod steps;

use orchestrator_worker::domain::definition::RecordedStep;

/// One bad input.
pub struct Entry {
    pub name: String,
    pub written: Written,
    pub becomes: Becomes,
}

/// How it is written. In ids, dependencies and statements `{e}` stands for what makes them the
/// entry's own, and in statements `{id}` for the execution, `{past}`, `{now}` and `{soon}` for two hours ago, now
/// and a second from now.
pub enum Written {
    /// As a workflow that is applied and submitted.
    Steps(Vec<RecordedStep>),
    /// By a stranger, in the rows of a submitted execution of two steps, `one` and `two` after it.
    Rows(Vec<String>),
}

/// What becomes of it; a text is a piece of the sentence that says why.
#[derive(Debug)]
pub enum Becomes {
    /// The prompt refuses it.
    Refused(String),
    Failed(String),
    Success,
    /// It stays pending: it is not due, or the lock of somebody alive is on it.
    Waits,
}

impl Entry {
    pub fn steps(name: &str, steps: Vec<RecordedStep>, becomes: Becomes) -> Self {
        Self { name: name.into(), written: Written::Steps(steps), becomes }
    }

    pub fn rows(name: &str, statements: &[&str], becomes: Becomes) -> Self {
        let statements = statements.iter().map(ToString::to_string).collect();
        Self { name: name.into(), written: Written::Rows(statements), becomes }
    }
}

pub fn refused(piece: &str) -> Becomes {
    Becomes::Refused(piece.into())
}

pub fn failed(piece: &str) -> Becomes {
    Becomes::Failed(piece.into())
}

/// A step named `s` that does nothing.
pub fn step(id: &str) -> RecordedStep {
    RecordedStep { retries: Some(0), ..crate::graphs::step(format!("{{e}}{id}")) }
}

pub fn shell(script: &str) -> RecordedStep {
    RecordedStep {
        executor_type: Some("shell".into()),
        shell_script: Some(script.into()),
        ..step("s")
    }
}

pub fn noop(id: &str) -> RecordedStep {
    RecordedStep { parameters: Some(r#"{"func":"noop"}"#.into()), ..step(id) }
}
