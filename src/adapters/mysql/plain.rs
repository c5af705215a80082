//! Plain keys in the lock table: taken, renewed and freed one by one, without an execution.
//!
//! A key that is free is inserted, one whose time is past is taken over in its row; both under the
//! row's lock, and only then its fence is made: by the server's clock, and larger than the one before.
//! Which wish a row comes from stands in its beat: nobody watches that of a plain key.
//!
//! **Invariant:** expiry is judged by the server's clock, in the statement that acts on it; the row of
//! an execution that is held is never taken by time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::{
    MySqlStore,
    errors::Fault,
    facts, locks, rows,
    session::{Entrance, Session, Sql, fixed, made},
    work::{WORK_LIMIT, Work, lease_limit, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        id::Fence,
        lock::{PlainKey, Purpose},
    },
    ports::{
        executions::StoreError,
        lock::{Acquire, Acquired, Inspected, KeyLease, LockError, LockProvider, Renewed},
    },
};

mod stored;

use stored::stored;

impl MySqlStore {
    async fn on_key<W: Work>(
        &self,
        lanes: &Lanes<Entrance>,
        limit: Duration,
        work: W,
    ) -> Result<W::Answer, LockError> {
        if self.plain_keys_closed.load(Ordering::Acquire) {
            return Err(LockError::Closed);
        }
        Ok(run(lanes, limit, work).await.map_err(StoreError::from)?)
    }
}

#[async_trait]
impl LockProvider for MySqlStore {
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError> {
        self.on_key(&self.work, WORK_LIMIT, AcquireWork { request: request.clone() }).await
    }

    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Result<Renewed, LockError> {
        self.on_key(&self.leases, lease_limit(ttl), Renew { lease: lease.clone(), ttl }).await
    }

    async fn release(&self, lease: &KeyLease) -> Result<bool, LockError> {
        self.on_key(&self.work, WORK_LIMIT, Release { lease: lease.clone() }).await
    }

    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError> {
        self.on_key(&self.work, WORK_LIMIT, Inspect { key: key.clone() }).await
    }

    async fn close(&self) {
        self.plain_keys_closed.store(true, Ordering::Release);
    }
}

/// The largest fence that plain keys have got in this process. Where a server's clock is set back
/// while a key is free, the next fence is larger all the same.
#[derive(Debug, Default)]
pub(super) struct FenceFloor(AtomicU64);

impl FenceFloor {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn raise(&self, fence: Fence) {
        self.0.fetch_max(fence.0, Ordering::AcqRel);
    }
}

/// A key's row as it was read.
struct Row {
    owner: String,
    fence: Fence,
    nonce: u64,
    is_marked: bool,
    age: Option<Duration>,
    /// `None`: its time is past.
    expires_in: Option<Duration>,
    /// It is that of an execution which is held, whatever its time.
    is_leased: bool,
}

impl Row {
    fn is_free(&self) -> bool {
        self.is_marked || (self.expires_in.is_none() && !self.is_leased)
    }

    fn is_from(&self, wish: &Acquire) -> bool {
        self.owner == wish.owner.as_str() && self.nonce == wish.nonce.get() && self.fence.0 > 0
    }

    fn seen(self) -> Inspected {
        let expires_in = self.expires_in.unwrap_or_default();
        Inspected { owner: self.owner, fence: self.fence, age: self.age, expires_in }
    }
}

/// How a row is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    /// Nobody else changes it before this transaction ends.
    Locking,
}

/// Reads a key's row. The execution that it may be the lease of does not become held under the fence
/// that was read: it was so from the moment that the row had it.
async fn look(session: &mut Session, key: &PlainKey, how: Look) -> Result<Option<Row>, Fault> {
    let facts = facts::of(session).await?;
    let held = "e.ow_owner > '' AND e.status IN ('running','cancelled') AND e.ow_fence=l.ow_fence";
    let (leased, id) = match key.purpose() {
        Purpose::Other => ("0".into(), None),
        Purpose::Execution(id) => (
            format!("EXISTS (SELECT 1 FROM workflow_executions e WHERE e.id=? AND {held})"),
            Some(id),
        ),
        Purpose::Template(id) => (
            format!(
                "EXISTS (SELECT 1 FROM workflow_executions e FORCE INDEX (ow_held) \
                 WHERE e.template_id=? AND {held})"
            ),
            Some(id),
        ),
    };
    let sql = format!(
        "SELECT l.owner, l.ow_fence, l.ow_beat, CAST(l.owner LIKE '~%' AS SIGNED), \
         TIMESTAMPDIFF(MICROSECOND, l.created_at, NOW(3)), \
         TIMESTAMPDIFF(MICROSECOND, NOW(3), l.expires_at), \
         CAST(l.ow_fence > 0 AND {leased} AS SIGNED) \
         FROM distributed_locks l FORCE INDEX ({}) WHERE l.lock_key=?{}",
        facts.lock_key_index,
        if how == Look::Locking { " FOR UPDATE" } else { "" }
    );
    let ask = id.into_iter().fold(made(sql), Sql::bind).bind(stored(key));
    session.row(ask).await?.as_ref().map(read).transpose()
}

fn read(row: &MySqlRow) -> Result<Row, Fault> {
    let micros = |column| -> Result<Option<Duration>, Fault> {
        let micros = rows::number(row, column)?;
        Ok(micros.and_then(|it| u64::try_from(it).ok()).map(Duration::from_micros))
    };
    Ok(Row {
        owner: rows::name(row, 0)?,
        fence: Fence(rows::count(row, 1)?),
        nonce: rows::count(row, 2)?,
        is_marked: rows::number(row, 3)? == Some(1),
        age: micros(4)?,
        expires_in: micros(5)?.filter(|left| !left.is_zero()),
        is_leased: rows::number(row, 6)? == Some(1),
    })
}

struct AcquireWork {
    request: Acquire,
}

#[async_trait]
impl Work for AcquireWork {
    type Answer = Acquired;

    async fn attempt(&mut self, session: &mut Session) -> Result<Acquired, Fault> {
        let wish = &self.request;
        // A plain look first: most who ask for a held key ask for nothing else.
        let taken = match look(session, &wish.key, Look::Plain).await? {
            Some(row) if row.is_from(wish) && !row.is_free() => return Ok(ours(wish, row.fence)),
            Some(row) if !row.is_free() => return Ok(Acquired::Theirs(row.seen())),
            Some(_) => take_row(session, wish).await,
            None => insert(session, wish).await,
        };
        match taken {
            // Somebody was faster, or has just freed it: the whole look again.
            Err(Fault::Duplicate(text)) | Ok(Err(text)) => Err(Fault::RolledBack(text)),
            Ok(Ok(answer)) => Ok(answer),
            Err(fault) => Err(fault),
        }
    }
}

fn ours(wish: &Acquire, fence: Fence) -> Acquired {
    Acquired::Ours(KeyLease {
        key: wish.key.clone(),
        owner: wish.owner.clone(),
        fence,
        nonce: wish.nonce,
    })
}

/// Of a free key without a row. A plain INSERT: IGNORE would hide that somebody has one by now.
async fn insert(session: &mut Session, wish: &Acquire) -> Result<Result<Acquired, String>, Fault> {
    session.begin().await?;
    let insert = fixed(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at, \
         ow_fence, ow_beat) VALUES (?, ?, NOW(3), NOW(3), NOW(3), 0, ?)",
    );
    let insert = insert.bind(stored(&wish.key)).bind(wish.owner.as_str());
    session.matched(insert.bind(wish.nonce.get())).await?;
    let fence = own(session, wish, wish.owner.as_str(), Fence(0)).await?;
    session.commit().await?;
    Ok(Ok(ours(wish, fence)))
}

/// Of a key whose row is nobody's, or past its time.
async fn take_row(
    session: &mut Session,
    wish: &Acquire,
) -> Result<Result<Acquired, String>, Fault> {
    session.begin().await?;
    let Some(row) = look(session, &wish.key, Look::Locking).await? else {
        return Ok(Err("the key was freed meanwhile".into()));
    };
    if !row.is_free() {
        session.rollback().await?;
        return Ok(Ok(Acquired::Theirs(row.seen())));
    }
    let fence = own(session, wish, &row.owner, row.fence).await?;
    session.commit().await?;
    Ok(Ok(ours(wish, fence)))
}

/// Makes a row that this transaction has locked that of a wish, and its fence: at a moment after it
/// was locked, so that no acquisition before it has a larger one.
async fn own(
    session: &mut Session,
    wish: &Acquire,
    owner: &str,
    fence: Fence,
) -> Result<Fence, Fault> {
    let update = fixed(
        "UPDATE distributed_locks SET owner=?, expires_at=NOW(3)+INTERVAL ? MICROSECOND, \
         created_at=NOW(3), updated_at=NOW(3), ow_fence=LAST_INSERT_ID(CAST(GREATEST(ow_fence + 1, ?, \
         TIMESTAMPDIFF(MICROSECOND,'1970-01-01',UTC_TIMESTAMP(6))) AS UNSIGNED)), ow_beat=? \
         WHERE lock_key=? AND owner=? AND ow_fence=? AND ow_fence < 9000000000000000000",
    );
    let floor = session.shared.fence_floor.get() + 1;
    let update = update.bind(wish.owner.as_str()).bind(locks::micros(wish.ttl)).bind(floor);
    let update = update.bind(wish.nonce.get()).bind(stored(&wish.key)).bind(owner).bind(fence.0);
    let (matched, made) = session.matched_and_made(update).await?;
    if matched != 1 {
        return Err(Fault::Unexpected(format!("the row of lock {} took no write", wish.key)));
    }
    session.shared.fence_floor.raise(Fence(made));
    Ok(Fence(made))
}

struct Renew {
    lease: KeyLease,
    ttl: Duration,
}

/// A lease's values where a statement names them: key, owner, fence, nonce.
fn named<'q>(sql: Sql<'q>, lease: &'q KeyLease) -> Sql<'q> {
    let sql = sql.bind(stored(&lease.key)).bind(lease.owner.as_str());
    sql.bind(lease.fence.0).bind(lease.nonce.get())
}

#[async_trait]
impl Work for Renew {
    type Answer = Renewed;
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<Renewed, Fault> {
        let update = fixed(
            "UPDATE distributed_locks SET expires_at=NOW(3)+INTERVAL ? MICROSECOND, \
             updated_at=NOW(3) WHERE lock_key=? AND owner=? AND ow_fence=? AND ow_beat=? \
             AND expires_at > NOW(3)",
        );
        let update = named(update.bind(locks::micros(self.ttl)), &self.lease);
        if session.matched_alone(update).await? == 1 {
            return Ok(Renewed::Held);
        }
        let ask = fixed(
            "SELECT 1 FROM distributed_locks WHERE lock_key=? AND owner=? AND ow_fence=? \
             AND ow_beat=?",
        );
        let is_there = session.row(named(ask, &self.lease)).await?.is_some();
        Ok(if is_there { Renewed::Expired } else { Renewed::Gone })
    }
}

struct Release {
    lease: KeyLease,
}

#[async_trait]
impl Work for Release {
    type Answer = bool;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        let delete = fixed(
            "DELETE FROM distributed_locks WHERE lock_key=? AND owner=? AND ow_fence=? \
             AND ow_beat=?",
        );
        Ok(session.matched_alone(named(delete, &self.lease)).await? == 1)
    }
}

struct Inspect {
    key: PlainKey,
}

#[async_trait]
impl Work for Inspect {
    type Answer = Option<Inspected>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let row = look(session, &self.key, Look::Plain).await?;
        Ok(row.filter(|row| !row.is_free()).map(Row::seen))
    }
}
