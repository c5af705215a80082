//! What `explain` goes by, read in one transaction.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::locks::is_live;
use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            eligible::is_backlog,
            errors::Fault,
            facts::{self, Facts as Tables},
            rows,
            session::{Entrance, Session, fixed, made},
            templates,
            work::{WORK_LIMIT, Work, run},
        },
    },
    domain::{
        explain::{Facts, LockFact, Loss, Paused, StepFact, in_order, workflow_of_plan},
        id::{ExecutionId, Fence, LockKey, RELEASED, TemplateId},
        pod::kept_in,
        workflow::Workflow,
    },
    ports::control::ControlError,
};

pub(in crate::adapters::mysql) async fn facts(
    lanes: &Lanes<Entrance>,
    execution: &ExecutionId,
) -> Result<Facts, ControlError> {
    let read = run(lanes, WORK_LIMIT, Read { execution: execution.clone() }).await?;
    read.ok_or_else(|| ControlError::NoExecution(execution.to_string()))
}

struct Read {
    execution: ExecutionId,
}

#[async_trait]
impl Work for Read {
    type Answer = Option<Facts>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let tables = facts::of(session).await?;
        session.begin().await?;
        let read = self.read(session, &tables).await?;
        session.rollback().await?;
        Ok(read)
    }
}

impl Read {
    async fn read(&self, session: &mut Session, tables: &Tables) -> Result<Option<Facts>, Fault> {
        let ask = made(format!(
            "SELECT {}, e.error, TIMESTAMPDIFF(MICROSECOND, e.created_at, NOW(3)), \
             TIMESTAMPDIFF(MICROSECOND, NOW(3), e.ow_due), \
             CAST(e.status='pending'{} AS SIGNED), e.ow_fence, e.ow_owner, e.template_id, t.name, \
             (SELECT MAX(p.template_id='*') FROM ow_paused p \
              WHERE p.template_id='*' OR p.template_id=e.template_id), pl.plan, \
             TIMESTAMPDIFF(MICROSECOND, e.ow_due, NOW(3)), \
             CAST(EXISTS (SELECT 1 FROM workflow_executions r FORCE INDEX (ow_held) \
              WHERE r.ow_owner=? AND r.status='running' AND r.template_id=e.template_id) AS SIGNED), \
             e.ow_owner_uid \
             FROM workflow_executions e LEFT JOIN workflow_templates t ON t.id=e.template_id \
             LEFT JOIN ow_plans pl ON pl.sha256=e.ow_plan WHERE e.id=?",
            rows::status("e.status"),
            is_backlog()
        ));
        let ask = ask.bind(&tables.backlog_before).bind(RELEASED).bind(self.execution.as_str());
        let Some(row) = session.row(ask).await? else { return Ok(None) };
        let template = rows::text(&row, 7)?;
        let workflow = match rows::text(&row, 10)? {
            Some(plan) => workflow_of_plan(&plan),
            None => workflow_of(session, template.clone()).await?,
        };
        let template_key = template.as_deref().map(|id| LockKey::of_template(&id.into()));
        let template_lock = match template_key {
            Some(key) => lock(session, &key).await?,
            None => None,
        };
        let steps = self.steps(session).await?;
        let (workers, held) = crowd(session, tables).await?;
        Ok(Some(Facts {
            status: rows::text(&row, 0)?,
            error: rows::text(&row, 1)?,
            age: time(&row, 2)?,
            due_in: time(&row, 3)?,
            due_for: time(&row, 11)?,
            is_backlog: rows::number(&row, 4)? == Some(1),
            fence: Fence(rows::count(&row, 5)?),
            owner: rows::name(&row, 6)?,
            kept_in: kept_in(&rows::name(&row, 13)?).map(str::to_owned),
            template: rows::text(&row, 8)?.or(template).unwrap_or_default(),
            paused: rows::number(&row, 9)?
                .map(|all| if all == 1 { Paused::All } else { Paused::Template }),
            lock: lock(session, &LockKey::of_execution(&self.execution)).await?,
            template_lock,
            template_handed_back: rows::number(&row, 12)? == Some(1),
            lost: self.lost(session).await?,
            steps: in_order(steps, workflow.as_deref().ok()),
            workflow,
            workers,
            held,
            ahead: self.ahead(session).await?,
        }))
    }

    /// By `steps.id`.
    async fn steps(&self, session: &mut Session) -> Result<BTreeMap<String, StepFact>, Fault> {
        let ask = fixed(
            "SELECT x.step_id, s.name, x.status, LEFT(x.error, 1000), x.ow_attempt, \
             TIMESTAMPDIFF(MICROSECOND, a.started_at, NOW(3)) FROM workflow_step_executions x \
             LEFT JOIN steps s ON s.id=x.step_id LEFT JOIN ow_attempts a \
             ON a.step_execution_id=x.id AND a.attempt=x.ow_attempt AND a.outcome IS NULL \
             WHERE x.execution_id=? ORDER BY x.id DESC",
        );
        let mut steps = BTreeMap::new();
        for row in session.rows(ask.bind(self.execution.as_str())).await? {
            let id = rows::name(&row, 0)?;
            let step = StepFact {
                name: rows::text(&row, 1)?.unwrap_or_else(|| id.clone()),
                status: rows::text(&row, 2)?,
                error: rows::text(&row, 3)?,
                attempt: u32::try_from(rows::count(&row, 4)?).unwrap_or(u32::MAX),
                running_for: match rows::number(&row, 5)? {
                    None => None,
                    Some(_) => Some(time(&row, 5)?),
                },
            };
            steps.insert(id, step);
        }
        Ok(steps)
    }

    async fn lost(&self, session: &mut Session) -> Result<Option<Loss>, Fault> {
        let ask = fixed(
            "SELECT owner, cause FROM ow_attempts WHERE execution_id=? AND outcome='lost' \
             AND cause IS NOT NULL ORDER BY fence DESC LIMIT 1",
        );
        let row = session.row(ask.bind(self.execution.as_str())).await?;
        row.map(|row| Ok(Loss { owner: rows::name(&row, 0)?, cause: rows::name(&row, 1)? }))
            .transpose()
    }

    async fn ahead(&self, session: &mut Session) -> Result<u64, Fault> {
        let ask = fixed(
            "SELECT COUNT(*) FROM workflow_executions w FORCE INDEX (ow_poll) \
             JOIN workflow_executions e ON e.id=? WHERE w.status='pending' AND w.ow_due < e.ow_due",
        );
        let row = session.row(ask.bind(self.execution.as_str())).await?;
        Ok(row.map(|row| rows::number(&row, 0)).transpose()?.flatten().map_or(0, unsigned))
    }
}

async fn lock(session: &mut Session, key: &LockKey) -> Result<Option<LockFact>, Fault> {
    let ask = fixed(
        "SELECT owner, ow_fence, TIMESTAMPDIFF(MICROSECOND, updated_at, NOW(3)), \
         TIMESTAMPDIFF(MICROSECOND, updated_at, expires_at), \
         TIMESTAMPDIFF(MICROSECOND, NOW(3), expires_at) FROM distributed_locks \
         WHERE lock_key=?",
    );
    let Some(row) = session.row(ask.bind(key.as_str())).await? else { return Ok(None) };
    let left = time(&row, 4)?;
    Ok(Some(LockFact {
        owner: rows::name(&row, 0)?,
        fence: Fence(rows::count(&row, 1)?),
        age: time(&row, 2)?,
        ttl: time(&row, 3)?,
        expires_in: (!left.is_zero()).then_some(left),
    }))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Microseconds; what is NULL or negative is none.
fn time(row: &MySqlRow, column: usize) -> Result<Duration, Fault> {
    Ok(Duration::from_micros(rows::number(row, column)?.map_or(0, unsigned)))
}

async fn workflow_of(
    session: &mut Session,
    template: Option<String>,
) -> Result<Result<Arc<Workflow>, String>, Fault> {
    let Some(template) = template.map(TemplateId::from) else {
        return Ok(Err("it names no template".into()));
    };
    let mut read = templates::definitions(session, &[template.clone()].into()).await?;
    Ok(match read.remove(&template) {
        None => Err(format!("its template {template} does not exist any more")),
        Some(Err(reason)) => Err(reason.to_string()),
        Some(Ok(definition)) => {
            Workflow::try_new(&definition).map(Arc::new).map_err(|error| error.to_string())
        }
    })
}

/// Workers with a live lease, and how many executions they hold.
async fn crowd(session: &mut Session, tables: &Tables) -> Result<(u64, u64), Fault> {
    let ask = made(format!(
        "SELECT COUNT(DISTINCT owner), COUNT(*) FROM distributed_locks WHERE {}",
        is_live(tables)
    ));
    let row = session.row(ask).await?;
    let row = row.ok_or_else(|| Fault::Unexpected("a count gave no row".into()))?;
    Ok((rows::number(&row, 0)?.map_or(0, unsigned), rows::number(&row, 1)?.map_or(0, unsigned)))
}
