//! `list` and `show`: what an operator sees.
//!
//! **Invariant:** every row can be shown, whatever stands in it.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            eligible::is_backlog,
            errors::Fault,
            facts, locks,
            rows::{self, time as millis, unix},
            session::{Entrance, Session, fixed, made},
            work::{WORK_LIMIT, Work, run},
        },
        plans,
    },
    domain::{
        id::{ExecutionId, TemplateId},
        trace::Origin,
    },
    ports::control::{
        AttemptDetail, ControlError, ExecutionDetail, ExecutionSummary, Filter, StepDetail,
    },
};

/// The columns that [`summary`] reads, and where from.
fn select_summary() -> String {
    format!(
        "SELECT e.id, e.template_id, t.name, e.status, e.ow_owner, e.error, e.created_by, {}, {}, \
         {}, {}, e.ow_fence, DATABASE(), e.ow_run, e.ow_traceparent FROM workflow_executions e \
         LEFT JOIN workflow_templates t ON t.id=e.template_id",
        unix("e.created_at"),
        unix("e.started_at"),
        unix("e.finished_at"),
        unix("e.ow_not_before")
    )
}

fn summary(row: &MySqlRow) -> Result<ExecutionSummary, Fault> {
    Ok(ExecutionSummary {
        execution: rows::name(row, 0)?.into(),
        template: rows::text(row, 1)?.map(TemplateId::from),
        template_name: rows::text(row, 2)?,
        status: rows::text(row, 3)?,
        owner: rows::name(row, 4)?,
        error: rows::text(row, 5)?,
        created_by: rows::text(row, 6)?,
        created_at: millis(row, 7)?,
        started_at: millis(row, 8)?,
        finished_at: millis(row, 9)?,
        not_before: millis(row, 10)?,
    })
}

fn origin(summary: &ExecutionSummary, row: &MySqlRow) -> Result<Origin, Fault> {
    Ok(Origin {
        schema: rows::name(row, 12)?.into(),
        created_ms: summary.created_at.map(|time| time.0),
        started_ms: summary.started_at.map(|time| time.0),
        run: u32::try_from(rows::count(row, 13)?).unwrap_or(u32::MAX),
        traceparent: rows::name(row, 14)?,
    })
}

pub(in crate::adapters::mysql) async fn list(
    lanes: &Lanes<Entrance>,
    filter: &Filter,
) -> Result<Vec<ExecutionSummary>, Fault> {
    run(lanes, WORK_LIMIT, List { filter: filter.clone() }).await
}

/// Databases take words that differ in case, or in spaces at their end, for the same; we do not.
struct List {
    filter: Filter,
}

#[async_trait]
impl Work for List {
    type Answer = Vec<ExecutionSummary>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<ExecutionSummary>, Fault> {
        let facts = facts::of(session).await?;
        let Filter { state, template, executions, backlog, ended_within, limit } = &self.filter;
        let mut conditions = vec!["TRUE".to_owned()];
        conditions.extend(state.map(|_| "e.status=? AND CAST(e.status AS BINARY)=?".into()));
        let named = "(CAST(e.template_id AS BINARY)=? OR CAST(t.name AS BINARY)=?)";
        conditions.extend(template.as_ref().map(|_| named.into()));
        if !executions.is_empty() {
            let marks = rows::marks(executions.len());
            conditions.push(format!("e.id IN ({marks}) AND CAST(e.id AS BINARY) IN ({marks})"));
        }
        if *backlog {
            conditions.push(format!("e.status='pending'{}", is_backlog()));
        }
        conditions.extend(
            ended_within.map(|_| "e.finished_at >= NOW(3) - INTERVAL ? MICROSECOND".into()),
        );
        let mut ask = made(format!(
            "{} WHERE {} ORDER BY e.created_at DESC, e.id DESC LIMIT ?",
            select_summary(),
            conditions.join(" AND ")
        ));
        if let Some(state) = state {
            ask = ask.bind(state.as_str()).bind(state.as_str().as_bytes());
        }
        if let Some(template) = template {
            ask = ask.bind(template.as_bytes()).bind(template.as_bytes());
        }
        for execution in executions {
            ask = ask.bind(execution.as_str());
        }
        for execution in executions {
            ask = ask.bind(execution.as_str().as_bytes());
        }
        if *backlog {
            ask = ask.bind(&facts.backlog_before);
        }
        if let Some(ended_within) = ended_within {
            ask = ask.bind(locks::micros(*ended_within));
        }
        session.rows(ask.bind(limit)).await?.iter().map(summary).collect()
    }
}

pub(in crate::adapters::mysql) async fn show(
    lanes: &Lanes<Entrance>,
    execution: &ExecutionId,
) -> Result<ExecutionDetail, ControlError> {
    let found = run(lanes, WORK_LIMIT, Show { execution: execution.clone() }).await?;
    found.ok_or_else(|| ControlError::NoExecution(execution.to_string()))
}

struct Show {
    execution: ExecutionId,
}

#[async_trait]
impl Work for Show {
    type Answer = Option<ExecutionDetail>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        let ask = made(format!("{} WHERE e.id=?", select_summary()));
        let Some(row) = session.row(ask.bind(self.execution.as_str())).await? else {
            return Ok(None);
        };
        let summary = summary(&row)?;
        if summary.execution != self.execution {
            return Ok(None);
        }
        let mut attempts = self.attempts(session).await?;
        let mut steps = self.steps(session).await?;
        for step in &mut steps {
            step.attempts = attempts.remove(&step.step_execution).unwrap_or_default();
        }
        let origin = origin(&summary, &row)?;
        Ok(Some(ExecutionDetail { summary, fence: rows::count(&row, 11)?, origin, steps }))
    }
}

impl Show {
    async fn steps(&self, session: &mut Session) -> Result<Vec<StepDetail>, Fault> {
        let ask = made(format!(
            "SELECT se.id, s.name, s.executor_type, se.status, se.retry_count, se.output, se.error, \
             {}, {}, se.step_id FROM workflow_step_executions se \
             JOIN workflow_executions e ON e.id=se.execution_id LEFT JOIN steps s ON s.id=se.step_id \
             LEFT JOIN workflow_template_steps ts ON ts.template_id=e.template_id \
             AND ts.step_id=se.step_id WHERE se.execution_id=? \
             ORDER BY COALESCE(ts.`order`, 0), se.step_id, se.id",
            unix("se.started_at"),
            unix("se.finished_at")
        ));
        let found = session.rows(ask.bind(self.execution.as_str())).await?;
        let steps = found
            .iter()
            .map(|row| Ok((rows::name(row, 9)?.into(), step(row)?)))
            .collect::<Result<Vec<_>, Fault>>()?;
        Ok(plans::as_planned(self.plan(session).await?.as_deref(), steps))
    }

    async fn plan(&self, session: &mut Session) -> Result<Option<String>, Fault> {
        let ask = fixed(
            "SELECT p.plan FROM workflow_executions e JOIN ow_plans p ON p.sha256=e.ow_plan \
             WHERE e.id=?",
        );
        let row = session.row(ask.bind(self.execution.as_str())).await?;
        row.map(|row| rows::name(&row, 0)).transpose()
    }

    async fn attempts(
        &self,
        session: &mut Session,
    ) -> Result<HashMap<String, Vec<AttemptDetail>>, Fault> {
        let ask = made(format!(
            "SELECT step_execution_id, attempt, fence, owner, {}, {}, outcome, cause \
             FROM ow_attempts WHERE execution_id=? ORDER BY step_execution_id, attempt",
            unix("started_at"),
            unix("finished_at")
        ));
        let mut attempts: HashMap<String, Vec<AttemptDetail>> = HashMap::new();
        for row in session.rows(ask.bind(self.execution.as_str())).await? {
            attempts.entry(rows::name(&row, 0)?).or_default().push(attempt(&row)?);
        }
        Ok(attempts)
    }
}

fn step(row: &MySqlRow) -> Result<StepDetail, Fault> {
    Ok(StepDetail {
        step_execution: rows::name(row, 0)?,
        name: rows::text(row, 1)?,
        executor_type: rows::text(row, 2)?,
        status: rows::text(row, 3)?,
        retry_count: rows::number(row, 4)?.unwrap_or(0),
        output: rows::text(row, 5)?,
        error: rows::text(row, 6)?,
        started_at: millis(row, 7)?,
        finished_at: millis(row, 8)?,
        attempts: Vec::new(),
    })
}

fn attempt(row: &MySqlRow) -> Result<AttemptDetail, Fault> {
    Ok(AttemptDetail {
        attempt: u32::try_from(rows::count(row, 1)?).unwrap_or(u32::MAX),
        fence: rows::count(row, 2)?,
        owner: rows::name(row, 3)?,
        started_at: millis(row, 4)?,
        finished_at: millis(row, 5)?,
        outcome: rows::text(row, 6)?,
        cause: rows::text(row, 7)?,
    })
}
