//! Workflow files: one readable YAML file, one template with its steps.
//!
//! ```yaml
//! name: release
//! description: Build, test and ship.
//! steps:
//!   - name: build
//!     shell: make
//!     timeout: 5m
//!   - name: settle
//!     func: sleep
//!     parameters: { seconds: 1 }
//!     depends_on: [build]
//!   - name: announce
//!     http:
//!       method: POST
//!       url: https://chat.example/hooks/releases
//!       body: { text: a new version is out }
//!     depends_on: [settle]
//! ```
//!
//! **Invariant:** a [`WorkflowFile`] can be run as it stands, and the same file always gives the
//! same ids: applying it twice is applying it once.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{domain::definition::Definition, ports::control::About};

mod error;
mod format;
mod record;

pub use error::{Problem, StepProblem, WorkflowFileError};

/// A file that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowFile {
    pub path: PathBuf,
    pub definition: Definition,
    pub about: About,
}

/// Larger files are refused: a recorded plan must fit into its column.
const LARGEST_FILE: u64 = 8 << 20;

/// Reads a file, or each `*.yaml` and `*.yml` of a folder by name. `creator` is recorded with the
/// templates.
pub fn load(path: &Path, creator: &str) -> Result<Vec<WorkflowFile>, WorkflowFileError> {
    let mut files: Vec<WorkflowFile> = Vec::new();
    for path in paths(path)? {
        let file = parse(&path, &read(&path)?, creator)?;
        let same_name = |other: &&WorkflowFile| other.definition.name == file.definition.name;
        if let Some(other) = files.iter().find(same_name) {
            let name = file.definition.name.clone();
            let other = other.path.display().to_string();
            return Err(WorkflowFileError::new(&path, Problem::SameTemplate { name, other }));
        }
        files.push(file);
    }
    Ok(files)
}

/// Checks the text of a file.
pub fn parse(path: &Path, text: &str, creator: &str) -> Result<WorkflowFile, WorkflowFileError> {
    let written = format::parse(path, text)?;
    let definition = record::record(path, &written)?;
    let about = About { description: written.description, creator: creator.to_owned() };
    Ok(WorkflowFile { path: path.to_owned(), definition, about })
}

/// The known name that was meant, if one is near enough.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance * 2 <= known.chars().count())
        .map(|(_, known)| known)
}

fn paths(path: &Path) -> Result<Vec<PathBuf>, WorkflowFileError> {
    let unreadable = |error: io::Error| WorkflowFileError::unreadable(path, &error);
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if !hidden && file.extension().is_some_and(|end| end == "yaml" || end == "yml") {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(WorkflowFileError::new(path, Problem::NoFiles));
    }
    Ok(files)
}

/// What is no regular file has no size to ask for, and may have no end.
fn read(path: &Path) -> Result<String, WorkflowFileError> {
    let unreadable = |error: io::Error| WorkflowFileError::unreadable(path, &error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(WorkflowFileError::new(path, Problem::TooLarge { most: LARGEST_FILE }));
    }
    String::from_utf8(bytes).map_err(|_| WorkflowFileError::new(path, Problem::NotText))
}
