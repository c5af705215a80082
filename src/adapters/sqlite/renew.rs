//! Renews leases, and puts lock rows back that somebody deleted.
//!
//! **Invariant:** a lease is held only while its execution carries its owner, fence and nonce; a lock
//! row is put back only where there is none. Expiry is not tested: a clock that jumps loses no lease.

use std::time::Duration;

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    errors::Failure,
    rows::{Cells, signed},
    session::{Moment, later},
};
use crate::domain::{
    id::{Beat, ExecutionId, Fence, LockKey},
    lease::{Holding, Lease, Renewal},
};

pub(super) async fn renew(
    connection: &mut SqliteConnection,
    ttl: Duration,
    beat: Beat,
    leases: &[Lease],
) -> Result<Vec<Renewal>, Failure> {
    let mut moment = Moment::write(connection).await?;
    let mut answers = Vec::with_capacity(leases.len());
    for lease in leases {
        answers.push(renew_one(&mut moment, ttl, beat, lease).await?);
    }
    moment.commit().await?;
    Ok(answers)
}

/// How leases stand by their executions' rows; one answer each, in their order.
pub(super) async fn standing(
    connection: &mut SqliteConnection,
    leases: &[Lease],
) -> Result<Vec<Renewal>, Failure> {
    let mut answers = Vec::with_capacity(leases.len());
    for lease in leases {
        answers.push(lease.standing(read(connection, &lease.execution).await?.as_ref()));
    }
    Ok(answers)
}

/// Who holds an execution, by its row.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    execution: &ExecutionId,
) -> Result<Option<Holding>, Failure> {
    let row = sqlx::query(
        "SELECT status, ow_fence, ow_claim, ow_owner FROM workflow_executions WHERE id=?1",
    )
    .bind(execution.as_str())
    .fetch_optional(connection)
    .await?;
    Ok(row.as_ref().map(holding).transpose()?)
}

async fn renew_one(
    moment: &mut Moment<'_>,
    ttl: Duration,
    beat: Beat,
    lease: &Lease,
) -> Result<Renewal, Failure> {
    let answer = lease.standing(read(moment.on(), &lease.execution).await?.as_ref());
    if !matches!(answer, Renewal::Held | Renewal::Cancelled) {
        return Ok(answer);
    }
    for key in lease.keys() {
        if !extend(moment, ttl, beat, lease, &key).await? {
            return Ok(Renewal::Lost);
        }
    }
    Ok(answer)
}

/// A row that is there and ours is renewed, a missing one is put back, any other is left (`false`).
async fn extend(
    moment: &mut Moment<'_>,
    ttl: Duration,
    beat: Beat,
    lease: &Lease,
    key: &LockKey,
) -> Result<bool, Failure> {
    let now = moment.now.clone();
    let matched = sqlx::query(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at,
                                       ow_fence, ow_beat)
         VALUES (?1, ?2, strftime('%Y-%m-%d %H:%M:%f', ?3, ?4), ?3, ?3, ?5, ?6)
         ON CONFLICT(lock_key) DO UPDATE
            SET expires_at=excluded.expires_at, updated_at=excluded.updated_at,
                ow_beat=excluded.ow_beat
          WHERE owner=excluded.owner AND ow_fence=excluded.ow_fence",
    )
    .bind(key.as_str())
    .bind(lease.owner.as_str())
    .bind(now)
    .bind(later(ttl))
    .bind(signed(lease.fence.0))
    .bind(signed(beat.0))
    .execute(moment.on())
    .await?
    .rows_affected();
    Ok(matched == 1)
}

fn holding(row: &SqliteRow) -> Result<Holding, sqlx::Error> {
    Ok(Holding {
        status: row.word("status")?,
        fence: Fence(row.count("ow_fence")?),
        nonce: row.word("ow_claim")?,
        by: row.word("ow_owner")?,
    })
}
