//! Records what happened in executions.
//!
//! **Invariant:** an advance is applied in full under its fence and nonce, or not at all, and one
//! that is refused spoils no other.

use sqlx::SqliteConnection;

use super::{cancelled, errors::Failure, locks, rows::signed, session::Moment, steps};
use crate::{
    adapters::texts,
    domain::{execution::ExecutionState, lease::Lease, plan::Finish},
    ports::executions::{Advance, AdvanceError, Advanced},
};

/// Why an advance is undone.
enum Refused {
    Fenced,
    Failed(Failure),
}

impl<F: Into<Failure>> From<F> for Refused {
    fn from(failure: F) -> Self {
        Self::Failed(failure.into())
    }
}

pub(super) async fn advance(
    connection: &mut SqliteConnection,
    advances: &[Advance],
) -> Result<Vec<Result<Advanced, AdvanceError>>, Failure> {
    let mut moment = Moment::write(connection).await?;
    let mut answers = Vec::with_capacity(advances.len());
    for advance in advances {
        moment.begin_part().await?;
        let answer = match apply(&mut moment, advance).await {
            Ok(advanced) => Ok(advanced),
            Err(Refused::Fenced) => Err(AdvanceError::Fenced),
            Err(Refused::Failed(failure)) => match failure.refused_value() {
                Some(what) => Err(AdvanceError::Store(what)),
                None => return Err(failure),
            },
        };
        if answer.is_ok() {
            moment.keep_part().await?;
        } else {
            moment.undo_part().await?;
        }
        answers.push(answer);
    }
    moment.commit().await?;
    Ok(answers)
}

async fn apply(moment: &mut Moment<'_>, advance: &Advance) -> Result<Advanced, Refused> {
    let (now, lease) = (moment.now.clone(), &advance.lease);
    let mut advanced = Advanced::Recorded;
    if let Some(finish) = &advance.finish {
        advanced = end_execution(moment, lease, finish).await?;
    }
    for end in &advance.ended {
        must_match(steps::end(moment.on(), &now, lease, end).await?)?;
    }
    for retry in &advance.retrying {
        must_match(steps::retry(moment.on(), &now, lease, retry).await?)?;
    }
    for skip in &advance.skipped {
        must_match(steps::skip(moment.on(), &now, lease, skip).await?)?;
    }
    if !advance.started.is_empty() {
        let starts = advance.started.iter().map(|start| (&lease.execution, start.clone()));
        let fence = lease.fence.0;
        let matched = steps::start(moment.on(), &now, &lease.owner, fence, starts).await?;
        if matched != advance.started.len() as u64 {
            return Err(Refused::Fenced);
        }
    }
    if advanced == Advanced::Cancelled {
        cancelled::close(moment, lease, advance.mark()).await?;
    } else if advance.finish.is_some() {
        locks::mark(moment.on(), &now, lease, advance.mark()).await?;
    }
    Ok(advanced)
}

fn must_match(matched: u64) -> Result<(), Refused> {
    if matched == 1 { Ok(()) } else { Err(Refused::Fenced) }
}

/// Ends the execution as planned, or as cancelled if somebody has cancelled it under our fence.
async fn end_execution(
    moment: &mut Moment<'_>,
    lease: &Lease,
    finish: &Finish,
) -> Result<Advanced, Refused> {
    let now = moment.now.clone();
    if finish.state != ExecutionState::Cancelled {
        let matched = sqlx::query(
            "UPDATE workflow_executions
                SET status=?1, error=?2, finished_at=?3, updated_at=?3, ow_owner='',
                    duration=CAST(round((unixepoch(?3,'subsec')-unixepoch(started_at,'subsec'))
                                        *1000) AS INTEGER)
              WHERE id=?4 AND ow_fence=?5 AND ow_claim=?6 AND status IN ('running', ?1)",
        )
        .bind(finish.state.as_str())
        .bind(finish.error.as_deref().map(texts::reason))
        .bind(&now)
        .bind(lease.execution.as_str())
        .bind(signed(lease.fence.0))
        .bind(lease.nonce.as_str())
        .execute(moment.on())
        .await?
        .rows_affected();
        if matched == 1 {
            return Ok(Advanced::Recorded);
        }
    }
    if cancelled::let_go(moment, lease).await? {
        return Ok(Advanced::Cancelled);
    }
    Err(Refused::Fenced)
}
