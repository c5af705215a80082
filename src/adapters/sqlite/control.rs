//! What operators ask of the store: put workflows in, submit, look.
//!
//! **Invariant:** an execution and its step rows appear together or not at all.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    SqliteStore,
    errors::Failure,
    rows::{Cells, list},
    schema,
    session::Moment,
    templates,
};
use crate::{
    domain::{
        definition::{Definition, RecordedStep},
        execution::ExecutionState,
        id::{ExecutionId, TemplateId},
    },
    ports::control::{
        About, Applied, AttemptDetail, Control, ControlError, ExecutionDetail, ExecutionSummary,
        Filter, MigrationStep, StepDetail, Submission, Submitted,
    },
};

impl SqliteStore {
    async fn command<T: Send + 'static>(
        &self,
        job: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>>
        + Send
        + 'static,
    ) -> Result<T, ControlError> {
        self.job(&self.work, job).await.map_err(|failure| failure.into_control(&self.place))
    }
}

#[async_trait]
impl Control for SqliteStore {
    async fn migrate(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError> {
        self.command(move |c| Box::pin(schema::migrate(c, dry_run))).await
    }

    async fn apply(&self, definition: &Definition, about: &About) -> Result<Applied, ControlError> {
        let (definition, about) = (definition.clone(), about.clone());
        self.command(move |c| Box::pin(async move { apply(c, &definition, &about).await })).await
    }

    async fn submit(&self, submission: &Submission) -> Result<Submitted, ControlError> {
        let submission = submission.clone();
        self.command(move |c| Box::pin(async move { submit(c, &submission).await })).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<ExecutionSummary>, ControlError> {
        let filter = filter.clone();
        self.command(move |c| Box::pin(async move { summaries(c, &filter).await })).await
    }

    async fn show(&self, execution: &ExecutionId) -> Result<ExecutionDetail, ControlError> {
        let execution = execution.clone();
        self.command(move |c| Box::pin(async move { show(c, &execution).await })).await
    }
}

async fn apply(
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
            if sorted(&before) == sorted(definition)
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
    definition.steps.sort_by(|a, b| (a.order, &a.id).cmp(&(b.order, &b.id)));
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

async fn submit(
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

const SUMMARY: &str = "
    SELECT e.id, e.template_id, t.name AS template_name, e.status, e.ow_owner, e.ow_fence, e.error,
           e.created_by,
           CAST(unixepoch(e.created_at,'subsec')*1000 AS INTEGER) AS created_ms,
           CAST(unixepoch(e.started_at,'subsec')*1000 AS INTEGER) AS started_ms,
           CAST(unixepoch(e.finished_at,'subsec')*1000 AS INTEGER) AS finished_ms
      FROM workflow_executions e LEFT JOIN workflow_templates t ON t.id=e.template_id ";

async fn summaries(
    connection: &mut SqliteConnection,
    filter: &Filter,
) -> Result<Vec<ExecutionSummary>, Failure> {
    let sql = format!(
        "{SUMMARY} WHERE (?1 IS NULL OR e.status=?1)
            AND (?2 IS NULL OR e.template_id=?2 OR t.name=?2)
            AND (?3='[]' OR e.id IN (SELECT value FROM json_each(?3)))
          ORDER BY e.created_at DESC, e.rowid DESC LIMIT ?4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(filter.state.map(ExecutionState::as_str))
        .bind(&filter.template)
        .bind(list(&filter.executions))
        .bind(filter.limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(summary).collect()
}

fn summary(row: &SqliteRow) -> Result<ExecutionSummary, Failure> {
    Ok(ExecutionSummary {
        execution: row.word("id")?.into(),
        template: row.text("template_id")?.map(Into::into),
        template_name: row.text("template_name")?,
        status: row.text("status")?,
        owner: row.word("ow_owner")?,
        error: row.text("error")?,
        created_by: row.text("created_by")?,
        created_at: row.time("created_ms")?,
        started_at: row.time("started_ms")?,
        finished_at: row.time("finished_ms")?,
    })
}

async fn show(
    connection: &mut SqliteConnection,
    execution: &ExecutionId,
) -> Result<ExecutionDetail, Failure> {
    let mut moment = Moment::read(connection).await?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SUMMARY} WHERE e.id=?1")))
        .bind(execution.as_str())
        .fetch_optional(moment.on())
        .await?;
    let Some(row) = row else {
        moment.rollback().await?;
        return Err(ControlError::NoExecution(execution.to_string()).into());
    };
    let rows = sqlx::query(
        "SELECT x.id, s.name, s.executor_type, x.status, x.retry_count, x.output, x.error,
                CAST(unixepoch(x.started_at,'subsec')*1000 AS INTEGER) AS started_ms,
                CAST(unixepoch(x.finished_at,'subsec')*1000 AS INTEGER) AS finished_ms
           FROM workflow_step_executions x
           LEFT JOIN steps s ON s.id=x.step_id
           LEFT JOIN workflow_executions e ON e.id=x.execution_id
           LEFT JOIN workflow_template_steps ts
                  ON ts.template_id=e.template_id AND ts.step_id=x.step_id
          WHERE x.execution_id=?1 ORDER BY ts.\"order\", x.step_id, x.id",
    )
    .bind(execution.as_str())
    .fetch_all(moment.on())
    .await?;
    let mut steps = Vec::with_capacity(rows.len());
    for row in &rows {
        steps.push(step_detail(&mut moment, row).await?);
    }
    moment.rollback().await?;
    Ok(ExecutionDetail { summary: summary(&row)?, fence: row.count("ow_fence")?, steps })
}

async fn step_detail(moment: &mut Moment<'_>, row: &SqliteRow) -> Result<StepDetail, Failure> {
    let step_execution = row.word("id")?;
    let rows = sqlx::query(
        "SELECT attempt, fence, owner, outcome, cause,
                CAST(unixepoch(started_at,'subsec')*1000 AS INTEGER) AS started_ms,
                CAST(unixepoch(finished_at,'subsec')*1000 AS INTEGER) AS finished_ms
           FROM ow_attempts WHERE step_execution_id=?1 ORDER BY attempt",
    )
    .bind(&step_execution)
    .fetch_all(moment.on())
    .await?;
    let attempts: Result<Vec<AttemptDetail>, Failure> = rows
        .iter()
        .map(|row| {
            Ok(AttemptDetail {
                attempt: row.small("attempt")?,
                fence: row.count("fence")?,
                owner: row.word("owner")?,
                started_at: row.time("started_ms")?,
                finished_at: row.time("finished_ms")?,
                outcome: row.text("outcome")?,
                cause: row.text("cause")?,
            })
        })
        .collect();
    Ok(StepDetail {
        step_execution,
        name: row.text("name")?,
        executor_type: row.text("executor_type")?,
        status: row.text("status")?,
        retry_count: row.number("retry_count")?.unwrap_or(0),
        output: row.text("output")?,
        error: row.text("error")?,
        started_at: row.time("started_ms")?,
        finished_at: row.time("finished_ms")?,
        attempts: attempts?,
    })
}
