//! Decides on candidates, pinned by a claim or a takeover: their workflows and step rows are read,
//! and each is admitted, deferred or refused.
//!
//! In SQLite the transaction already has the file to itself, so what is decided here, before
//! anything is written, still holds when it is. (On a server with row locks the rows must be
//! stamped before they are read.)
//!
//! **Invariant:** nothing is written here, and every candidate gets one verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sqlx::SqliteConnection;

use super::{
    Shared,
    errors::Failure,
    rows::{Cells, list},
    templates,
};
use crate::{
    adapters::plans::{Checked, PlanError},
    domain::{
        deferral::Deferral,
        id::{ExecutionId, PlanHash, TemplateId},
        intake::{Admitted, Intake, StepRow, intake},
        recovery::TakeOver,
        trace::Origin,
        workflow::Workflow,
    },
    ports::executions::Claimant,
};

/// An execution that may be claimed or taken over.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) execution: ExecutionId,
    pub(super) template: Option<TemplateId>,
    /// `ow_plan`, if it was claimed before.
    pub(super) plan: Option<Vec<u8>>,
    pub(super) age: Duration,
    pub(super) origin: Origin,
    /// The smallest fence that it may be given.
    pub(super) fence: u64,
    /// Unclean ends in a row, this one included.
    pub(super) claims: u32,
    /// What it is taken over from; `None` where it is claimed.
    pub(super) from: Option<TakeOver>,
    /// Its template, where the lock of that was won for it.
    pub(super) locked_template: Option<TemplateId>,
    /// Why it is not even looked at.
    pub(super) hindrance: Option<Deferral>,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Admit {
        workflow: Arc<Workflow>,
        plan: PlanHash,
        admitted: Admitted,
    },
    /// With the time for which it is put back.
    Defer(Deferral, Duration),
    Refuse(String),
}

/// What is known of each workflow of a batch.
#[derive(Default)]
struct Workflows {
    /// Of templates whose executions have no plan yet.
    fresh: BTreeMap<TemplateId, Result<(PlanHash, Checked), PlanError>>,
    /// Of plans that are stored.
    stored: BTreeMap<PlanHash, Checked>,
}

/// One verdict a candidate, in their order, and the texts of plans that are not stored yet.
pub(super) async fn decide(
    connection: &mut SqliteConnection,
    shared: &Shared,
    as_who: &Claimant,
    candidates: &[Candidate],
) -> Result<(Vec<Verdict>, BTreeMap<PlanHash, String>), Failure> {
    let mut texts = BTreeMap::new();
    let workflows = read_workflows(connection, shared, candidates, &mut texts).await?;
    let found: Vec<_> = candidates.iter().map(|candidate| workflows.of(candidate)).collect();
    let usable = candidates.iter().zip(&found).filter(|(_, found)| found.is_ok());
    let mut rows = step_rows(connection, usable.map(|(candidate, _)| &candidate.execution)).await?;
    let verdicts = candidates.iter().zip(found).map(|(candidate, found)| {
        let id = &candidate.execution;
        let (plan, workflow) = match (&candidate.hindrance, found) {
            (Some(deferral), _) => return defer(shared, as_who, id, deferral.clone()),
            (None, Err(error)) => return Verdict::Refuse(error.to_string()),
            (None, Ok(found)) => found,
        };
        match intake(
            &workflow,
            rows.remove(id).unwrap_or_default(),
            candidate.age,
            &as_who.supported,
        ) {
            Intake::Admit(admitted) => Verdict::Admit { workflow, plan, admitted },
            Intake::Defer(deferral) => defer(shared, as_who, id, deferral),
            Intake::Refuse(reason) => Verdict::Refuse(reason),
        }
    });
    Ok((verdicts.collect(), texts))
}

/// What this worker does not know is left for newer ones for a while, and then refused.
fn defer(
    shared: &Shared,
    as_who: &Claimant,
    execution: &ExecutionId,
    deferral: Deferral,
) -> Verdict {
    let (backoff, unknown_for) = shared.defer(execution, &deferral);
    match deferral.refusal(unknown_for, as_who.unknown_after) {
        Some(reason) => Verdict::Refuse(reason),
        None => Verdict::Defer(deferral, backoff),
    }
}

async fn read_workflows(
    connection: &mut SqliteConnection,
    shared: &Shared,
    candidates: &[Candidate],
    texts: &mut BTreeMap<PlanHash, String>,
) -> Result<Workflows, Failure> {
    let mut workflows = Workflows::default();
    let unplanned = candidates.iter().filter(|candidate| candidate.plan.is_none());
    let templates: Vec<_> = unplanned.filter_map(|candidate| candidate.template.as_ref()).collect();
    if !templates.is_empty() {
        for (template, read) in templates::definitions(connection, templates).await? {
            let learnt = read.map(|definition| {
                let text = definition.to_text();
                let learnt = shared.plans.learn(&text);
                texts.insert(learnt.0, text);
                learnt
            });
            workflows.fresh.insert(template, learnt);
        }
    }
    let stored: BTreeSet<PlanHash> =
        candidates.iter().filter_map(|candidate| hash_of(candidate.plan.as_ref()?)).collect();
    for hash in stored {
        let checked = read_stored(connection, shared, &hash).await?;
        workflows.stored.insert(hash, checked);
    }
    Ok(workflows)
}

async fn read_stored(
    connection: &mut SqliteConnection,
    shared: &Shared,
    hash: &PlanHash,
) -> Result<Checked, Failure> {
    if let Some(checked) = shared.plans.get(hash) {
        return Ok(checked);
    }
    let learnt = templates::stored_plan(connection, hash).await?;
    let learnt = learnt.map(|text| shared.plans.learn(&text));
    // A text of another hash is another plan.
    let same = learnt.filter(|(actual, _)| actual == hash);
    Ok(same.map_or(Err(PlanError::PlanGone), |(_, checked)| checked))
}

fn hash_of(bytes: &[u8]) -> Option<PlanHash> {
    bytes.try_into().ok().map(PlanHash)
}

impl Workflows {
    fn of(&self, candidate: &Candidate) -> Result<(PlanHash, Arc<Workflow>), PlanError> {
        let (hash, checked) = match (&candidate.plan, &candidate.template) {
            (Some(bytes), _) => {
                let hash = hash_of(bytes).ok_or(PlanError::PlanGone)?;
                (hash, self.stored[&hash].clone())
            }
            (None, Some(template)) => {
                let gone = || Err(PlanError::TemplateGone(template.clone()));
                self.fresh.get(template).cloned().unwrap_or_else(gone)?
            }
            (None, None) => return Err(PlanError::NoTemplate),
        };
        Ok((hash, checked?))
    }
}

async fn step_rows(
    connection: &mut SqliteConnection,
    executions: impl Iterator<Item = &ExecutionId>,
) -> Result<BTreeMap<ExecutionId, Vec<StepRow>>, Failure> {
    let rows = sqlx::query(
        "SELECT execution_id, id, step_id, status, ow_attempt, ow_key_gen, retry_count,
                CASE WHEN status='failed' THEN substr(error, 1, 1000) END AS error
           FROM workflow_step_executions
          WHERE execution_id IN (SELECT value FROM json_each(?1))",
    )
    .bind(list(executions))
    .fetch_all(connection)
    .await?;
    let mut found: BTreeMap<ExecutionId, Vec<StepRow>> = BTreeMap::new();
    for row in &rows {
        found.entry(row.word("execution_id")?.into()).or_default().push(StepRow {
            id: row.word("id")?.into(),
            step: row.word("step_id")?.into(),
            status: row.text("status")?,
            error: row.text("error")?,
            attempt: row.small("ow_attempt")?,
            key_gen: row.small("ow_key_gen")?,
            retry_count: row.small("retry_count")?,
        });
    }
    Ok(found)
}
