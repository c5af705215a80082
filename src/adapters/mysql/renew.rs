//! Renewals: all leases of a process in one statement, and what is done about those that it missed.
//!
//! **Invariant:** a lease is lost only if its rows say so; a lock row that is merely gone, while its
//! execution still carries the lease, is put back. There is no test of the expiry, on purpose: with
//! one, a single jump of the database's clock would lose every lease.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::{
    errors::Fault,
    facts::{self, Facts},
    locks::{self, Taking},
    rows,
    session::{Entrance, Session, made},
    work::{LEASE_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        id::{Beat, ExecutionId, LockKey, Owner},
        lease::{Lease, Renewal},
    },
};

/// Leases a statement at most.
const CHUNK: usize = 1_000;

/// One answer a lease, in their order.
pub(super) async fn renew(
    lanes: &Lanes<Entrance>,
    ttl: Duration,
    beat: Beat,
    leases: &[Lease],
) -> Result<Vec<Renewal>, Fault> {
    // The keys of one statement stand in their order, and have one owner.
    let mut sorted: Vec<Lease> = leases.to_vec();
    sorted.sort_by(|a, b| (a.owner.as_str(), &a.execution).cmp(&(b.owner.as_str(), &b.execution)));
    let mut answers: BTreeMap<(ExecutionId, u64), Renewal> = BTreeMap::new();
    for of_one_owner in sorted.chunk_by(|a, b| a.owner == b.owner) {
        for chunk in of_one_owner.chunks(CHUNK) {
            let work = RenewWork { ttl, beat, leases: chunk.to_vec() };
            let found = run(lanes, LEASE_LIMIT, work).await?;
            let keys = chunk.iter().map(|lease| (lease.execution.clone(), lease.fence.0));
            answers.extend(keys.zip(found));
        }
    }
    let answer = |lease: &Lease| answers[&(lease.execution.clone(), lease.fence.0)];
    Ok(leases.iter().map(answer).collect())
}

struct RenewWork {
    ttl: Duration,
    beat: Beat,
    /// Of one owner, sorted by execution.
    leases: Vec<Lease>,
}

#[async_trait]
impl Work for RenewWork {
    type Answer = Vec<Renewal>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<Renewal>, Fault> {
        let facts = facts::of(session).await?;
        let matched = self.extend(session, &facts).await?;
        let all: Vec<&Lease> = self.leases.iter().collect();
        let executions = read(session, &all, "").await?;
        let mut answers = self.leases.iter().map(|lease| standing(&executions, lease)).collect();
        if matched != self.leases.len() as u64 {
            self.mend(session, &facts, &mut answers).await?;
        }
        Ok(answers)
    }
}

impl RenewWork {
    fn owner(&self) -> &Owner {
        &self.leases[0].owner
    }

    /// A statement and commit of its own. Returns how many lock rows were extended.
    async fn extend(&self, session: &mut Session, facts: &Facts) -> Result<u64, Fault> {
        let sql = format!(
            "UPDATE distributed_locks FORCE INDEX ({}) \
             SET expires_at=NOW(3)+INTERVAL ? MICROSECOND, updated_at=NOW(3), ow_beat=? \
             WHERE owner=? AND ({})",
            facts.lock_key_index,
            rows::joined(self.leases.len(), "(lock_key=? AND ow_fence=?)", " OR ")
        );
        let update = made(sql).persistent(self.leases.len() == 1);
        let update =
            update.bind(locks::micros(self.ttl)).bind(self.beat.0).bind(self.owner().as_str());
        let update = self.leases.iter().fold(update, |update, lease| {
            let key = LockKey::of_execution(&lease.execution);
            update.bind(key.as_str()).bind(lease.fence.0)
        });
        session.matched_alone(update).await
    }

    /// Some lock rows were not extended: those that are another's are lost, those that are gone are
    /// put back while their execution's row is locked.
    async fn mend(
        &self,
        session: &mut Session,
        facts: &Facts,
        answers: &mut Vec<Renewal>,
    ) -> Result<(), Fault> {
        let found = self.lock_rows(session, facts).await?;
        let mut gone = Vec::new();
        for (lease, answer) in self.leases.iter().zip(answers) {
            match found.get(&LockKey::of_execution(&lease.execution)) {
                Some((owner, fence))
                    if owner == lease.owner.as_str() && *fence == lease.fence.0 => {}
                Some(_) => *answer = Renewal::Lost,
                None => gone.push((lease, answer)),
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        session.begin().await?;
        let leases: Vec<&Lease> = gone.iter().map(|(lease, _)| *lease).collect();
        let executions = read(session, &leases, " FOR UPDATE").await?;
        for (lease, answer) in gone {
            *answer = standing(&executions, lease);
            if *answer != Renewal::Lost && !self.put_back(session, lease).await? {
                *answer = Renewal::Lost;
            }
        }
        session.commit().await
    }

    async fn lock_rows(
        &self,
        session: &mut Session,
        facts: &Facts,
    ) -> Result<BTreeMap<LockKey, (String, u64)>, Fault> {
        let sql = format!(
            "SELECT lock_key, owner, ow_fence FROM distributed_locks FORCE INDEX ({}) \
             WHERE lock_key IN ({})",
            facts.lock_key_index,
            rows::marks(self.leases.len())
        );
        let ask = self.leases.iter().fold(made(sql), |ask, lease| {
            ask.bind(LockKey::of_execution(&lease.execution).as_str())
        });
        let found = session.rows(ask).await?;
        found
            .iter()
            .map(|row| {
                let holder = (rows::name(row, 1)?, rows::count(row, 2)?);
                Ok((LockKey::from(rows::name(row, 0)?), holder))
            })
            .collect()
    }

    /// Re-asserts one lock row, with the current beat, so that it never looks unchanged; `false` if
    /// somebody was faster.
    async fn put_back(&self, session: &mut Session, lease: &Lease) -> Result<bool, Fault> {
        let taking = Taking {
            owner: lease.owner.as_str(),
            fence: lease.fence,
            ttl: self.ttl,
            beat: self.beat,
        };
        locks::insert(session, &LockKey::of_execution(&lease.execution), &taking).await
    }
}

/// What the row of an execution says about whose it is.
struct ExecutionRow {
    status: String,
    fence: u64,
    claim: String,
    owner: String,
}

/// The rows of the leases' executions; `lock` is empty, or the clause that locks them too.
async fn read(
    session: &mut Session,
    leases: &[&Lease],
    lock: &'static str,
) -> Result<BTreeMap<ExecutionId, ExecutionRow>, Fault> {
    let sql = format!(
        "SELECT id, status, ow_fence, ow_claim, ow_owner FROM workflow_executions \
         FORCE INDEX (PRIMARY) WHERE id IN ({}) ORDER BY id{lock}",
        rows::marks(leases.len())
    );
    let ask = made(sql).persistent(leases.len() == 1);
    let ask = leases.iter().fold(ask, |ask, lease| ask.bind(lease.execution.as_str()));
    let found = session.rows(ask).await?;
    let execution = |row: &MySqlRow| {
        let execution = ExecutionRow {
            status: rows::name(row, 1)?,
            fence: rows::count(row, 2)?,
            claim: rows::name(row, 3)?,
            owner: rows::name(row, 4)?,
        };
        Ok((rows::name(row, 0)?.into(), execution))
    };
    found.iter().map(execution).collect()
}

/// How a lease stands by its execution's row alone. An owner column that is no longer ours means
/// that we have ended the execution or handed it back ourselves.
fn standing(executions: &BTreeMap<ExecutionId, ExecutionRow>, lease: &Lease) -> Renewal {
    let Some(row) = executions.get(&lease.execution) else { return Renewal::Lost };
    let is_ours = row.fence == lease.fence.0
        && row.claim == lease.nonce.as_str()
        && row.owner == lease.owner.as_str();
    match (is_ours, row.status.as_str()) {
        (true, "running") => Renewal::Held,
        (true, "cancelled") => Renewal::Cancelled,
        _ => Renewal::Lost,
    }
}
