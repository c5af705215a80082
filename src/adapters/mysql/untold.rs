//! Ends of executions that a trace has yet to be told of.
//!
//! **Invariant:** only marks are written, in place of marks, and each names who was to tell and under which
//! fence: a lock row that somebody holds, or that a later run has left, is not touched.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use super::{
    errors::Fault,
    facts,
    locks::micros,
    rows,
    session::{Entrance, Session, fixed, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        id::{FINISHED, Fence, LockKey, Owner, UNTOLD},
        lease::Mark,
    },
    ports::traced::{Telling, TracedEnd, Untold},
};

/// Ends a statement at most.
const MOST: usize = 500;

/// One statement for all; it may be sent again.
pub(super) async fn note(
    lanes: &Lanes<Entrance>,
    owner: &Owner,
    ends: &[TracedEnd],
    telling: Telling,
) -> Result<(), Fault> {
    for ends in ends.chunks(MOST) {
        let work = Note { owner: owner.clone(), ends: ends.to_vec(), telling };
        run(lanes, WORK_LIMIT, work).await?;
    }
    Ok(())
}

struct Note {
    owner: Owner,
    ends: Vec<TracedEnd>,
    telling: Telling,
}

#[async_trait]
impl Work for Note {
    type Answer = ();

    async fn attempt(&mut self, session: &mut Session) -> Result<(), Fault> {
        let facts = facts::of(session).await?;
        let untold = self.owner.untold();
        let (mark, stands) = match self.telling {
            Telling::UnderWay => (untold.as_str(), Mark::UNTOLD),
            Telling::Done => (FINISHED, Mark::LINGERS),
        };
        let keys = self.ends.iter().map(|end| LockKey::of_execution(&end.execution));
        let keys: BTreeSet<LockKey> = keys.collect();
        let keys = rows::filled(&keys);
        let fences: BTreeSet<Fence> = self.ends.iter().map(|end| end.fence).collect();
        let fences = rows::filled(&fences);
        let sql = format!(
            "UPDATE distributed_locks FORCE INDEX ({}) SET owner=?, \
             expires_at=NOW(3)+INTERVAL ? MICROSECOND, updated_at=NOW(3) \
             WHERE lock_key IN ({}) AND owner=? AND ow_fence IN ({})",
            facts.lock_key_index,
            rows::marks(keys.len()),
            rows::marks(fences.len())
        );
        let update = made(sql).bind(mark).bind(micros(stands));
        let update = keys.iter().fold(update, |update, key| update.bind(key.as_str()));
        let update = fences.iter().fold(update.bind(&untold), |it, fence| it.bind(fence.0));
        session.matched_alone(update).await?;
        Ok(())
    }
}

pub(super) async fn take(
    lanes: &Lanes<Entrance>,
    owner: &Owner,
    limit: u32,
) -> Result<Vec<Untold>, Fault> {
    run(lanes, WORK_LIMIT, Take { owner: owner.clone(), limit }).await
}

struct Take {
    owner: Owner,
    limit: u32,
}

#[async_trait]
impl Work for Take {
    type Answer = Vec<Untold>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        session.begin().await?;
        let untold = self.untold(session).await?;
        for one in &untold {
            let update = fixed(
                "UPDATE distributed_locks SET owner=?, expires_at=NOW(3)+INTERVAL ? MICROSECOND, \
                 updated_at=NOW(3) WHERE lock_key=? AND ow_fence=?",
            );
            let update = update.bind(self.owner.untold()).bind(micros(Mark::UNTOLD));
            let key = LockKey::of_execution(&one.end.execution);
            session.matched(update.bind(key.as_str()).bind(one.end.fence.0)).await?;
        }
        session.commit().await?;
        Ok(untold)
    }
}

impl Take {
    /// Those that have waited for long enough; what others tell or take at this moment is left out. The
    /// key over the expiry leads to them: what was told stands for less time than they have left.
    async fn untold(&self, session: &mut Session) -> Result<Vec<Untold>, Fault> {
        let ask = fixed(
            "SELECT SUBSTRING(lock_key, 20), owner, ow_fence, ow_beat \
             FROM distributed_locks FORCE INDEX (ow_expires) \
             WHERE expires_at > NOW(3)+INTERVAL ? MICROSECOND \
             AND expires_at <= NOW(3)+INTERVAL ? MICROSECOND AND owner LIKE CONCAT(?, '%') \
             ORDER BY expires_at LIMIT ? FOR UPDATE SKIP LOCKED",
        );
        let told_by_now = micros(Mark::LINGERS + Duration::from_secs(1));
        let waited = micros(Mark::UNTOLD.saturating_sub(Untold::PATIENCE));
        let ask = ask.bind(told_by_now).bind(waited).bind(UNTOLD).bind(self.limit);
        let found = session.rows(ask).await?;
        found
            .iter()
            .map(|row| {
                let owner = rows::name(row, 1)?;
                Ok(Untold {
                    end: TracedEnd {
                        execution: rows::name(row, 0)?.into(),
                        fence: Fence(rows::count(row, 2)?),
                    },
                    owner: owner.strip_prefix(UNTOLD).unwrap_or(&owner).to_owned(),
                    told_ms: rows::count(row, 3)?,
                })
            })
            .collect()
    }
}
