//! `cancel` and `retry`, one transaction each.
//!
//! **Invariant:** a retry raises the fence of the execution and of every step that will run again, so
//! that no write of a former claim matches; one that a worker still holds is not retried.

use async_trait::async_trait;

use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            ending::CANCELLED,
            errors::Fault,
            facts, rows,
            session::{Entrance, Session, fixed, made},
            work::{WORK_LIMIT, Work, run},
        },
    },
    domain::{execution::ExecutionState, id::ExecutionId},
    ports::control::{Cancelled, ControlError},
};

pub(in crate::adapters::mysql) async fn cancel(
    lanes: &Lanes<Entrance>,
    execution: &ExecutionId,
) -> Result<Cancelled, ControlError> {
    run(lanes, WORK_LIMIT, Cancel { execution: execution.clone() }).await?
}

pub(in crate::adapters::mysql) async fn retry(
    lanes: &Lanes<Entrance>,
    execution: &ExecutionId,
) -> Result<(), ControlError> {
    run(lanes, WORK_LIMIT, Retry { execution: execution.clone() }).await?
}

/// How an execution stands, its row locked.
struct Standing {
    /// The column's own word, where it is none that we know.
    state: String,
    owner: String,
}

async fn standing(
    session: &mut Session,
    execution: &ExecutionId,
) -> Result<Option<Standing>, Fault> {
    let ask = made(format!(
        "SELECT {}, ow_owner FROM workflow_executions WHERE id=? FOR UPDATE",
        rows::status("status")
    ));
    let Some(row) = session.row(ask.bind(execution.as_str())).await? else { return Ok(None) };
    Ok(Some(Standing { state: rows::name(&row, 0)?, owner: rows::name(&row, 1)? }))
}

struct Cancel {
    execution: ExecutionId,
}

#[async_trait]
impl Work for Cancel {
    type Answer = Result<Cancelled, ControlError>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        session.begin().await?;
        let met = self.meet(session).await?;
        match met {
            Ok(Cancelled::Pending | Cancelled::Running { .. }) => session.commit().await?,
            Ok(Cancelled::Cancelled) | Err(_) => session.rollback().await?,
        }
        Ok(met)
    }
}

impl Cancel {
    async fn meet(&self, session: &mut Session) -> Result<Result<Cancelled, ControlError>, Fault> {
        let execution = &self.execution;
        let Some(Standing { state, owner }) = standing(session, execution).await? else {
            return Ok(Err(ControlError::NoExecution(execution.to_string())));
        };
        match ExecutionState::parse(&state) {
            Ok(ExecutionState::Pending) => {
                self.set(session).await?;
                self.skip_steps(session).await?;
                Ok(Ok(Cancelled::Pending))
            }
            Ok(ExecutionState::Running) => {
                self.set(session).await?;
                Ok(Ok(Cancelled::Running { owner }))
            }
            Ok(ExecutionState::Cancelled) => Ok(Ok(Cancelled::Cancelled)),
            Ok(ExecutionState::Success | ExecutionState::Failed) | Err(_) => {
                let (execution, what) = (execution.clone(), "cancelled");
                Ok(Err(ControlError::WrongState { execution, what, state }))
            }
        }
    }

    async fn set(&self, session: &mut Session) -> Result<(), Fault> {
        let update = fixed(
            "UPDATE workflow_executions SET status='cancelled', finished_at=NOW(3), \
             duration=TIMESTAMPDIFF(MICROSECOND, started_at, NOW(3)) DIV 1000, updated_at=NOW(3) \
             WHERE id=? AND status IN ('pending','running')",
        );
        session.matched(update.bind(self.execution.as_str())).await?;
        Ok(())
    }

    /// Nobody holds them, and nobody will.
    async fn skip_steps(&self, session: &mut Session) -> Result<(), Fault> {
        let update = fixed(
            "UPDATE workflow_step_executions SET status='skipped', error=?, finished_at=NOW(3), \
             updated_at=NOW(3) WHERE execution_id=? \
             AND (status IS NULL OR status NOT IN ('success','failed','skipped'))",
        );
        let reason = CANCELLED.replacen("stopped", "skipped", 1);
        session.matched(update.bind(reason).bind(self.execution.as_str())).await?;
        Ok(())
    }
}

struct Retry {
    execution: ExecutionId,
}

#[async_trait]
impl Work for Retry {
    type Answer = Result<(), ControlError>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        session.begin().await?;
        let execution = self.execution.clone();
        let refused = match standing(session, &execution).await? {
            None => Some(ControlError::NoExecution(execution.to_string())),
            Some(Standing { state, .. }) if !["failed", "cancelled"].contains(&state.as_str()) => {
                Some(ControlError::WrongState { execution, what: "retried", state })
            }
            Some(Standing { owner, .. }) if !owner.is_empty() => {
                Some(ControlError::StillHeld { execution, owner })
            }
            Some(_) => None,
        };
        if let Some(error) = refused {
            session.rollback().await?;
            return Ok(Err(error));
        }
        self.reset_execution(session).await?;
        self.reset_steps(session).await?;
        session.commit().await?;
        Ok(Ok(()))
    }
}

impl Retry {
    /// Due now, and so no backlog, however old it is.
    async fn reset_execution(&self, session: &mut Session) -> Result<(), Fault> {
        let update = fixed(
            "UPDATE workflow_executions SET status='pending', error=NULL, started_at=NULL, \
             finished_at=NULL, duration=NULL, updated_at=NOW(3), ow_fence=ow_fence+1, ow_owner='', \
             ow_claim='', ow_claims=0, ow_run=ow_run+1, ow_not_before=NOW(3) \
             WHERE id=? AND status IN ('failed','cancelled') AND ow_owner=''",
        );
        session.matched(update.bind(self.execution.as_str())).await?;
        Ok(())
    }

    /// A step whose last attempt failed for certain gets the next key: servers that remember keys
    /// would only repeat their failure.
    async fn reset_steps(&self, session: &mut Session) -> Result<(), Fault> {
        let update = fixed(
            "UPDATE workflow_step_executions s JOIN workflow_executions e ON e.id=s.execution_id \
             LEFT JOIN ow_attempts a ON a.step_execution_id=s.id AND a.attempt=s.ow_attempt \
             SET s.status='pending', s.ow_fence=e.ow_fence, s.started_at=NULL, s.finished_at=NULL, \
             s.duration=NULL, s.error=NULL, s.output=NULL, s.retry_count=0, \
             s.ow_key_gen=s.ow_key_gen + IF(a.outcome='failed', 1, 0), s.updated_at=NOW(3) \
             WHERE e.id=? AND (s.status IS NULL OR s.status<>'success')",
        );
        session.matched(update.bind(self.execution.as_str())).await?;
        Ok(())
    }
}
