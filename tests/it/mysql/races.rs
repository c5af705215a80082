//! Two transactions that meet on a row: the one that had to wait goes by what the other has left, and
//! not by what it saw before.
//!
//! **Invariant:** no story here rests on luck: each begins the second transaction under the first
//! one's locks, and lets the first go on only when the server says that the second waits.

use std::future::Future;

use orchestrator_worker::{
    domain::recovery::{Cause, TakeOver},
    ports::executions::{Advance, AdvanceError, Advanced, Claim, ExecutionStore},
};
use sqlx::{AssertSqlSafe, MySqlConnection, raw_sql};
use tokio::{sync::watch, time::timeout};

use super::{Database, Server};
use crate::{
    contract::{Subject, world::*, writes::*},
    proxy::CEILING,
};

/// Whether a transaction on this database waits for a row, by the server's own report: its table of
/// transactions is a copy that is not renewed while somebody keeps reading it.
async fn somebody_waits<S: Server>(database: &Database<S>) -> bool {
    let here = Some(database.name.clone());
    let mut ids = Vec::new();
    for mut connection in database.rows("SHOW PROCESSLIST").await {
        if connection.remove("db") == Some(here.clone()) {
            let id = connection.remove("Id").flatten().unwrap_or_default();
            ids.push(format!(" thread id {id},"));
        }
    }
    let report = database.rows("SHOW ENGINE INNODB STATUS").await.remove(0).remove("Status");
    let report = report.flatten().unwrap_or_default();
    let mut transactions = report.split("---TRANSACTION");
    transactions.any(|it| it.contains("LOCK WAIT") && ids.iter().any(|id| it.contains(id)))
}

/// What becomes of `verb`, which waits for rows that `first` holds, after `first` was committed.
async fn after<S: Server, T>(
    database: &Database<S>,
    mut first: MySqlConnection,
    verb: impl Future<Output = T>,
) -> T {
    let (ended, is_ended) = watch::channel(false);
    let verb = async {
        let answer = verb.await;
        ended.send_replace(true);
        answer
    };
    let commit = async {
        while !somebody_waits(database).await {
            assert!(!*is_ended.borrow(), "it ended without waiting");
        }
        raw_sql("COMMIT").execute(&mut first).await.expect("it is committed");
    };
    let (answer, ()) = timeout(CEILING, async { tokio::join!(verb, commit) })
        .await
        .expect("one of both went on for ever");
    answer
}

/// Rows that a transaction changes so that another is the lighter one, which a deadlock undoes.
const WEIGHT: usize = 1_000;

/// Two ends in one transaction, which takes the rows by their ids, meet one that takes them the other way round.
pub async fn an_advance_that_a_deadlock_undid_is_sent_again<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let mut held = [world.a_claims(chain(&["one"])).await, world.a_claims(chain(&["one"])).await];
    held.sort_by(|a, b| a.lease.execution.cmp(&b.lease.execution));
    let touch = |claim: &Claim| {
        let id = &claim.lease.execution;
        format!("UPDATE workflow_executions SET updated_at=updated_at WHERE id='{id}'")
    };
    world.subject.exec("CREATE TABLE weight (n INT PRIMARY KEY)").await;
    let rows: Vec<String> = (0..WEIGHT).map(|n| format!("({n})")).collect();
    let weigh = format!("INSERT INTO weight VALUES {}", rows.join(","));
    let mut other = world.subject.open_transaction(&[weigh, touch(&held[1])]).await;
    let end = |claim: &Claim| Advance {
        ended: vec![succeeded(claim, "one")],
        finish: Some(success()),
        ..advance(claim)
    };
    let ends: Vec<Advance> = held.iter().map(end).collect();
    let crossing = async {
        while !somebody_waits(&world.subject).await {}
        let crossed = raw_sql(AssertSqlSafe(touch(&held[0]))).execute(&mut other).await;
        crossed.expect("the heavier one goes on");
        raw_sql("COMMIT").execute(&mut other).await.expect("it is committed");
    };
    let (answers, ()) = timeout(CEILING, async { tokio::join!(world.a.advance(&ends), crossing) })
        .await
        .expect("one of both went on for ever");
    assert_eq!(answers, [Ok(Advanced::Recorded), Ok(Advanced::Recorded)]);
    let report = world.subject.rows("SHOW ENGINE INNODB STATUS").await.remove(0).remove("Status");
    let report = report.flatten().unwrap_or_default();
    let deadlock = report.split("LATEST DETECTED DEADLOCK").nth(1).unwrap_or_default();
    assert!(deadlock.contains(&world.subject.name), "the server has seen it: {report}");
}

/// What a takeover by another does to an execution and its steps.
fn takeover_of(claim: &Claim) -> [String; 2] {
    let id = &claim.lease.execution;
    [
        format!(
            "UPDATE workflow_executions SET ow_fence=ow_fence+1, ow_owner='c', ow_claim='of c' \
             WHERE id='{id}'"
        ),
        format!(
            "UPDATE workflow_step_executions SET ow_fence=ow_fence+1 WHERE execution_id='{id}'"
        ),
    ]
}

pub async fn a_success_that_is_committed_during_a_takeover_is_not_run_again<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let other = world.a_claims(chain(&["one", "two"])).await;
    let claim = world.a_claims(chain(&["one", "two"])).await;
    let id = &claim.lease.execution;
    // Two of them, because a single one is taken without waiting, or put off.
    let mut due = Vec::new();
    for id in [id, &other.lease.execution] {
        let seen = world.held(id).await.expect("it is held");
        due.push(TakeOver { seen, cause: Cause::LeaseExpired });
    }
    let success = format!(
        "UPDATE workflow_step_executions SET status='success', output='in time' \
         WHERE id='{}' AND ow_fence={} AND ow_attempt=1 AND status='running'",
        slot(&claim, "one").id,
        claim.lease.fence
    );
    let owner = world.subject.open_transaction(&[success]).await;
    let b = who("b");
    let batch = after(&world.subject, owner, world.b.take_over(&b, &due)).await;
    let taken = claims(batch.expect("a takeover"));
    assert_eq!(started(&taken[id]), ["two"]);
    assert_eq!(started(&taken[&other.lease.execution]), ["one"]);
    assert_eq!(world.step(id, "one", "output").await.as_deref(), Some("in time"));
    assert_eq!(world.step(id, "one", "ow_attempt").await.as_deref(), Some("1"));
}

pub async fn a_write_that_waited_behind_a_takeover_is_refused<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let kinds = every_kind(&world.a_claims(fork()).await).len();
    for place in 0..kinds {
        let claim = world.a_claims(fork()).await;
        let (kind, sent) = every_kind(&claim).swap_remove(place);
        let other = world.subject.open_transaction(&takeover_of(&claim)).await;
        let answer = after(&world.subject, other, send(&world.a, &sent)).await;
        assert_eq!(answer, Err(AdvanceError::Fenced), "{kind}");
        is_untouched(&world, &claim).await;
    }
    let claim = world.a_claims(fork()).await;
    let other = world.subject.open_transaction(&takeover_of(&claim)).await;
    let answer = after(&world.subject, other, hand_back(&world.a, &claim)).await;
    assert_eq!(answer, Err(AdvanceError::Fenced));
    is_untouched(&world, &claim).await;
}

/// As the claim left it but for the takeover.
async fn is_untouched<S: Server>(world: &World<Database<S>>, claim: &Claim) {
    let id = &claim.lease.execution;
    assert_eq!(world.status(id).await, "running");
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some("c"));
    assert_eq!(world.lock(id, "owner").await.as_deref(), Some("a"));
    assert_eq!(world.steps(id, &["one", "two", "last"]).await, ["running", "running", "pending"]);
    for (name, attempt, expected) in
        [("one", 1, Some("-/-/a")), ("one", 2, None), ("two", 1, Some("-/-/a")), ("last", 1, None)]
    {
        assert_eq!(world.attempt(id, name, attempt).await.as_deref(), expected, "{name}");
        assert_eq!(world.step(id, name, "output").await, None);
        assert_eq!(world.step(id, name, "ow_key_gen").await.as_deref(), Some("0"));
    }
}

pub async fn an_end_that_waited_behind_a_cancellation_is_recorded_as_cancelled<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    let cancel = format!(
        "UPDATE workflow_executions SET status='cancelled' WHERE id='{id}' AND status='running'"
    );
    let ended = vec![succeeded(&claim, "one")];
    let sent = Advance { ended, finish: Some(success()), ..advance(&claim) };
    let other = world.subject.open_transaction(&[cancel]).await;
    let answer = after(&world.subject, other, send(&world.a, &sent)).await;
    assert_eq!(answer, Ok(Advanced::Cancelled));
    assert_eq!(world.status(id).await, "cancelled");
    assert_eq!(world.step(id, "one", "status").await.as_deref(), Some("success"));
    assert_eq!(world.execution(id, "ow_owner").await.as_deref(), Some(""));
}
