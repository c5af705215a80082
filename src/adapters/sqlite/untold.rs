//! Ends of executions that a trace has yet to be told of.
//!
//! **Invariant:** only marks are written, in place of marks, and each names who was to tell and under which
//! fence: a lock row that somebody holds, or that a later run has left, is not touched.

use sqlx::SqliteConnection;

use super::{
    errors::Failure,
    rows::{Cells, signed},
    session::{Moment, later},
};
use crate::{
    domain::{
        id::{FINISHED, Fence, LockKey, Owner, UNTOLD},
        lease::Mark,
    },
    ports::traced::{Telling, TracedEnd, Untold},
};

pub(super) async fn note(
    connection: &mut SqliteConnection,
    owner: &Owner,
    ends: &[TracedEnd],
    telling: Telling,
) -> Result<(), Failure> {
    let untold = owner.untold();
    let (mark, stands) = match telling {
        Telling::UnderWay => (untold.as_str(), Mark::UNTOLD),
        Telling::Done => (FINISHED, Mark::LINGERS),
    };
    let mut moment = Moment::write(connection).await?;
    for end in ends {
        put(&mut moment, end, &untold, (mark, stands)).await?;
    }
    moment.commit().await?;
    Ok(())
}

pub(super) async fn take(
    connection: &mut SqliteConnection,
    owner: &Owner,
    limit: u32,
) -> Result<Vec<Untold>, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let rows = sqlx::query(
        "SELECT substr(lock_key, 20) AS execution, owner, ow_fence, ow_beat FROM distributed_locks
          WHERE substr(owner, 1, length(?1))=?1
            AND expires_at<=strftime('%Y-%m-%d %H:%M:%f', ?2, ?3)
          ORDER BY expires_at LIMIT ?4",
    )
    .bind(UNTOLD)
    .bind(now)
    .bind(later(Mark::UNTOLD.saturating_sub(Untold::PATIENCE)))
    .bind(limit)
    .fetch_all(moment.on())
    .await?;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let mark = row.word("owner")?;
        let end = TracedEnd {
            execution: row.word("execution")?.into(),
            fence: Fence(row.count("ow_fence")?),
        };
        put(&mut moment, &end, &mark, (&owner.untold(), Mark::UNTOLD)).await?;
        all.push(Untold {
            end,
            owner: mark.strip_prefix(UNTOLD).unwrap_or(&mark).to_owned(),
            told_ms: row.count("ow_beat")?,
        });
    }
    moment.commit().await?;
    Ok(all)
}

/// One mark in place of another.
async fn put(
    moment: &mut Moment<'_>,
    end: &TracedEnd,
    before: &str,
    (mark, stands): (&str, std::time::Duration),
) -> Result<(), Failure> {
    let now = moment.now.clone();
    sqlx::query(
        "UPDATE distributed_locks
            SET owner=?1, expires_at=strftime('%Y-%m-%d %H:%M:%f', ?2, ?3), updated_at=?2
          WHERE lock_key=?4 AND owner=?5 AND ow_fence=?6",
    )
    .bind(mark)
    .bind(now)
    .bind(later(stands))
    .bind(LockKey::of_execution(&end.execution).as_str())
    .bind(before)
    .bind(signed(end.fence.0))
    .execute(moment.on())
    .await?;
    Ok(())
}
