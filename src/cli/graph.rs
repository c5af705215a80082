//! `graph`: the steps of a template or an execution, and what waits for what.
//!
//! **Invariant:** whatever a step is called, what is printed is well-formed for the program that
//! draws it.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use comfy_table::Cell;
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output::{self, Rows},
    program::store,
    text,
};
use crate::{
    config::Config,
    domain::workflow::{Node, NodeId, OnFailure, RunMode, Workflow},
    ports::control::Drawn,
};

/// Draw the steps of a template or an execution, and what waits for what.
///
/// Of an execution the plan of its first claim is drawn, and how far each step has come. Mermaid and
/// DOT go to the standard output for the programs that draw them.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker graph release
  orchestrator-worker graph release --format dot | dot -Tsvg > release.svg
  orchestrator-worker graph release --format mermaid
  orchestrator-worker graph 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11")]
pub struct GraphArgs {
    /// A template's name or id, or an execution's id.
    #[arg(value_name = "TEMPLATE_OR_EXECUTION")]
    which: String,
    /// How it is drawn.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How the result is printed; `json` has the same for programs.
    #[arg(long, value_enum, default_value_t, conflicts_with = "format")]
    output: OutputWord,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table: what stands further in waits for something further out.
    #[default]
    Text,
    /// A Mermaid flowchart.
    Mermaid,
    /// Graphviz.
    Dot,
}

pub async fn graph(args: &GraphArgs, config: &Config) -> Result<Exit, Failure> {
    let Drawn { definition, states } = store(config).await?.control.draw(&args.which).await?;
    let workflow = Workflow::try_new(&definition)
        .map_err(|error| Failure::NotAWorkflow { name: definition.name.clone(), error })?;
    let steps: Vec<Step> = workflow
        .ids()
        .map(|id| Step::new(&workflow, id, states.get(&workflow.node(id).step.id).cloned()))
        .collect();
    if args.output == OutputWord::Json {
        output::json(&GraphJson { template: &workflow.name, steps: &steps })?;
        return Ok(Exit::Success);
    }
    match args.format {
        Format::Text => table(&workflow, &steps, config)?,
        Format::Mermaid => output::line(&mermaid(&workflow, &steps))?,
        Format::Dot => output::line(&dot(&workflow, &steps))?,
    }
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct GraphJson<'a> {
    template: &'a str,
    steps: &'a [Step],
}

/// A step as it is drawn.
#[derive(Serialize)]
struct Step {
    name: String,
    kind: String,
    mode: &'static str,
    on_failure: &'static str,
    after: Vec<String>,
    /// Of an execution.
    state: Option<String>,
    #[serde(skip)]
    id: NodeId,
}

impl Step {
    fn new(workflow: &Workflow, id: NodeId, state: Option<String>) -> Self {
        let Node { step, mode, on_failure, dependencies, .. } = workflow.node(id);
        let name = |id: &NodeId| workflow.node(*id).step.name.clone();
        let mut after = dependencies.clone();
        after.sort();
        Self {
            name: step.name.clone(),
            kind: step.action.kind().to_owned(),
            mode: match mode {
                RunMode::Serial => "serial",
                RunMode::Parallel => "parallel",
            },
            on_failure: match on_failure {
                OnFailure::Abort => "abort",
                OnFailure::Skip => "skip",
            },
            after: after.iter().map(name).collect(),
            state,
            id,
        }
    }
}

/// Steps at most that stand further in than the one before.
const DEEPEST: usize = 20;

/// How many steps one after the other come before each.
fn depths(workflow: &Workflow) -> Vec<usize> {
    let mut depths = vec![0; workflow.nodes().len()];
    let mut unmet: Vec<usize> = workflow.nodes().iter().map(|n| n.dependencies.len()).collect();
    let mut free: Vec<NodeId> = workflow.ids().filter(|id| unmet[id.index()] == 0).collect();
    while let Some(id) = free.pop() {
        for dependent in &workflow.node(id).dependents {
            let place = dependent.index();
            depths[place] = depths[place].max(depths[id.index()] + 1);
            unmet[place] -= 1;
            if unmet[place] == 0 {
                free.push(*dependent);
            }
        }
    }
    depths
}

fn table(workflow: &Workflow, steps: &[Step], config: &Config) -> Result<(), Failure> {
    let depths = depths(workflow);
    let mut order: Vec<&Step> = steps.iter().collect();
    order.sort_by_key(|step| (depths[step.id.index()], step.id));
    let has_states = steps.iter().any(|step| step.state.is_some());
    let columns = ["STEP", "KIND", if has_states { "STATE" } else { "" }, "AFTER", "NOTES"];
    let mut rows = Rows::new(config, &columns).whole(&[1, 2]);
    for step in order {
        let indent = " ".repeat(2 * depths[step.id.index()].min(DEEPEST));
        let notes = [("parallel", step.mode), ("skip", step.on_failure)];
        let notes: Vec<&str> =
            notes.into_iter().filter(|(word, is)| word == is).map(|(word, _)| word).collect();
        rows.add([
            Cell::new(format!("{indent}{}", text::cell(&step.name, 200))),
            Cell::new(text::cell(&step.kind, 20)),
            rows.state(step.state.as_deref().unwrap_or_default()),
            Cell::new(text::cell(&step.after.join(", "), 400)),
            Cell::new(notes.join(", ")),
        ]);
    }
    rows.print()
}

fn mermaid(workflow: &Workflow, steps: &[Step]) -> String {
    let mut drawn = String::from("flowchart TD");
    for step in steps {
        let state = step.state.as_ref().map_or_else(String::new, |state| format!("<br/>{state}"));
        line(&mut drawn, format_args!("  s{}[\"{}{state}\"]", step.id.0, entities(&step.name)));
    }
    for (from, to) in edges(workflow) {
        line(&mut drawn, format_args!("  s{} --> s{}", from.0, to.0));
    }
    for (state, style) in STYLES {
        let of_state = |step: &&Step| step.state.as_deref() == Some(state);
        let ids: Vec<String> =
            steps.iter().filter(of_state).map(|step| format!("s{}", step.id.0)).collect();
        if !ids.is_empty() {
            line(&mut drawn, format_args!("  classDef {state} fill:{style}"));
            line(&mut drawn, format_args!("  class {} {state}", ids.join(",")));
        }
    }
    drawn
}

/// Colours of states, for both.
const STYLES: [(&str, &str); 4] =
    [("success", "#b7e1b0"), ("failed", "#f4b6b0"), ("running", "#b0d8f4"), ("skipped", "#eee2a8")];

fn dot(workflow: &Workflow, steps: &[Step]) -> String {
    let mut drawn = format!("digraph \"{}\" {{", escaped(&workflow.name));
    line(&mut drawn, format_args!("  node [shape=box, style=\"rounded,filled\", fillcolor=white]"));
    for step in steps {
        let state = step.state.as_ref().map_or_else(String::new, |state| format!("\\n{state}"));
        let style = STYLES.iter().find(|(word, _)| step.state.as_deref() == Some(word));
        let style =
            style.map_or_else(String::new, |(_, colour)| format!(", fillcolor=\"{colour}\""));
        let name = escaped(&step.name);
        line(&mut drawn, format_args!("  s{} [label=\"{name}{state}\"{style}]", step.id.0));
    }
    for (from, to) in edges(workflow) {
        line(&mut drawn, format_args!("  s{} -> s{}", from.0, to.0));
    }
    drawn + "\n}"
}

fn edges(workflow: &Workflow) -> impl Iterator<Item = (NodeId, NodeId)> {
    workflow.ids().flat_map(|to| workflow.node(to).dependencies.iter().map(move |from| (*from, to)))
}

fn line(drawn: &mut String, text: std::fmt::Arguments<'_>) {
    write!(drawn, "\n{text}").expect("writing to a String cannot fail");
}

/// For a text in quotation marks of DOT.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
}

/// For a label of Mermaid, which takes characters by their numbers.
fn entities(text: &str) -> String {
    text.chars().fold(String::new(), |mut label, c| {
        if c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.') {
            label.push(c);
        } else {
            write!(label, "#{};", u32::from(c)).expect("writing to a String cannot fail");
        }
        label
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::definition::{Definition, RecordedStep};

    fn workflow() -> Workflow {
        let step = |id: &str, name: &str, after: &[&str]| RecordedStep {
            id: id.into(),
            name: Some(name.into()),
            executor_type: Some("shell".into()),
            shell_script: Some("true".into()),
            dependencies: Some(format!("{after:?}")),
            run_mode: Some("parallel".into()),
            ..RecordedStep::default()
        };
        let steps = vec![
            step("a", "fetch \"it\"", &[]),
            step("b", "left\\", &["a"]),
            step("c", "right]", &["a"]),
            step("d", "join", &["b", "c"]),
        ];
        let definition = Definition { template: "t".into(), name: "a \"t\"".into(), steps };
        Workflow::try_new(&definition).expect("it is well made")
    }

    fn steps(workflow: &Workflow) -> Vec<Step> {
        let states = ["success", "failed", "skipped", "skipped"];
        workflow.ids().map(|id| Step::new(workflow, id, Some(states[id.index()].into()))).collect()
    }

    #[test]
    fn each_step_stands_below_what_it_waits_for() {
        assert_eq!(depths(&workflow()), [0, 1, 1, 2]);
    }

    #[test]
    fn names_cannot_break_out_of_their_labels() {
        let workflow = workflow();
        let mermaid = mermaid(&workflow, &steps(&workflow));
        assert_eq!(
            mermaid,
            "flowchart TD\n  s0[\"fetch #34;it#34;<br/>success\"]\n  s1[\"left#92;<br/>failed\"]\n  \
             s2[\"right#93;<br/>skipped\"]\n  s3[\"join<br/>skipped\"]\n  s0 --> s1\n  s0 --> s2\n  \
             s1 --> s3\n  s2 --> s3\n  classDef success fill:#b7e1b0\n  class s0 success\n  \
             classDef failed fill:#f4b6b0\n  class s1 failed\n  classDef skipped fill:#eee2a8\n  \
             class s2,s3 skipped"
        );
        let dot = dot(&workflow, &steps(&workflow));
        assert!(dot.starts_with("digraph \"a \\\"t\\\"\" {\n"), "{dot}");
        assert!(
            dot.contains("\n  s0 [label=\"fetch \\\"it\\\"\\nsuccess\", fillcolor=\"#b7e1b0\"]")
        );
        assert!(dot.contains("\n  s1 [label=\"left\\\\\\nfailed\", fillcolor"), "{dot}");
        assert!(dot.ends_with("\n  s2 -> s3\n}"), "{dot}");
    }
}
