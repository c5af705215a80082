//! What `doctor` goes by, part by part.
//!
//! **Invariant:** a part that cannot be asked hinders no other; nothing is left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sqlx::SqliteConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    super::{
        SqliteStore,
        errors::Failure,
        look,
        rows::{Cells, signed},
        schema,
        session::{Moment, later},
        templates,
    },
    locks,
};
use crate::{
    clock,
    domain::{
        doctor::{
            Answer, Circumstances, Clock, Facts, RoundTrip, Rows, Server, Stored, Tables, Verb,
        },
        drain_contract::LongestStep,
        eligibility::Eligibility,
        id::TemplateId,
        step::DEFAULT_TIMEOUT,
    },
    ports::control::ControlError,
};

pub(super) async fn examine(store: &SqliteStore) -> Facts {
    Facts {
        server: answer(store.command(|c| Box::pin(server(c))).await),
        tables: if store.place.is_missing() {
            let pending = schema::all_of_it().into_iter().map(|step| step.what).collect();
            Ok(Tables { pending, ..Tables::default() })
        } else {
            answer(store.command(|c| Box::pin(tables(c))).await)
        },
        clock: answer(store.command(|c| Box::pin(clock(c))).await),
        round_trip: answer(store.command(|c| Box::pin(round_trip(c))).await),
        rows: answer(store.command(|c| Box::pin(rows(c))).await),
        longest_step: answer(store.command(|c| Box::pin(longest_step(c))).await),
    }
}

pub(super) async fn circumstances(store: &SqliteStore) -> Result<Circumstances, ControlError> {
    Ok(Circumstances {
        server: store.command(|c| Box::pin(server(c))).await?,
        orchestrator_ms: store.command(|c| Box::pin(clock(c))).await?.orchestrator_ms,
        longest_step: store.command(|c| Box::pin(longest_step(c))).await?,
    })
}

fn answer<T>(read: Result<T, ControlError>) -> Answer<T> {
    read.map_err(Into::into)
}

async fn server(connection: &mut SqliteConnection) -> Result<Server, Failure> {
    let version = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut *connection).await?;
    let journal = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(connection).await?;
    Ok(Server::Sqlite { version, journal })
}

async fn tables(connection: &mut SqliteConnection) -> Result<Tables, Failure> {
    if !schema::is_migrated(connection).await? {
        let pending = schema::all_of_it().into_iter().map(|step| step.what).collect();
        return Ok(Tables { pending, ..Tables::default() });
    }
    let mut moment = Moment::read(connection).await?;
    let row = sqlx::query("SELECT version, oldest_reader FROM ow_meta WHERE id=1")
        .fetch_one(moment.on())
        .await?;
    let tables = Tables {
        version: row.number("version")?,
        oldest_reader: row.number("oldest_reader")?,
        columns: columns(moment.on()).await?,
        keys: keys(moment.on()).await?,
        lock_key_problem: lock_key_problem(moment.on()).await?,
        ..Tables::default()
    };
    moment.rollback().await?;
    Ok(tables)
}

/// A file has no users: nothing is said of rights.
async fn columns(
    connection: &mut SqliteConnection,
) -> Result<BTreeMap<String, BTreeSet<Verb>>, Failure> {
    let rows = sqlx::query(
        "SELECT t.name || '.' || c.name AS name
           FROM sqlite_schema t JOIN pragma_table_xinfo(t.name) c WHERE t.type='table'",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row.word("name")?, BTreeSet::new()))).collect()
}

async fn keys(connection: &mut SqliteConnection) -> Result<BTreeMap<String, String>, Failure> {
    let rows = sqlx::query(
        "SELECT tbl_name || '.' || name AS name,
                (SELECT group_concat(name, ', ')
                   FROM (SELECT k.name FROM pragma_index_info(i.name) k ORDER BY k.seqno)) AS columns
           FROM sqlite_schema i WHERE type='index'",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row.word("name")?, row.word("columns")?))).collect()
}

async fn lock_key_problem(connection: &mut SqliteConnection) -> Result<Option<String>, Failure> {
    let unique = sqlx::query(
        "SELECT 1 FROM pragma_index_list('distributed_locks') i
          WHERE i.\"unique\" AND NOT i.partial
            AND (SELECT group_concat(k.name) FROM pragma_index_info(i.name) k)='lock_key'",
    )
    .fetch_optional(connection)
    .await?;
    Ok(unique.is_none().then(|| {
        "distributed_locks has no unique key over lock_key alone, so that two workers could hold one \
         lock; add it with CREATE UNIQUE INDEX ow_lock_key ON distributed_locks (lock_key)"
            .into()
    }))
}

async fn clock(connection: &mut SqliteConnection) -> Result<Clock, Failure> {
    let before = clock::wall_now_ms();
    let there: i64 = sqlx::query_scalar("SELECT CAST(unixepoch('now','subsec')*1000 AS INTEGER)")
        .fetch_one(&mut *connection)
        .await?;
    let ours = i64::midpoint(before, clock::wall_now_ms());
    let row = sqlx::query(
        "SELECT (SELECT CAST((unixepoch(MAX(COALESCE(updated_at, created_at)),'subsec')
                              -unixepoch('now','subsec'))*1000 AS INTEGER)
                   FROM distributed_locks WHERE ow_fence=0) AS orchestrator,
                COUNT(*) AS future,
                CAST((unixepoch(MAX(created_at),'subsec')-unixepoch('now','subsec'))*1000
                     AS INTEGER) AS farthest
           FROM workflow_executions INDEXED BY ow_poll
          WHERE status='pending' AND ow_due>strftime('%Y-%m-%d %H:%M:%f','now')
            AND created_at>strftime('%Y-%m-%d %H:%M:%f','now')",
    )
    .fetch_one(connection)
    .await?;
    Ok(Clock {
        ahead_ms: there - ours,
        orchestrator_ms: row.number("orchestrator")?,
        future: row.count("future")?,
        farthest: row.millis("farthest")?,
    })
}

/// Should this process die in between, workers delete the row soon after.
const TTL: Duration = Duration::from_secs(10);
const OWNER: &str = "orchestrator-worker-doctor";

/// A plain key that is acquired, renewed and released for trial.
async fn round_trip(connection: &mut SqliteConnection) -> Result<RoundTrip, Failure> {
    let key = format!("orchestrator_worker_doctor:{}", Uuid::new_v4());
    let began = Instant::now();
    acquire(connection, &key).await?;
    let acquired = Instant::now();
    let renewed = renew(connection, &key).await;
    let renewed_at = Instant::now();
    // Whatever the renewal has met, nothing stays behind.
    let released = release(connection, &key).await;
    let round = RoundTrip {
        acquire: acquired - began,
        renew: renewed_at - acquired,
        release: renewed_at.elapsed(),
    };
    match (renewed?, released?) {
        (1, 1) => Ok(round),
        _ => Err(Failure::Unwritable("a lock row of our own was changed by somebody else".into())),
    }
}

async fn acquire(connection: &mut SqliteConnection, key: &str) -> Result<(), Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    sqlx::query(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at,
                                       ow_fence, ow_beat)
         VALUES (?1, ?2, strftime('%Y-%m-%d %H:%M:%f', ?3, ?4), ?3, ?3, 1, 1)",
    )
    .bind(key)
    .bind(OWNER)
    .bind(now)
    .bind(later(TTL))
    .execute(moment.on())
    .await?;
    moment.commit().await
}

async fn renew(connection: &mut SqliteConnection, key: &str) -> Result<u64, Failure> {
    let mut moment = Moment::write(connection).await?;
    let now = moment.now.clone();
    let matched = sqlx::query(
        "UPDATE distributed_locks SET expires_at=strftime('%Y-%m-%d %H:%M:%f', ?1, ?2),
                updated_at=?1, ow_beat=2
          WHERE lock_key=?3 AND owner=?4 AND ow_fence=1",
    )
    .bind(now)
    .bind(later(TTL))
    .bind(key)
    .bind(OWNER)
    .execute(moment.on())
    .await?
    .rows_affected();
    moment.commit().await?;
    Ok(matched)
}

async fn release(connection: &mut SqliteConnection, key: &str) -> Result<u64, Failure> {
    let mut moment = Moment::write(connection).await?;
    let delete = "DELETE FROM distributed_locks WHERE lock_key=?1 AND owner=?2 AND ow_fence=1";
    let matched =
        sqlx::query(delete).bind(key).bind(OWNER).execute(moment.on()).await?.rows_affected();
    moment.commit().await?;
    Ok(matched)
}

async fn rows(connection: &mut SqliteConnection) -> Result<Rows, Failure> {
    let queue = look::queue(connection, &Eligibility::default()).await?;
    let unknown = sqlx::query(
        "SELECT COUNT(*) AS unknown FROM workflow_executions WHERE status IS NULL
            OR status NOT IN ('pending','running','success','failed','cancelled')",
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok(Rows {
        due: queue.due,
        later: queue.later,
        running: queue.running,
        backlog: queue.backlog,
        oldest_backlog: queue.oldest_backlog,
        unknown: unknown.count("unknown")?,
        expired_locks: locks::count_old(connection).await?,
    })
}

/// No timeout, or 0, is the default one.
async fn longest_step(connection: &mut SqliteConnection) -> Result<Option<LongestStep>, Failure> {
    let row = sqlx::query(
        "SELECT t.name AS template, s.name AS step, COALESCE(NULLIF(s.timeout, 0), ?1) AS seconds
           FROM steps s JOIN workflow_template_steps l ON l.step_id=s.id
                        JOIN workflow_templates t ON t.id=l.template_id
          ORDER BY seconds DESC, t.id, s.id LIMIT 1",
    )
    .bind(signed(DEFAULT_TIMEOUT.as_secs()))
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let seconds = row.count("seconds")?;
        Ok(LongestStep::new(row.word("template")?, row.word("step")?, seconds))
    })
    .transpose()
}

pub(super) async fn stored(connection: &mut SqliteConnection) -> Result<Vec<Stored>, Failure> {
    let mut moment = Moment::read(connection).await?;
    let rows = sqlx::query(
        "SELECT id, name, COALESCE(is_active, 1) AS is_active FROM workflow_templates
          ORDER BY name, id",
    )
    .fetch_all(moment.on())
    .await?;
    let ids: Vec<TemplateId> =
        rows.iter().map(|row| Ok(row.word("id")?.into())).collect::<Result<_, Failure>>()?;
    let mut read = templates::definitions(moment.on(), &ids).await?;
    let mut all = Vec::new();
    for (id, row) in ids.into_iter().zip(&rows) {
        let Some(definition) = read.remove(&id) else { continue };
        let definition = definition.map_err(|reason| reason.to_string());
        let (name, is_active) = (row.word("name")?, row.yes("is_active")?);
        all.push(Stored { id, name, is_active, definition });
    }
    moment.rollback().await?;
    Ok(all)
}
