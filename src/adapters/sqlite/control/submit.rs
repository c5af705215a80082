//! `submit`: a pending execution with its step rows, in one transaction.
//!
//! **Invariant:** an execution and its step rows appear together or not at all.

use std::time::Duration;

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::find::{self, Template};
use crate::{
    adapters::sqlite::{
        errors::Failure,
        rows::Cells,
        session::{Moment, later},
    },
    domain::id::ExecutionId,
    ports::control::{ControlError, Start, Submission, Submitted, UnixMillis},
};

pub(in crate::adapters::sqlite) async fn submit(
    connection: &mut SqliteConnection,
    submission: &Submission,
) -> Result<Submitted, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let Template { id: template, name: template_name, is_active } =
        find::template(&mut moment, &submission.template).await?;
    if !is_active {
        return Err(ControlError::Inactive(submission.template.clone()).into());
    }
    let (base, modifier) = not_before(submission.start, &now);
    let execution = ExecutionId::from(Uuid::new_v4().to_string());
    sqlx::query(
        "INSERT INTO workflow_executions(id, template_id, status, created_by, created_at,
                                         updated_at, ow_not_before, ow_traceparent)
         VALUES (?1, ?2, 'pending', ?3, ?4, ?4, max(?4, strftime('%Y-%m-%d %H:%M:%f', ?5, ?6)), ?7)",
    )
    .bind(execution.as_str())
    .bind(template.as_str())
    .bind(&submission.created_by)
    .bind(&now)
    .bind(base)
    .bind(modifier)
    .bind(submission.stored_traceparent())
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

/// A time and the modifier that moves it to `ow_not_before`; without a time there is none. (One in the
/// past would make a backlog of the execution.)
fn not_before(start: Start, now: &str) -> (Option<String>, String) {
    match start {
        Start::Now => (None, later(Duration::ZERO)),
        Start::After(wait) => (Some(now.to_owned()), later(wait)),
        Start::At(UnixMillis(time)) => {
            let seconds = format!("{}.{:03}", time.div_euclid(1000), time.rem_euclid(1000));
            (Some(seconds), "unixepoch".into())
        }
    }
}
