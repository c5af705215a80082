//! `apply`: puts workflow files into the store.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Cell;
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output::{self, Rows},
    program::store,
    workflow_file::{self, WorkflowFile},
};
use crate::{
    config::Config,
    ports::control::{Applied, Control},
};

/// Put workflows into the database, from readable files.
///
/// A file describes one template; its name identifies it. Applying a changed file changes the
/// template for executions that have not begun yet; applying the same file again does nothing.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker apply -f deploy/examples/release.yaml
  orchestrator-worker apply -f deploy/examples")]
pub struct ApplyArgs {
    /// A workflow file, or a folder with *.yaml files; may be given again.
    #[arg(short, long, required = true, value_name = "FILE|DIR")]
    file: Vec<PathBuf>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct AppliedFile {
    file: PathBuf,
    template: String,
    name: String,
    result: Applied,
}

pub async fn apply(args: &ApplyArgs, config: &Config) -> Result<Exit, Failure> {
    let files = load_all(&args.file, config)?;
    let stores = store(config).await?;
    let mut applied = Vec::with_capacity(files.len());
    for file in files {
        let result = apply_file(&*stores.control, &file).await?;
        let (template, name) = (file.definition.template.to_string(), file.definition.name);
        applied.push(AppliedFile { file: file.path, template, name, result });
    }
    match args.output {
        OutputWord::Json => output::json(&applied)?,
        OutputWord::Table => {
            let mut rows = Rows::new(config, &["TEMPLATE", "RESULT", "FILE"]).whole(&[1]);
            for AppliedFile { file, name, result, .. } in applied {
                let file = Cell::new(file.display());
                rows.add([Cell::new(name), Cell::new(word(result)), file]);
            }
            rows.print()?;
        }
    }
    Ok(Exit::Success)
}

/// Reads and checks everything before the first is applied.
pub fn load_all(paths: &[PathBuf], config: &Config) -> Result<Vec<WorkflowFile>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(workflow_file::load(path, &config.user)?);
    }
    Ok(files)
}

pub async fn apply_file(control: &dyn Control, file: &WorkflowFile) -> Result<Applied, Failure> {
    Ok(control.apply(&file.definition, &file.about).await?)
}

const fn word(applied: Applied) -> &'static str {
    match applied {
        Applied::Created => "created",
        Applied::Changed => "changed",
        Applied::Unchanged => "unchanged",
    }
}
