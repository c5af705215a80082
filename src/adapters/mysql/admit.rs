//! What a claim and a takeover have in common: own the executions, stamp their steps, read them,
//! decide, start the first ones (C3, C4, R, C5).
//!
//! **Invariant:** stamp first, then read: nothing that was read before the stamp decides what runs,
//! so a success that its former owner was told of is never overlooked.

use std::{collections::BTreeMap, time::Duration};

use sqlx::mysql::MySqlRow;
use uuid::Uuid;

use super::{
    errors::Fault,
    rows,
    session::{Session, made},
    steps::{self, Write},
    templates::Recipe,
};
use crate::{
    domain::{
        deferral::Deferral,
        id::{ExecutionId, PlanHash, StepExecutionId, TemplateId},
        intake::{Admitted, HALF_MADE, Intake, StepRow, StepSlot, intake},
        lease::Lease,
        trace::Origin,
        workflow::Workflow,
    },
    ports::executions::{Background, Claim, Claimant, StepStart},
};

/// An execution whose row and lock this transaction holds.
pub(super) struct Owned {
    pub lease: Lease,
    pub template: Option<TemplateId>,
    pub recipe: Recipe,
    pub background: Background,
    /// Its unclean ends in a row (`ow_claims`), from now on.
    pub unclean: u32,
    /// Why it is not even looked at.
    pub hindrance: Option<Deferral>,
}

/// What was decided, in the order of the executions.
#[derive(Default)]
pub(super) struct Decided {
    pub claims: Vec<Claim>,
    /// With the time for which each is to be left alone.
    pub deferred: Vec<(Lease, Deferral, Duration)>,
    pub refused: Vec<(Lease, String)>,
}

/// Inserted rows a statement at most.
const CHUNK: usize = 500;
/// Step rows that one claim adds to a half-made execution at most. What is missing beyond them is
/// left for the next claim, so that none outlasts its limit.
const PIECE: usize = 5_000;

/// C3, C4, R, C5. All of `owned` carry one fence and one nonce.
pub(super) async fn admit(
    session: &mut Session,
    who: &Claimant,
    owned: Vec<Owned>,
) -> Result<Decided, Fault> {
    if owned.is_empty() {
        return Ok(Decided::default());
    }
    own(session, who, &owned).await?;
    stamp(session, &owned).await?;
    let mut step_rows = read(session, &owned).await?;
    let mut decided = Decided::default();
    for one in owned {
        let rows = step_rows.remove(&one.lease.execution).unwrap_or_default();
        decide(session, who, one, rows, &mut decided).await?;
    }
    start_first_steps(session, &decided.claims).await?;
    Ok(decided)
}

/// C3. Both lists of a CASE are numbers and ids of this very batch.
async fn own(session: &mut Session, who: &Claimant, owned: &[Owned]) -> Result<(), Fault> {
    let lease = &owned[0].lease;
    let unclean = rows::filled(owned.iter().filter(|it| it.unclean > 0));
    let plans: BTreeMap<&TemplateId, &PlanHash> = owned
        .iter()
        .filter_map(|it| Some((it.template.as_ref()?, it.recipe.new_plan.as_ref()?)))
        .collect();
    let plans = rows::filled(plans);
    let named = rows::filled(owned);
    let sql = format!(
        "UPDATE workflow_executions SET status='running', started_at=COALESCE(started_at, NOW(3)), \
         finished_at=NULL, error=NULL, updated_at=NOW(3), ow_not_before=NULL, ow_fence=?, \
         ow_owner=?, ow_owner_uid=?, ow_claim=?, ow_claims={}, ow_plan=COALESCE(ow_plan, {}) \
         WHERE id IN ({}) AND ow_fence < ?",
        rows::case("id", unclean.len(), "0"),
        rows::case("template_id", plans.len(), "NULL"),
        rows::marks(named.len())
    );
    let update = made(sql).bind(lease.fence.0);
    let update = update.bind(lease.owner.as_str()).bind(&who.uid).bind(lease.nonce.as_str());
    let update = unclean
        .iter()
        .fold(update, |update, it| update.bind(it.lease.execution.as_str()).bind(it.unclean));
    let update = plans
        .iter()
        .fold(update, |update, (template, plan)| update.bind(template.as_str()).bind(&plan.0[..]));
    let update = named.iter().fold(update, |update, it| update.bind(it.lease.execution.as_str()));
    let matched = session.matched(update.bind(lease.fence.0)).await?;
    if matched == owned.len() as u64 {
        return Ok(());
    }
    let wanted = owned.len();
    Err(Fault::Unexpected(format!("of {wanted} executions under lock only {matched} were there")))
}

/// C4. Without the stamp an acknowledged success could land between the read and the first start.
async fn stamp(session: &mut Session, owned: &[Owned]) -> Result<(), Fault> {
    let fence = owned[0].lease.fence;
    let owned = rows::filled(owned);
    let sql = format!(
        "UPDATE workflow_step_executions SET ow_fence=? WHERE execution_id IN ({}) \
         AND (status IS NULL OR status NOT IN ('success','failed','skipped'))",
        rows::marks(owned.len())
    );
    let update = made(sql).bind(fence.0);
    let update = owned.iter().fold(update, |update, it| update.bind(it.lease.execution.as_str()));
    // However many steps there are.
    session.matched(update).await?;
    Ok(())
}

/// R. Every unfinished row is locked by now.
async fn read(
    session: &mut Session,
    owned: &[Owned],
) -> Result<BTreeMap<ExecutionId, Vec<StepRow>>, Fault> {
    let mut all: BTreeMap<ExecutionId, Vec<StepRow>> = BTreeMap::new();
    let owned = rows::filled(owned);
    let sql = format!(
        "SELECT execution_id, id, step_id, status, \
         CASE WHEN status='failed' THEN LEFT(error, 1000) END, ow_attempt, ow_key_gen, \
         retry_count FROM workflow_step_executions WHERE execution_id IN ({})",
        rows::marks(owned.len())
    );
    let ask = owned.iter().fold(made(sql), |ask, it| ask.bind(it.lease.execution.as_str()));
    for row in session.rows(ask).await? {
        all.entry(rows::name(&row, 0)?.into()).or_default().push(step_row(&row)?);
    }
    Ok(all)
}

fn step_row(row: &MySqlRow) -> Result<StepRow, Fault> {
    Ok(StepRow {
        id: rows::name(row, 1)?.into(),
        step: rows::name(row, 2)?.into(),
        status: rows::text(row, 3)?,
        error: rows::text(row, 4)?,
        attempt: u32::try_from(rows::count(row, 5)?).unwrap_or(u32::MAX),
        key_gen: u32::try_from(rows::count(row, 6)?).unwrap_or(u32::MAX),
        retry_count: rows::small(rows::number(row, 7)?),
    })
}

async fn decide(
    session: &mut Session,
    who: &Claimant,
    one: Owned,
    step_rows: Vec<StepRow>,
    decided: &mut Decided,
) -> Result<(), Fault> {
    let Owned { lease, recipe, background, hindrance, .. } = one;
    if let Some(deferral) = hindrance {
        defer(session, who, lease, deferral, decided);
        return Ok(());
    }
    let workflow = match recipe.workflow {
        Ok(workflow) => workflow,
        Err(reason) => {
            decided.refused.push((lease, reason));
            return Ok(());
        }
    };
    match intake(&workflow, step_rows, background.age, &who.supported) {
        Intake::Admit(Admitted { recorded, slots }) => {
            let Some(slots) = complete(session, &lease, &workflow, slots).await? else {
                defer(session, who, lease, Deferral::HalfMade, decided);
                return Ok(());
            };
            decided.claims.push(Claim::begin(
                lease,
                workflow,
                &recorded,
                slots,
                who.steps_at_once,
                background,
            ));
        }
        Intake::Defer(deferral) => defer(session, who, lease, deferral, decided),
        Intake::Refuse(reason) => decided.refused.push((lease, reason)),
    }
    Ok(())
}

/// What no worker has learnt in all that time is refused.
fn defer(
    session: &Session,
    who: &Claimant,
    lease: Lease,
    deferral: Deferral,
    decided: &mut Decided,
) {
    let (backoff, unknown_for) = session.shared.defer(&lease.execution, &deferral);
    match deferral.refusal(unknown_for, who.unknown_after) {
        Some(reason) => decided.refused.push((lease, reason)),
        None => decided.deferred.push((lease, deferral, backoff)),
    }
}

/// Inserts the step rows that a half-made execution lacks; `None` if it lacks more after that.
async fn complete(
    session: &mut Session,
    lease: &Lease,
    workflow: &Workflow,
    slots: Vec<Option<StepSlot>>,
) -> Result<Option<Vec<StepSlot>>, Fault> {
    let mut missing = Vec::new();
    let mut complete = Vec::with_capacity(slots.len());
    for (id, slot) in workflow.ids().zip(slots) {
        complete.push(slot.unwrap_or_else(|| {
            let slot = StepSlot {
                id: StepExecutionId::from(Uuid::new_v4().to_string()),
                attempt: 0,
                key_gen: 0,
                retry_count: 0,
            };
            missing.push((slot.id.clone(), &workflow.node(id).step.id));
            slot
        }));
    }
    let now = &missing[..missing.len().min(PIECE)];
    for chunk in now.chunks(CHUNK) {
        let sql = format!(
            "INSERT INTO workflow_step_executions(id, execution_id, step_id, status, created_at, \
             updated_at, ow_fence) VALUES {}",
            rows::joined(chunk.len(), "(?, ?, ?, 'pending', NOW(3), NOW(3), ?)", ", ")
        );
        let insert = chunk.iter().fold(made(sql), |insert, (id, step)| {
            let insert = insert.bind(id.as_str()).bind(lease.execution.as_str());
            insert.bind(step.as_str()).bind(lease.fence.0)
        });
        session.matched(insert).await?;
    }
    Ok((now.len() == missing.len()).then_some(complete))
}

/// C5: committed together with the claim, so a start costs no commit of its own.
async fn start_first_steps(session: &mut Session, claims: &[Claim]) -> Result<(), Fault> {
    let starts: Vec<(&Lease, StepStart)> =
        claims.iter().flat_map(|claim| claim.starts().map(|start| (&claim.lease, start))).collect();
    let writes = starts.iter().map(|(lease, start)| (*lease, Write::Start(start))).collect();
    if steps::write(session, writes).await? {
        return Ok(());
    }
    Err(Fault::Unexpected("a step that was to be started has changed under its lock".into()))
}

/// What an [`origin`] is read from, as columns of a SELECT.
pub(super) fn select_origin() -> String {
    let (created, started) = (rows::unix("created_at"), rows::unix("started_at"));
    format!("DATABASE(), {created}, {started}, ow_run, ow_traceparent")
}

/// The columns of [`select_origin`], of which this is the first.
pub(super) fn origin(row: &MySqlRow, first: usize) -> Result<Origin, Fault> {
    Ok(Origin {
        schema: rows::name(row, first)?.into(),
        created_ms: rows::number(row, first + 1)?,
        started_ms: rows::number(row, first + 2)?,
        run: u32::try_from(rows::count(row, first + 3)?).unwrap_or(u32::MAX),
        traceparent: rows::name(row, first + 4)?,
    })
}

/// An execution's age in microseconds, as a column of a SELECT; NULL where it has no creation time.
pub(super) const AGE: &str = "TIMESTAMPDIFF(MICROSECOND, created_at, NOW(3))";

/// An [`AGE`]: without a creation time it counts as just old enough; from the future, it is new.
pub(super) fn age(row: &MySqlRow, column: usize) -> Result<Duration, Fault> {
    let age = rows::number(row, column)?;
    Ok(age.map_or(HALF_MADE, |micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0))))
}
