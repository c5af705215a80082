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
    apart::{self, Fate, Haste, Suspects},
    draft::Draft,
    eligible::Eligible,
    ending,
    errors::Fault,
    facts::{self, Facts},
    locks::{self, Taking},
    rows,
    session::{Entrance, Session, fixed, made},
    shared::Shared,
    templates,
    work::{Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        deferral::Deferral,
        eligibility::Eligibility,
        id::{ExecutionId, Fence, LockKey, Nonce, PlanHash, TemplateId},
        lease::Lease,
        trace::Origin,
    },
    ports::executions::{Background, Batch, ClaimKind, Claimant},
};

/// Executions a transaction at most.
pub(super) const MOST: usize = 50;

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
    let haste = Haste::begin(who.ttl);
    if shared.suspects.are_none() {
        let claiming = Claiming { lanes, shared, who, suspects: &shared.suspects, haste };
        return claiming.all_or_one_by_one(limit.min(MOST), Which::Due).await;
    }
    Claiming { lanes, shared, who, suspects: &shared.suspects, haste }.one_by_one(limit).await
}

/// Claims those of `executions`, in due order, that are due.
pub(super) async fn claim_these(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    executions: &[ExecutionId],
) -> Result<Batch, Fault> {
    let (suspects, haste) = (Suspects::default(), Haste::begin(who.ttl));
    let claiming = Claiming { lanes, shared, who, suspects: &suspects, haste };
    let mut all = Batch::default();
    for chunk in executions.chunks(MOST) {
        match claiming.all_or_one_by_one(chunk.len(), Which::These(chunk.to_vec())).await {
            Ok(batch) => all.extend(batch),
            // What is claimed already must not be lost over what is not.
            Err(fault) if all.claims.is_empty() => return Err(fault),
            Err(_) => break,
        }
    }
    Ok(all)
}

/// Which executions a transaction is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Due,
    /// These, if they are due.
    These(Vec<ExecutionId>),
    /// This one, if it is due; no row of it is waited for.
    Suspect(ExecutionId),
    /// This one, due or not.
    Named(ExecutionId),
}

impl Which {
    /// The key that leads to them, and a condition on them.
    fn conditions(&self) -> (&'static str, String) {
        let due = " AND ow_due <= NOW(3)";
        match self {
            Self::Due => ("ow_poll", due.into()),
            Self::These(ids) => {
                let marks = rows::marks(rows::filled(ids).len());
                ("PRIMARY", format!("{due} AND id IN ({marks})"))
            }
            Self::Suspect(_) => ("PRIMARY", format!("{due} AND id=?")),
            Self::Named(_) => ("PRIMARY", " AND id=?".into()),
        }
    }

    /// The values of the condition.
    fn ids(&self) -> Vec<&ExecutionId> {
        match self {
            Self::Due => Vec::new(),
            Self::These(ids) => rows::filled(ids),
            Self::Suspect(id) | Self::Named(id) => vec![id],
        }
    }
}

pub(super) async fn transact(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    limit: usize,
    which: Which,
    within: Duration,
    draft: &Draft,
) -> Result<Batch, Fault> {
    let turn = shared.claiming.clone().lock_owned().await;
    let (who, draft) = (who.clone(), draft.clone());
    let work = ClaimWork { who, limit, which, draft: draft.clone(), _turn: turn };
    match run(lanes, within, work).await {
        Err(fault) => draft.resolve(lanes, fault).await,
        done => done,
    }
}

/// A call that claims.
struct Claiming<'c> {
    lanes: &'c Lanes<Entrance>,
    shared: &'c Shared,
    who: &'c Claimant,
    /// Of a batch that broke.
    suspects: &'c Suspects,
    haste: Haste,
}

impl Claiming<'_> {
    async fn all_or_one_by_one(&self, limit: usize, which: Which) -> Result<Batch, Fault> {
        let draft = Draft::default();
        let within = self.haste.limit(&Batch::default());
        match transact(self.lanes, self.shared, self.who, limit, which, within, &draft).await {
            Err(fault) if !draft.suspects(&fault).is_empty() => {
                self.suspects.set(draft.suspects(&fault));
                if self.haste.has_time() { self.one_by_one(limit).await } else { Err(fault) }
            }
            result => result,
        }
    }

    /// One of the suspects has broken a batch: each alone. The culprit is failed or put off, and the
    /// others do not wait for it.
    async fn one_by_one(&self, limit: usize) -> Result<Batch, Fault> {
        let Self { lanes, shared, who, suspects, haste } = *self;
        let mut all = Batch::default();
        while all.claims.len() < limit && haste.has_time() {
            let Some(execution) = suspects.take() else { break };
            let (draft, within) = (Draft::default(), haste.limit(&all));
            let which = Which::Suspect(execution.clone());
            let fault = match transact(lanes, shared, who, 1, which, within, &draft).await {
                Ok(batch) => {
                    all.extend(batch);
                    continue;
                }
                Err(fault) => fault,
            };
            let fate = if draft.suspects(&fault).is_empty() || haste.cuts_short(within, &fault) {
                Err(fault)
            } else {
                apart::deal_with(lanes, &execution, &fault).await
            };
            match fate {
                Ok(Fate::Failed(reason)) => all.refused.push((execution, reason)),
                Ok(Fate::PutOff(why)) => all.deferred.push((execution, Deferral::Unwritable(why))),
                Err(fault) => {
                    suspects.put_back(execution);
                    // What is claimed already must not be lost over what is not.
                    return if all.claims.is_empty() { Err(fault) } else { Ok(all) };
                }
            }
        }
        Ok(all)
    }
}

/// The transaction.
struct ClaimWork {
    who: Claimant,
    limit: usize,
    which: Which,
    draft: Draft,
    /// Held until the job has ended, whoever still waits for it.
    _turn: OwnedMutexGuard<()>,
}

#[async_trait]
impl Work for ClaimWork {
    type Answer = Batch;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<Batch, Fault> {
        self.draft.begin();
        let facts = facts::of(session).await?;
        let Some(eligible) = self.eligible(session, &facts).await? else {
            return Ok(Batch::default());
        };
        session.begin().await?;
        facts::settled_primary(session).await?;
        let pinned = self.pin(session, eligible).await?;
        self.draft.pin(pinned.iter().map(|row| row.execution.clone()).collect());
        if pinned.is_empty() {
            session.rollback().await?;
            return Ok(Batch::default());
        }
        if let Which::Suspect(execution) = &self.which {
            let template = pinned[0].template.as_ref();
            let template_key = self.who.eligibility.template_key(template);
            apart::lock_at_once(session, &facts, execution, template_key).await?;
        }
        let batch = self.take(session, &facts, pinned).await?;
        let batch = self.draft.commit(session, batch).await?;
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
async fn is_any_due(session: &mut Session, eligible: &Eligible) -> Result<bool, Fault> {
    let sql = format!(
        "SELECT 1 FROM workflow_executions FORCE INDEX (ow_poll) WHERE status='pending' \
         AND ow_due <= NOW(3) AND ow_fence < 9000000000000000000{} LIMIT 1",
        eligible.sql()
    );
    Ok(session.row(eligible.bind(made(sql))).await?.is_some())
}

/// What is eligible; `None` if nothing of it is due. Templates are only read where something is due
/// that its time does not keep out.
pub(super) async fn due(
    session: &mut Session,
    wanted: &Eligibility,
    facts: &Facts,
) -> Result<Option<Eligible>, Fault> {
    if !is_any_due(session, &Eligible::by_due_time(wanted, facts)).await? {
        return Ok(None);
    }
    let Some(eligible) = Eligible::of_free_templates(session, wanted, facts).await? else {
        return Ok(None);
    };
    let is_due = eligible.templates.is_everything() || is_any_due(session, &eligible).await?;
    Ok(is_due.then_some(eligible))
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
    origin: Origin,
}

/// C1, in due order.
async fn pin(
    session: &mut Session,
    limit: usize,
    which: &Which,
    eligible: &Eligible,
) -> Result<Vec<Pinned>, Fault> {
    let (index, further) = which.conditions();
    let sql = format!(
        "SELECT id, template_id, ow_plan, CAST(started_at AS CHAR), {AGE}, \
         CAST(GREATEST(ow_fence + 1, TIMESTAMPDIFF(MICROSECOND,'1970-01-01',UTC_TIMESTAMP(6))) \
         AS UNSIGNED), {} FROM workflow_executions FORCE INDEX ({index}) \
         WHERE status='pending' AND ow_fence < 9000000000000000000{further}{} \
         ORDER BY ow_due, id LIMIT ? FOR UPDATE SKIP LOCKED",
        admit::select_origin(),
        eligible.sql()
    );
    let ask = which.ids().into_iter().fold(made(sql), |ask, id| ask.bind(id.as_str()));
    let ask = eligible.bind(ask);
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
        origin: admit::origin(row, 6)?,
    })
}

impl ClaimWork {
    /// What may be claimed; `None` if nothing of it is due.
    async fn eligible(
        &self,
        session: &mut Session,
        facts: &Facts,
    ) -> Result<Option<Eligible>, Fault> {
        let wanted = &self.who.eligibility;
        match self.which {
            Which::Due | Which::Suspect(_) => due(session, wanted, facts).await,
            // Whoever names them has looked a moment ago.
            Which::These(_) => Eligible::of_free_templates(session, wanted, facts).await,
            Which::Named(_) => Ok(Eligible::of_free_templates(session, wanted, facts)
                .await?
                .map(Eligible::whatever_its_age)),
        }
    }

    /// C1, and again while those that are to run one at a time leave room for others. All but the
    /// first of a template stay as they are: were they put off, they would not be due as soon as it
    /// is free, and not in their order. What names no template, or names it in other letters, is met
    /// again: that is no news, and a round without news is the last.
    async fn pin(
        &self,
        session: &mut Session,
        mut eligible: Eligible,
    ) -> Result<Vec<Pinned>, Fault> {
        let (mut all, mut met, mut taken) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        loop {
            let before = all.len();
            let room = self.limit - before;
            let found = pin(session, room, &self.which, &eligible).await?;
            let was_all = found.len() < room;
            all.extend(found.into_iter().filter(|row| {
                met.insert(row.execution.clone())
                    && self.who.eligibility.goes_with(&mut taken, row.template.as_ref())
            }));
            eligible.templates.keep_out(&taken);
            let is_done = was_all || all.len() == before || all.len() == self.limit;
            if is_done || eligible.templates.is_nothing() {
                return Ok(all);
            }
        }
    }

    /// T to C5.
    async fn take(
        &self,
        session: &mut Session,
        facts: &Facts,
        pinned: Vec<Pinned>,
    ) -> Result<Batch, Fault> {
        let named: Vec<_> = pinned.iter().map(|row| (row.template.clone(), row.plan)).collect();
        let recipes = templates::recipes(session, &named).await?;
        let fence = pinned.iter().map(|row| row.fence).max().unwrap_or_default();
        let nonce = Nonce::from(Uuid::new_v4().simple().to_string());
        let who = &self.who;
        let templates =
            pinned.iter().filter_map(|row| who.eligibility.template_key(row.template.as_ref()));
        let executions = pinned.iter().map(|row| LockKey::of_execution(&row.execution));
        let keys = executions.chain(templates).collect();
        let taking = Taking { owner: who.owner.as_str(), fence, ttl: who.ttl, beat: who.beat };
        let mut won = locks::take_free(session, facts, &keys, &taking).await?;

        let mut batch = Batch::default();
        let mut owned = Vec::new();
        let mut not_won = Vec::new();
        let mut before = BTreeMap::new();
        for (row, recipe) in pinned.into_iter().zip(recipes) {
            if won.remove(&LockKey::of_execution(&row.execution)) {
                let (template, hindrance) =
                    who.eligibility.give_template(row.template.as_ref(), &mut won);
                owned.push(Owned {
                    lease: Lease {
                        execution: row.execution.clone(),
                        owner: who.owner.clone(),
                        fence,
                        nonce: nonce.clone(),
                        template,
                    },
                    template: row.template.clone(),
                    recipe,
                    background: Background {
                        kind: ClaimKind::Fresh,
                        age: row.age,
                        origin: row.origin.clone(),
                        former: None,
                    },
                    unclean: 0,
                    hindrance,
                });
                before.insert(row.execution.clone(), row);
            } else {
                not_won.push(row.execution);
            }
        }
        let decided = admit::admit(session, who, owned).await?;
        postpone(session, &not_won).await?;
        batch.deferred.extend(not_won.into_iter().map(|id| (id, Deferral::Locked)));
        // Templates of executions whose own locks another holds.
        let mut given_up = won;
        for (lease, deferral, backoff) in decided.deferred {
            put_back(session, &lease, &before[&lease.execution], backoff).await?;
            given_up.extend(lease.keys());
            batch.deferred.push((lease.execution, deferral));
        }
        if !given_up.is_empty() {
            locks::give_up(session, facts, &given_up, &who.owner, fence).await?;
        }
        locks::free_templates(session, decided.refused.iter().map(|(lease, _)| lease)).await?;
        for (lease, reason) in decided.refused {
            ending::refuse(session, &lease, before[&lease.execution].plan, &reason).await?;
            batch.refused.push((lease.execution, reason));
        }
        batch.claims = decided.claims;
        Ok(batch)
    }
}

/// Another holds the locks of these: look again after a while.
async fn postpone(session: &mut Session, not_won: &[ExecutionId]) -> Result<(), Fault> {
    for execution in not_won {
        let (backoff, _) = session.shared.defer(execution, &Deferral::Locked);
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
