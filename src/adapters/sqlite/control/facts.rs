//! What `explain` goes by, read in one transaction.

use std::{collections::BTreeMap, sync::Arc};

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    super::{eligible::is_backlog, errors::Failure, rows::Cells, session::Moment, templates},
    locks::IS_LIVE,
};
use crate::{
    domain::{
        explain::{Facts, LockFact, Loss, Paused, StepFact, in_order, workflow_of_plan},
        id::{ExecutionId, Fence, LockKey, RELEASED, TemplateId},
        pod::kept_in,
        workflow::Workflow,
    },
    ports::control::ControlError,
};

pub(in super::super) async fn facts(
    connection: &mut SqliteConnection,
    execution: &ExecutionId,
) -> Result<Facts, Failure> {
    let mut moment = Moment::read(connection).await?;
    let now = moment.now.clone();
    let sql = format!(
        "SELECT e.status, e.error, e.ow_fence, e.ow_owner, e.ow_owner_uid, e.template_id, t.name, pl.plan,
                CAST((unixepoch(?2,'subsec')-unixepoch(e.created_at,'subsec'))*1000 AS INTEGER)
                    AS age,
                CAST((unixepoch(e.ow_due,'subsec')-unixepoch(?2,'subsec'))*1000 AS INTEGER)
                    AS due_in,
                CAST((unixepoch(?2,'subsec')-unixepoch(e.ow_due,'subsec'))*1000 AS INTEGER)
                    AS due_for,
                EXISTS (SELECT 1 FROM workflow_executions r INDEXED BY ow_held
                         WHERE r.ow_owner>'' AND r.ow_owner=?3 AND r.status='running'
                           AND r.template_id=e.template_id) AS template_handed_back,
                (SELECT w.id FROM workflow_executions w WHERE w.id=?1 AND {}) IS NOT NULL
                    AS is_backlog,
                (SELECT MAX(p.template_id='*') FROM ow_paused p
                  WHERE p.template_id='*' OR p.template_id=e.template_id) AS paused,
                (SELECT COUNT(*) FROM workflow_executions w
                  WHERE w.status='pending' AND w.ow_due<e.ow_due) AS ahead
           FROM workflow_executions e
           LEFT JOIN workflow_templates t ON t.id=e.template_id
           LEFT JOIN ow_plans pl ON pl.sha256=e.ow_plan
          WHERE e.id=?1",
        is_backlog()
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(execution.as_str())
        .bind(now)
        .bind(RELEASED)
        .fetch_optional(moment.on())
        .await?
        .ok_or_else(|| ControlError::NoExecution(execution.to_string()))?;
    let template = row.text("template_id")?;
    let workflow = match row.text("plan")? {
        Some(plan) => workflow_of_plan(&plan),
        None => workflow_of(&mut moment, template.clone()).await?,
    };
    let steps = steps(&mut moment, execution).await?;
    let (workers, held) = crowd(&mut moment).await?;
    let template_lock = match template.as_deref().map(|id| LockKey::of_template(&id.into())) {
        Some(key) => lock(&mut moment, &key).await?,
        None => None,
    };
    let lock = lock(&mut moment, &LockKey::of_execution(execution)).await?;
    let lost = lost(&mut moment, execution).await?;
    moment.rollback().await?;
    Ok(Facts {
        status: row.text("status")?,
        error: row.text("error")?,
        age: row.millis("age")?,
        due_in: row.millis("due_in")?,
        due_for: row.millis("due_for")?,
        is_backlog: row.yes("is_backlog")?,
        fence: Fence(row.count("ow_fence")?),
        owner: row.word("ow_owner")?,
        kept_in: kept_in(&row.word("ow_owner_uid")?).map(str::to_owned),
        template: row.text("name")?.or(template).unwrap_or_default(),
        paused: row
            .number("paused")?
            .map(|all| if all == 1 { Paused::All } else { Paused::Template }),
        lock,
        template_lock,
        template_handed_back: row.yes("template_handed_back")?,
        lost,
        steps: in_order(steps, workflow.as_deref().ok()),
        workflow,
        workers,
        held,
        ahead: row.count("ahead")?,
    })
}

async fn lock(moment: &mut Moment<'_>, key: &LockKey) -> Result<Option<LockFact>, Failure> {
    let now = moment.now.clone();
    let row = sqlx::query(
        "SELECT owner, ow_fence,
                CAST((unixepoch(?2,'subsec')-unixepoch(updated_at,'subsec'))*1000 AS INTEGER)
                    AS age,
                CAST(round((unixepoch(expires_at,'subsec')-unixepoch(updated_at,'subsec'))*1000)
                     AS INTEGER) AS ttl,
                CAST((unixepoch(expires_at,'subsec')-unixepoch(?2,'subsec'))*1000 AS INTEGER)
                    AS left
           FROM distributed_locks WHERE lock_key=?1",
    )
    .bind(key.as_str())
    .bind(now)
    .fetch_optional(moment.on())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let left = row.millis("left")?;
    Ok(Some(LockFact {
        owner: row.word("owner")?,
        fence: Fence(row.count("ow_fence")?),
        age: row.millis("age")?,
        ttl: row.millis("ttl")?,
        expires_in: (!left.is_zero()).then_some(left),
    }))
}

async fn lost(moment: &mut Moment<'_>, execution: &ExecutionId) -> Result<Option<Loss>, Failure> {
    let row = sqlx::query(
        "SELECT owner, cause FROM ow_attempts
          WHERE execution_id=?1 AND outcome='lost' AND cause IS NOT NULL
          ORDER BY fence DESC LIMIT 1",
    )
    .bind(execution.as_str())
    .fetch_optional(moment.on())
    .await?;
    row.map(|row| Ok(Loss { owner: row.word("owner")?, cause: row.word("cause")? })).transpose()
}

/// By `steps.id`.
async fn steps(
    moment: &mut Moment<'_>,
    execution: &ExecutionId,
) -> Result<BTreeMap<String, StepFact>, Failure> {
    let now = moment.now.clone();
    let rows = sqlx::query(
        "SELECT x.step_id, s.name, x.status, substr(x.error, 1, 1000) AS error, x.ow_attempt,
                CAST((unixepoch(?2,'subsec')-unixepoch(a.started_at,'subsec'))*1000 AS INTEGER)
                    AS running_for
           FROM workflow_step_executions x
           LEFT JOIN steps s ON s.id=x.step_id
           LEFT JOIN ow_attempts a ON a.step_execution_id=x.id AND a.attempt=x.ow_attempt
                                  AND a.outcome IS NULL
          WHERE x.execution_id=?1 ORDER BY x.id DESC",
    )
    .bind(execution.as_str())
    .bind(now)
    .fetch_all(moment.on())
    .await?;
    let mut steps = BTreeMap::new();
    for row in &rows {
        let id = row.word("step_id")?;
        let running_for = match row.number("running_for")? {
            None => None,
            Some(_) => Some(row.millis("running_for")?),
        };
        let step = StepFact {
            name: row.text("name")?.unwrap_or_else(|| id.clone()),
            status: row.text("status")?,
            error: row.text("error")?,
            attempt: row.small("ow_attempt")?,
            running_for,
        };
        steps.insert(id, step);
    }
    Ok(steps)
}

async fn workflow_of(
    moment: &mut Moment<'_>,
    template: Option<String>,
) -> Result<Result<Arc<Workflow>, String>, Failure> {
    let Some(template) = template.map(TemplateId::from) else {
        return Ok(Err("it names no template".into()));
    };
    let mut read = templates::definitions(moment.on(), [&template]).await?;
    Ok(match read.remove(&template) {
        None => Err(format!("its template {template} does not exist any more")),
        Some(Err(reason)) => Err(reason.to_string()),
        Some(Ok(definition)) => {
            Workflow::try_new(&definition).map(Arc::new).map_err(|error| error.to_string())
        }
    })
}

/// Workers with a live lease, and how many executions they hold.
async fn crowd(moment: &mut Moment<'_>) -> Result<(u64, u64), Failure> {
    let sql = format!(
        "SELECT COUNT(DISTINCT owner) AS workers, COUNT(*) AS held FROM distributed_locks
          WHERE {IS_LIVE}"
    );
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(moment.on()).await?;
    Ok((row.count("workers")?, row.count("held")?))
}
