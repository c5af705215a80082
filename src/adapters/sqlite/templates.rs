//! Workflows as recorded: templates joined with their steps, and the plans kept of them.
//!
//! **Invariant:** a template step whose row in `steps` is gone makes its template one that cannot be
//! read, and is never left out.

use std::collections::BTreeMap;

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    errors::Failure,
    rows::{Cells, list},
};
use crate::{
    adapters::plans::PlanError,
    domain::{
        definition::{Definition, RecordedStep},
        id::{PlanHash, TemplateId},
    },
};

/// The templates as recorded; in place of one that cannot be read, the reason. One that is not there
/// is missing in the answer.
pub(super) async fn definitions(
    connection: &mut SqliteConnection,
    templates: impl IntoIterator<Item = &TemplateId>,
) -> Result<BTreeMap<TemplateId, Result<Definition, PlanError>>, Failure> {
    let rows = sqlx::query(
        "SELECT t.id AS template, t.name AS template_name, ts.id AS place, ts.step_id,
                ts.dependencies, ts.run_mode, ts.on_failure, ts.\"order\" AS position,
                s.id AS there, s.name, s.executor_type, s.http_method, s.http_url, s.http_headers, s.http_body,
                s.shell_script, s.shell_env, s.parameters, s.timeout, s.retries
           FROM workflow_templates t
           LEFT JOIN workflow_template_steps ts ON ts.template_id=t.id
           LEFT JOIN steps s ON s.id=ts.step_id
          WHERE t.id IN (SELECT value FROM json_each(?1))",
    )
    .bind(list(templates))
    .fetch_all(connection)
    .await?;
    let mut found: BTreeMap<TemplateId, Result<Definition, PlanError>> = BTreeMap::new();
    for row in &rows {
        let template = TemplateId::from(row.word("template")?);
        let name = row.word("template_name")?;
        let read = found
            .entry(template.clone())
            .or_insert_with(|| Ok(Definition { template, name, steps: Vec::new() }));
        if row.text("place")?.is_none() {
            continue;
        }
        if row.text("there")?.is_none() {
            *read = Err(PlanError::StepGone(row.word("step_id")?.into()));
        } else if let Ok(definition) = read {
            definition.steps.push(recorded_step(row)?);
        }
    }
    found.values_mut().flatten().for_each(Definition::sort);
    Ok(found)
}

fn recorded_step(row: &SqliteRow) -> Result<RecordedStep, sqlx::Error> {
    Ok(RecordedStep {
        id: row.word("step_id")?.into(),
        name: row.text("name")?,
        executor_type: row.text("executor_type")?,
        http_method: row.text("http_method")?,
        http_url: row.text("http_url")?,
        http_headers: row.text("http_headers")?,
        http_body: row.text("http_body")?,
        shell_script: row.text("shell_script")?,
        shell_env: row.text("shell_env")?,
        parameters: row.text("parameters")?,
        timeout: row.number("timeout")?,
        retries: row.number("retries")?,
        dependencies: row.text("dependencies")?,
        run_mode: row.text("run_mode")?,
        on_failure: row.text("on_failure")?,
        order: row.number("position")?,
    })
}

/// The text of a stored plan.
pub(super) async fn stored_plan(
    connection: &mut SqliteConnection,
    hash: &PlanHash,
) -> Result<Option<String>, Failure> {
    let row = sqlx::query("SELECT plan FROM ow_plans WHERE sha256=?1")
        .bind(hash.0.as_slice())
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| row.word("plan")).transpose()?)
}

/// Keeps a plan; each is kept once.
pub(super) async fn store_plan(
    connection: &mut SqliteConnection,
    now: &str,
    hash: &PlanHash,
    text: &str,
) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO ow_plans(sha256, plan, created_at) VALUES (?1, ?2, ?3)
         ON CONFLICT(sha256) DO NOTHING",
    )
    .bind(hash.0.as_slice())
    .bind(text)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}
