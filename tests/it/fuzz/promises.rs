//! What is promised of each kind of input, whoever makes it up: proptest out of pieces (the files
//! beside this one), or libFuzzer after what code it reaches (the package in `fuzz`, which takes this
//! file in as its own).
//!
//! **Invariant:** a promise holds of every input there is, so that none has to be left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use orchestrator_worker::{
    cli::workflow_file::{self, WorkflowFile},
    config::{Config, Flags, Setting, Surroundings},
    domain::{
        definition::{Definition, RecordedStep},
        request::Request,
        step::{Action, Step, StepError},
        workflow::{Workflow, WorkflowError},
    },
};
use tempfile::TempDir;

fn row(id: char, kind: &str) -> RecordedStep {
    RecordedStep {
        id: id.to_string().into(),
        name: Some(id.into()),
        executor_type: Some(kind.into()),
        ..RecordedStep::default()
    }
}

/// What a column says: nothing stands for null.
fn json(text: &str) -> &str {
    Some(text.trim()).filter(|text| !text.is_empty()).unwrap_or("null")
}

/// The ids in a column of dependencies, as far as it is one.
fn ids(column: &str) -> Option<BTreeSet<String>> {
    serde_json::from_str::<Option<_>>(json(column)).ok().map(Option::unwrap_or_default)
}

/// Each column is of one step; they are called a, b, c and so on. Accepted ones make the graph that they
/// name, in which nothing waits for itself; refused ones are at fault as the refusal says.
pub fn dependencies(columns: &[&str]) {
    let columns: BTreeMap<String, &str> =
        ('a'..='z').zip(columns).map(|(id, text)| (id.to_string(), *text)).collect();
    let with = |(id, text): (&String, &&str)| RecordedStep {
        dependencies: Some((*text).into()),
        ..row(id.chars().next().expect("a letter"), "func")
    };
    let steps = columns.iter().map(with).collect();
    let definition = Definition { template: "t".into(), name: "made up".into(), steps };
    let made = Workflow::try_new(&definition);
    let kept = Definition::from_text(&definition.to_text()).expect("it was just written");
    assert_eq!(Workflow::try_new(&kept), made, "a kept plan is another");
    let named = |step: &str| ids(columns[step]).unwrap_or_default();
    match made {
        Ok(workflow) => {
            is_acyclic(&workflow);
            for node in workflow.nodes() {
                let ids = node.dependencies.iter().map(|id| workflow.node(*id).step.id.to_string());
                assert_eq!(named(node.step.id.as_str()), ids.collect(), "of {}", node.step.id);
            }
        }
        Err(WorkflowError::Dependencies { name, .. }) => assert_eq!(ids(columns[&name]), None),
        Err(WorkflowError::UnknownDependency { name, dependency }) => {
            assert!(named(&name).contains(&dependency), "{name} does not name {dependency:?}");
            assert!(!columns.contains_key(&dependency), "{dependency} is there");
        }
        Err(WorkflowError::Cycle(names)) => {
            assert!(names.len() > 1 && names.first() == names.last(), "no circle: {names:?}");
            for pair in names.windows(2) {
                assert!(named(&pair[1]).contains(&pair[0]), "{pair:?} is no edge of {names:?}");
            }
        }
        Err(other) => panic!("only dependencies can be wrong, not this: {other}"),
    }
}

/// Its steps can be done one after the other, each after those that it depends on.
fn is_acyclic(workflow: &Workflow) {
    let mut done = BTreeSet::new();
    for _ in workflow.nodes() {
        let free = workflow.ids().find(|id| {
            !done.contains(id) && workflow.node(*id).dependencies.iter().all(|id| done.contains(id))
        });
        done.extend(free);
    }
    assert_eq!(done.len(), workflow.nodes().len(), "they wait for each other");
}

/// The entries of a column as texts; none if it is empty.
fn entries(text: &str) -> BTreeMap<String, String> {
    let value: serde_json::Value = serde_json::from_str(json(text)).expect("it was accepted");
    let object = value.as_object().cloned().unwrap_or_default();
    let plain = |value: serde_json::Value| match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    object.into_iter().map(|(name, value)| (name, plain(value))).collect()
}

fn request(headers: &str) -> Result<Request, StepError> {
    let recorded = RecordedStep {
        http_url: Some("http://h/".into()),
        http_headers: Some(headers.into()),
        ..row('s', "http")
    };
    match Step::try_new(&recorded)?.action {
        Action::Http(request) => Ok(*request),
        other => panic!("it is no request but {other:?}"),
    }
}

/// Accepted headers are sent as they are written, but for those of the connection, and no value of them
/// can end its line; a refusal names the column.
pub fn headers(text: &str) {
    let request = match request(text) {
        Ok(request) => request,
        Err(error) => return names("http_headers", &error),
    };
    let written = entries(text);
    let mut sent = serde_json::Map::new();
    for (name, value) in &request.headers {
        let value = std::str::from_utf8(value.as_bytes()).expect("it came out of a text");
        assert!(!value.contains(['\r', '\n', '\0']), "{name} ends its line");
        let is_it = |(key, said): (&String, &String)| {
            key.eq_ignore_ascii_case(name.as_str()) && said.trim_matches([' ', '\t']) == value
        };
        assert!(written.iter().any(is_it), "{name} is not in {text}");
        sent.insert(name.to_string(), value.into());
    }
    let again = self::request(&serde_json::Value::from(sent).to_string());
    assert_eq!(again.expect("it is sent").headers, request.headers);
}

fn environment(column: &str) -> Result<BTreeMap<String, String>, StepError> {
    let recorded = RecordedStep {
        shell_script: Some("true".into()),
        shell_env: Some(column.into()),
        ..row('s', "shell")
    };
    match Step::try_new(&recorded)?.action {
        Action::Shell { env, .. } => Ok(env),
        other => panic!("it is no script but {other:?}"),
    }
}

/// Accepted variables are those that are written, and a process can be given them; a refusal names the
/// column.
pub fn variables(text: &str) {
    let env = match environment(text) {
        Ok(env) => env,
        Err(error) => return names("shell_env", &error),
    };
    for (name, value) in &env {
        assert!(!name.is_empty() && !name.contains(['=', '\0']), "{name:?}");
        assert!(!value.contains('\0'), "{value:?}");
    }
    assert_eq!(entries(text), env);
    let again = serde_json::to_string(&env).expect("texts have a JSON form");
    assert_eq!(environment(&again), Ok(env));
}

fn names(column: &str, error: &StepError) {
    let said = error.to_string();
    assert!(said.contains(column), "it says nothing of {column}: {said}");
}

/// An accepted file can be run, is the same however often it is read, and can be kept as a plan; a
/// refusal is one sentence on one line that begins with a place that is there. Returns what was
/// accepted.
pub fn workflow_file(text: &str) -> Option<WorkflowFile> {
    let parse = || workflow_file::parse(Path::new("f.yaml"), text, "me");
    let file = match parse() {
        Ok(file) => file,
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("f.yaml:") && said.lines().count() == 1, "{said}");
            // In YAML each of the two ends a line.
            let last = text.matches(['\r', '\n']).count() as u64 + 1;
            assert!(error.line.is_none_or(|line| (1..=last).contains(&line)), "{said}");
            return None;
        }
    };
    let workflow = Workflow::try_new(&file.definition).expect("it can be run");
    is_acyclic(&workflow);
    assert_eq!(parse().as_ref(), Ok(&file));
    let kept = Definition::from_text(&file.definition.to_text()).expect("it was just written");
    assert_eq!(kept, file.definition);
    Some(file)
}

const PREFIX: &str = "ORCHESTRATOR_WORKER__";

/// What surrounds a process that finds this file.
fn around(folder: &TempDir, file: &str, env: BTreeMap<String, String>) -> Surroundings {
    let path = folder.path().join("c.yaml");
    fs::write(&path, file).expect("the folder can be written into");
    Surroundings {
        env,
        hostname: "host".into(),
        suffix: "abc123".into(),
        directory: "/here".into(),
        files: vec![path],
    }
}

/// Settings as `config show` prints them, as variables.
fn as_variables(settings: &[Setting]) -> BTreeMap<String, String> {
    let name = |key: &str| format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"));
    let shown = |setting: &Setting| {
        // Without its password, and in other words than it is given in; and a password needs it.
        let is_given = !["database.url", "database.password_file"].contains(&&*setting.key);
        setting.value.clone().filter(|_| is_given).map(|value| (name(&setting.key), value))
    };
    settings.iter().filter_map(shown).collect()
}

/// Variables are named without the program's prefix. What is accepted is accepted again as it is shown;
/// a refusal says which file, variable or setting is at fault.
pub fn configuration(file: &str, variables: &[(&str, &str)]) {
    let named = |(name, value): &(&str, &str)| (format!("{PREFIX}{name}"), (*value).to_owned());
    let folder = tempfile::tempdir().expect("a folder");
    let surroundings = around(&folder, file, variables.iter().map(named).collect());
    let config = match Config::load(&Flags::default(), &surroundings) {
        Ok(config) => config,
        Err(error) => {
            let said = error.to_string();
            let places = ["c.yaml", PREFIX, "lock.renew_every"];
            assert!(places.iter().any(|place| said.contains(place)), "it says no place: {said}");
            return;
        }
    };
    let settings = Config::settings(&Flags::default(), &surroundings).expect("it was accepted");
    let is_plain = |name: &str| !name.is_empty() && name.trim() == name && !name.contains(',');
    // A list is shown as a variable takes it, with commas between its names.
    if !config.worker.eligibility.names().all(is_plain) {
        return;
    }
    let empty = tempfile::tempdir().expect("a folder");
    let shown = around(&empty, "", as_variables(&settings));
    let again = Config::load(&Flags::default(), &shown).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.worker, again.worker);
    assert_eq!(config.log, again.log);
    assert_eq!(config.shell.limits, again.shell.limits);
    assert_eq!(config.http.policy, again.http.policy);
}
