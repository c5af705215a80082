//! `submit`: a pending execution with its step rows, in one transaction.
//!
//! **Invariant:** an execution is never seen without its steps; a submission whose commit went
//! unanswered is looked for, not made twice.

use async_trait::async_trait;
use uuid::Uuid;

use super::find;
use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            errors::Fault,
            facts,
            session::{Entrance, Session, fixed, made},
            work::{WORK_LIMIT, Work, run},
        },
    },
    domain::id::{ExecutionId, TemplateId},
    ports::control::{ControlError, Start, Submission, Submitted, UnixMillis},
};

pub(in crate::adapters::mysql) async fn submit(
    lanes: &Lanes<Entrance>,
    submission: &Submission,
) -> Result<Submitted, ControlError> {
    let execution = ExecutionId::from(Uuid::new_v4().to_string());
    let work = Submit { execution: execution.clone(), submission: submission.clone() };
    match run(lanes, WORK_LIMIT, work.clone()).await {
        // The same id again: it is inserted, or found to have been.
        Err(Fault::Unknown(_)) => run(lanes, WORK_LIMIT, work).await?,
        result => result?,
    }
}

#[derive(Clone)]
struct Submit {
    execution: ExecutionId,
    submission: Submission,
}

#[async_trait]
impl Work for Submit {
    type Answer = Result<Submitted, ControlError>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        session.begin().await?;
        let template = match find::template(session, &self.submission.template).await? {
            Ok(template) if template.is_active => template,
            Ok(_) => {
                session.rollback().await?;
                return Ok(Err(ControlError::Inactive(self.submission.template.clone())));
            }
            Err(error) => {
                session.rollback().await?;
                return Ok(Err(error));
            }
        };
        if self.insert_execution(session, &template.id).await? {
            self.insert_steps(session, &template.id).await?;
            session.commit().await?;
        } else {
            session.rollback().await?;
        }
        Ok(Ok(Submitted {
            execution: self.execution.clone(),
            template: template.id,
            template_name: template.name,
        }))
    }
}

/// An expression for `ow_not_before`, and its value in microseconds. Times of the store are in the
/// session's offset, so that one from outside is told by its distance from now; one in the past would
/// make a backlog of it.
fn not_before(start: Start) -> (&'static str, Option<i64>) {
    match start {
        Start::Now => ("NULL", None),
        Start::After(wait) => (
            "NOW(3) + INTERVAL ? MICROSECOND",
            Some(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)),
        ),
        Start::At(UnixMillis(time)) => (
            "GREATEST(NOW(3), NOW(3) + INTERVAL \
             (? - TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3))) MICROSECOND)",
            Some(time.saturating_mul(1000)),
        ),
    }
}

impl Submit {
    /// `false` if it is there already, committed by a former try.
    async fn insert_execution(
        &self,
        session: &mut Session,
        template: &TemplateId,
    ) -> Result<bool, Fault> {
        let (not_before, micros) = not_before(self.submission.start);
        let insert = made(format!(
            "INSERT INTO workflow_executions(id, template_id, status, created_by, created_at, \
             updated_at, ow_traceparent, ow_not_before) \
             VALUES (?, ?, 'pending', ?, NOW(3), NOW(3), ?, {not_before})"
        ));
        let insert = insert.bind(self.execution.as_str()).bind(template.as_str());
        let insert = insert.bind(&self.submission.created_by);
        let insert = insert.bind(self.submission.stored_traceparent());
        let insert = micros.into_iter().fold(insert, sqlx::query::Query::bind);
        match session.matched(insert).await {
            Ok(_) => Ok(true),
            Err(Fault::Duplicate(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn insert_steps(
        &self,
        session: &mut Session,
        template: &TemplateId,
    ) -> Result<(), Fault> {
        let insert = fixed(
            "INSERT INTO workflow_step_executions(id, execution_id, step_id, status, retry_count, \
             created_at, updated_at) SELECT UUID(), ?, step_id, 'pending', 0, NOW(3), NOW(3) \
             FROM workflow_template_steps WHERE template_id=? ORDER BY `order`, step_id",
        );
        let insert = insert.bind(self.execution.as_str()).bind(template.as_str());
        // However many steps there are.
        session.matched(insert).await?;
        Ok(())
    }
}
