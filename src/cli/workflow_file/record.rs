//! From a file as written to the rows that are recorded.
//!
//! **Invariant:** every column that has a default is written out, so that the rows read the same
//! whoever reads them; ids depend on names alone.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use uuid::Uuid;

use super::{
    Problem, StepProblem, WorkflowFileError,
    format::{Mode, OnFailure, Resume, Written, WrittenStep},
    nearest,
};
use crate::domain::{
    definition::{Definition, RecordedStep},
    step::{DEFAULT_RETRIES, DEFAULT_TIMEOUT},
    workflow::{Workflow, WorkflowError},
};

/// Under which the ids of templates are made from their names.
const TEMPLATES: Uuid = Uuid::from_u128(0x6b1f_7a52_9c0d_5e4b_8f3a_2d71_c4e8_9b60);

/// Lines of steps by their names.
type Lines<'a> = BTreeMap<&'a str, u64>;

pub fn record(path: &Path, written: &Written) -> Result<Definition, WorkflowFileError> {
    let name = &written.name;
    if !is_name(&name.value) {
        let problem = Problem::TemplateName(name.value.clone());
        return Err(WorkflowFileError::at(path, line(name), problem));
    }
    if written.steps.is_empty() {
        return Err(WorkflowFileError::new(path, Problem::NoSteps));
    }
    let lines = lines(path, &written.steps)?;
    let template = Uuid::new_v5(&TEMPLATES, name.value.as_bytes());
    let mut steps = Vec::with_capacity(written.steps.len());
    for (order, step) in (1..).zip(&written.steps) {
        check_dependencies(path, step, &lines)?;
        let recorded = record_step(template, order, step)
            .map_err(|problem| at_step(path, &step.name, problem))?;
        steps.push(recorded);
    }
    let definition =
        Definition { template: template.to_string().into(), name: name.value.clone(), steps };
    check_graph(path, &definition, &lines)?;
    Ok(definition)
}

fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= 200 && !name.contains(char::is_control)
}

fn line<T>(spanned: &Spanned<T>) -> u64 {
    spanned.referenced.line()
}

fn at_step(path: &Path, name: &Spanned<String>, problem: StepProblem) -> WorkflowFileError {
    let problem = Problem::Step { name: name.value.clone(), problem };
    WorkflowFileError::at(path, line(name), problem)
}

fn lines<'a>(path: &Path, steps: &'a [WrittenStep]) -> Result<Lines<'a>, WorkflowFileError> {
    let mut lines = Lines::new();
    for WrittenStep { name, .. } in steps {
        if !is_name(&name.value) {
            return Err(at_step(path, name, StepProblem::Name));
        }
        if let Some(first) = lines.insert(&name.value, line(name)) {
            return Err(at_step(path, name, StepProblem::Twice(first)));
        }
    }
    Ok(lines)
}

fn check_dependencies(
    path: &Path,
    step: &WrittenStep,
    lines: &Lines,
) -> Result<(), WorkflowFileError> {
    for dependency in &step.depends_on {
        let name = &dependency.value;
        let problem = if *name == step.name.value {
            StepProblem::OnItself
        } else if lines.contains_key(name.as_str()) {
            continue;
        } else {
            let nearest = nearest(name, lines.keys().copied()).map(str::to_owned);
            StepProblem::UnknownDependency { name: name.clone(), nearest }
        };
        let problem = Problem::Step { name: step.name.value.clone(), problem };
        return Err(WorkflowFileError::at(path, line(dependency), problem));
    }
    Ok(())
}

fn record_step(
    template: Uuid,
    order: i64,
    step: &WrittenStep,
) -> Result<RecordedStep, StepProblem> {
    let id = |name: &str| Uuid::new_v5(&template, name.as_bytes()).to_string();
    let dependencies: Vec<String> = step.depends_on.iter().map(|name| id(&name.value)).collect();
    let mut row = RecordedStep {
        id: id(&step.name.value).into(),
        name: Some(step.name.value.clone()),
        timeout: Some(timeout(step.timeout.as_ref())?),
        retries: Some(step.retries.unwrap_or(DEFAULT_RETRIES).into()),
        dependencies: Some(json(&dependencies)),
        run_mode: Some(mode(step.mode).into()),
        on_failure: Some(on_failure(step.on_failure).into()),
        order: Some(order),
        ..RecordedStep::default()
    };
    act(step, &mut row)?;
    Ok(row)
}

/// Writes down what the step does.
fn act(step: &WrittenStep, row: &mut RecordedStep) -> Result<(), StepProblem> {
    let mut parameters = step.parameters.clone().unwrap_or_default();
    for key in ["func", "resume"] {
        if parameters.contains_key(key) {
            return Err(StepProblem::Reserved { key });
        }
    }
    let said = kind(step)?;
    if said != "func" && step.parameters.is_some() {
        return Err(StepProblem::Misplaced { field: "parameters", with: "func" });
    }
    if said != "shell" && !step.env.is_empty() {
        return Err(StepProblem::Misplaced { field: "env", with: "shell" });
    }
    row.executor_type = Some(said.into());
    if let Some(script) = &step.shell {
        if script.trim().is_empty() {
            return Err(StepProblem::NoScript);
        }
        row.shell_script = Some(script.clone());
        row.shell_env = (!step.env.is_empty()).then(|| json(&step.env));
    }
    if let Some(request) = &step.http {
        row.http_method = Some(request.method.clone().unwrap_or_else(|| "GET".into()));
        row.http_url = Some(request.url.clone());
        row.http_headers = (!request.headers.is_empty()).then(|| json(&request.headers));
        row.http_body = request.body.as_ref().map(|body| match body {
            Value::String(text) => text.clone(),
            other => json(other),
        });
    }
    if let Some(func) = &step.func {
        if func.is_empty() {
            return Err(StepProblem::NoFunction);
        }
        parameters.insert("func".into(), Value::String(func.clone()));
    }
    if let Some(resume) = step.resume {
        parameters.insert("resume".into(), Value::String(resume_word(resume).into()));
    }
    row.parameters = parameters_text(&parameters);
    Ok(())
}

/// The one of three kinds that a step says.
fn kind(step: &WrittenStep) -> Result<&'static str, StepProblem> {
    let kinds = [
        ("shell", step.shell.is_some()),
        ("http", step.http.is_some()),
        ("func", step.func.is_some()),
    ];
    let mut said = kinds.iter().filter(|(_, is_said)| *is_said).map(|(kind, _)| *kind);
    match (said.next(), said.next()) {
        (None, _) => Err(StepProblem::NoAction),
        (Some(only), None) => Ok(only),
        (Some(first), Some(second)) => Err(StepProblem::TwoActions { first, second }),
    }
}

fn parameters_text(parameters: &Map<String, Value>) -> Option<String> {
    (!parameters.is_empty()).then(|| json(parameters))
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("texts and JSON values always have a JSON form")
}

fn timeout(written: Option<&Spanned<String>>) -> Result<i64, StepProblem> {
    let Some(text) = written.map(|written| &written.value) else {
        return Ok(i64::try_from(DEFAULT_TIMEOUT.as_secs()).expect("half a minute"));
    };
    humantime::parse_duration(text)
        .ok()
        .filter(|timeout| timeout.subsec_nanos() == 0 && timeout.as_secs() > 0)
        .and_then(|timeout| i64::try_from(timeout.as_secs()).ok())
        .ok_or_else(|| StepProblem::Timeout(text.clone()))
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Serial => "serial",
        Mode::Parallel => "parallel",
    }
}

const fn on_failure(on_failure: OnFailure) -> &'static str {
    match on_failure {
        OnFailure::Abort => "abort",
        OnFailure::Skip => "skip",
    }
}

const fn resume_word(resume: Resume) -> &'static str {
    match resume {
        Resume::Rerun => "rerun",
        Resume::Fail => "fail",
    }
}

/// The worker's own check, so that what is applied can be run.
fn check_graph(
    path: &Path,
    definition: &Definition,
    lines: &Lines,
) -> Result<(), WorkflowFileError> {
    let Err(error) = Workflow::try_new(definition) else { return Ok(()) };
    let (step, problem) = match &error {
        WorkflowError::Cycle(names) => (names.first(), Problem::Cycle(error.clone())),
        WorkflowError::Step { name, .. }
        | WorkflowError::Dependencies { name, .. }
        | WorkflowError::UnknownDependency { name, .. }
        | WorkflowError::RunMode { name, .. }
        | WorkflowError::OnFailure { name, .. }
        | WorkflowError::Duplicate(name) => (Some(name), Problem::Workflow(error.clone())),
        WorkflowError::TooManySteps(_) => (None, Problem::Workflow(error.clone())),
    };
    let line = step.and_then(|name| lines.get(name.as_str())).copied().unwrap_or_default();
    Err(WorkflowFileError::at(path, line, problem))
}
