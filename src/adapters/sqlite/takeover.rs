//! Takes over what dead workers left, and what living ones handed back.
//!
//! **Invariant:** only what still is exactly as it was seen is taken; one that has killed its
//! workers too often is failed instead, with their names.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    Shared,
    admission::Candidate,
    cancelled,
    claim::{ORIGIN, age, origin},
    errors::Failure,
    locks,
    rows::{Cells, signed},
    session::Moment,
    taking::Taking,
};
use crate::{
    domain::{
        id::{ExecutionId, Fence, LockKey},
        recovery::{TakeOver, poisoned},
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
    let (mut candidates, mut tidied) = (Vec::new(), Vec::new());
    for take_over in due {
        if take_over.seen.cancelled {
            if cancelled::tidy(&mut moment, take_over).await? {
                tidied.push(take_over.seen.execution.clone());
            }
        } else if !shared.is_left_alone(&take_over.seen.execution) {
            candidates.extend(still_as_seen(&mut moment, take_over).await?);
        }
    }
    locks::clear_as_seen(moment.on(), &now, candidates.iter().filter_map(|c| c.from.as_ref()))
        .await?;
    let keys: Vec<LockKey> = locks::keys(candidates.iter().map(|c| &c.execution)).collect();
    let mut taking = Taking::new(shared, as_who, &candidates);
    let won = locks::insert(moment.on(), &now, &taking.lock(), &keys).await?;
    candidates.retain(|c| won.contains(&LockKey::of_execution(&c.execution)));
    let mut templates = take_templates(&mut moment, &taking, as_who, &candidates).await?;
    taking.give_templates(&mut candidates, &mut templates);
    let (poisonous, candidates): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.claims > as_who.poison_claims);
    for candidate in poisonous {
        let owners = lost_owners(&mut moment, &candidate.execution).await?;
        let reason = poisoned(candidate.claims, &owners);
        taking.refuse(&mut moment, &candidate, reason).await?;
    }
    let mut batch = taking.take(&mut moment, candidates).await?;
    batch.tidied = tidied;
    moment.commit().await?;
    Ok(batch)
}

/// The locks of the candidates' templates that are free once those of dead claims are gone: whoever had
/// claimed them may have been set to lock their templates, too.
async fn take_templates(
    moment: &mut Moment<'_>,
    taking: &Taking<'_>,
    as_who: &Claimant,
    candidates: &[Candidate],
) -> Result<BTreeSet<LockKey>, Failure> {
    let now = moment.now.clone();
    for candidate in candidates {
        if let (Some(template), Some(from)) = (&candidate.template, &candidate.from) {
            locks::clear_template(moment.on(), &now, template, &from.seen).await?;
        }
    }
    let wanted =
        candidates.iter().filter_map(|c| as_who.eligibility.template_key(c.template.as_ref()));
    let wanted: Vec<LockKey> = wanted.collect();
    locks::insert(moment.on(), &now, &taking.lock(), &wanted).await
}

async fn still_as_seen(
    moment: &mut Moment<'_>,
    take_over: &TakeOver,
) -> Result<Option<Candidate>, Failure> {
    let now = moment.now.clone();
    let seen = &take_over.seen;
    let sql = format!(
        "SELECT template_id, ow_plan, ow_claims, {ORIGIN},
                max(ow_fence+1, CAST(unixepoch(?1,'subsec')*1000000 AS INTEGER)) AS fence,
                CAST((unixepoch(?1,'subsec')-unixepoch(created_at,'subsec'))*1000 AS INTEGER)
                    AS age,
                EXISTS(SELECT 1 FROM workflow_step_executions s
                        WHERE s.execution_id=e.id AND s.ow_fence=e.ow_fence
                          AND s.status IN ('success','failed')) AS progressed
           FROM workflow_executions e
          WHERE id=?2 AND status='running' AND ow_fence=?3 AND ow_owner=?4 AND ow_fence<?5"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(now)
        .bind(seen.execution.as_str())
        .bind(signed(seen.fence.0))
        .bind(seen.by.word())
        .bind(signed(Fence::CEILING))
        .fetch_optional(moment.on())
        .await?;
    let Some(row) = row else { return Ok(None) };
    let claims = take_over.cause.unclean_ends(row.small("ow_claims")?, row.yes("progressed")?);
    Ok(Some(Candidate {
        execution: seen.execution.clone(),
        template: row.text("template_id")?.map(Into::into),
        plan: row.bytes("ow_plan")?,
        age: age(row.number("age")?),
        origin: origin(&row)?,
        fence: row.count("fence")?,
        claims,
        from: Some(take_over.clone()),
        locked_template: None,
        hindrance: None,
    }))
}

/// The last owners that lost attempts of an execution, newest first.
async fn lost_owners(
    moment: &mut Moment<'_>,
    execution: &ExecutionId,
) -> Result<Vec<String>, Failure> {
    let owners = sqlx::query(
        "SELECT owner FROM ow_attempts
          WHERE execution_id=?1 AND (outcome IS NULL OR outcome='lost')
          GROUP BY owner ORDER BY MAX(started_at) DESC, owner LIMIT 10",
    )
    .bind(execution.as_str())
    .fetch_all(moment.on())
    .await?;
    Ok(owners.iter().map(|row| row.word("owner")).collect::<Result<_, _>>()?)
}
