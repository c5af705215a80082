//! Takeovers: executions whose owner has given them back, or has been silent for long enough.
//!
//! **Invariant:** what is taken is exactly what was watched: the row carries the fence and the owner
//! seen, its lock row the beat seen. A taken-over execution never becomes `pending` again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use uuid::Uuid;

use super::{
    admit::{self, AGE, Owned},
    apart,
    draft::Draft,
    ending,
    errors::Fault,
    facts,
    locks::{self, Taking},
    rows,
    session::{Session, fixed, made},
    templates::{self, Recipe},
    work::Work,
};
use crate::{
    domain::{
        execution::AttemptOutcome,
        id::{ExecutionId, Fence, LockKey, Nonce, PlanHash, RELEASED, TemplateId},
        lease::{Lease, Mark},
        recovery::{Held, TakeOver, poisoned},
        trace::Origin,
    },
    ports::executions::{Background, Batch, ClaimKind, Claimant},
};

mod round;

pub(super) use round::take_over;

/// The transaction.
struct TakeOverWork {
    who: Claimant,
    due: Vec<TakeOver>,
    draft: Draft,
}

/// A row under this transaction's lock.
struct Pinned {
    template: Option<TemplateId>,
    plan: Option<PlanHash>,
    unclean: u32,
    age: Duration,
    /// The smallest fence that this row may get.
    fence: Fence,
    origin: Origin,
}

#[async_trait]
impl Work for TakeOverWork {
    type Answer = Batch;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<Batch, Fault> {
        self.draft.begin();
        // Refuses tables that this version does not know.
        let facts = facts::of(session).await?;
        session.begin().await?;
        facts::settled_primary(session).await?;
        let pinned = self.pin(session).await?;
        self.draft.pin(pinned.keys().cloned().collect());
        if let ([_], Some((execution, row))) = (&self.due[..], pinned.first_key_value()) {
            let template_key = row.template.as_ref().map(LockKey::of_template);
            apart::lock_at_once(session, &facts, execution, template_key).await?;
        }
        let (batch, backoffs) = self.take(session, pinned).await?;
        let batch = self.draft.commit(session, batch).await?;
        let shared = &session.shared;
        for (execution, backoff) in backoffs {
            shared.leave_alone(&execution, backoff);
        }
        for claim in &batch.claims {
            shared.settle(&claim.lease.execution);
        }
        for (execution, _) in &batch.refused {
            shared.settle(execution);
        }
        Ok(batch)
    }
}

/// Executions that were not admitted, and for how long each is left alone.
type Backoffs = Vec<(ExecutionId, Duration)>;

impl TakeOverWork {
    /// Locks those rows that are still as seen; others are somebody's business by now.
    async fn pin(&self, session: &mut Session) -> Result<BTreeMap<ExecutionId, Pinned>, Fault> {
        let due = rows::filled(&self.due);
        let sql = format!(
            "SELECT id, template_id, ow_plan, ow_claims, {AGE}, \
             CAST(GREATEST(ow_fence + 1, TIMESTAMPDIFF(MICROSECOND,'1970-01-01',\
             UTC_TIMESTAMP(6))) AS UNSIGNED), {} FROM workflow_executions FORCE INDEX (PRIMARY) \
             WHERE status='running' AND ow_fence < 9000000000000000000 AND ({}) ORDER BY id \
             FOR UPDATE SKIP LOCKED",
            admit::select_origin(),
            rows::joined(due.len(), "(id=? AND ow_fence=? AND ow_owner=?)", " OR ")
        );
        let ask = due.iter().fold(made(sql), |ask, one| {
            ask.bind(one.seen.execution.as_str()).bind(one.seen.fence.0).bind(one.seen.by.word())
        });
        session.rows(ask).await?.iter().map(pinned).collect()
    }

    /// T, locks, C3 to C5.
    async fn take(
        &self,
        session: &mut Session,
        mut pinned: BTreeMap<ExecutionId, Pinned>,
    ) -> Result<(Batch, Backoffs), Fault> {
        let fence = pinned.values().map(|row| row.fence).max().unwrap_or_default();
        let (won, mut templates) = self.take_locks(session, fence, &pinned).await?;
        pinned.retain(|execution, _| won.contains_key(execution));
        let named: Vec<_> = pinned.values().map(|row| (row.template.clone(), row.plan)).collect();
        let recipes = templates::recipes(session, &named).await?;
        let progressed = progressed(session, won.values().copied()).await?;
        let nonce = Nonce::from(Uuid::new_v4().simple().to_string());
        let plans: BTreeMap<_, _> =
            pinned.iter().map(|(execution, row)| (execution.clone(), row.plan)).collect();
        let mut owned = Vec::new();
        for ((execution, row), recipe) in pinned.into_iter().zip(recipes) {
            let one = won[&execution];
            let unclean = one.cause.unclean_ends(row.unclean, progressed.contains(&execution));
            let recipe = self.unless_poisoned(session, &execution, unclean, recipe).await?;
            let (template, hindrance) =
                self.who.eligibility.give_template(row.template.as_ref(), &mut templates);
            owned.push(Owned {
                lease: Lease {
                    execution,
                    owner: self.who.owner.clone(),
                    fence,
                    nonce: nonce.clone(),
                    template,
                },
                template: row.template,
                recipe,
                background: Background {
                    kind: kind(one),
                    age: row.age,
                    origin: row.origin,
                    former: one.former(),
                },
                unclean,
                hindrance,
            });
        }
        let decided = admit::admit(session, &self.who, owned).await?;
        for (execution, one) in &won {
            let cause = one.cause.told();
            let lost = AttemptOutcome::Lost;
            ending::close_attempts(session, execution, fence, lost, Some(&cause)).await?;
        }
        let mut batch = Batch { claims: decided.claims, ..Batch::default() };
        let mut backoffs = Vec::new();
        let deferred = decided.deferred.iter().map(|(lease, ..)| lease);
        let unclaimed = deferred.chain(decided.refused.iter().map(|(lease, _)| lease));
        locks::free_templates(session, unclaimed).await?;
        for (lease, deferral, backoff) in decided.deferred {
            leave_released(session, &lease).await?;
            backoffs.push((lease.execution.clone(), backoff));
            batch.deferred.push((lease.execution, deferral));
        }
        for (lease, reason) in decided.refused {
            ending::refuse(session, &lease, plans[&lease.execution], &reason).await?;
            batch.refused.push((lease.execution, reason));
        }
        Ok((batch, backoffs))
    }

    /// Key by key, each DELETE before its INSERT: all deletes before all inserts deadlocked with
    /// renewals. A key that somebody holds leaves its execution out. With the keys of templates that
    /// are won with them.
    async fn take_locks(
        &self,
        session: &mut Session,
        fence: Fence,
        pinned: &BTreeMap<ExecutionId, Pinned>,
    ) -> Result<(BTreeMap<ExecutionId, &TakeOver>, BTreeSet<LockKey>), Fault> {
        let who = &self.who;
        let taking = Taking { owner: who.owner.as_str(), fence, ttl: who.ttl, beat: who.beat };
        let by_key: BTreeMap<LockKey, &TakeOver> = self
            .due
            .iter()
            .filter(|one| pinned.contains_key(&one.seen.execution))
            .map(|one| (LockKey::of_execution(&one.seen.execution), one))
            .collect();
        let mut won = BTreeMap::new();
        for (key, one) in by_key {
            locks::clear_seen(session, &key, one.dead_lock()).await?;
            if locks::insert(session, &key, &taking).await? {
                won.insert(one.seen.execution.clone(), one);
            }
        }
        let mut by_template: Vec<(&TemplateId, &Held)> = won
            .values()
            .filter_map(|one| Some((pinned[&one.seen.execution].template.as_ref()?, &one.seen)))
            .collect();
        by_template.sort_by_key(|(template, _)| *template);
        let mut templates = BTreeSet::new();
        for (template, gone) in by_template {
            // Whoever had claimed it may have been set to lock its template, too.
            let key = LockKey::of_template(template);
            locks::clear_template(session, &key, gone).await?;
            if who.eligibility.one_per_template && locks::insert(session, &key, &taking).await? {
                templates.insert(key);
            }
        }
        Ok((won, templates))
    }

    /// An execution that killed its workers too often is failed instead of killing the next.
    async fn unless_poisoned(
        &self,
        session: &mut Session,
        execution: &ExecutionId,
        unclean: u32,
        recipe: Recipe,
    ) -> Result<Recipe, Fault> {
        if unclean <= self.who.poison_claims {
            return Ok(recipe);
        }
        let reason = poisoned(unclean, &lost_owners(session, execution).await?);
        Ok(Recipe { workflow: Err(reason), ..recipe })
    }
}

fn pinned(row: &MySqlRow) -> Result<(ExecutionId, Pinned), Fault> {
    let pinned = Pinned {
        template: rows::text(row, 1)?.map(TemplateId::from),
        plan: rows::plan(row, 2)?,
        unclean: u32::try_from(rows::count(row, 3)?).unwrap_or(u32::MAX),
        age: admit::age(row, 4)?,
        fence: Fence(rows::count(row, 5)?),
        origin: admit::origin(row, 6)?,
    };
    Ok((rows::name(row, 0)?.into(), pinned))
}

fn kind(one: &TakeOver) -> ClaimKind {
    ClaimKind::TakenOver { from: one.seen.by.name(), cause: one.cause.clone() }
}

/// Which of them finished a step under the fence that ends now.
async fn progressed<'a>(
    session: &mut Session,
    won: impl Iterator<Item = &'a TakeOver>,
) -> Result<BTreeSet<ExecutionId>, Fault> {
    let lost = rows::filled(won.filter(|one| !one.cause.is_clean()));
    if lost.is_empty() {
        return Ok(BTreeSet::new());
    }
    let sql = format!(
        "SELECT DISTINCT execution_id FROM workflow_step_executions WHERE \
         status IN ('success','failed') AND ({})",
        rows::joined(lost.len(), "(execution_id=? AND ow_fence=?)", " OR ")
    );
    let ask = lost
        .iter()
        .fold(made(sql), |ask, one| ask.bind(one.seen.execution.as_str()).bind(one.seen.fence.0));
    session.rows(ask).await?.iter().map(|row| Ok(rows::name(row, 0)?.into())).collect()
}

/// The last owners that lost attempts of an execution, newest first.
async fn lost_owners(session: &mut Session, execution: &ExecutionId) -> Result<Vec<String>, Fault> {
    let ask = fixed(
        "SELECT owner FROM ow_attempts WHERE execution_id=? AND (outcome IS NULL OR outcome='lost') \
         GROUP BY owner ORDER BY MAX(started_at) DESC, owner LIMIT 10",
    );
    let owners = session.rows(ask.bind(execution.as_str())).await?;
    owners.iter().map(|row| rows::name(row, 0)).collect()
}

/// Not admitted: anyone may take it at once, but it never becomes `pending` again, or the
/// orchestrator might start it in its middle.
async fn leave_released(session: &mut Session, lease: &Lease) -> Result<(), Fault> {
    let update = fixed(
        "UPDATE workflow_executions SET ow_owner=?, updated_at=NOW(3) WHERE id=? AND ow_fence=? \
         AND ow_claim=? AND status='running'",
    );
    let update = update.bind(RELEASED).bind(lease.execution.as_str()).bind(lease.fence.0);
    if session.matched(update.bind(lease.nonce.as_str())).await? != 1 {
        return Err(ending::unexpected(&lease.execution, "released"));
    }
    locks::mark(session, &[lease], Mark::Released).await
}
