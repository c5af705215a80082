//! Claims pending executions: pin, lock, take.
//!
//! **Invariant:** whatever was pinned is afterwards claimed, put back for a while, or failed with a
//! reason, so that nothing blocks the head of the queue.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use super::{
    Shared,
    admission::Candidate,
    eligible::{Eligible, is_eligible},
    errors::Failure,
    locks, renew,
    rows::{Cells, signed},
    session::Moment,
    taking::{Taking, put_back},
};
use crate::{
    domain::{
        deferral::Deferral,
        id::{ExecutionId, Fence, LockKey},
        intake::HALF_MADE,
        trace::Origin,
    },
    ports::executions::{Batch, Claimant, Named},
};

pub(super) async fn claim(
    connection: &mut SqliteConnection,
    shared: &Shared,
    as_who: &Claimant,
    limit: usize,
) -> Result<Batch, Failure> {
    let eligible = Eligible::of_free_templates(connection, &as_who.eligibility).await?;
    if !anything_due(connection, &eligible).await? {
        return Ok(Batch::default());
    }
    let mut moment = Moment::write(connection).await?;
    let pinned = pin_all(&mut moment, as_who, limit, eligible).await?;
    take(moment, shared, as_who, pinned).await
}

/// What [`claim`] would look at.
pub(super) async fn due(
    connection: &mut SqliteConnection,
    as_who: &Claimant,
    limit: usize,
) -> Result<Vec<ExecutionId>, Failure> {
    let eligible = Eligible::of_free_templates(connection, &as_who.eligibility).await?;
    if !anything_due(connection, &eligible).await? {
        return Ok(Vec::new());
    }
    let mut moment = Moment::read(connection).await?;
    let found = pin(&mut moment, limit, &eligible, Which::Due).await?;
    moment.rollback().await?;
    Ok(found.into_iter().map(|candidate| candidate.execution).collect())
}

/// Those of `executions` that are due.
pub(super) async fn claim_these(
    connection: &mut SqliteConnection,
    shared: &Shared,
    as_who: &Claimant,
    executions: &[ExecutionId],
) -> Result<Batch, Failure> {
    let eligible = Eligible::of_free_templates(connection, &as_who.eligibility).await?;
    let mut moment = Moment::write(connection).await?;
    let (mut pinned, mut taken) = (Vec::new(), BTreeSet::new());
    for execution in executions {
        let found = pin(&mut moment, 1, &eligible, Which::This(execution)).await?;
        pinned.extend(
            found
                .into_iter()
                .filter(|it| as_who.eligibility.goes_with(&mut taken, it.template.as_ref())),
        );
    }
    take(moment, shared, as_who, pinned).await
}

/// Leaves pending executions alone for a while: others hold their leases.
pub(super) async fn put_off(
    connection: &mut SqliteConnection,
    shared: &Shared,
    executions: &[ExecutionId],
) -> Result<(), Failure> {
    let mut moment = Moment::write(connection).await?;
    for execution in executions {
        let (backoff, _) = shared.defer(execution, &Deferral::Locked);
        put_back(&mut moment, execution, backoff).await?;
    }
    moment.commit().await
}

/// This very execution, whether it is due or not.
pub(super) async fn claim_named(
    connection: &mut SqliteConnection,
    shared: &Shared,
    as_who: &Claimant,
    execution: &ExecutionId,
) -> Result<Named, Failure> {
    let eligible = Eligible::of_free_templates(connection, &as_who.eligibility).await?;
    let eligible = eligible.whatever_its_age();
    let mut moment = Moment::write(connection).await?;
    let pinned = pin(&mut moment, 1, &eligible, Which::Named(execution)).await?;
    if !pinned.is_empty() {
        return Ok(Named::Met(take(moment, shared, as_who, pinned).await?));
    }
    let holding = renew::read(moment.on(), execution).await?;
    moment.rollback().await?;
    Ok(holding.map_or(Named::Missing, Named::Stands))
}

async fn take(
    mut moment: Moment<'_>,
    shared: &Shared,
    as_who: &Claimant,
    pinned: Vec<Candidate>,
) -> Result<Batch, Failure> {
    let now = moment.now.clone();
    let templates =
        pinned.iter().filter_map(|c| as_who.eligibility.template_key(c.template.as_ref()));
    let keys = locks::keys(pinned.iter().map(|c| &c.execution)).chain(templates);
    let keys: Vec<LockKey> = keys.collect();
    locks::clear_dead(moment.on(), &now, &keys).await?;
    let mut taking = Taking::new(shared, as_who, &pinned);
    let mut won = locks::insert(moment.on(), &now, &taking.lock(), &keys).await?;
    let (mut pinned, locked): (Vec<_>, Vec<_>) = pinned
        .into_iter()
        .partition(|candidate| won.remove(&LockKey::of_execution(&candidate.execution)));
    taking.give_templates(&mut pinned, &mut won);
    // Templates of executions whose own locks another holds.
    locks::remove(moment.on(), won, as_who.owner.as_str(), taking.fence).await?;
    for candidate in locked {
        let (backoff, _) = shared.defer(&candidate.execution, &Deferral::Locked);
        put_back(&mut moment, &candidate.execution, backoff).await?;
        taking.batch.deferred.push((candidate.execution, Deferral::Locked));
    }
    let batch = taking.take(&mut moment, pinned).await?;
    moment.commit().await?;
    Ok(batch)
}

async fn anything_due(
    connection: &mut SqliteConnection,
    eligible: &Eligible,
) -> Result<bool, Failure> {
    let sql = format!(
        "SELECT 1 FROM workflow_executions INDEXED BY ow_poll
          WHERE status='pending' AND ow_due<=strftime('%Y-%m-%d %H:%M:%f','now') AND ow_fence<?4
            AND {} LIMIT 1",
        is_eligible()
    );
    let ask = eligible.bind(sqlx::query(AssertSqlSafe(sql))).bind(signed(Fence::CEILING));
    Ok(ask.fetch_optional(connection).await?.is_some())
}

/// Looks again while those that are to run one at a time leave room for others. All but the first of
/// a template stay as they are: were they put off, they would not be due as soon as it is free, and
/// not in their order. What is met again, because it names no template, is no news.
async fn pin_all(
    moment: &mut Moment<'_>,
    as_who: &Claimant,
    limit: usize,
    mut eligible: Eligible,
) -> Result<Vec<Candidate>, Failure> {
    let (mut all, mut met, mut taken) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    loop {
        let before = all.len();
        let room = limit - before;
        let found = pin(moment, room, &eligible, Which::Due).await?;
        let was_all = found.len() < room;
        all.extend(found.into_iter().filter(|it| {
            met.insert(it.execution.clone())
                && as_who.eligibility.goes_with(&mut taken, it.template.as_ref())
        }));
        eligible.templates.keep_out(&taken);
        if was_all || all.len() == before || all.len() == limit {
            return Ok(all);
        }
    }
}

/// Which executions are looked for.
#[derive(Clone, Copy)]
enum Which<'w> {
    Due,
    /// This one, if it is due.
    This(&'w ExecutionId),
    /// This one, due or not.
    Named(&'w ExecutionId),
}

async fn pin(
    moment: &mut Moment<'_>,
    limit: usize,
    eligible: &Eligible,
    which: Which<'_>,
) -> Result<Vec<Candidate>, Failure> {
    let now = moment.now.clone();
    let conditions = match which {
        Which::Due => "INDEXED BY ow_poll WHERE ow_due<=?4",
        Which::This(_) => "WHERE ow_due<=?4 AND id=?7",
        Which::Named(_) => "WHERE id=?7",
    };
    let sql = format!(
        "SELECT id, template_id, ow_plan,
                max(ow_fence+1, CAST(unixepoch(?4,'subsec')*1000000 AS INTEGER)) AS fence,
                CAST((unixepoch(?4,'subsec')-unixepoch(created_at,'subsec'))*1000 AS INTEGER) AS age,
                {ORIGIN}
           FROM workflow_executions {conditions} AND status='pending' AND ow_fence<?5 AND {}
          ORDER BY ow_due, id LIMIT ?6",
        is_eligible()
    );
    let ask = eligible
        .bind(sqlx::query(AssertSqlSafe(sql)))
        .bind(now)
        .bind(signed(Fence::CEILING))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let ask = match which {
        Which::Due => ask,
        Which::This(id) | Which::Named(id) => ask.bind(id.as_str()),
    };
    let rows = ask.fetch_all(moment.on()).await?;
    rows.iter()
        .map(|row| {
            Ok(Candidate {
                execution: row.word("id")?.into(),
                template: row.text("template_id")?.map(Into::into),
                plan: row.bytes("ow_plan")?,
                age: age(row.number("age")?),
                origin: origin(row)?,
                fence: row.count("fence")?,
                claims: 0,
                from: None,
                locked_template: None,
                hindrance: None,
            })
        })
        .collect()
}

/// What an [`origin`] is read from.
pub(super) const ORIGIN: &str =
    "CAST(unixepoch(created_at,'subsec')*1000 AS INTEGER) AS created_ms,
                CAST(unixepoch(started_at,'subsec')*1000 AS INTEGER) AS started_ms,
                ow_run, ow_traceparent";

/// A file is one database, whatever path leads to it: SQLite calls it `main`.
pub(super) fn origin(row: &SqliteRow) -> Result<Origin, sqlx::Error> {
    Ok(Origin {
        schema: "main".into(),
        created_ms: row.number("created_ms")?,
        started_ms: row.number("started_ms")?,
        run: row.small("ow_run")?,
        traceparent: row.word("ow_traceparent")?,
    })
}

/// Without a time of creation it counts as just old enough; from the future, it is new.
pub(super) fn age(milliseconds: Option<i64>) -> Duration {
    milliseconds.map_or(HALF_MADE, |age| Duration::from_millis(u64::try_from(age).unwrap_or(0)))
}
