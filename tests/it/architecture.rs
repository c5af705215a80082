//! The floors of the architecture, held by a test that reads every path in `src`.
//!
//! **Invariant:** a module names lower floors and itself only, the domain names nothing that does
//! I/O or reads a clock, and only `app` names concrete adapters.

mod paths;

use std::{collections::BTreeSet, fs, path::Path};

use paths::{Named, Source, Target};

/// Every top-level module, lowest floor first, with the modules that it may name.
const FLOORS: [(&str, &[&str]); 14] = [
    ("domain", &[]),
    ("ports", &["domain"]),
    ("instruments", &["domain"]),
    ("clock", &["domain"]),
    ("worker", &["domain", "ports", "instruments", "clock"]),
    ("adapters", &["domain", "ports", "instruments", "clock"]),
    ("telemetry", &["domain", "ports", "instruments", "clock", "worker"]),
    ("signals", &["domain", "ports", "instruments", "clock", "worker"]),
    ("admin", &["domain", "ports", "instruments", "clock", "worker"]),
    ("orchestrator", &["domain", "ports", "instruments", "clock", "worker", "adapters"]),
    ("conformance", &["domain", "ports", "instruments", "clock", "orchestrator"]),
    // Of adapters, only their settings: see `Settings` below.
    (
        "config",
        &[
            "domain",
            "ports",
            "instruments",
            "clock",
            "worker",
            "adapters",
            "telemetry",
            "admin",
            "orchestrator",
        ],
    ),
    (
        "app",
        &[
            "domain",
            "ports",
            "instruments",
            "clock",
            "worker",
            "adapters",
            "telemetry",
            "signals",
            "admin",
            "orchestrator",
            "config",
        ],
    ),
    ("cli", &["domain", "ports", "instruments", "clock", "worker", "config", "app", "telemetry"]),
];

/// Adapters that the others build upon; they are blind to each other otherwise.
const SHARED_ADAPTERS: [&str; 3] = ["lane", "plans", "texts"];

/// Crates of the domain: values, and texts of values. `http` and `url` hold the words of requests,
/// `ipnet` ranges of addresses; none of them opens a socket.
const PURE_CRATES: [&str; 7] = ["http", "ipnet", "serde", "serde_json", "sha2", "thiserror", "url"];

/// What the domain leaves alone in `std`: the world and its clock.
const IMPURE_STD: [&[&str]; 11] = [
    &["env"],
    &["fs"],
    &["io"],
    &["net"],
    &["os"],
    &["process"],
    &["thread"],
    &["time", "Instant"],
    &["time", "SystemTime"],
    &["time", "UNIX_EPOCH"],
    &["time", "*"],
];

const PRINTING: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];

/// One sentence for each thing that stands where it may not.
fn violations(sources: &[Source], dependencies: &BTreeSet<String>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for named in paths::named(sources) {
        if let Some(why) = violation(&named, dependencies) {
            found.insert(format!("{}: `{}` {why}", named.file, named.text));
        }
    }
    found.into_iter().collect()
}

fn violation(named: &Named, dependencies: &BTreeSet<String>) -> Option<String> {
    let from = named.module.first()?.as_str();
    if from == "main" {
        return None;
    }
    let Some((_, below)) = FLOORS.iter().find(|(module, _)| *module == from) else {
        return Some(format!("stands in {from}, which has no floor: give it one in FLOORS"));
    };
    match &named.target {
        Target::External(path) if from == "domain" => impure(path, dependencies),
        Target::External(_) => None,
        Target::Crate { module, rest } => match module.first().map(String::as_str) {
            None => Some("goes through the crate's root: name the module itself".into()),
            Some("adapters") if from == "adapters" => {
                sideways_adapter(&named.module[1..], &module[1..])
            }
            Some(to) if to == from => None,
            Some(to) if !below.contains(&to) => {
                Some(format!("leads from {from} to {to}, which is not below it"))
            }
            Some("adapters")
                if from == "config" && !rest.iter().all(|r| r.contains("Settings")) =>
            {
                Some("is more of an adapter than its settings: only app names adapters".into())
            }
            Some(_) => None,
        },
    }
}

fn sideways_adapter(from: &[String], to: &[String]) -> Option<String> {
    let to = to.first()?;
    if from.first() == Some(to) || SHARED_ADAPTERS.contains(&to.as_str()) {
        return None;
    }
    Some(format!("leads to the adapter {to}: adapters are blind to each other"))
}

fn impure(path: &[String], dependencies: &BTreeSet<String>) -> Option<String> {
    let (first, rest) = path.split_first()?;
    if PRINTING.contains(&first.as_str()) {
        return Some("prints: the domain does no I/O".into());
    }
    if first == "std" && (rest == ["*"] || IMPURE_STD.iter().any(|bad| rest.starts_with_all(bad))) {
        return Some("is the outer world: the domain does no I/O and reads no clock".into());
    }
    if dependencies.contains(first) && !PURE_CRATES.contains(&first.as_str()) {
        return Some("is not among the crates of the domain (PURE_CRATES)".into());
    }
    None
}

trait StartsWithAll {
    fn starts_with_all(&self, beginning: &[&str]) -> bool;
}

impl StartsWithAll for [String] {
    fn starts_with_all(&self, beginning: &[&str]) -> bool {
        self.len() >= beginning.len() && self.iter().zip(beginning).all(|(a, b)| a == b)
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names under which code can name the packages of `Cargo.toml`.
fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(project().join("Cargo.toml")).expect("there is a manifest");
    let mut section = "";
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if let Some((name, _)) = line.split_once('=')
            && section.ends_with("dependencies]")
        {
            names.insert(name.trim().replace('-', "_"));
        }
    }
    names
}

/// Every file below `folder`.
fn read_sources(folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(project()).expect("it is below").display().to_string();
            sources.push(Source { file, text: fs::read_to_string(&path).expect("a text") });
        }
    }
}

#[test]
fn every_module_names_lower_floors_only() {
    let mut sources = Vec::new();
    read_sources(&project().join("src"), &mut sources);
    let dependencies = dependencies();
    assert!(dependencies.contains("tokio") && dependencies.contains("tracing_subscriber"));
    let found = violations(&sources, &dependencies);
    assert!(found.is_empty(), "{}\n", found.join("\n"));
}

/// Modules and their floors, as the crate's page shows them.
fn floors_on_the_map() -> Vec<(String, u32)> {
    let text = fs::read_to_string(project().join("src/lib.rs")).expect("a text");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("//! | ")?.split(" | ");
        let floor = cells.next()?.parse().ok()?;
        let module = cells.next()?.strip_prefix("[`")?.strip_suffix("`]")?;
        Some((module.to_owned(), floor))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn the_crates_page_shows_every_module_on_its_floor() {
    let map = floors_on_the_map();
    let floor = |module: &str| {
        let found: Vec<u32> = map.iter().filter(|row| row.0 == module).map(|row| row.1).collect();
        let [floor] = found[..] else { panic!("{module} is on floors {found:?}") };
        floor
    };
    assert_eq!(map.len(), FLOORS.len(), "{map:?}");
    for (module, below) in FLOORS {
        for other in below {
            assert!(floor(other) < floor(module), "{module} may name {other}");
        }
    }
    let highest_first = map.is_sorted_by(|a, b| a.1 >= b.1);
    assert!(highest_first, "{map:?}");
}

/// Sources that stand around the planted one, so that its paths lead somewhere.
const SURROUNDINGS: [(&str, &str); 15] = [
    ("src/lib.rs", "pub mod domain; pub mod worker; pub use worker::Worker;"),
    ("src/main.rs", "fn main() { orchestrator_worker::app::run() }"),
    ("src/domain.rs", "pub mod id;"),
    ("src/domain/id.rs", "pub struct Owner;"),
    ("src/ports.rs", "pub mod runner;"),
    ("src/ports/runner.rs", "pub struct Outcome;"),
    ("src/clock.rs", "pub fn boot_now() {}"),
    ("src/instruments.rs", "pub struct Counter;"),
    ("src/worker.rs", "pub struct Worker;"),
    ("src/adapters.rs", "pub mod lane; pub mod mysql; pub mod sqlite;"),
    ("src/adapters/lane.rs", "pub struct Lane;"),
    ("src/adapters/mysql.rs", "pub mod rows; pub struct Store; pub struct Settings;"),
    ("src/adapters/sqlite.rs", "pub struct Store;"),
    ("src/config.rs", "pub struct Config;"),
    ("src/app.rs", "pub fn run() {}"),
];

fn violations_of(file: &str, text: &str) -> Vec<String> {
    let mut sources: Vec<Source> = SURROUNDINGS
        .iter()
        .filter(|(other, _)| *other != file)
        .map(|(file, text)| Source { file: (*file).into(), text: (*text).into() })
        .collect();
    sources.push(Source { file: file.into(), text: text.into() });
    violations(&sources, &dependencies())
}

#[test]
fn a_planted_violation_is_found() {
    for (file, text) in [
        // Upward and sideways, in every way to write a path.
        ("src/domain/plan.rs", "use crate::ports::runner::Outcome;"),
        ("src/domain/plan.rs", "use super::super::ports;"),
        ("src/domain/plan.rs", "fn f() -> Option<crate::worker::Worker> { None }"),
        ("src/domain/plan.rs", "fn f() { vec![1, crate::worker::N]; }"),
        ("src/domain/plan.rs", "fn f() { g!({ (super::super::ports::N) }); }"),
        ("src/domain/plan.rs", "#[derive(crate::worker::Derive)] struct S;"),
        ("src/domain/plan.rs", "mod tests { use super::super::super::worker::Worker; }"),
        ("src/domain/plan.rs", "use crate::Worker;"),
        ("src/domain/plan.rs", "use crate as top; fn f(_: top::worker::Worker) {}"),
        ("src/domain/plan.rs", "fn f() { use crate::worker::*; }"),
        ("src/ports/runner.rs", "use crate::{domain::id::Owner, worker::{self, Worker}};"),
        ("src/ports.rs", "use crate::instruments::Counter;"),
        ("src/clock.rs", "use crate::ports::runner::Outcome;"),
        ("src/worker.rs", "use crate::adapters::lane::Lane;"),
        ("src/worker/driver.rs", "impl crate::app::Run for u8 {}"),
        ("src/adapters/lane.rs", "use crate::worker::Worker;"),
        ("src/admin.rs", "use crate::app;"),
        ("src/telemetry.rs", "use crate::config::Config;"),
        ("src/app.rs", "use crate::cli::Command;"),
        ("src/cli/run.rs", "use crate::adapters::mysql::Store;"),
        // Adapters among themselves, and those who may not know them.
        ("src/adapters/mysql.rs", "use crate::adapters::sqlite::Store;"),
        ("src/adapters/mysql.rs", "use super::sqlite;"),
        ("src/adapters/mysql.rs", "use super::*; fn f(_: sqlite::Store) {}"),
        ("src/adapters/mysql.rs", "use super as all; fn f(_: all::sqlite::Store) {}"),
        ("src/adapters/mysql/rows.rs", "fn f(_: super::super::sqlite::Store) {}"),
        ("src/adapters/lane.rs", "use super::mysql::Store;"),
        ("src/adapters.rs", "pub mod mysql; pub use mysql::Store;"),
        ("src/config.rs", "use crate::adapters::mysql::Store;"),
        ("src/config.rs", "use crate::adapters::mysql; fn f(_: mysql::Store) {}"),
        ("src/config.rs", "use crate::adapters::mysql::*;"),
        // The outer world in the domain.
        ("src/domain/plan.rs", "use tokio::sync::watch;"),
        ("src/domain/plan.rs", "use tokio as runtime;"),
        ("src/domain/plan.rs", "async fn f() { ::tokio::task::yield_now().await }"),
        ("src/domain/plan.rs", "fn f() { tracing::info!(\"x\"); }"),
        ("src/domain/plan.rs", "fn f() -> u8 { rand::random() }"),
        ("src/domain/plan.rs", "fn f() { assert!(rustix::process::getpid() > 1); }"),
        ("src/domain/plan.rs", "use std::{collections::BTreeMap, env};"),
        ("src/domain/plan.rs", "use std::time::{Duration, Instant};"),
        ("src/domain/plan.rs", "use std::time; fn f() { time::SystemTime::now(); }"),
        ("src/domain/plan.rs", "use std::time::*;"),
        ("src/domain/plan.rs", "use std as s; fn f() { s::fs::read(\"x\"); }"),
        ("src/domain/plan.rs", "fn f() { println!(\"x\"); }"),
        ("src/domain.rs", "mod inner { fn f() { std::thread::yield_now() } }"),
        // No floor.
        ("src/gadgets.rs", "use crate::domain::id::Owner;"),
    ] {
        let found = violations_of(file, text);
        assert!(found.iter().all(|why| why.starts_with(file)), "{found:?}");
        assert!(!found.is_empty(), "not found: {file}: {text}");
    }
}

#[test]
fn what_keeps_to_the_floors_passes() {
    for (file, text) in [
        ("src/domain/plan.rs", "use super::id::{self, Owner}; fn f(_: id::Owner) {}"),
        ("src/domain/plan.rs", "use std::{collections::BTreeMap, fmt, time::Duration};"),
        ("src/domain/plan.rs", "use serde::Serialize; fn f() { serde_json::to_string(&1); }"),
        ("src/domain/plan.rs", "fn f() { assert_eq!(\"crate::worker\", x.config); }"),
        ("src/domain/plan.rs", "mod tests { use super::*; use super::super::id; }"),
        ("src/domain/plan.rs", "fn f(config: u8, rand: u8) -> u8 { config + rand }"),
        ("src/ports/runner.rs", "use crate::domain::id::Owner; use tokio::sync::watch;"),
        ("src/worker/driver.rs", "use super::Worker; use crate::{clock, instruments, ports};"),
        ("src/adapters/mysql.rs", "mod rows; use super::lane::Lane; use rows::Row;"),
        ("src/adapters/mysql/rows.rs", "use super::Store; use crate::adapters::lane;"),
        ("src/config.rs", "use crate::adapters::mysql; fn f(_: mysql::Settings) {}"),
        ("src/config.rs", "use crate::adapters::mysql::{Settings, SettingsError};"),
        ("src/cli/run.rs", "use crate::{app, config::Config, ports::runner::Outcome};"),
        ("src/app.rs", "use crate::{adapters::mysql::Store, config, worker::Worker};"),
        ("src/lib.rs", "pub mod app; pub use adapters::mysql::Store;"),
        ("src/main.rs", "fn main() { orchestrator_worker::cli::run() }"),
    ] {
        assert_eq!(violations_of(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}
