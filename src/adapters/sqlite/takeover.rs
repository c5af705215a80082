//! Takes over what dead workers left, and what living ones handed back.
//!
//! **Invariant:** only what still is exactly as it was seen is taken; one that has killed its
//! workers too often is failed instead, with their names.

use sqlx::SqliteConnection;

use super::{
    Shared,
    admission::Candidate,
    cancelled,
    claim::{Taking, age},
    errors::Failure,
    locks,
    rows::{Cells, signed},
    session::Moment,
};
use crate::{
    domain::{
        id::{ExecutionId, LockKey},
        recovery::TakeOver,
    },
    ports::executions::{Batch, Claimant},
};

pub(super) async fn take_over(
    connection: &mut SqliteConnection,
    shared: &Shared,
    as_who: &Claimant,
    due: &[TakeOver],
) -> Result<Batch, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let mut candidates = Vec::new();
    for take_over in due {
        if take_over.seen.cancelled {
            cancelled::tidy(&mut moment, take_over).await?;
        } else if let Some(candidate) = still_as_seen(&mut moment, take_over).await? {
            candidates.push(candidate);
        }
    }
    locks::clear_as_seen(moment.on(), &now, candidates.iter().filter_map(|c| c.from.as_ref()))
        .await?;
    let keys: Vec<LockKey> = locks::keys(candidates.iter().map(|c| &c.execution)).collect();
    let mut taking = Taking::new(shared, as_who, &candidates);
    let won = locks::insert(moment.on(), &now, &taking.lock(), &keys).await?;
    candidates.retain(|c| won.contains(&LockKey::of_execution(&c.execution)));
    let (poisoned, candidates): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.claims > as_who.poison_claims);
    for candidate in poisoned {
        let owners = owners(&mut moment, &candidate.execution).await?;
        let reason = format!("its worker was lost {} times in a row: {owners}", candidate.claims);
        taking.fail(&mut moment, &candidate, &reason).await?;
        taking.batch.refused.push((candidate.execution, reason));
    }
    let batch = taking.take(&mut moment, candidates).await?;
    moment.commit().await?;
    Ok(batch)
}

async fn still_as_seen(
    moment: &mut Moment<'_>,
    take_over: &TakeOver,
) -> Result<Option<Candidate>, Failure> {
    let now = moment.now.clone();
    let seen = &take_over.seen;
    let row = sqlx::query(
        "SELECT template_id, ow_plan, ow_claims,
                max(ow_fence+1, CAST(unixepoch(?1,'subsec')*1000000 AS INTEGER)) AS fence,
                CAST((unixepoch(?1,'subsec')-unixepoch(created_at,'subsec'))*1000 AS INTEGER)
                    AS age,
                EXISTS(SELECT 1 FROM ow_attempts a
                        WHERE a.execution_id=e.id AND a.fence=e.ow_fence
                          AND a.outcome='success') AS progressed
           FROM workflow_executions e
          WHERE id=?2 AND status='running' AND ow_fence=?3 AND ow_owner=?4",
    )
    .bind(now)
    .bind(seen.execution.as_str())
    .bind(signed(seen.fence.0))
    .bind(seen.by.word())
    .fetch_optional(moment.on())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let before = row.small("ow_claims")?;
    let claims = match (take_over.cause.is_clean(), row.yes("progressed")?) {
        (true, _) => before,
        (false, true) => 1,
        (false, false) => before.saturating_add(1),
    };
    Ok(Some(Candidate {
        execution: seen.execution.clone(),
        template: row.text("template_id")?.map(Into::into),
        plan: row.bytes("ow_plan")?,
        age: age(row.number("age")?),
        fence: row.count("fence")?,
        claims,
        from: Some(take_over.clone()),
    }))
}

/// Those who lost it, at most ten names.
async fn owners(moment: &mut Moment<'_>, execution: &ExecutionId) -> Result<String, Failure> {
    let row = sqlx::query(
        "SELECT group_concat(owner, ', ') AS owners
           FROM (SELECT DISTINCT owner FROM ow_attempts WHERE execution_id=?1 LIMIT 10)",
    )
    .bind(execution.as_str())
    .fetch_one(moment.on())
    .await?;
    Ok(row.word("owners")?)
}
