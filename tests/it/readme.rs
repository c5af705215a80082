//! What the README says of commands and exit codes, held against the program.
//!
//! **Invariant:** every line of its shell blocks is run by a test in here, as it stands there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
};

use clap::CommandFactory;
use orchestrator_worker::{
    cli::{Cli, exit::Exit},
    config::{Config, Flags, Setting, Surroundings},
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    contract::Subject,
    mysql::{Database, Server},
    process::{Worker, binary, end_of},
    stores::on_both_servers,
};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(project().join("README.md")).expect("there is a README")
}

/// Lines of the shell blocks, without comments; a block each.
fn shell_blocks() -> Vec<Vec<String>> {
    let readme = readme();
    let blocks = readme.split("```sh\n").skip(1);
    let body = |block: &str| block.split_once("```").expect("a block ends").0.to_owned();
    let line = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    blocks.map(|block| body(block).lines().map(line).filter(|l| !l.is_empty()).collect()).collect()
}

/// The rows of the table with these headings, cell by cell.
fn table(headings: &str) -> Vec<Vec<String>> {
    let readme = readme();
    let (_, rest) = readme.split_once(headings).unwrap_or_else(|| panic!("no table {headings}"));
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect())
        .collect()
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn its_exit_codes_are_those_of_the_program() {
    let rows = table("| exit code | meaning |");
    let codes: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(codes, Exit::ALL.map(|exit| exit.code().to_string()));
    let meant: BTreeSet<&String> = rows.iter().map(|row| &row[1]).collect();
    assert_eq!(meant.len(), rows.len(), "each means something else");
}

/// What the README says of settings that have no value of their own; `tests/it/config.rs` shows that
/// it is so.
const IN_WORDS: [(&str, &str); 33] = [
    ("admin.listen", "127.0.0.1:9400 (a pod: 0.0.0.0)"),
    ("claim.batch", "free slots, at most 50"),
    ("claim.exclude", "none"),
    ("claim.include", "all"),
    ("database.password_file", "none"),
    ("database.url", "`orchestrator.db` here (a pod: none)"),
    ("http.allow", "none"),
    ("http.deny", "none"),
    ("lock.etcd.password_file", "none"),
    ("lock.etcd.tls.ca_file", "none"),
    ("lock.etcd.tls.certificate_file", "none"),
    ("lock.etcd.tls.key_file", "none"),
    ("lock.etcd.user", "none"),
    ("lock.redis.password_file", "none"),
    ("lock.redis.sentinel_password_file", "none"),
    ("lock.redis.sentinels", "none"),
    ("lock.redis.tls.ca_file", "none"),
    ("lock.redis.tls.certificate_file", "none"),
    ("lock.redis.tls.key_file", "none"),
    ("log.filter", "info, others warn"),
    ("name", "the host's and a suffix"),
    ("pod.dead_owner_watch", "none"),
    ("pod.disruption_budget", "unknown"),
    ("pod.rollout_aware", "none"),
    ("pod.termination_grace_period", "unknown"),
    ("retention.cancelled", "kept for good"),
    ("retention.failed", "kept for good"),
    ("retention.success", "kept for good"),
    ("shell.limits.file_size", "none"),
    ("shell.limits.memory", "none"),
    ("shell.limits.processes", "none"),
    ("shell.pass_env", "none"),
    ("state_dir", "the temporary folder"),
];

#[test]
fn its_settings_are_those_of_the_program_with_the_same_defaults() {
    let bare = Surroundings {
        env: BTreeMap::new(),
        hostname: "host".into(),
        suffix: "abc123".into(),
        directory: "/here".into(),
        files: Vec::new(),
    };
    let settings = Config::settings(&Flags::default(), &bare).expect("defaults are good");
    let mut words = BTreeMap::from(IN_WORDS);
    let told = |Setting { key, value, .. }: Setting| {
        let value = value.or_else(|| words.remove(key.as_str()).map(str::to_owned));
        (key, value.unwrap_or_default())
    };
    let here: BTreeMap<String, String> = settings.into_iter().map(told).collect();
    assert_eq!(table_of_settings(), here);
    assert_eq!(words, BTreeMap::new(), "these have values");
}

/// Two cells of settings a row, each with its defaults; `` `a.b` / `.c` `` are `a.b` and `a.c`, with
/// a default each or one for all.
fn table_of_settings() -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for row in table("| setting | default |") {
        let [first, of_first, _, second, of_second] = &row[..] else { panic!("{row:?}") };
        let cells = [(first, of_first), (second, of_second)];
        for (cell, defaults) in cells.into_iter().filter(|(cell, _)| !cell.is_empty()) {
            let names: Vec<&str> = code(cell.split(" (").next().unwrap_or_default()).collect();
            let (group, _) = names[0].rsplit_once('.').unwrap_or_default();
            let each: Vec<&str> = defaults.split(" / ").collect();
            let defaults =
                if each.len() == names.len() { each } else { vec![defaults.as_str(); names.len()] };
            for (name, default) in names.into_iter().zip(defaults) {
                let whole = name.strip_prefix('.').map(|last| format!("{group}.{last}"));
                let key = whole.unwrap_or_else(|| name.to_owned());
                assert!(settings.insert(key, default.to_owned()).is_none(), "{name} twice");
            }
        }
    }
    settings
}

#[test]
fn its_commands_are_those_of_the_program_with_arguments_that_there_are() {
    let mut cli = Cli::command();
    cli.build();
    let mut told = BTreeSet::new();
    for row in table("| command | what it does |") {
        for usage in code(&row[0]) {
            let mut words =
                usage.split(|c: char| " []…".contains(c)).filter(|w| !w.is_empty() && *w != "or");
            let name = words.next().expect("a command");
            let mut command = cli.find_subcommand(name).unwrap_or_else(|| panic!("no {name}"));
            told.insert(name.to_owned());
            for word in words {
                if let Some(nested) = command.find_subcommand(word) {
                    command = nested;
                    continue;
                }
                let has = command.get_arguments().any(|argument| {
                    let long = argument.get_long().map(|long| format!("--{long}"));
                    let short = argument.get_short().map(|short| format!("-{short}"));
                    let values = argument.get_value_names().unwrap_or_default();
                    long.as_deref() == Some(word)
                        || short.as_deref() == Some(word)
                        || values.iter().any(|value| {
                            value.replace("_OR_", "|").split('|').any(|name| name == word)
                        })
                });
                assert!(has, "{name} takes no {word}");
            }
        }
    }
    let all = cli.get_subcommands().map(|command| command.get_name().to_owned());
    assert_eq!(told, all.filter(|name| name != "help").collect());
}

#[test]
fn every_line_of_its_shell_blocks_is_one_that_a_test_runs() {
    let lines = [
        &[FIRST][..],
        &[EVERY_TEST],
        &["export DATABASE_URL=mysql://user:password@db.example/orchestrator"],
        &ON_MYSQL,
    ];
    assert_eq!(shell_blocks().concat(), lines.concat());
    // This very run.
    let script = fs::read_to_string(project().join(EVERY_TEST)).expect("it is there");
    let ci = fs::read_to_string(project().join(".ci/run")).expect("it is there");
    assert!(ci.ends_with("exec \"$(dirname \"$0\")/../tests/run\" \"$@\"\n"), "{ci}");
    let readme = readme();
    for mode in code(&readme).filter_map(|code| code.strip_prefix("tests/run ")) {
        assert!(script.contains(&format!("\n{mode})\n")), "tests/run knows no {mode}");
    }
}

const FIRST: &str = "cargo run --locked -- run --submit deploy/examples --until-idle";
const EVERY_TEST: &str = "tests/run";
const ON_MYSQL: [&str; 3] = [
    "orchestrator-worker migrate --dry-run",
    "orchestrator-worker migrate",
    "orchestrator-worker run",
];

/// The program with the words of a line.
fn typed(line: &str, here: &TempDir) -> Command {
    let words =
        line.strip_prefix("cargo run --locked -- ").or(line.strip_prefix("orchestrator-worker "));
    let mut command = binary();
    // The usual port may be taken by another test.
    command.current_dir(here.path()).env("ORCHESTRATOR_WORKER__ADMIN__LISTEN", "127.0.0.1:0");
    command.args(words.expect("a line that starts the program").split(' '));
    command
}

#[test]
fn its_first_command_works_and_works_again() {
    let here = tempfile::tempdir().expect("a folder");
    symlink(project().join("deploy"), here.path().join("deploy")).expect("a link");
    for times in 1..=2 {
        let ended = end_of(&mut typed(FIRST, &here));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.ends_with("\n3 succeeded\n"), "{ended:?}");
        let rows = ended.stdout.lines().skip(1).take_while(|line| !line.is_empty());
        let mut workflows: Vec<&str> = rows.filter_map(|row| row.split(' ').next_back()).collect();
        workflows.sort_unstable();
        assert_eq!(workflows, ["hello", "release", "skip"]);

        let listed = end_of(&mut typed("orchestrator-worker list --output json", &here));
        let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!(listed.as_array().map(Vec::len), Some(3 * times));
        assert!(here.path().join("orchestrator.db").exists());
    }
    let apply = "orchestrator-worker apply -f deploy/examples --output json";
    let applied = end_of(&mut typed(apply, &here));
    assert_eq!(applied.stdout.matches("\"result\": \"unchanged\"").count(), 3, "{applied:?}");
}

on_both_servers! {
    its_commands_for_a_database_work_one_after_the_other
}

async fn its_commands_for_a_database_work_one_after_the_other<S: Server>() {
    let database = Database::<S>::create().await;
    let url = database.user("ALL").await;
    let here = tempfile::tempdir().expect("a folder");
    let typed = |line| {
        let mut command = typed(line, &here);
        command.env("DATABASE_URL", &url);
        command
    };
    let [dry_run, migrate, run] = ON_MYSQL;
    for (line, begins) in [
        (dry_run, "WOULD DO"),
        (migrate, "DONE"),
        (dry_run, "nothing to do"),
        (migrate, "nothing to do"),
    ] {
        let ended = end_of(&mut typed(line));
        assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
        assert!(ended.stdout.starts_with(begins), "{line}: {ended:?}");
        assert_eq!(ended.stderr, "", "{line}");
    }
    let mut worker = Worker::spawn("worker", &mut typed(run));
    worker.wait_for("worker.idle");
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}

/// All that stands in the files of a folder and of those below it.
fn sources(folder: &Path) -> String {
    let entries =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let read = |path: std::path::PathBuf| {
        if path.is_dir() { sources(&path) } else { fs::read_to_string(path).unwrap_or_default() }
    };
    entries.map(read).collect()
}

#[test]
fn every_promise_is_shown_by_tests_that_there_are() {
    let sources =
        ["tests/it", "src/domain"].map(|folder| sources(&project().join(folder))).concat();
    let promises = table("| | promise | shown by |");
    let names: Vec<&str> = promises.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, ["G1", "G2", "G3", "G4", "G5", "G6", "G7"]);
    for row in &promises {
        let tests: Vec<&str> = code(&row[2]).filter(|name| !name.contains('.')).collect();
        assert!(!tests.is_empty(), "{row:?}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}")), "there is no test {test}");
        }
    }
}
