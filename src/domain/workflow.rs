//! The graph of a workflow.
//!
//! **Invariant:** a [`Workflow`] is acyclic by construction, its nodes stand in the order in which
//! ready steps are taken (`order`, then `steps.id`), and every edge points to a node that exists.

use std::collections::{BTreeMap, VecDeque};

use super::{
    definition::Definition,
    id::{StepId, TemplateId},
    step::{Step, StepError},
};

/// A node's place in [`Workflow::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A checked, acyclic workflow.
#[derive(Clone, Debug, PartialEq)]
pub struct Workflow {
    pub template: TemplateId,
    pub name: String,
    nodes: Vec<Node>,
}

/// A step in its place in the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub step: Step,
    pub mode: RunMode,
    pub on_failure: OnFailure,
    pub dependencies: Vec<NodeId>,
    pub dependents: Vec<NodeId>,
}

/// `workflow_template_steps.run_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// Runs alone.
    Serial,
    /// Starts beside what runs.
    Parallel,
}

/// `workflow_template_steps.on_failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The execution fails.
    Abort,
    /// The failure stays on the step; the execution goes on.
    Skip,
}

/// Why a definition is no workflow. Each names the step to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkflowError {
    #[error("step {name:?} cannot be run: {error}")]
    Step { name: String, error: StepError },
    #[error("step {0:?} stands twice in the template")]
    Duplicate(String),
    #[error("the dependencies of step {name:?} are not a JSON array of step ids: {problem}")]
    Dependencies { name: String, problem: String },
    #[error("step {name:?} depends on {dependency:?}, which is not a step of this template")]
    UnknownDependency { name: String, dependency: String },
    #[error("steps wait for each other in a circle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    #[error("step {name:?} has run_mode {word:?}, which is neither \"serial\" nor \"parallel\"")]
    RunMode { name: String, word: String },
    #[error("step {name:?} has on_failure {word:?}, which is neither \"abort\" nor \"skip\"")]
    OnFailure { name: String, word: String },
    #[error("the template has {0} steps; at most {max} can be run", max = Workflow::MAX_STEPS)]
    TooManySteps(usize),
}

impl Workflow {
    /// More steps than this are refused.
    pub const MAX_STEPS: usize = 1_000_000;

    pub fn try_new(definition: &Definition) -> Result<Self, WorkflowError> {
        if definition.steps.len() > Self::MAX_STEPS {
            return Err(WorkflowError::TooManySteps(definition.steps.len()));
        }
        let mut recorded: Vec<_> = definition.steps.iter().collect();
        recorded.sort_by(|a, b| (a.order.unwrap_or(0), &a.id).cmp(&(b.order.unwrap_or(0), &b.id)));

        let mut nodes = Vec::with_capacity(recorded.len());
        let mut places: BTreeMap<&StepId, NodeId> = BTreeMap::new();
        for (place, row) in (0..).zip(&recorded) {
            let step = Step::try_new(row)
                .map_err(|error| WorkflowError::Step { name: row.shown_name(), error })?;
            if places.insert(&row.id, NodeId(place)).is_some() {
                return Err(WorkflowError::Duplicate(step.name));
            }
            nodes.push(Node {
                mode: run_mode(&step.name, row.run_mode.as_deref())?,
                on_failure: on_failure(&step.name, row.on_failure.as_deref())?,
                step,
                dependencies: Vec::new(),
                dependents: Vec::new(),
            });
        }
        for (place, row) in (0..).zip(&recorded) {
            let mut ids = dependency_ids(&nodes[place].step.name, row.dependencies.as_deref())?;
            ids.sort();
            ids.dedup();
            for id in ids {
                let Some(&dependency) = places.get(&id) else {
                    return Err(WorkflowError::UnknownDependency {
                        name: nodes[place].step.name.clone(),
                        dependency: id.to_string(),
                    });
                };
                let dependent = places[&row.id];
                nodes[dependent.index()].dependencies.push(dependency);
                nodes[dependency.index()].dependents.push(dependent);
            }
        }
        let workflow =
            Self { template: definition.template.clone(), name: definition.name.clone(), nodes };
        workflow.circle().map_or(Ok(workflow), |names| Err(WorkflowError::Cycle(names)))
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Every node's id, in the order in which ready steps are taken.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.nodes.len()).expect("MAX_STEPS fits")).map(NodeId)
    }

    /// The names along one circle, first name repeated at its end; `None` if there is no circle.
    fn circle(&self) -> Option<Vec<String>> {
        let mut unmet: Vec<usize> = self.nodes.iter().map(|n| n.dependencies.len()).collect();
        let mut free: VecDeque<NodeId> = self.ids().filter(|id| unmet[id.index()] == 0).collect();
        let mut reached = 0;
        while let Some(id) = free.pop_front() {
            reached += 1;
            for dependent in &self.node(id).dependents {
                unmet[dependent.index()] -= 1;
                if unmet[dependent.index()] == 0 {
                    free.push_back(*dependent);
                }
            }
        }
        if reached == self.nodes.len() {
            return None;
        }
        // Every node left has a dependency that is left too, so walking back must close a circle.
        let stuck = |id: &NodeId| unmet[id.index()] > 0;
        let mut path: Vec<NodeId> = vec![self.ids().find(|id| stuck(id))?];
        let mut seen_at = vec![None; self.nodes.len()];
        loop {
            let here = *path.last()?;
            if let Some(start) = seen_at[here.index()].replace(path.len() - 1) {
                let names = |id: &NodeId| self.node(*id).step.name.clone();
                return Some(path[start..].iter().rev().map(names).collect());
            }
            path.push(*self.node(here).dependencies.iter().find(|id| stuck(id))?);
        }
    }
}

fn run_mode(name: &str, word: Option<&str>) -> Result<RunMode, WorkflowError> {
    match word {
        None | Some("" | "serial") => Ok(RunMode::Serial),
        Some("parallel") => Ok(RunMode::Parallel),
        Some(word) => Err(WorkflowError::RunMode { name: name.into(), word: word.into() }),
    }
}

fn on_failure(name: &str, word: Option<&str>) -> Result<OnFailure, WorkflowError> {
    match word {
        None | Some("" | "abort") => Ok(OnFailure::Abort),
        Some("skip") => Ok(OnFailure::Skip),
        Some(word) => Err(WorkflowError::OnFailure { name: name.into(), word: word.into() }),
    }
}

fn dependency_ids(name: &str, column: Option<&str>) -> Result<Vec<StepId>, WorkflowError> {
    match column.map(str::trim) {
        None | Some("" | "null") => Ok(Vec::new()),
        Some(text) => serde_json::from_str(text).map_err(|error| WorkflowError::Dependencies {
            name: name.into(),
            problem: error.to_string(),
        }),
    }
}
