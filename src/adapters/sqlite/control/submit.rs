//! `submit`: a pending execution with its step rows, in one transaction.
//!
//! **Invariant:** an execution and its step rows appear together or not at all.

use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::{
    adapters::sqlite::{errors::Failure, rows::Cells, session::Moment},
    domain::id::{ExecutionId, TemplateId},
    ports::control::{ControlError, Submission, Submitted},
};

pub(in crate::adapters::sqlite) async fn submit(
    connection: &mut SqliteConnection,
    submission: &Submission,
) -> Result<Submitted, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let (template, template_name) = find_template(&mut moment, &submission.template).await?;
    let execution = ExecutionId::from(Uuid::new_v4().to_string());
    sqlx::query(
        "INSERT INTO workflow_executions(id, template_id, status, created_by, created_at,
                                         updated_at)
         VALUES (?1, ?2, 'pending', ?3, ?4, ?4)",
    )
    .bind(execution.as_str())
    .bind(template.as_str())
    .bind(&submission.created_by)
    .bind(&now)
    .execute(moment.on())
    .await?;
    let steps = sqlx::query(
        "SELECT step_id FROM workflow_template_steps WHERE template_id=?1
          ORDER BY \"order\", step_id",
    )
    .bind(template.as_str())
    .fetch_all(moment.on())
    .await?;
    for step in &steps {
        sqlx::query(
            "INSERT INTO workflow_step_executions(id, execution_id, step_id, status, created_at,
                                                  updated_at)
             VALUES (?1, ?2, ?3, 'pending', ?4, ?4)",
        )
        .bind(Uuid::new_v4().to_string())
        .bind(execution.as_str())
        .bind(step.word("step_id")?)
        .bind(&now)
        .execute(moment.on())
        .await?;
    }
    moment.commit().await?;
    Ok(Submitted { execution, template, template_name })
}

/// By id, else by its one name.
async fn find_template(
    moment: &mut Moment<'_>,
    word: &str,
) -> Result<(TemplateId, String), Failure> {
    let rows = sqlx::query(
        "SELECT id, name, COALESCE(is_active, 1) AS is_active FROM workflow_templates
          WHERE id=?1 OR name=?1 ORDER BY id<>?1, id",
    )
    .bind(word)
    .fetch_all(moment.on())
    .await?;
    let Some(first) = rows.first() else {
        return Err(ControlError::NoTemplate(word.into()).into());
    };
    if rows.len() > 1 && first.word("id")? != word {
        let ids: Result<Vec<String>, _> = rows.iter().map(|row| row.word("id")).collect();
        let (name, ids) = (word.into(), ids?.join(", "));
        return Err(ControlError::Ambiguous { name, count: rows.len(), ids }.into());
    }
    if !first.yes("is_active")? {
        return Err(ControlError::Inactive(word.into()).into());
    }
    Ok((first.word("id")?.into(), first.word("name")?))
}
