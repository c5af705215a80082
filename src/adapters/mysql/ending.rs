//! Ends of executions that come from outside their plan: refused, poisoned, cancelled.
//!
//! **Invariant:** a step of an execution that has ended is final: what ran is `failed`, what never
//! started is `skipped`, each under the fence of the transaction that ends it.

use super::{
    errors::Fault,
    locks,
    session::{Session, fixed},
};
use crate::{
    adapters::texts,
    domain::{
        execution::AttemptOutcome,
        id::{ExecutionId, Fence, PlanHash},
        lease::{Lease, Mark},
    },
};

/// Fails an execution that this transaction has claimed. Its plan column goes back to what it was,
/// so that a retry reads the mended template.
pub(super) async fn refuse(
    session: &mut Session,
    lease: &Lease,
    plan_before: Option<PlanHash>,
    reason: &str,
) -> Result<(), Fault> {
    let update = fixed(
        "UPDATE workflow_executions SET status='failed', error=?, finished_at=NOW(3), \
         duration=TIMESTAMPDIFF(MICROSECOND, started_at, NOW(3)) DIV 1000, updated_at=NOW(3), \
         ow_owner='', ow_plan=? WHERE id=? AND ow_fence=? AND ow_claim=? AND status='running'",
    );
    let update = update
        .bind(texts::reason(reason))
        .bind(plan_before.map(|plan| plan.0.to_vec()))
        .bind(lease.execution.as_str())
        .bind(lease.fence.0)
        .bind(lease.nonce.as_str());
    if session.matched(update).await? != 1 {
        return Err(unexpected(&lease.execution, "refused"));
    }
    locks::mark(session, &[lease], Mark::Finished).await?;
    close_steps(session, &lease.execution, lease.fence, reason).await
}

/// Whether every step of an execution is recorded as final, of the rows of one step the first. Only
/// where a server has lost what it had acknowledged does this differ from what its worker knows.
pub(super) async fn is_whole(
    session: &mut Session,
    execution: &ExecutionId,
) -> Result<bool, Fault> {
    let open = fixed(
        "SELECT x.id FROM workflow_step_executions x \
         JOIN workflow_executions e ON e.id=x.execution_id \
         JOIN workflow_template_steps t ON t.template_id=e.template_id AND t.step_id=x.step_id \
         WHERE x.execution_id=? \
         AND (x.status IS NULL OR x.status NOT IN ('success','failed','skipped')) \
         AND NOT EXISTS (SELECT 1 FROM workflow_step_executions y \
         WHERE y.execution_id=x.execution_id AND y.step_id=x.step_id AND y.id<x.id) LIMIT 1",
    );
    Ok(session.row(open.bind(execution.as_str())).await?.is_none())
}

/// What must not happen while this transaction holds the row.
pub(super) fn unexpected(execution: &ExecutionId, done: &str) -> Fault {
    Fault::Unexpected(format!("execution {execution} could not be {done}: its row has changed"))
}

/// C4 for one execution: from now on no former claim's write matches a step of it.
pub(super) async fn stamp(
    session: &mut Session,
    execution: &ExecutionId,
    fence: Fence,
) -> Result<(), Fault> {
    let update = fixed(
        "UPDATE workflow_step_executions SET ow_fence=? WHERE execution_id=? \
         AND (status IS NULL OR status NOT IN ('success','failed','skipped'))",
    );
    session.matched(update.bind(fence.0).bind(execution.as_str())).await?;
    Ok(())
}

/// Makes every step final that is not yet.
pub(super) async fn close_steps(
    session: &mut Session,
    execution: &ExecutionId,
    fence: Fence,
    reason: &str,
) -> Result<(), Fault> {
    let reason = texts::reason(reason);
    let ran = fixed(
        "UPDATE workflow_step_executions SET status='failed', error=?, finished_at=NOW(3), \
         duration=TIMESTAMPDIFF(MICROSECOND, started_at, NOW(3)) DIV 1000, updated_at=NOW(3) \
         WHERE execution_id=? AND ow_fence=? AND status='running'",
    );
    session.matched(ran.bind(reason).bind(execution.as_str()).bind(fence.0)).await?;
    let unstarted = fixed(
        "UPDATE workflow_step_executions SET status='skipped', error=?, finished_at=NOW(3), \
         updated_at=NOW(3) WHERE execution_id=? AND ow_fence=? \
         AND (status IS NULL OR status NOT IN ('success','failed','skipped','running'))",
    );
    session.matched(unstarted.bind(reason).bind(execution.as_str()).bind(fence.0)).await?;
    Ok(())
}

/// Ends the attempts of an execution that are still open, those begun under `before` excepted.
/// Comes after the step rows, as in every other transaction.
pub(super) async fn close_attempts(
    session: &mut Session,
    execution: &ExecutionId,
    before: Fence,
    outcome: AttemptOutcome,
    cause: Option<&str>,
) -> Result<(), Fault> {
    let update = fixed(
        "UPDATE ow_attempts SET finished_at=NOW(3), outcome=?, cause=? WHERE execution_id=? \
         AND outcome IS NULL AND fence < ?",
    );
    let update = update.bind(outcome.as_str()).bind(cause).bind(execution.as_str());
    session.matched(update.bind(before.0)).await?;
    Ok(())
}

/// Later than any lease: all open attempts.
pub(super) const ALL: Fence = Fence(u64::MAX);

/// Why the steps of a cancelled execution are what they are.
pub(super) const CANCELLED: &str = "stopped because the execution was cancelled";

/// The last word on a cancelled execution: nobody holds it any more. Whoever cancelled it by a statement of
/// his own may not have said when it ended.
pub(super) async fn let_go_of_cancelled(
    session: &mut Session,
    execution: &ExecutionId,
    fence: Fence,
    owner_seen: &str,
) -> Result<(), Fault> {
    let update = fixed(
        "UPDATE workflow_executions SET ow_owner='', updated_at=NOW(3), \
         duration=COALESCE(duration, TIMESTAMPDIFF(MICROSECOND, started_at, NOW(3)) DIV 1000), \
         finished_at=COALESCE(finished_at, NOW(3)) WHERE id=? AND status='cancelled' AND ow_fence=? \
         AND ow_owner=?",
    );
    let update = update.bind(execution.as_str()).bind(fence.0).bind(owner_seen);
    if session.matched(update).await? != 1 {
        return Err(unexpected(execution, "let go of"));
    }
    Ok(())
}
