//! The lock rows of executions, and of templates where those are locked too. They say who *should* work; whose writes *count* is said by the
//! fence on the rows themselves.
//!
//! **Invariant:** a live lock row of somebody else is never changed.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;
use sqlx::SqliteConnection;

use super::{
    errors::Failure,
    rows::{Cells, list, signed},
    session::later,
};
use crate::domain::{
    id::{Beat, ExecutionId, LockKey, RELEASED, TemplateId},
    lease::{Lease, Mark},
    recovery::{Held, TakeOver},
};

/// Templates that somebody has locked, and those of executions that were handed back: they go on
/// before another begins, or they would wait for as long as others keep coming.
pub(super) async fn busy_templates(
    connection: &mut SqliteConnection,
) -> Result<BTreeSet<TemplateId>, Failure> {
    let rows = sqlx::query(
        "SELECT substr(lock_key, 19) AS template FROM distributed_locks
          WHERE lock_key LIKE 'workflow|_template:%' ESCAPE '|' AND substr(owner, 1, 1)<>'~'
            AND (ow_fence>0 OR expires_at>strftime('%Y-%m-%d %H:%M:%f','now'))
          UNION ALL SELECT template_id FROM workflow_executions
          WHERE ow_owner=?1 AND status='running' AND template_id IS NOT NULL",
    )
    .bind(RELEASED)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(row.word("template")?.into())).collect()
}

/// Deletes the lock row of a template that whoever is gone held with an execution, or that is nobody's
/// any more. The fence alone proves nothing: it is that of a whole batch, of which another execution may
/// be at work under this very row while this one was put off.
pub(super) async fn clear_template(
    connection: &mut SqliteConnection,
    now: &str,
    template: &TemplateId,
    gone: &Held,
) -> Result<(), Failure> {
    sqlx::query(
        "DELETE FROM distributed_locks
          WHERE lock_key=?1
            AND ((owner=?2 AND ow_fence=?3 AND ow_fence>0) OR substr(owner, 1, 1)='~'
                 OR (ow_fence=0 AND expires_at<=?4))",
    )
    .bind(LockKey::of_template(template).as_str())
    .bind(gone.by.word())
    .bind(signed(gone.fence.0))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) fn keys<'e>(
    executions: impl IntoIterator<Item = &'e ExecutionId>,
) -> impl Iterator<Item = LockKey> {
    executions.into_iter().map(LockKey::of_execution)
}

/// Before a claim: removes what has expired or was left on purpose. The lock of a template goes with an
/// execution that is being run, and is left to its takeover.
pub(super) async fn clear_dead(
    connection: &mut SqliteConnection,
    now: &str,
    keys: &[LockKey],
) -> Result<(), Failure> {
    sqlx::query(
        "DELETE FROM distributed_locks
          WHERE lock_key IN (SELECT value FROM json_each(?1))
            AND (substr(owner, 1, 1)='~'
                 OR (expires_at<=?2
                     AND (ow_fence=0 OR substr(lock_key, 1, 19)='workflow_execution:')))",
    )
    .bind(list(keys))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Serialize)]
struct Seen {
    key: LockKey,
    fence: Option<i64>,
    beat: Option<i64>,
}

/// Before a takeover: removes a dead owner's row if it is still as it was seen. Of expiry only a row
/// of the Go service is judged, because that one does not count its renewals.
pub(super) async fn clear_as_seen(
    connection: &mut SqliteConnection,
    now: &str,
    seen: impl IntoIterator<Item = &TakeOver>,
) -> Result<(), Failure> {
    let seen = seen.into_iter().map(|one| {
        let (key, dead) = (LockKey::of_execution(&one.seen.execution), one.dead_lock());
        let fence = dead.map(|lock| signed(lock.fence.0));
        Seen { key, fence, beat: dead.map(|lock| signed(lock.beat.0)) }
    });
    sqlx::query(
        "DELETE FROM distributed_locks WHERE id IN (
            SELECT l.id
              FROM (SELECT value->>'key' AS lock_key, value->>'fence' AS fence,
                           value->>'beat' AS beat FROM json_each(?1)) AS seen
              JOIN distributed_locks l ON l.lock_key=seen.lock_key
             WHERE (l.ow_fence=seen.fence AND l.ow_beat=seen.beat)
                OR substr(l.owner, 1, 1)='~'
                OR (l.ow_fence=0 AND l.expires_at<=?2))",
    )
    .bind(list(seen))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// What is written on a lock row that is taken.
pub(super) struct Taking<'a> {
    /// An owner, or a mark.
    pub(super) owner: &'a str,
    pub(super) fence: u64,
    pub(super) ttl: Duration,
    pub(super) beat: Beat,
}

/// Takes the rows that nobody has; returns which.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    now: &str,
    taking: &Taking<'_>,
    keys: &[LockKey],
) -> Result<BTreeSet<LockKey>, Failure> {
    let rows = sqlx::query(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at,
                                       ow_fence, ow_beat)
         SELECT value, ?2, strftime('%Y-%m-%d %H:%M:%f', ?3, ?4), ?3, ?3, ?5, ?6
           FROM json_each(?1) WHERE true
         ON CONFLICT(lock_key) DO NOTHING
         RETURNING lock_key",
    )
    .bind(list(keys))
    .bind(taking.owner)
    .bind(now)
    .bind(later(taking.ttl))
    .bind(signed(taking.fence))
    .bind(signed(taking.beat.0))
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(row.word("lock_key")?.into())).collect()
}

/// Leaves a mark in place of the owner for a while, so that nobody takes the execution for one that has
/// no owner. The lock of its template, if that is held with it, is free at once.
pub(super) async fn mark(
    connection: &mut SqliteConnection,
    now: &str,
    lease: &Lease,
    mark: Mark,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE distributed_locks
            SET owner=?2, expires_at=strftime('%Y-%m-%d %H:%M:%f', ?3, ?4), updated_at=?3,
                ow_beat=COALESCE(?7, ow_beat)
          WHERE lock_key=?1 AND owner=?5 AND ow_fence=?6",
    )
    .bind(LockKey::of_execution(&lease.execution).as_str())
    .bind(mark.word(&lease.owner))
    .bind(now)
    .bind(later(mark.stands()))
    .bind(lease.owner.as_str())
    .bind(signed(lease.fence.0))
    .bind(mark.told_ms().map(signed))
    .execute(&mut *connection)
    .await?;
    let template = lease.template.as_ref().map(LockKey::of_template);
    remove(connection, template, lease.owner.as_str(), lease.fence.0).await
}

/// Gives rows back that were taken in this very transaction.
pub(super) async fn give_up(
    connection: &mut SqliteConnection,
    lease: &Lease,
) -> Result<(), Failure> {
    remove(connection, lease.keys(), lease.owner.as_str(), lease.fence.0).await
}

/// Deletes rows that stand under this owner and fence.
pub(super) async fn remove(
    connection: &mut SqliteConnection,
    keys: impl IntoIterator<Item = LockKey>,
    owner: &str,
    fence: u64,
) -> Result<(), Failure> {
    sqlx::query(
        "DELETE FROM distributed_locks
          WHERE lock_key IN (SELECT value FROM json_each(?1)) AND owner=?2 AND ow_fence=?3",
    )
    .bind(list(keys))
    .bind(owner)
    .bind(signed(fence))
    .execute(connection)
    .await?;
    Ok(())
}
