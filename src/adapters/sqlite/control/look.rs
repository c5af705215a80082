//! `list` and `show`: what an operator sees.
//!
//! **Invariant:** every row can be shown, whatever stands in it.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use crate::{
    adapters::{
        plans,
        sqlite::{
            claim::origin,
            eligible::is_backlog,
            errors::Failure,
            rows::{Cells, list as as_list},
            session::{Moment, earlier},
        },
    },
    domain::{
        execution::ExecutionState,
        id::{ExecutionId, StepId},
    },
    ports::control::{
        AttemptDetail, ControlError, ExecutionDetail, ExecutionSummary, Filter, StepDetail,
    },
};

const SUMMARY: &str = "
    SELECT e.id, e.template_id, t.name AS template_name, e.status, e.ow_owner, e.ow_fence, e.error,
           e.created_by, e.ow_run, e.ow_traceparent,
           CAST(unixepoch(e.created_at,'subsec')*1000 AS INTEGER) AS created_ms,
           CAST(unixepoch(e.ow_not_before,'subsec')*1000 AS INTEGER) AS not_before_ms,
           CAST(unixepoch(e.started_at,'subsec')*1000 AS INTEGER) AS started_ms,
           CAST(unixepoch(e.finished_at,'subsec')*1000 AS INTEGER) AS finished_ms
      FROM workflow_executions e LEFT JOIN workflow_templates t ON t.id=e.template_id ";

pub(in crate::adapters::sqlite) async fn list(
    connection: &mut SqliteConnection,
    filter: &Filter,
) -> Result<Vec<ExecutionSummary>, Failure> {
    let sql = format!(
        "{SUMMARY} WHERE (?1 IS NULL OR e.status=?1)
            AND (?2 IS NULL OR e.template_id=?2 OR t.name=?2)
            AND (?3='[]' OR e.id IN (SELECT value FROM json_each(?3)))
            AND (NOT ?4 OR {})
            AND (?5 IS NULL OR e.finished_at>=strftime('%Y-%m-%d %H:%M:%f', 'now', ?5))
          ORDER BY e.created_at DESC, e.rowid DESC LIMIT ?6",
        is_backlog()
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(filter.state.map(ExecutionState::as_str))
        .bind(&filter.template)
        .bind(as_list(&filter.executions))
        .bind(filter.backlog)
        .bind(filter.ended_within.map(earlier))
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
        not_before: row.time("not_before_ms")?,
        started_at: row.time("started_ms")?,
        finished_at: row.time("finished_ms")?,
    })
}

pub(in crate::adapters::sqlite) async fn show(
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
    let plan = sqlx::query(
        "SELECT p.plan FROM workflow_executions e JOIN ow_plans p ON p.sha256=e.ow_plan
          WHERE e.id=?1",
    )
    .bind(execution.as_str())
    .fetch_optional(moment.on())
    .await?
    .map(|row| row.word("plan"))
    .transpose()?;
    let rows = sqlx::query(
        "SELECT x.id, x.step_id, s.name, s.executor_type, x.status, x.retry_count, x.output, x.error,
                CAST(unixepoch(x.started_at,'subsec')*1000 AS INTEGER) AS started_ms,
                CAST(unixepoch(x.finished_at,'subsec')*1000 AS INTEGER) AS finished_ms
           FROM workflow_step_executions x
           LEFT JOIN steps s ON s.id=x.step_id
           LEFT JOIN workflow_executions e ON e.id=x.execution_id
           LEFT JOIN workflow_template_steps ts
                  ON ts.template_id=e.template_id AND ts.step_id=x.step_id
          WHERE x.execution_id=?1 ORDER BY COALESCE(ts.\"order\", 0), x.step_id, x.id",
    )
    .bind(execution.as_str())
    .fetch_all(moment.on())
    .await?;
    let mut steps = Vec::with_capacity(rows.len());
    for row in &rows {
        let id = StepId::from(row.word("step_id")?);
        steps.push((id, step_detail(&mut moment, row).await?));
    }
    moment.rollback().await?;
    let steps = plans::as_planned(plan.as_deref(), steps);
    let (summary, origin) = (summary(&row)?, origin(&row)?);
    Ok(ExecutionDetail { summary, fence: row.count("ow_fence")?, origin, steps })
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
