//! `cancel`, `retry`, pauses and the backlog.
//!
//! **Invariant:** a retry raises the fence of the execution and of every step that will run again, so
//! that no write of a former claim matches; one that a worker still holds is not retried.

use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use super::{
    super::{
        eligible::{BACKLOG_BEFORE, is_backlog},
        errors::Failure,
        rows::Cells,
        session::Moment,
    },
    find,
};
use crate::{
    domain::{
        eligibility::ALL_TEMPLATES,
        execution::ExecutionState,
        id::{ExecutionId, TemplateId},
    },
    ports::control::{
        BacklogSummary, Cancelled, ControlError, Pausable, PauseChange, Paused, UnixMillis,
    },
};

/// How an execution stands: the state column's own word, and its owner's.
async fn standing(
    moment: &mut Moment<'_>,
    execution: &ExecutionId,
) -> Result<(String, String), Failure> {
    let row = sqlx::query("SELECT status, ow_owner FROM workflow_executions WHERE id=?1")
        .bind(execution.as_str())
        .fetch_optional(moment.on())
        .await?;
    let row = row.ok_or_else(|| ControlError::NoExecution(execution.to_string()))?;
    Ok((row.word("status")?, row.word("ow_owner")?))
}

pub(in super::super) async fn cancel(
    connection: &mut SqliteConnection,
    execution: &ExecutionId,
) -> Result<Cancelled, Failure> {
    let mut moment = Moment::write(connection).await?;
    let (state, owner) = standing(&mut moment, execution).await?;
    let met = match ExecutionState::parse(&state) {
        Ok(ExecutionState::Pending) => Cancelled::Pending,
        Ok(ExecutionState::Running) => Cancelled::Running { owner },
        Ok(ExecutionState::Cancelled) => Cancelled::Cancelled,
        Ok(ExecutionState::Success | ExecutionState::Failed) | Err(_) => {
            let (execution, what) = (execution.clone(), "cancelled");
            return Err(ControlError::WrongState { execution, what, state }.into());
        }
    };
    if met != Cancelled::Cancelled {
        set_cancelled(&mut moment, execution).await?;
    }
    if met == Cancelled::Pending {
        skip_steps(&mut moment, execution).await?;
    }
    moment.commit().await?;
    Ok(met)
}

async fn set_cancelled(moment: &mut Moment<'_>, execution: &ExecutionId) -> Result<(), Failure> {
    let now = moment.now.clone();
    sqlx::query(
        "UPDATE workflow_executions
            SET status='cancelled', finished_at=?1, updated_at=?1,
                duration=CAST(round((unixepoch(?1,'subsec')-unixepoch(started_at,'subsec'))*1000)
                              AS INTEGER)
          WHERE id=?2 AND status IN ('pending','running')",
    )
    .bind(now)
    .bind(execution.as_str())
    .execute(moment.on())
    .await?;
    Ok(())
}

/// Nobody holds them, and nobody will.
async fn skip_steps(moment: &mut Moment<'_>, execution: &ExecutionId) -> Result<(), Failure> {
    let now = moment.now.clone();
    sqlx::query(
        "UPDATE workflow_step_executions
            SET status='skipped', error='skipped because the execution was cancelled',
                finished_at=?1, updated_at=?1
          WHERE execution_id=?2
            AND (status IS NULL OR status NOT IN ('success','failed','skipped'))",
    )
    .bind(now)
    .bind(execution.as_str())
    .execute(moment.on())
    .await?;
    Ok(())
}

pub(in super::super) async fn retry(
    connection: &mut SqliteConnection,
    execution: &ExecutionId,
) -> Result<(), Failure> {
    let mut moment = Moment::write(connection).await?;
    let (state, owner) = standing(&mut moment, execution).await?;
    if !["failed", "cancelled"].contains(&state.as_str()) {
        let (execution, what) = (execution.clone(), "retried");
        return Err(ControlError::WrongState { execution, what, state }.into());
    }
    if !owner.is_empty() {
        return Err(ControlError::StillHeld { execution: execution.clone(), owner }.into());
    }
    let now = moment.now.clone();
    sqlx::query(
        "UPDATE workflow_executions
            SET status='pending', error=NULL, started_at=NULL, finished_at=NULL, duration=NULL,
                updated_at=?1, ow_fence=ow_fence+1, ow_claim='', ow_claims=0, ow_run=ow_run+1,
                ow_not_before=?1
          WHERE id=?2 AND status IN ('failed','cancelled') AND ow_owner=''",
    )
    .bind(&now)
    .bind(execution.as_str())
    .execute(moment.on())
    .await?;
    // A step whose last attempt failed for certain gets the next key: servers that remember keys
    // would only repeat their failure.
    sqlx::query(
        "UPDATE workflow_step_executions AS s
            SET status='pending', started_at=NULL, finished_at=NULL, duration=NULL, error=NULL,
                output=NULL, retry_count=0, updated_at=?1,
                ow_fence=(SELECT ow_fence FROM workflow_executions WHERE id=?2),
                ow_key_gen=ow_key_gen+EXISTS(
                    SELECT 1 FROM ow_attempts a WHERE a.step_execution_id=s.id
                       AND a.attempt=s.ow_attempt AND a.outcome='failed')
          WHERE execution_id=?2 AND (status IS NULL OR status<>'success')",
    )
    .bind(&now)
    .bind(execution.as_str())
    .execute(moment.on())
    .await?;
    moment.commit().await
}

/// Pauses, or takes a pause back.
pub(in super::super) async fn pause(
    connection: &mut SqliteConnection,
    which: &Pausable,
    paused: bool,
) -> Result<PauseChange, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let template = match which {
        Pausable::All => None,
        Pausable::Template(wanted) => Some(find::template(&mut moment, wanted).await?),
    };
    let id = template.as_ref().map_or(ALL_TEMPLATES, |template| template.id.as_str());
    let change = if paused {
        sqlx::query(
            "INSERT INTO ow_paused(template_id, since) VALUES (?1, ?2)
             ON CONFLICT(template_id) DO NOTHING",
        )
        .bind(id)
        .bind(now)
    } else {
        sqlx::query("DELETE FROM ow_paused WHERE template_id=?1").bind(id)
    };
    let changed = change.execute(moment.on()).await?.rows_affected() == 1;
    moment.commit().await?;
    let (template, template_name) = template.map(|found| (found.id, found.name)).unzip();
    Ok(PauseChange { template, template_name, changed })
}

pub(in super::super) async fn paused(
    connection: &mut SqliteConnection,
) -> Result<Vec<Paused>, Failure> {
    let rows = sqlx::query(
        "SELECT p.template_id, t.name, CAST(unixepoch(p.since,'subsec')*1000 AS INTEGER) AS since_ms
           FROM ow_paused p LEFT JOIN workflow_templates t ON t.id=p.template_id
          ORDER BY p.since, p.template_id",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let id = row.word("template_id")?;
            Ok(Paused {
                template: (id != ALL_TEMPLATES).then(|| TemplateId::from(id)),
                template_name: row.text("name")?,
                since: row.time("since_ms")?,
            })
        })
        .collect()
}

pub(in super::super) async fn backlog(
    connection: &mut SqliteConnection,
) -> Result<BacklogSummary, Failure> {
    let sql = format!(
        "SELECT COUNT(*) AS executions,
                CAST(unixepoch(MIN(ow_due),'subsec')*1000 AS INTEGER) AS oldest,
                CAST(unixepoch(MAX(ow_due),'subsec')*1000 AS INTEGER) AS newest
           FROM workflow_executions WHERE {}",
        is_backlog()
    );
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?;
    let time =
        |column| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(UnixMillis));
    Ok(BacklogSummary {
        executions: row.count("executions")?,
        oldest: time("oldest")?,
        newest: time("newest")?,
    })
}

/// A released row is due at the bound of the backlog: before everything newer, and no backlog any
/// more.
pub(in super::super) async fn release_backlog(
    connection: &mut SqliteConnection,
    template: Option<&str>,
) -> Result<u64, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let template = match template {
        None => None,
        Some(wanted) => Some(find::template(&mut moment, wanted).await?.id),
    };
    let sql = format!(
        "UPDATE workflow_executions
            SET ow_fence=ow_fence+1, ow_not_before={BACKLOG_BEFORE}, updated_at=?1
          WHERE {} AND (?2 IS NULL OR template_id=?2)",
        is_backlog()
    );
    let released = sqlx::query(AssertSqlSafe(sql))
        .bind(now)
        .bind(template.as_ref().map(TemplateId::as_str))
        .execute(moment.on())
        .await?
        .rows_affected();
    moment.commit().await?;
    Ok(released)
}
