//! What a claim and a takeover do with candidates whose lock rows they have won: decide, own, stamp,
//! start.
//!
//! **Invariant:** each candidate is afterwards claimed, given up for a while, or failed with a reason;
//! one whose rows cannot be written spoils no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use uuid::Uuid;

use super::{
    Shared,
    admission::{Candidate, Verdict, decide},
    errors::Failure,
    locks,
    rows::signed,
    session::{Moment, later},
    steps, templates,
};
use crate::{
    adapters::texts,
    domain::{
        deferral::Deferral,
        execution::AttemptOutcome,
        id::{ExecutionId, Fence, LockKey, Nonce, PlanHash, RELEASED},
        intake::Admitted,
        lease::{Lease, Mark},
        recovery::TakeOver,
        workflow::Workflow,
    },
    ports::executions::{Background, Batch, Claim, ClaimKind, Claimant},
};

/// How long a row that can neither be claimed nor failed is left alone.
const POSTPONED: Duration = Duration::from_secs(60);

/// One batch of candidates; all get the same fence and nonce.
pub(super) struct Taking<'a> {
    shared: &'a Shared,
    as_who: &'a Claimant,
    pub(super) fence: u64,
    nonce: Nonce,
    pub(super) batch: Batch,
}

impl<'a> Taking<'a> {
    pub(super) fn new(shared: &'a Shared, as_who: &'a Claimant, candidates: &[Candidate]) -> Self {
        Self {
            shared,
            as_who,
            fence: candidates.iter().map(|candidate| candidate.fence).max().unwrap_or(0),
            nonce: Uuid::new_v4().simple().to_string().into(),
            batch: Batch::default(),
        }
    }

    /// What is written on the lock rows of all candidates.
    pub(super) fn lock(&self) -> locks::Taking<'a> {
        let Claimant { owner, ttl, beat, .. } = self.as_who;
        locks::Taking { owner: owner.as_str(), fence: self.fence, ttl: *ttl, beat: *beat }
    }

    /// Gives the locks of templates that were won to the candidates that come first.
    pub(super) fn give_templates(&self, candidates: &mut [Candidate], won: &mut BTreeSet<LockKey>) {
        for candidate in candidates {
            (candidate.locked_template, candidate.hindrance) =
                self.as_who.eligibility.give_template(candidate.template.as_ref(), won);
        }
    }

    pub(super) async fn take(
        mut self,
        moment: &mut Moment<'_>,
        candidates: Vec<Candidate>,
    ) -> Result<Batch, Failure> {
        let (verdicts, texts) = decide(moment.on(), self.shared, self.as_who, &candidates).await?;
        for (candidate, verdict) in candidates.into_iter().zip(verdicts) {
            moment.begin_part().await?;
            match self.carry_out(moment, &candidate, verdict, &texts).await {
                Ok(()) => moment.keep_part().await?,
                Err(failure) => {
                    let Some(reason) = failure.of_a_row() else { return Err(failure) };
                    moment.undo_part().await?;
                    self.refuse(moment, &candidate, reason).await?;
                }
            }
        }
        Ok(self.batch)
    }

    async fn carry_out(
        &mut self,
        moment: &mut Moment<'_>,
        candidate: &Candidate,
        verdict: Verdict,
        texts: &BTreeMap<PlanHash, String>,
    ) -> Result<(), Failure> {
        let execution = candidate.execution.clone();
        match verdict {
            Verdict::Admit { workflow, plan, admitted } => {
                if let Some(text) = texts.get(&plan) {
                    let now = moment.now.clone();
                    templates::store_plan(moment.on(), &now, &plan, text).await?;
                }
                self.own(moment, candidate, Some(&plan)).await?;
                let claim = self.begin(moment, candidate, workflow, admitted).await?;
                self.start(moment, &claim).await?;
                self.batch.claims.push(claim);
            }
            Verdict::Defer(deferral, backoff) => {
                self.give_up(moment, candidate, backoff).await?;
                self.batch.deferred.push((execution, deferral));
            }
            Verdict::Refuse(reason) => {
                self.fail(moment, candidate, &reason).await?;
                self.batch.refused.push((execution, reason));
            }
        }
        Ok(())
    }

    /// Fails an execution whose rows cannot be written as they should be. One that cannot even be
    /// failed is put off for a while, as far as that goes: it stands in nobody's way.
    pub(super) async fn refuse(
        &mut self,
        moment: &mut Moment<'_>,
        candidate: &Candidate,
        reason: String,
    ) -> Result<(), Failure> {
        let execution = candidate.execution.clone();
        moment.begin_part().await?;
        match self.fail(moment, candidate, &reason).await {
            Ok(()) => {
                self.batch.refused.push((execution, reason));
                return moment.keep_part().await;
            }
            Err(failure) if failure.of_a_row().is_none() => return Err(failure),
            Err(_) => moment.undo_part().await?,
        }
        self.batch.deferred.push((execution.clone(), Deferral::Unwritable(reason)));
        locks::give_up(moment.on(), &self.lease(candidate)).await?;
        if candidate.from.is_none() {
            match put_back(moment, &execution, POSTPONED).await {
                Err(failure) if failure.of_a_row().is_none() => return Err(failure),
                // It stays where it is, and is met again.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn lease(&self, candidate: &Candidate) -> Lease {
        Lease {
            execution: candidate.execution.clone(),
            owner: self.as_who.owner.clone(),
            fence: Fence(self.fence),
            nonce: self.nonce.clone(),
            template: candidate.locked_template.clone(),
        }
    }

    /// From here on no former claim's write matches, whatever becomes of the execution.
    async fn own(
        &self,
        moment: &mut Moment<'_>,
        candidate: &Candidate,
        plan: Option<&PlanHash>,
    ) -> Result<(), Failure> {
        let now = moment.now.clone();
        sqlx::query(
            "UPDATE workflow_executions
                SET status='running', started_at=COALESCE(started_at, ?1), finished_at=NULL,
                    error=NULL, updated_at=?1, ow_not_before=NULL, ow_fence=?2, ow_owner=?3,
                    ow_owner_uid=?4, ow_claim=?5, ow_claims=?6, ow_plan=COALESCE(ow_plan, ?7)
              WHERE id=?8 AND ow_fence<?2",
        )
        .bind(&now)
        .bind(signed(self.fence))
        .bind(self.as_who.owner.as_str())
        .bind(&self.as_who.uid)
        .bind(self.nonce.as_str())
        .bind(candidate.claims)
        .bind(plan.map(|plan| plan.0.as_slice()))
        .bind(candidate.execution.as_str())
        .execute(moment.on())
        .await?;
        steps::stamp(moment.on(), self.fence, [&candidate.execution]).await?;
        if let Some(from) = &candidate.from {
            let (lost, cause) = (AttemptOutcome::Lost, from.cause.told());
            steps::close_attempts(moment.on(), &now, &candidate.execution, lost, Some(&cause))
                .await?;
        }
        Ok(())
    }

    async fn begin(
        &self,
        moment: &mut Moment<'_>,
        candidate: &Candidate,
        workflow: std::sync::Arc<Workflow>,
        admitted: Admitted,
    ) -> Result<Claim, Failure> {
        let now = moment.now.clone();
        let mut slots = Vec::with_capacity(admitted.slots.len());
        for (node, slot) in workflow.nodes().iter().zip(admitted.slots) {
            if let Some(slot) = slot {
                slots.push(slot);
                continue;
            }
            let (execution, step) = (&candidate.execution, node.step.id.as_str());
            slots.push(steps::insert(moment.on(), &now, execution, step, self.fence).await?);
        }
        let kind = match &candidate.from {
            None => ClaimKind::Fresh,
            Some(from) => {
                ClaimKind::TakenOver { from: from.seen.by.name(), cause: from.cause.clone() }
            }
        };
        self.shared.settle(&candidate.execution);
        Ok(Claim::begin(
            self.lease(candidate),
            workflow,
            &admitted.recorded,
            slots,
            self.as_who.steps_at_once,
            Background {
                kind,
                age: candidate.age,
                origin: candidate.origin.clone(),
                former: candidate.from.as_ref().and_then(TakeOver::former),
            },
        ))
    }

    /// Not admitted: a pending one is put back for a while, one taken over is left for others.
    async fn give_up(
        &self,
        moment: &mut Moment<'_>,
        candidate: &Candidate,
        backoff: Duration,
    ) -> Result<(), Failure> {
        let now = moment.now.clone();
        if candidate.from.is_none() {
            put_back(moment, &candidate.execution, backoff).await?;
            locks::give_up(moment.on(), &self.lease(candidate)).await
        } else {
            self.own(moment, candidate, None).await?;
            sqlx::query("UPDATE workflow_executions SET ow_owner=?1, updated_at=?2 WHERE id=?3")
                .bind(RELEASED)
                .bind(&now)
                .bind(candidate.execution.as_str())
                .execute(moment.on())
                .await?;
            self.shared.leave_alone(&candidate.execution, backoff);
            locks::mark(moment.on(), &now, &self.lease(candidate), Mark::Released).await
        }
    }

    /// Fails an execution whose lock row is ours, and ends what of it has not ended.
    pub(super) async fn fail(
        &self,
        moment: &mut Moment<'_>,
        candidate: &Candidate,
        reason: &str,
    ) -> Result<(), Failure> {
        let (now, execution) = (moment.now.clone(), &candidate.execution);
        self.own(moment, candidate, None).await?;
        sqlx::query(
            "UPDATE workflow_executions
                SET status='failed', error=?1, finished_at=?2, updated_at=?2, ow_owner='',
                    duration=CAST(round((unixepoch(?2,'subsec')-unixepoch(started_at,'subsec'))
                                        *1000) AS INTEGER)
              WHERE id=?3",
        )
        .bind(texts::reason(reason))
        .bind(&now)
        .bind(execution.as_str())
        .execute(moment.on())
        .await?;
        steps::close(moment.on(), &now, execution, self.fence, reason).await?;
        self.shared.settle(execution);
        locks::mark(moment.on(), &now, &self.lease(candidate), Mark::Finished).await
    }

    /// The first steps' starts, committed with the claim.
    async fn start(&self, moment: &mut Moment<'_>, claim: &Claim) -> Result<(), Failure> {
        let now = moment.now.clone();
        let starts: Vec<_> = claim.starts().map(|start| (&claim.lease.execution, start)).collect();
        if starts.is_empty() {
            return Ok(());
        }
        let asked = starts.len() as u64;
        let owner = &self.as_who.owner;
        let matched = steps::start(moment.on(), &now, owner, self.fence, starts).await?;
        if matched == asked {
            return Ok(());
        }
        Err(Failure::Unwritable(format!(
            "of its {asked} first steps only {matched} could be started: the ow_attempt of the \
             others is not what a worker writes"
        )))
    }
}

/// A pending execution is not due for a while.
pub(super) async fn put_back(
    moment: &mut Moment<'_>,
    execution: &ExecutionId,
    backoff: Duration,
) -> Result<(), Failure> {
    let now = moment.now.clone();
    sqlx::query(
        "UPDATE workflow_executions
            SET ow_not_before=strftime('%Y-%m-%d %H:%M:%f', ?1, ?2), updated_at=?1
          WHERE id=?3 AND status='pending'",
    )
    .bind(now)
    .bind(later(backoff))
    .bind(execution.as_str())
    .execute(moment.on())
    .await?;
    Ok(())
}
