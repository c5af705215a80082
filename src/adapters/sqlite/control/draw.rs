//! What `graph` draws: a template, or an execution's plan with its steps' states.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::{
    super::{errors::Failure, rows::Cells, session::Moment, templates},
    find,
};
use crate::{
    domain::{
        definition::Definition,
        id::{StepId, TemplateId},
    },
    ports::control::{ControlError, Drawn},
};

pub(in super::super) async fn draw(
    connection: &mut SqliteConnection,
    which: &str,
) -> Result<Drawn, Failure> {
    let mut moment = Moment::read(connection).await?;
    let row = sqlx::query(
        "SELECT e.template_id, p.plan FROM workflow_executions e
           LEFT JOIN ow_plans p ON p.sha256=e.ow_plan WHERE e.id=?1",
    )
    .bind(which)
    .fetch_optional(moment.on())
    .await?;
    let drawn = if let Some(row) = row {
        let plan = row.text("plan")?.and_then(|text| Definition::from_text(&text).ok());
        let definition = match plan {
            Some(plan) => plan,
            None => template(&mut moment, row.word("template_id")?.into()).await?,
        };
        Drawn { definition, states: states(&mut moment, which).await? }
    } else {
        let id = find::template(&mut moment, which).await?.id;
        Drawn { definition: template(&mut moment, id).await?, states: BTreeMap::new() }
    };
    moment.rollback().await?;
    Ok(drawn)
}

async fn template(moment: &mut Moment<'_>, id: TemplateId) -> Result<Definition, Failure> {
    let mut read = templates::definitions(moment.on(), [&id]).await?;
    let read = read.remove(&id).ok_or_else(|| ControlError::NoTemplate(id.to_string()))?;
    Ok(read.map_err(|reason| ControlError::Unreadable(id.to_string(), reason.to_string()))?)
}

async fn states(
    moment: &mut Moment<'_>,
    execution: &str,
) -> Result<BTreeMap<StepId, String>, Failure> {
    let rows = sqlx::query(
        "SELECT step_id, COALESCE(status, 'pending') AS status FROM workflow_step_executions
          WHERE execution_id=?1 ORDER BY id DESC",
    )
    .bind(execution)
    .fetch_all(moment.on())
    .await?;
    rows.iter().map(|row| Ok((row.word("step_id")?.into(), row.word("status")?))).collect()
}
