//! `apply`: a definition into the tables, in one transaction.
//!
//! **Invariant:** applying the same definition twice changes nothing; executions that have begun keep
//! the plan of their first claim.

use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::{
    adapters::sqlite::{errors::Failure, rows::Cells, session::Moment, templates},
    domain::{
        definition::{Definition, RecordedStep},
        id::TemplateId,
    },
    ports::control::{About, Applied},
};

pub(in crate::adapters::sqlite) async fn apply(
    connection: &mut SqliteConnection,
    definition: &Definition,
    about: &About,
) -> Result<Applied, Failure> {
    let mut moment = Moment::write(connection).await?;
    let template = &definition.template;
    let before = templates::definitions(moment.on(), [template]).await?.remove(template);
    let described = sqlx::query("SELECT description FROM workflow_templates WHERE id=?1")
        .bind(template.as_str())
        .fetch_optional(moment.on())
        .await?
        .map(|row| row.word("description"))
        .transpose()?;
    let applied = match before {
        None => Applied::Created,
        Some(Ok(before))
            if before == sorted(definition)
                && described.as_deref() == Some(about.description.as_str()) =>
        {
            Applied::Unchanged
        }
        Some(_) => Applied::Changed,
    };
    if applied != Applied::Unchanged {
        put_template(&mut moment, definition, about).await?;
        for step in &definition.steps {
            put_step(&mut moment, template, step, about).await?;
        }
    }
    moment.commit().await?;
    Ok(applied)
}

fn sorted(definition: &Definition) -> Definition {
    let mut definition = definition.clone();
    definition.sort();
    definition
}

async fn put_template(
    moment: &mut Moment<'_>,
    definition: &Definition,
    about: &About,
) -> Result<(), Failure> {
    let now = moment.now.clone();
    sqlx::query(
        "INSERT INTO workflow_templates(id, name, description, creator_email, is_active,
                                        created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, 1, ?5, ?5)
         ON CONFLICT(id) DO UPDATE
            SET name=excluded.name, description=excluded.description, updated_at=?5",
    )
    .bind(definition.template.as_str())
    .bind(&definition.name)
    .bind(&about.description)
    .bind(&about.creator)
    .bind(now)
    .execute(moment.on())
    .await?;
    sqlx::query("DELETE FROM workflow_template_steps WHERE template_id=?1")
        .bind(definition.template.as_str())
        .execute(moment.on())
        .await?;
    Ok(())
}

async fn put_step(
    moment: &mut Moment<'_>,
    template: &TemplateId,
    step: &RecordedStep,
    about: &About,
) -> Result<(), Failure> {
    let now = moment.now.clone();
    sqlx::query(
        "INSERT INTO steps(id, name, executor_type, http_method, http_url, http_headers, http_body,
                           shell_script, shell_env, parameters, timeout, retries, creator_email,
                           created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14)
         ON CONFLICT(id) DO UPDATE
            SET name=excluded.name, executor_type=excluded.executor_type,
                http_method=excluded.http_method, http_url=excluded.http_url,
                http_headers=excluded.http_headers, http_body=excluded.http_body,
                shell_script=excluded.shell_script, shell_env=excluded.shell_env,
                parameters=excluded.parameters, timeout=excluded.timeout,
                retries=excluded.retries, updated_at=excluded.updated_at",
    )
    .bind(step.id.as_str())
    .bind(&step.name)
    .bind(&step.executor_type)
    .bind(&step.http_method)
    .bind(&step.http_url)
    .bind(&step.http_headers)
    .bind(&step.http_body)
    .bind(&step.shell_script)
    .bind(&step.shell_env)
    .bind(&step.parameters)
    .bind(step.timeout)
    .bind(step.retries)
    .bind(&about.creator)
    .bind(&now)
    .execute(moment.on())
    .await?;
    sqlx::query(
        "INSERT INTO workflow_template_steps(id, template_id, step_id, dependencies, run_mode,
                                             on_failure, \"order\", created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )
    .bind(Uuid::new_v4().to_string())
    .bind(template.as_str())
    .bind(step.id.as_str())
    .bind(&step.dependencies)
    .bind(&step.run_mode)
    .bind(&step.on_failure)
    .bind(step.order)
    .bind(&now)
    .execute(moment.on())
    .await?;
    Ok(())
}
