//! Tells the program which commit it is made of: `ORCHESTRATOR_WORKER_COMMIT` if that is set (an image is
//! built without the repository), else what git says. A debug build asks nobody, so that a commit does
//! not rebuild it.

use std::process::Command;

const VARIABLE: &str = "ORCHESTRATOR_WORKER_COMMIT";

#[expect(
    clippy::disallowed_methods,
    reason = "a build script is told everything by its environment"
)]
fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = std::env::var(VARIABLE).ok().or_else(|| is_release.then(of_git).flatten());
    let version = env!("CARGO_PKG_VERSION");
    let told = commit.map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=ORCHESTRATOR_WORKER_VERSION={told}");
}

fn of_git() -> Option<String> {
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    let said = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(said.stdout).ok()?;
    said.status.success().then(|| commit.trim().to_owned())
}
