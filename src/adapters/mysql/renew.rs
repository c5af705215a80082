//! Renewals: all leases of a process in one statement, and what is done about those that it missed.
//!
//! **Invariant:** a lease is lost only if its rows say so, and rows that somebody keeps locked cost no
//! lease but their own; a lock row that is merely gone, while its execution still carries the lease,
//! is put back. There is no test of the expiry, on purpose: with one, a single jump of the database's
//! clock would lose every lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::{
    errors::Fault,
    facts::{self, Facts},
    locks::{self, Taking},
    rows,
    session::{Entrance, Session, Sql, made},
    shared::Shared,
    work::{Work, lease_limit, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        id::{Beat, ExecutionId, Fence, LockKey, Owner},
        lease::{Holding, Lease, Mark, Renewal},
    },
};

/// Leases a statement at most.
pub(super) const CHUNK: usize = 1_024;

/// One answer a lease, in their order.
pub(super) async fn renew(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    ttl: Duration,
    beat: Beat,
    leases: &[Lease],
) -> Result<Vec<Renewal>, Fault> {
    // The keys of one statement stand in their order, and have one owner.
    let mut sorted: Vec<Lease> = leases.to_vec();
    sorted.sort_by(|a, b| (a.owner.as_str(), &a.execution).cmp(&(b.owner.as_str(), &b.execution)));
    // A lock is waited for once and not at every renewal.
    let around = shared.renewals_wait.swap(true, Ordering::Relaxed);
    let mut answers: BTreeMap<(ExecutionId, Fence), Renewal> = BTreeMap::new();
    let mut gone = Vec::new();
    for of_one_owner in sorted.chunk_by(|a, b| a.owner == b.owner) {
        for chunk in of_one_owner.chunks(CHUNK) {
            let work = RenewWork { ttl, beat, leases: chunk.to_vec(), around };
            let found = run(lanes, lease_limit(ttl), work).await?;
            for (lease, found) in chunk.iter().zip(found) {
                let answer = found.unwrap_or_else(|| {
                    gone.push(lease.clone());
                    Renewal::Unanswered
                });
                answers.insert((lease.execution.clone(), lease.fence), answer);
            }
        }
    }
    for chunk in gone.chunks(CHUNK) {
        let work = PutBackWork { ttl, beat, leases: chunk.to_vec() };
        // What was renewed stays renewed, whatever becomes of these.
        let Ok(found) = run(lanes, lease_limit(ttl), work).await else { continue };
        let keys = chunk.iter().map(|lease| (lease.execution.clone(), lease.fence));
        answers.extend(keys.zip(found));
    }
    let is_unanswered = answers.values().any(|answer| *answer == Renewal::Unanswered);
    shared.renewals_wait.store(is_unanswered, Ordering::Relaxed);
    let answer = |lease: &Lease| answers[&(lease.execution.clone(), lease.fence)];
    Ok(leases.iter().map(answer).collect())
}

struct RenewWork {
    ttl: Duration,
    beat: Beat,
    /// Of one owner, sorted by execution.
    leases: Vec<Lease>,
    /// Leaves out what is locked from the beginning.
    around: bool,
}

/// Which lock rows were extended.
enum Extended {
    All,
    /// All that are there and ours.
    Ours,
    /// Of those, the ones that nobody kept locked.
    Free(BTreeSet<LockKey>),
}

#[async_trait]
impl Work for RenewWork {
    /// `None` for a lease whose lock row is gone.
    type Answer = Vec<Option<Renewal>>;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let facts = facts::of(session).await?;
        let extended = self.extend(session, &facts).await?;
        let executions = read(session, &self.leases, "").await?;
        let standing = self.leases.iter().map(|it| it.standing(executions.get(&it.execution)));
        let rows = match extended {
            Extended::All => return Ok(standing.map(Some).collect()),
            Extended::Ours | Extended::Free(_) => self.lock_rows(session, &facts).await?,
        };
        let answer = |(lease, standing): (&Lease, Renewal)| match standing {
            Renewal::Held | Renewal::Cancelled => by_lock_rows(lease, &rows, &extended, standing),
            Renewal::Unanswered | Renewal::Ended | Renewal::Lost => Some(standing),
        };
        Ok(self.leases.iter().zip(standing).map(answer).collect())
    }
}

/// The lock rows of leases, in the order of their keys.
fn keys_of(leases: &[Lease]) -> Vec<(LockKey, Fence)> {
    let of = |lease: &Lease| lease.keys().map(|key| (key, lease.fence)).collect::<Vec<_>>();
    let mut keys: Vec<_> = leases.iter().flat_map(of).collect();
    keys.sort();
    keys
}

/// How a lease stands by its lock rows too; `None` if one is gone and could be put back.
fn by_lock_rows(
    lease: &Lease,
    rows: &BTreeMap<LockKey, (String, Fence)>,
    extended: &Extended,
    standing: Renewal,
) -> Option<Renewal> {
    let by_row = |key: LockKey| Some(by_lock_row(lease, &key, rows.get(&key)?, extended, standing));
    let found: Vec<Option<Renewal>> = lease.keys().map(by_row).collect();
    let is_over = |it: &&Renewal| matches!(it, Renewal::Ended | Renewal::Lost);
    if let Some(over) = found.iter().flatten().find(is_over) {
        return Some(*over);
    }
    let all: Vec<Renewal> = found.into_iter().collect::<Option<_>>()?;
    let is_unanswered = all.contains(&Renewal::Unanswered);
    Some(if is_unanswered { Renewal::Unanswered } else { standing })
}

fn by_lock_row(
    lease: &Lease,
    key: &LockKey,
    (owner, fence): &(String, Fence),
    extended: &Extended,
    standing: Renewal,
) -> Renewal {
    let is_under_ours = *fence == lease.fence;
    match (owner.as_str(), extended) {
        (owner, Extended::Free(free)) if is_under_ours && owner == lease.owner.as_str() => {
            if free.contains(key) { standing } else { Renewal::Unanswered }
        }
        (owner, _) if is_under_ours && owner == lease.owner.as_str() => standing,
        // Our own mark: the execution was let go of after its row was read.
        (mark, _) if is_under_ours && Mark::is_in(mark) => Renewal::Ended,
        _ => Renewal::Lost,
    }
}

impl RenewWork {
    fn owner(&self) -> &Owner {
        &self.leases[0].owner
    }

    /// One statement for all; where that meets a lock, two for those that are free.
    async fn extend(&self, session: &mut Session, facts: &Facts) -> Result<Extended, Fault> {
        let all = keys_of(&self.leases);
        if !self.around {
            match session.matched_alone(self.update(facts, &all)).await {
                Ok(matched) if matched == all.len() as u64 => return Ok(Extended::All),
                Ok(_) => return Ok(Extended::Ours),
                Err(Fault::LockWait(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        self.extend_free(session, facts, all).await
    }

    async fn extend_free(
        &self,
        session: &mut Session,
        facts: &Facts,
        mut keys: Vec<(LockKey, Fence)>,
    ) -> Result<Extended, Fault> {
        session.begin().await?;
        let asked = rows::filled(&keys);
        let sql = format!(
            "SELECT lock_key FROM distributed_locks FORCE INDEX ({}) WHERE owner=? AND ({}) \
             ORDER BY lock_key FOR UPDATE SKIP LOCKED",
            facts.lock_key_index,
            key_and_fence(asked.len())
        );
        let ask = bind_keys(made(sql).bind(self.owner().as_str()), asked);
        let free = session.rows(ask).await?;
        let free = free
            .iter()
            .map(|row| Ok(LockKey::from(rows::name(row, 0)?)))
            .collect::<Result<BTreeSet<_>, Fault>>()?;
        let all = keys.len();
        keys.retain(|(key, _)| free.contains(key));
        if !keys.is_empty() {
            session.matched(self.update(facts, &keys)).await?;
        }
        session.commit().await?;
        Ok(if keys.len() == all { Extended::All } else { Extended::Free(free) })
    }

    fn update(&self, facts: &Facts, keys: &[(LockKey, Fence)]) -> Sql<'static> {
        let keys = rows::filled(keys);
        let sql = format!(
            "UPDATE distributed_locks FORCE INDEX ({}) \
             SET expires_at=NOW(3)+INTERVAL ? MICROSECOND, updated_at=NOW(3), ow_beat=? \
             WHERE owner=? AND ({})",
            facts.lock_key_index,
            key_and_fence(keys.len())
        );
        let update = made(sql).bind(locks::micros(self.ttl)).bind(self.beat.0);
        bind_keys(update.bind(self.owner().to_string()), keys)
    }

    async fn lock_rows(
        &self,
        session: &mut Session,
        facts: &Facts,
    ) -> Result<BTreeMap<LockKey, (String, Fence)>, Fault> {
        let keys = rows::filled(keys_of(&self.leases));
        let sql = format!(
            "SELECT lock_key, owner, ow_fence FROM distributed_locks FORCE INDEX ({}) \
             WHERE lock_key IN ({})",
            facts.lock_key_index,
            rows::marks(keys.len())
        );
        let ask = keys.iter().fold(made(sql), |ask, (key, _)| ask.bind(key.as_str()));
        let found = session.rows(ask).await?;
        found
            .iter()
            .map(|row| {
                let holder = (rows::name(row, 1)?, Fence(rows::count(row, 2)?));
                Ok((LockKey::from(rows::name(row, 0)?), holder))
            })
            .collect()
    }
}

fn key_and_fence(count: usize) -> String {
    rows::joined(count, "(lock_key=? AND ow_fence=?)", " OR ")
}

fn bind_keys<'q>(sql: Sql<'q>, keys: Vec<&(LockKey, Fence)>) -> Sql<'q> {
    keys.into_iter().fold(sql, |sql, (key, fence)| sql.bind(key.to_string()).bind(fence.0))
}

/// Re-asserts lock rows that are gone, while their executions' rows are locked and still carry the
/// leases.
struct PutBackWork {
    ttl: Duration,
    beat: Beat,
    leases: Vec<Lease>,
}

#[async_trait]
impl Work for PutBackWork {
    type Answer = Vec<Renewal>;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<Renewal>, Fault> {
        session.begin().await?;
        let locked = read(session, &self.leases, " FOR UPDATE SKIP LOCKED").await?;
        let mut answers = Vec::with_capacity(self.leases.len());
        let mut waits = false;
        for lease in &self.leases {
            // It was there a moment ago, so somebody keeps it locked.
            let row = locked.get(&lease.execution);
            let standing = row.map_or(Renewal::Unanswered, |row| lease.standing(Some(row)));
            answers.push(match standing {
                Renewal::Held | Renewal::Cancelled if waits => Renewal::Unanswered,
                Renewal::Held | Renewal::Cancelled => match self.put_back(session, lease).await {
                    Ok(true) => standing,
                    Ok(false) => Renewal::Lost,
                    Err(Fault::LockWait(_)) => {
                        waits = true;
                        Renewal::Unanswered
                    }
                    Err(fault) => return Err(fault),
                },
                Renewal::Unanswered | Renewal::Ended | Renewal::Lost => standing,
            });
        }
        session.commit().await?;
        Ok(answers)
    }
}

impl PutBackWork {
    /// With the current beat, so that a row never looks unchanged; `false` if somebody was faster.
    async fn put_back(&self, session: &mut Session, lease: &Lease) -> Result<bool, Fault> {
        let taking = Taking {
            owner: lease.owner.as_str(),
            fence: lease.fence,
            ttl: self.ttl,
            beat: self.beat,
        };
        for key in lease.keys() {
            let is_there = locks::insert(session, &key, &taking).await?
                || locks::is_held(session, &key, lease).await?;
            if !is_there {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The rows of the leases' executions; `lock` is empty, or the clause that locks them too.
pub(super) async fn read(
    session: &mut Session,
    leases: &[Lease],
    lock: &'static str,
) -> Result<BTreeMap<ExecutionId, Holding>, Fault> {
    let leases = rows::filled(leases);
    let sql = format!(
        "SELECT id, {}, ow_fence, ow_claim, ow_owner FROM workflow_executions \
         FORCE INDEX (PRIMARY) WHERE id IN ({}) ORDER BY id{lock}",
        rows::status("status"),
        rows::marks(leases.len())
    );
    let ask = leases.iter().fold(made(sql), |ask, lease| ask.bind(lease.execution.as_str()));
    let found = session.rows(ask).await?;
    let holding = |row: &MySqlRow| {
        let holding = Holding {
            status: rows::name(row, 1)?,
            fence: Fence(rows::count(row, 2)?),
            nonce: rows::name(row, 3)?,
            by: rows::name(row, 4)?,
        };
        Ok((rows::name(row, 0)?.into(), holding))
    };
    found.iter().map(holding).collect()
}
