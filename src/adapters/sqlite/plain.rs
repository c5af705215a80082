//! Plain keys in the lock table: taken, renewed and freed one by one, without an execution.
//!
//! The table counts its rows for good (`AUTOINCREMENT`), releases, restarts and a clock that is set
//! back notwithstanding: a fence is the number of its row, which is the time in microseconds where that
//! is larger, so that it compares with the fences of claims.
//! Which wish a row comes from stands in its beat: nobody watches that of a plain key.
//!
//! **Invariant:** expiry is judged by SQLite's clock; the row of an execution that is held is never
//! taken by time.

use std::{sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    SqliteStore,
    errors::Failure,
    rows::{Cells, signed},
    session::{Moment, Opener, later},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        id::Fence,
        lock::{PlainKey, Purpose},
    },
    ports::lock::{Acquire, Acquired, Inspected, KeyLease, LockError, LockProvider, Renewed},
};

impl SqliteStore {
    async fn on_key<T: Send + 'static>(
        &self,
        lanes: &Lanes<Opener>,
        job: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>>
        + Send
        + 'static,
    ) -> Result<T, LockError> {
        if self.plain_keys_closed.load(Ordering::Acquire) {
            return Err(LockError::Closed);
        }
        Ok(self.on(lanes, job).await?)
    }
}

#[async_trait]
impl LockProvider for SqliteStore {
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError> {
        let request = request.clone();
        self.on_key(&self.work, |c| Box::pin(async move { acquire(c, &request).await })).await
    }

    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Result<Renewed, LockError> {
        let lease = lease.clone();
        let lanes = self.leases.as_ref().unwrap_or(&self.work);
        self.on_key(lanes, move |c| Box::pin(async move { renew(c, &lease, ttl).await })).await
    }

    async fn release(&self, lease: &KeyLease) -> Result<bool, LockError> {
        let lease = lease.clone();
        self.on_key(&self.work, |c| Box::pin(async move { release(c, &lease).await })).await
    }

    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError> {
        let key = key.clone();
        self.on_key(&self.work, |c| {
            Box::pin(async move {
                let row = look(c, &key).await?;
                Ok(row.filter(|row| !row.is_free()).map(Row::seen))
            })
        })
        .await
    }

    async fn close(&self) {
        self.plain_keys_closed.store(true, Ordering::Release);
    }
}

/// A key's row as it was read.
struct Row {
    owner: String,
    fence: Fence,
    nonce: u64,
    age: Option<Duration>,
    expires_in: Duration,
    is_past: bool,
    /// It is that of an execution which is held, whatever its time.
    is_leased: bool,
}

impl Row {
    fn is_free(&self) -> bool {
        self.owner.starts_with('~') || (self.is_past && !self.is_leased)
    }

    fn is_from(&self, wish: &Acquire) -> bool {
        self.owner == wish.owner.as_str() && self.nonce == wish.nonce.get() && self.fence.0 > 0
    }

    fn seen(self) -> Inspected {
        let Self { owner, fence, age, expires_in, .. } = self;
        Inspected { owner, fence, age, expires_in }
    }
}

async fn look(connection: &mut SqliteConnection, key: &PlainKey) -> Result<Option<Row>, Failure> {
    let (execution, template) = match key.purpose() {
        Purpose::Execution(id) => (Some(id), None),
        Purpose::Template(id) => (None, Some(id)),
        Purpose::Other => (None, None),
    };
    let row = sqlx::query(
        "SELECT l.owner, l.ow_fence, l.ow_beat, l.expires_at<=n.now AS is_past,
                CAST(round((unixepoch(n.now,'subsec')-unixepoch(l.created_at,'subsec'))*1000)
                     AS INTEGER) AS age,
                CAST(round((unixepoch(l.expires_at,'subsec')-unixepoch(n.now,'subsec'))*1000)
                     AS INTEGER) AS expires_in,
                l.ow_fence>0 AND EXISTS (
                  SELECT 1 FROM workflow_executions e
                   WHERE (e.id=?2 OR e.template_id=?3) AND e.ow_owner>''
                     AND e.status IN ('running','cancelled') AND e.ow_fence=l.ow_fence) AS is_leased
           FROM distributed_locks l, (SELECT strftime('%Y-%m-%d %H:%M:%f','now') AS now) AS n
          WHERE l.lock_key=?1",
    )
    .bind(key.as_str())
    .bind(execution)
    .bind(template)
    .fetch_optional(connection)
    .await?;
    Ok(row.as_ref().map(read).transpose()?)
}

fn read(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let age = row.number("age")?.and_then(|age| u64::try_from(age).ok());
    Ok(Row {
        owner: row.word("owner")?,
        fence: Fence(row.count("ow_fence")?),
        nonce: row.count("ow_beat")?,
        age: age.map(Duration::from_millis),
        expires_in: row.millis("expires_in")?,
        is_past: row.yes("is_past")?,
        is_leased: row.yes("is_leased")?,
    })
}

async fn acquire(connection: &mut SqliteConnection, wish: &Acquire) -> Result<Acquired, Failure> {
    // A plain look first: whoever asks for a held key does not need the file to itself.
    if let Some(answer) = decide(look(connection, &wish.key).await?, wish) {
        return Ok(answer);
    }
    let mut moment = Moment::write(connection).await?;
    let row = look(moment.on(), &wish.key).await?;
    let former = row.as_ref().map_or(0, |row| row.fence.0);
    if let Some(answer) = decide(row, wish) {
        moment.rollback().await?;
        return Ok(answer);
    }
    sqlx::query("DELETE FROM distributed_locks WHERE lock_key=?1")
        .bind(wish.key.as_str())
        .execute(moment.on())
        .await?;
    let fence = insert(&mut moment, wish, former).await?;
    moment.commit().await?;
    Ok(ours(wish, fence))
}

/// What is answered to a wish for a key with this row; `None`: it is to be had.
fn decide(row: Option<Row>, wish: &Acquire) -> Option<Acquired> {
    let row = row.filter(|row| !row.is_free())?;
    Some(if row.is_from(wish) { ours(wish, row.fence) } else { Acquired::Theirs(row.seen()) })
}

fn ours(wish: &Acquire, fence: Fence) -> Acquired {
    Acquired::Ours(KeyLease {
        key: wish.key.clone(),
        owner: wish.owner.clone(),
        fence,
        nonce: wish.nonce,
    })
}

async fn insert(moment: &mut Moment<'_>, wish: &Acquire, former: u64) -> Result<Fence, Failure> {
    let now = moment.now.clone();
    let row = sqlx::query(
        "INSERT INTO distributed_locks(id, lock_key, owner, expires_at, created_at, updated_at,
                                       ow_fence, ow_beat)
         SELECT fence, ?1, ?2, strftime('%Y-%m-%d %H:%M:%f', ?3, ?4), ?3, ?3, fence, ?5
           FROM (SELECT max(CAST(unixepoch(?3,'subsec')*1000000 AS INTEGER), ?6+1,
                            coalesce((SELECT seq FROM sqlite_sequence
                                       WHERE name='distributed_locks'), 0)+1) AS fence)
         RETURNING ow_fence",
    )
    .bind(wish.key.as_str())
    .bind(wish.owner.as_str())
    .bind(now)
    .bind(later(wish.ttl))
    .bind(signed(wish.nonce.get()))
    .bind(signed(former))
    .fetch_one(moment.on())
    .await?;
    Ok(Fence(row.count("ow_fence")?))
}

async fn renew(
    connection: &mut SqliteConnection,
    lease: &KeyLease,
    ttl: Duration,
) -> Result<Renewed, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let row = sqlx::query(
        "SELECT expires_at>?5 AS is_live FROM distributed_locks
          WHERE lock_key=?1 AND owner=?2 AND ow_fence=?3 AND ow_beat=?4",
    )
    .bind(lease.key.as_str())
    .bind(lease.owner.as_str())
    .bind(signed(lease.fence.0))
    .bind(signed(lease.nonce.get()))
    .bind(&now)
    .fetch_optional(moment.on())
    .await?;
    let answer = match row {
        None => Renewed::Gone,
        Some(row) if row.yes("is_live")? => Renewed::Held,
        Some(_) => Renewed::Expired,
    };
    if answer != Renewed::Held {
        moment.rollback().await?;
        return Ok(answer);
    }
    sqlx::query(
        "UPDATE distributed_locks
            SET expires_at=strftime('%Y-%m-%d %H:%M:%f', ?2, ?3), updated_at=?2
          WHERE lock_key=?1",
    )
    .bind(lease.key.as_str())
    .bind(now)
    .bind(later(ttl))
    .execute(moment.on())
    .await?;
    moment.commit().await?;
    Ok(answer)
}

async fn release(connection: &mut SqliteConnection, lease: &KeyLease) -> Result<bool, Failure> {
    let mut moment = Moment::write(connection).await?;
    let deleted = sqlx::query(
        "DELETE FROM distributed_locks
          WHERE lock_key=?1 AND owner=?2 AND ow_fence=?3 AND ow_beat=?4",
    )
    .bind(lease.key.as_str())
    .bind(lease.owner.as_str())
    .bind(signed(lease.fence.0))
    .bind(signed(lease.nonce.get()))
    .execute(moment.on())
    .await?
    .rows_affected();
    moment.commit().await?;
    Ok(deleted == 1)
}
