//! Why a workflow file is refused.
//!
//! **Invariant:** each is one sentence that begins with file and line and says what to mend.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::domain::workflow::WorkflowError;

/// A problem and where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct WorkflowFileError {
    pub file: PathBuf,
    /// Counted from 1, where it is known.
    pub line: Option<u64>,
    pub problem: Box<Problem>,
}

impl fmt::Display for WorkflowFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl WorkflowFileError {
    pub(super) fn new(file: &Path, problem: Problem) -> Self {
        Self { file: file.to_owned(), line: None, problem: Box::new(problem) }
    }

    pub(super) fn at(file: &Path, line: u64, problem: Problem) -> Self {
        // The parser's 0 stands for an unknown place.
        Self { line: Some(line).filter(|line| *line > 0), ..Self::new(file, problem) }
    }

    pub(super) fn unreadable(file: &Path, error: &io::Error) -> Self {
        Self::new(file, Problem::Unreadable(error.to_string()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("cannot read it: {0}; give a workflow file or a folder with *.yaml files")]
    Unreadable(String),
    #[error("there is no *.yaml file in this folder; name another, or a file")]
    NoFiles,
    #[error("it has more bytes than the {most} that a workflow file may have")]
    TooLarge { most: u64 },
    #[error("it is not a text in UTF-8; save it as one")]
    NotText,
    #[error("template {name:?} is in {other} already; give each file a name of its own")]
    SameTemplate { name: String, other: String },
    /// In the parser's words, or better ones.
    #[error("{0}")]
    Yaml(String),
    #[error("the template's name is {0:?}; give it 1 to 200 characters on one line")]
    TemplateName(String),
    #[error(
        "the workflow has no steps; give it at least one, with a name and `shell`, `http` or `func`"
    )]
    NoSteps,
    #[error("step {name:?} {problem}")]
    Step { name: String, problem: StepProblem },
    #[error("{0}; take one of them out of `depends_on`")]
    Cycle(WorkflowError),
    #[error("{0}")]
    Workflow(WorkflowError),
}

/// Goes on with a sentence that the step's name begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepProblem {
    #[error("has an unusable name; give it 1 to 200 characters on one line")]
    Name,
    #[error("stands here and in line {0}; give each step a name of its own")]
    Twice(u64),
    #[error("says none of `shell`, `http` and `func`; give it one of them")]
    NoAction,
    #[error("says both `{first}` and `{second}`; make it two steps")]
    TwoActions { first: &'static str, second: &'static str },
    #[error("has an empty `shell`; give it a script")]
    NoScript,
    #[error("has an empty `func`; give it a function's name, such as sleep")]
    NoFunction,
    #[error("has `{field}`, which goes with `{with}` only; take it out")]
    Misplaced { field: &'static str, with: &'static str },
    #[error("has `parameters.{key}`; write it as `{key}:` beside `name`")]
    Reserved { key: &'static str },
    #[error("has the timeout {0:?}; give whole seconds with a unit, such as 10s or 5m")]
    Timeout(String),
    #[error("depends on itself; take that out of `depends_on`")]
    OnItself,
    #[error("depends on {name:?}, which is not a step of this file{}", did_you_mean(.nearest.as_ref()))]
    UnknownDependency { name: String, nearest: Option<String> },
}

fn did_you_mean(nearest: Option<&String>) -> String {
    nearest.map_or_else(
        || "; name steps of this file in `depends_on`".into(),
        |name| format!("; did you mean {name:?}?"),
    )
}
