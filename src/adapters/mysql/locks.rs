//! The lock rows of executions, and of templates where those are locked too.
//!
//! **Invariant:** a lock row that another holds is never changed: each statement names owner and
//! fence, or what a watcher has seen, or a mark that sets it free. Keys are taken in their order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    errors::Fault,
    facts::Facts,
    rows,
    session::{Session, fixed, made},
};
use crate::domain::{
    id::{Beat, Fence, LockKey, Owner, RELEASED, TemplateId},
    lease::{Lease, Mark},
    recovery::{Held, LockSeen},
};

/// What is written on a lock row that is taken.
pub(super) struct Taking<'a> {
    /// An owner, or a mark.
    pub owner: &'a str,
    pub fence: Fence,
    pub ttl: Duration,
    pub beat: Beat,
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// C2: clears what is dead among `keys`, takes what is free, and says which are ours.
pub(super) async fn take_free(
    session: &mut Session,
    facts: &Facts,
    keys: &BTreeSet<LockKey>,
    taking: &Taking<'_>,
) -> Result<BTreeSet<LockKey>, Fault> {
    let keys = rows::filled(keys);
    clear_dead(session, facts, &keys).await?;
    insert_free(session, &keys, taking).await?;
    let sql = format!(
        "SELECT lock_key FROM distributed_locks FORCE INDEX ({}) WHERE lock_key IN ({}) \
         AND owner=? AND ow_fence=?",
        facts.lock_key_index,
        rows::marks(keys.len())
    );
    let ask = keys.iter().fold(made(sql), |ask, key| ask.bind(key.as_str()));
    let won = session.rows(ask.bind(taking.owner).bind(taking.fence.0)).await?;
    won.iter().map(|row| Ok(rows::name(row, 0)?.into())).collect()
}

/// The lock of a template goes with an execution that is being run, and is left to its takeover.
async fn clear_dead(session: &mut Session, facts: &Facts, keys: &[&LockKey]) -> Result<(), Fault> {
    let sql = format!(
        "DELETE l FROM distributed_locks l FORCE INDEX ({}) WHERE lock_key IN ({}) \
         AND (owner LIKE '~%' OR (expires_at <= NOW(3) \
         AND (ow_fence=0 OR LEFT(lock_key, 19)='workflow_execution:')))",
        facts.lock_key_index,
        rows::marks(keys.len())
    );
    session.matched(keys.iter().fold(made(sql), |delete, key| delete.bind(key.as_str()))).await?;
    Ok(())
}

/// IGNORE: a key that another holds is simply not won.
async fn insert_free(
    session: &mut Session,
    keys: &[&LockKey],
    taking: &Taking<'_>,
) -> Result<(), Fault> {
    let row = "(?, ?, NOW(3)+INTERVAL ? MICROSECOND, NOW(3), NOW(3), ?, ?)";
    let sql = format!(
        "INSERT IGNORE INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at, \
         ow_fence, ow_beat) VALUES {}",
        rows::joined(keys.len(), row, ", ")
    );
    let insert = keys.iter().fold(made(sql), |insert, key| {
        let insert = insert.bind(key.as_str()).bind(taking.owner);
        insert.bind(micros(taking.ttl)).bind(taking.fence.0).bind(taking.beat.0)
    });
    session.matched(insert).await?;
    Ok(())
}

/// Inserts one lock row; `false` if somebody has one (a plain INSERT: IGNORE would hide that the
/// row there is alive).
pub(super) async fn insert(
    session: &mut Session,
    key: &LockKey,
    taking: &Taking<'_>,
) -> Result<bool, Fault> {
    let insert = fixed(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at, \
         ow_fence, ow_beat) VALUES (?, ?, NOW(3)+INTERVAL ? MICROSECOND, NOW(3), NOW(3), ?, ?)",
    );
    let insert = insert.bind(key.as_str()).bind(taking.owner).bind(micros(taking.ttl));
    match session.matched(insert.bind(taking.fence.0).bind(taking.beat.0)).await {
        Ok(_) => Ok(true),
        Err(Fault::Duplicate(_)) => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Deletes a lock row that stands as a watcher has seen it for long enough, or that is nobody's: a
/// marked one, or an expired one of the orchestrator. A row of the orchestrator never beats, so what
/// was seen of one proves nothing.
pub(super) async fn clear_seen(
    session: &mut Session,
    key: &LockKey,
    seen: Option<LockSeen>,
) -> Result<(), Fault> {
    let delete = fixed(
        "DELETE FROM distributed_locks WHERE lock_key=? AND ((ow_fence=? AND ow_beat=? \
         AND ow_fence > 0) OR owner LIKE '~%' OR (ow_fence=0 AND expires_at <= NOW(3)))",
    );
    let (fence, beat) = seen.map_or((0, 0), |seen| (seen.fence.0, seen.beat.0));
    session.matched(delete.bind(key.as_str()).bind(fence).bind(beat)).await?;
    Ok(())
}

/// Puts a mark in the owner's place for a while, with all leases of one owner. A row that is missing, or
/// another's by now, is left alone.
pub(super) async fn mark(
    session: &mut Session,
    leases: &[&Lease],
    mark: Mark,
) -> Result<(), Fault> {
    let Some(first) = leases.first() else { return Ok(()) };
    // Nobody may be kept from ending what he holds for want of a fact.
    let index =
        session.shared.facts().map(|facts| format!(" FORCE INDEX ({})", facts.lock_key_index));
    let leases = rows::filled(leases);
    let sql = format!(
        "UPDATE distributed_locks{} SET owner=?, ow_beat=COALESCE(?, ow_beat), \
         expires_at=NOW(3)+INTERVAL ? MICROSECOND, updated_at=NOW(3) WHERE {}",
        index.unwrap_or_default(),
        rows::joined(leases.len(), "(lock_key=? AND owner=? AND ow_fence=?)", " OR ")
    );
    let update = made(sql).bind(mark.word(&first.owner)).bind(mark.told_ms());
    let update = leases.iter().fold(update.bind(micros(mark.stands())), |update, lease| {
        let key = LockKey::of_execution(&lease.execution);
        update.bind(key.as_str().to_owned()).bind(lease.owner.as_str()).bind(lease.fence.0)
    });
    session.matched(update).await?;
    Ok(())
}

/// Deletes the lock row of a template that whoever is gone held with an execution, or that is nobody's
/// any more. The fence alone proves nothing: it is that of a whole batch, of which another execution may
/// be at work under this very row while this one was put off.
pub(super) async fn clear_template(
    session: &mut Session,
    key: &LockKey,
    gone: &Held,
) -> Result<(), Fault> {
    let delete = fixed(
        "DELETE FROM distributed_locks WHERE lock_key=? AND ((owner=? AND ow_fence=? \
         AND ow_fence > 0) OR owner LIKE '~%' OR (ow_fence=0 AND expires_at <= NOW(3)))",
    );
    let delete = delete.bind(key.as_str()).bind(gone.by.word());
    session.matched(delete.bind(gone.fence.0)).await?;
    Ok(())
}

/// Deletes the lock rows of the templates that these leases hold. No mark stays: another execution of
/// the template may begin at once, and the orchestrator does not wait for one.
pub(super) async fn free_templates(
    session: &mut Session,
    leases: impl Iterator<Item = &Lease>,
) -> Result<(), Fault> {
    let held = leases.filter_map(|it| Some((LockKey::of_template(it.template.as_ref()?), it)));
    let held: BTreeMap<LockKey, &Lease> = held.collect();
    for (key, lease) in held {
        let delete =
            fixed("DELETE FROM distributed_locks WHERE lock_key=? AND owner=? AND ow_fence=?");
        let delete = delete.bind(key.as_str()).bind(lease.owner.as_str());
        session.matched(delete.bind(lease.fence.0)).await?;
    }
    Ok(())
}

/// Whether a lock row stands under this lease.
pub(super) async fn is_held(
    session: &mut Session,
    key: &LockKey,
    lease: &Lease,
) -> Result<bool, Fault> {
    let ask = fixed("SELECT 1 FROM distributed_locks WHERE lock_key=? AND owner=? AND ow_fence=?");
    let ask = ask.bind(key.as_str()).bind(lease.owner.as_str()).bind(lease.fence.0);
    Ok(session.row(ask).await?.is_some())
}

/// Templates that somebody has locked, and those of executions that were handed back: they go on
/// before another begins, or they would wait for as long as others keep coming.
pub(super) async fn busy_templates(session: &mut Session) -> Result<BTreeSet<TemplateId>, Fault> {
    // The escape keeps its meaning under NO_BACKSLASH_ESCAPES. The tables' collations may differ.
    let ask = fixed(
        "SELECT CONVERT(SUBSTRING(lock_key, 19) USING utf8mb4) COLLATE utf8mb4_bin \
         FROM distributed_locks \
         WHERE lock_key LIKE 'workflow|_template:%' ESCAPE '|' AND owner NOT LIKE '~%' \
         AND (ow_fence > 0 OR expires_at > NOW(3)) \
         UNION ALL SELECT CONVERT(template_id USING utf8mb4) COLLATE utf8mb4_bin \
         FROM workflow_executions FORCE INDEX (ow_held) \
         WHERE ow_owner=? AND status='running' AND template_id IS NOT NULL",
    );
    session
        .rows(ask.bind(RELEASED))
        .await?
        .iter()
        .map(|row| Ok(rows::name(row, 0)?.into()))
        .collect()
}

/// Deletes lock rows that this very transaction has taken.
pub(super) async fn give_up(
    session: &mut Session,
    facts: &Facts,
    keys: &BTreeSet<LockKey>,
    owner: &Owner,
    fence: Fence,
) -> Result<(), Fault> {
    let keys = rows::filled(keys);
    let sql = format!(
        "DELETE l FROM distributed_locks l FORCE INDEX ({}) WHERE lock_key IN ({}) AND owner=? \
         AND ow_fence=?",
        facts.lock_key_index,
        rows::marks(keys.len())
    );
    let delete = keys.iter().fold(made(sql), |delete, key| delete.bind(key.as_str()));
    session.matched(delete.bind(owner.as_str()).bind(fence.0)).await?;
    Ok(())
}
