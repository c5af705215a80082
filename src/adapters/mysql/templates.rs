//! Templates read from the orchestrator's tables, and the plans kept of them (T).
//!
//! **Invariant:** an execution with a plan runs that plan, whatever became of its template; a plan
//! is stored only if it can be run, and never cut short: a place in a template that names no step
//! makes the template one that cannot be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sqlx::mysql::MySqlRow;

use super::{
    errors::Fault,
    rows,
    session::{Session, fixed, made},
};
use crate::{
    adapters::plans::{Checked, PlanError},
    domain::{
        definition::{Definition, RecordedStep},
        id::{PlanHash, TemplateId},
        workflow::Workflow,
    },
};

/// Longest text that `ow_plans.plan` can hold.
const MEDIUMTEXT_BYTES: usize = 16_777_215;
/// Room in a packet beside the plan's text.
const PACKET_ROOM: usize = 4_096;

/// What an execution runs.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// What its row does not say yet.
    pub new_plan: Option<PlanHash>,
    /// The workflow, or why there is none.
    pub workflow: Result<Arc<Workflow>, String>,
}

/// The template and the plan that an execution's row names.
pub(super) type Named = (Option<TemplateId>, Option<PlanHash>);

/// What each of these executions runs; a plan that is new is stored in this transaction.
pub(super) async fn recipes(session: &mut Session, named: &[Named]) -> Result<Vec<Recipe>, Fault> {
    let hashes = named.iter().filter_map(|(_, plan)| *plan).collect();
    let planned = planned(session, hashes).await?;
    let templates = named
        .iter()
        .filter(|(_, plan)| plan.is_none())
        .filter_map(|(template, _)| template.clone())
        .collect();
    let fresh = fresh(session, templates).await?;
    let recipes = named
        .iter()
        .map(|name| match name {
            (_, Some(plan)) => planned[plan].clone(),
            (Some(template), None) => {
                let gone = || refused(&PlanError::TemplateGone(template.clone()));
                fresh.get(template).cloned().unwrap_or_else(gone)
            }
            (None, None) => refused(&PlanError::NoTemplate),
        })
        .collect();
    Ok(recipes)
}

fn refused(reason: &impl ToString) -> Recipe {
    Recipe { new_plan: None, workflow: Err(reason.to_string()) }
}

/// Plans that executions already name. What is learnt here is kept here too: the shared memory may
/// start anew at any moment.
async fn planned(
    session: &mut Session,
    hashes: BTreeSet<PlanHash>,
) -> Result<BTreeMap<PlanHash, Recipe>, Fault> {
    let shared = session.shared.clone();
    let mut known: BTreeMap<PlanHash, Checked> =
        hashes.iter().filter_map(|hash| Some((*hash, shared.plans.get(hash)?))).collect();
    let unknown = rows::filled(hashes.iter().filter(|hash| !known.contains_key(hash)));
    if !unknown.is_empty() {
        let sql =
            format!("SELECT plan FROM ow_plans WHERE sha256 IN ({})", rows::marks(unknown.len()));
        let ask = unknown.iter().fold(made(sql), |ask, hash| ask.bind(hash.0.to_vec()));
        for row in session.rows(ask).await? {
            known.extend([shared.plans.learn(&rows::name(&row, 0)?)]);
        }
    }
    let recipe = |hash: PlanHash| {
        let workflow = known.remove(&hash).unwrap_or(Err(PlanError::PlanGone));
        (hash, Recipe { new_plan: None, workflow: workflow.map_err(|error| error.to_string()) })
    };
    Ok(hashes.into_iter().map(recipe).collect())
}

/// Plans for executions that have none yet.
async fn fresh(
    session: &mut Session,
    templates: BTreeSet<TemplateId>,
) -> Result<BTreeMap<TemplateId, Recipe>, Fault> {
    let mut recipes = BTreeMap::new();
    let mut to_store = BTreeMap::new();
    for (template, read) in definitions(session, &templates).await? {
        let recipe = match read {
            Err(error) => refused(&error),
            Ok(definition) => {
                let text = definition.to_text();
                let (hash, checked) = session.shared.plans.learn(&text);
                match (checked, too_long(session, text.len())) {
                    (Err(error), _) => refused(&error),
                    (Ok(_), Some(reason)) => refused(&reason),
                    (Ok(workflow), None) => {
                        to_store.insert(hash, text);
                        Recipe { new_plan: Some(hash), workflow: Ok(workflow) }
                    }
                }
            }
        };
        recipes.insert(template, recipe);
    }
    for (hash, text) in to_store {
        store(session, hash, &text).await?;
    }
    Ok(recipes)
}

/// Why a plan of so many bytes cannot be kept, if it cannot.
pub(super) fn too_long(session: &Session, bytes: usize) -> Option<String> {
    let most = MEDIUMTEXT_BYTES.min(session.server.max_packet.saturating_sub(PACKET_ROOM));
    (bytes > most).then(|| format!("its template takes {bytes} bytes; at most {most} can be kept"))
}

/// IGNORE: another worker may have stored the same plan.
async fn store(session: &mut Session, hash: PlanHash, text: &str) -> Result<(), Fault> {
    if session.has_stored(&hash) {
        return Ok(());
    }
    let insert =
        fixed("INSERT IGNORE INTO ow_plans(sha256, plan, created_at) VALUES (?, ?, NOW(3))");
    session.matched(insert.bind(hash.0.to_vec()).bind(text)).await?;
    session.stores(hash);
    Ok(())
}

/// The templates as recorded; in place of one that cannot be read, the reason.
pub(super) async fn definitions(
    session: &mut Session,
    templates: &BTreeSet<TemplateId>,
) -> Result<BTreeMap<TemplateId, Result<Definition, PlanError>>, Fault> {
    let mut read = BTreeMap::new();
    if templates.is_empty() {
        return Ok(read);
    }
    let asked = rows::filled(templates);
    let sql = format!(
        "SELECT t.id, t.name, ts.id, ts.step_id, s.id, s.name, s.executor_type, s.http_method, \
         s.http_url, s.http_headers, s.http_body, s.shell_script, s.shell_env, s.parameters, \
         s.timeout, s.retries, ts.dependencies, ts.run_mode, ts.on_failure, ts.`order` \
         FROM workflow_templates t LEFT JOIN workflow_template_steps ts ON ts.template_id=t.id \
         LEFT JOIN steps s ON s.id=ts.step_id WHERE t.id IN ({})",
        rows::marks(asked.len())
    );
    let ask = asked.iter().fold(made(sql), |ask, id| ask.bind(id.as_str()));
    for row in session.rows(ask).await? {
        let template = TemplateId::from(rows::name(&row, 0)?);
        let name = rows::name(&row, 1)?;
        let entry = read.entry(template.clone()).or_insert_with(|| {
            Ok(Definition { template: template.clone(), name, steps: Vec::new() })
        });
        if rows::text(&row, 2)?.is_none() {
            continue;
        }
        if rows::text(&row, 4)?.is_none() {
            *entry = Err(PlanError::StepGone(rows::name(&row, 3)?.into()));
        } else if let Ok(definition) = entry {
            definition.steps.push(step(&row)?);
        }
    }
    read.values_mut().flatten().for_each(Definition::sort);
    Ok(read)
}

fn step(row: &MySqlRow) -> Result<RecordedStep, Fault> {
    Ok(RecordedStep {
        id: rows::name(row, 4)?.into(),
        name: rows::text(row, 5)?,
        executor_type: rows::text(row, 6)?,
        http_method: rows::text(row, 7)?,
        http_url: rows::text(row, 8)?,
        http_headers: rows::text(row, 9)?,
        http_body: rows::text(row, 10)?,
        shell_script: rows::text(row, 11)?,
        shell_env: rows::text(row, 12)?,
        parameters: rows::text(row, 13)?,
        timeout: rows::number(row, 14)?,
        retries: rows::number(row, 15)?,
        dependencies: rows::text(row, 16)?,
        run_mode: rows::text(row, 17)?,
        on_failure: rows::text(row, 18)?,
        order: rows::number(row, 19)?,
    })
}
