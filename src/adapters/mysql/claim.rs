//! Claims: a batch of pending, due executions in one transaction.
//!
//! **Invariant:** no row blocks the head of the queue: what is not admitted is put back for a while
//! or failed in the transaction that found it, and a row that breaks a batch is dealt with alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::{
    admit::{self, AGE, Owned},
    draft::Draft,
    ending,
    errors::Fault,
    facts::{self, Facts},
    locks::{self, Taking},
    rows,
    session::{Entrance, Session, fixed, made},
    shared::Shared,
    templates,
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::{lane::Lanes, texts},
    domain::{
        id::{ExecutionId, Fence, LockKey, Nonce, PlanHash, TemplateId},
        intake::Deferral,
        lease::Lease,
    },
    ports::executions::{Batch, ClaimKind, Claimant},
};

/// Executions a transaction at most.
pub(super) const MOST: usize = 50;
/// How long a row that cannot even be failed is left alone.
const POSTPONED: Duration = Duration::from_secs(60);

/// Claims up to `limit` executions, oldest first.
pub(super) async fn claim(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    limit: usize,
) -> Result<Batch, Fault> {
    if limit == 0 {
        return Ok(Batch::default());
    }
    let draft = Draft::default();
    match transact(lanes, shared, who, limit.min(MOST), None, &draft).await {
        Err(Fault::Data(text)) if draft.pinned().is_empty() => Err(Fault::Data(text)),
        Err(Fault::Data(_)) => one_by_one(lanes, shared, who, draft.pinned()).await,
        result => result,
    }
}

async fn transact(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    limit: usize,
    only: Option<ExecutionId>,
    draft: &Draft,
) -> Result<Batch, Fault> {
    let turn = shared.claiming.clone().lock_owned().await;
    let (who, draft) = (who.clone(), draft.clone());
    let work = ClaimWork { who, limit, only, draft: draft.clone(), _turn: turn };
    match run(lanes, WORK_LIMIT, work).await {
        Err(fault) => draft.resolve(lanes, fault).await,
        done => done,
    }
}

/// A value of one row broke a batch: each alone, and the culprit is failed.
async fn one_by_one(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    executions: Vec<ExecutionId>,
) -> Result<Batch, Fault> {
    let mut all = Batch::default();
    for execution in executions {
        let draft = Draft::default();
        match transact(lanes, shared, who, 1, Some(execution.clone()), &draft).await {
            Ok(batch) => {
                all.claims.extend(batch.claims);
                all.deferred.extend(batch.deferred);
                all.refused.extend(batch.refused);
            }
            Err(Fault::Data(reason)) => {
                let reason = format!("the database refused a value of this execution: {reason}");
                let work = FailWork { execution: execution.clone(), reason: reason.clone() };
                if let Ok(true) = run(lanes, WORK_LIMIT, work).await {
                    all.refused.push((execution, reason));
                }
            }
            // What is claimed already must not be lost over what is not.
            Err(_) if !all.claims.is_empty() => return Ok(all),
            Err(fault) => return Err(fault),
        }
    }
    Ok(all)
}

/// The transaction.
struct ClaimWork {
    who: Claimant,
    limit: usize,
    /// This execution and no other.
    only: Option<ExecutionId>,
    draft: Draft,
    /// Held until the job has ended, whoever still waits for it.
    _turn: OwnedMutexGuard<()>,
}

#[async_trait]
impl Work for ClaimWork {
    type Answer = Batch;

    async fn attempt(&mut self, session: &mut Session) -> Result<Batch, Fault> {
        self.draft.begin();
        let facts = facts::of(session).await?;
        if !is_any_due(session).await? {
            return Ok(Batch::default());
        }
        session.begin().await?;
        facts::settled_primary(session).await?;
        let pinned = pin(session, self.limit, self.only.as_ref()).await?;
        self.draft.pin(pinned.iter().map(|row| row.execution.clone()).collect());
        if pinned.is_empty() {
            session.rollback().await?;
            return Ok(Batch::default());
        }
        let (batch, stored) = self.take(session, &facts, pinned).await?;
        let batch = self.draft.commit(session, batch).await?;
        session.shared.stored(stored);
        for execution in batch
            .claims
            .iter()
            .map(|claim| &claim.lease.execution)
            .chain(batch.refused.iter().map(|(execution, _)| execution))
        {
            session.shared.settle(execution);
        }
        Ok(batch)
    }
}

/// A plain look first: an empty locking read costs several times as much.
async fn is_any_due(session: &mut Session) -> Result<bool, Fault> {
    let ask = fixed(
        "SELECT 1 FROM workflow_executions FORCE INDEX (ow_poll) WHERE status='pending' \
         AND ow_due <= NOW(3) AND ow_fence < 9000000000000000000 LIMIT 1",
    );
    Ok(session.row(ask).await?.is_some())
}

/// A row under this transaction's lock.
struct Pinned {
    execution: ExecutionId,
    template: Option<TemplateId>,
    plan: Option<PlanHash>,
    started_at: Option<String>,
    age: Duration,
    /// The smallest fence that this row may get.
    fence: Fence,
}

/// C1, in due order.
async fn pin(
    session: &mut Session,
    limit: usize,
    only: Option<&ExecutionId>,
) -> Result<Vec<Pinned>, Fault> {
    let (index, further) = match only {
        None => ("ow_poll", ""),
        Some(_) => ("PRIMARY", " AND id=?"),
    };
    let sql = format!(
        "SELECT id, template_id, ow_plan, CAST(started_at AS CHAR), {AGE}, \
         CAST(GREATEST(ow_fence + 1, TIMESTAMPDIFF(MICROSECOND,'1970-01-01',UTC_TIMESTAMP(6))) \
         AS UNSIGNED) FROM workflow_executions FORCE INDEX ({index}) \
         WHERE status='pending' AND ow_due <= NOW(3) AND ow_fence < 9000000000000000000{further} \
         ORDER BY ow_due, id LIMIT ? FOR UPDATE SKIP LOCKED"
    );
    let ask = made(sql).persistent(only.is_none());
    let ask = only.into_iter().fold(ask, |ask, id| ask.bind(id.as_str()));
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    session.rows(ask.bind(limit)).await?.iter().map(pinned).collect()
}

fn pinned(row: &MySqlRow) -> Result<Pinned, Fault> {
    Ok(Pinned {
        execution: rows::name(row, 0)?.into(),
        template: rows::text(row, 1)?.map(TemplateId::from),
        plan: rows::plan(row, 2)?,
        started_at: rows::text(row, 3)?,
        age: admit::age(row, 4)?,
        fence: Fence(rows::count(row, 5)?),
    })
}

impl ClaimWork {
    /// T to C5. Returns the batch and the plans stored on the way.
    async fn take(
        &self,
        session: &mut Session,
        facts: &Facts,
        pinned: Vec<Pinned>,
    ) -> Result<(Batch, Vec<PlanHash>), Fault> {
        let named: Vec<_> = pinned.iter().map(|row| (row.template.clone(), row.plan)).collect();
        let (recipes, stored) = templates::recipes(session, &named).await?;
        let fence = pinned.iter().map(|row| row.fence).max().unwrap_or_default();
        let nonce = Nonce::from(Uuid::new_v4().simple().to_string());
        let keys = pinned.iter().map(|row| LockKey::of_execution(&row.execution)).collect();
        let who = &self.who;
        let taking = Taking { owner: who.owner.as_str(), fence, ttl: who.ttl, beat: who.beat };
        let won = locks::take_free(session, facts, &keys, &taking).await?;

        let mut batch = Batch::default();
        let mut owned = Vec::new();
        let mut not_won = Vec::new();
        let mut before = BTreeMap::new();
        for (row, recipe) in pinned.into_iter().zip(recipes) {
            if won.contains(&LockKey::of_execution(&row.execution)) {
                owned.push(Owned {
                    lease: self.lease(&row.execution, fence, &nonce),
                    template: row.template.clone(),
                    recipe,
                    kind: ClaimKind::Fresh,
                    age: row.age,
                    unclean: 0,
                });
                before.insert(row.execution.clone(), row);
            } else {
                not_won.push(row.execution);
            }
        }
        let decided = admit::admit(session, who, owned).await?;
        postpone(session, &not_won).await?;
        batch.deferred.extend(not_won.into_iter().map(|id| (id, Deferral::Locked)));
        let mut given_up = BTreeSet::new();
        for (lease, deferral, backoff) in decided.deferred {
            put_back(session, &lease, &before[&lease.execution], backoff).await?;
            given_up.insert(LockKey::of_execution(&lease.execution));
            batch.deferred.push((lease.execution, deferral));
        }
        if !given_up.is_empty() {
            locks::give_up(session, facts, &given_up, &who.owner, fence).await?;
        }
        for (lease, reason) in decided.refused {
            ending::refuse(session, &lease, before[&lease.execution].plan, &reason).await?;
            batch.refused.push((lease.execution, reason));
        }
        batch.claims = decided.claims;
        Ok((batch, stored))
    }

    fn lease(&self, execution: &ExecutionId, fence: Fence, nonce: &Nonce) -> Lease {
        Lease {
            execution: execution.clone(),
            owner: self.who.owner.clone(),
            fence,
            nonce: nonce.clone(),
        }
    }
}

/// Another holds the locks of these: look again after a while.
async fn postpone(session: &mut Session, not_won: &[ExecutionId]) -> Result<(), Fault> {
    for execution in not_won {
        let (backoff, _) = session.shared.defer(execution);
        let update = fixed(
            "UPDATE workflow_executions SET ow_not_before=NOW(3)+INTERVAL ? MICROSECOND, \
             updated_at=NOW(3) WHERE id=? AND status='pending'",
        );
        let update = update.bind(locks::micros(backoff)).bind(execution.as_str());
        if session.matched(update).await? != 1 {
            return Err(ending::unexpected(execution, "postponed"));
        }
    }
    Ok(())
}

/// Undoes C3 for an execution that was not admitted.
async fn put_back(
    session: &mut Session,
    lease: &Lease,
    before: &Pinned,
    backoff: Duration,
) -> Result<(), Fault> {
    let update = fixed(
        "UPDATE workflow_executions SET status='pending', ow_owner='', ow_claim='', started_at=?, \
         ow_plan=?, ow_not_before=NOW(3)+INTERVAL ? MICROSECOND, updated_at=NOW(3) \
         WHERE id=? AND ow_fence=?",
    );
    let update = update
        .bind(before.started_at.as_deref())
        .bind(before.plan.as_ref().map(|plan| &plan.0[..]))
        .bind(locks::micros(backoff))
        .bind(lease.execution.as_str())
        .bind(lease.fence.0);
    if session.matched(update).await? != 1 {
        return Err(ending::unexpected(&lease.execution, "put back"));
    }
    Ok(())
}

/// Fails an execution that broke a claim, without a claim; if even that is refused, puts it off.
struct FailWork {
    execution: ExecutionId,
    reason: String,
}

#[async_trait]
impl Work for FailWork {
    /// Whether it is failed now.
    type Answer = bool;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        let id = self.execution.as_str();
        let fail = fixed(
            "UPDATE workflow_executions SET status='failed', error=?, finished_at=NOW(3), \
             updated_at=NOW(3), ow_fence=ow_fence+1, ow_owner='', ow_claim='' \
             WHERE id=? AND status='pending' AND ow_fence < 9000000000000000000",
        );
        let fail = fail.bind(texts::reason(&self.reason)).bind(id);
        match session.matched_alone(fail).await {
            Ok(matched) => return Ok(matched == 1),
            Err(Fault::Data(_)) => {}
            Err(fault) => return Err(fault),
        }
        let put_off = fixed(
            "UPDATE workflow_executions SET ow_not_before=NOW(3)+INTERVAL ? MICROSECOND \
             WHERE id=? AND status='pending'",
        );
        session.matched_alone(put_off.bind(locks::micros(POSTPONED)).bind(id)).await?;
        Ok(false)
    }
}
