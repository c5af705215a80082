//! Spans and logs as a collector and a log reader get them from a real worker.
//!
//! **Invariant:** the collector is this process's own, on loopback.

mod away;
mod collector;
mod keepers;
mod logs;
mod many;
mod screen;
mod secrets;
mod spans;
mod statements;
mod tree;
mod trees;
mod untold;

use std::{path::Path, process::Command};

use tempfile::TempDir;

use crate::process::{Ended, binary, end_of};

/// A worker's run over one workflow file, in a folder of its own.
struct Run {
    folder: TempDir,
    command: Command,
}

impl Run {
    fn of(workflow: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = binary();
        command
            .current_dir(folder.path())
            .env("ORCHESTRATOR_WORKER__ADMIN__LISTEN", "off")
            .env("ORCHESTRATOR_WORKER__STEP__BACKOFF__BASE", "1ms")
            .args(["run", "--until-idle", "--submit"])
            .arg(workflow);
        Self { folder, command }
    }

    fn of_example(name: &str) -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
        Self::of(&examples.join(format!("{name}.yaml")))
    }

    fn of_text(text: &str) -> Self {
        let mut run = Self::of(Path::new("workflow.yaml"));
        std::fs::write(run.folder.path().join("workflow.yaml"), text).expect("it can be written");
        run.command.env("HERE", run.folder.path());
        run
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        self.command.args(flags);
        self
    }

    fn end(&mut self) -> Ended {
        let ended = end_of(&mut self.command);
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
        ended
    }
}
