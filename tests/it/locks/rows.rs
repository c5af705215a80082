//! Plain keys beside the rows of the orchestrator and of workers, in the same table.

use std::time::Duration;

use orchestrator_worker::{
    domain::{deferral::Deferral, id::Fence},
    ports::{
        control::{Control, LockFilter},
        executions::ExecutionStore,
        lock::{Acquired, Inspected, LockError, LockProvider, Renewed},
    },
};

use super::{key, ours, wish};
use crate::contract::{Subject, world::*, writes::*};

macro_rules! stories {
    ($subject:ty) => {
        mod rows {
            crate::locks::rows::tests! { $subject;
                what_the_orchestrator_has_locked_is_held_until_its_time_is_past
                what_was_left_on_purpose_is_free
                the_lease_of_a_held_execution_is_not_taken_by_time
                a_lock_on_an_execution_keeps_it_from_being_claimed_until_it_is_freed
                a_plain_key_is_listed_as_it_is_and_reaped_a_minute_past_its_time
                a_release_leaves_no_row
                a_database_that_was_never_migrated_answers_run_migrate
            }
        }
    };
}
pub(super) use stories;

macro_rules! tests {
    ($subject:ty; $($story:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $story() {
            crate::locks::rows::$story::<$subject>().await;
        })*
    };
}
pub(super) use tests;

/// Who holds a key, to somebody who wishes for it.
async fn holder(provider: &impl LockProvider, text: &str) -> Inspected {
    match provider.acquire(&wish(&key(text), "c")).await.expect("an answer") {
        Acquired::Theirs(held) => held,
        Acquired::Ours(lease) => panic!("it was free: {lease:?}"),
    }
}

pub async fn what_the_orchestrator_has_locked_is_held_until_its_time_is_past<S: Subject>()
where
    S::Store: LockProvider,
{
    let world = World::<S>::new().await;
    let execution = "1234".into();
    world.foreign_lock(&execution, "go-1", 60).await;
    let text = format!("workflow_execution:{execution}");
    let held = holder(&world.a, &text).await;
    assert_eq!((held.owner.as_str(), held.fence), ("go-1", Fence(0)));
    assert!(held.expires_in > Duration::from_secs(50), "{held:?}");
    world.pass(Duration::from_secs(61)).await;
    assert_eq!(world.a.inspect(&key(&text)).await, Ok(None));
    let lease = ours(world.a.acquire(&wish(&key(&text), "a")).await.expect("an answer"));
    assert!(lease.fence > Fence(0));
    assert_eq!(world.lock(&execution, "owner").await.as_deref(), Some("a"));
}

pub async fn what_was_left_on_purpose_is_free<S: Subject>()
where
    S::Store: LockProvider,
{
    let world = World::<S>::new().await;
    for mark in ["~finished", "~released"] {
        let execution = mark[1..].into();
        world.foreign_lock(&execution, mark, 60).await;
        let key = key(&format!("workflow_execution:{execution}"));
        assert_eq!(world.b.inspect(&key).await, Ok(None), "{mark}");
        ours(world.a.acquire(&wish(&key, "a")).await.expect("an answer"));
        assert_eq!(world.b.is_locked(&key).await, Ok(Some("a".into())), "{mark}");
    }
}

pub async fn the_lease_of_a_held_execution_is_not_taken_by_time<S: Subject>()
where
    S::Store: LockProvider,
{
    let world = World::<S>::new().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let (id, fence) = (&claim.lease.execution, claim.lease.fence);
    let template = world.execution(id, "template_id").await.expect("it has one");
    let now = S::now();
    let sql = format!(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at, ow_fence) \
         VALUES ('workflow_template:{template}', 'a', {now}, {now}, {now}, {fence})"
    );
    world.subject.exec(&sql).await;
    world.pass(HOUR).await;
    let keys = [format!("workflow_execution:{id}"), format!("workflow_template:{template}")];
    for key in &keys {
        let held = holder(&world.b, key).await;
        let expected = ("a", fence, Duration::ZERO);
        assert_eq!((held.owner.as_str(), held.fence, held.expires_in), expected, "{key}");
    }
    let mut end = advance(&claim);
    end.ended.push(succeeded(&claim, "one"));
    end.finish = Some(success());
    send(&world.a, &end).await.expect("it is recorded: nobody has taken its lease");
    for text in &keys {
        let lease = ours(world.b.acquire(&wish(&key(text), "b")).await.expect("an answer"));
        assert!(lease.fence > fence, "{text}");
    }
}

pub async fn a_lock_on_an_execution_keeps_it_from_being_claimed_until_it_is_freed<S: Subject>()
where
    S::Store: LockProvider,
{
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    let key = key(&format!("workflow_execution:{id}"));
    let lease = ours(world.a.acquire(&wish(&key, "a")).await.expect("an answer"));
    let batch = world.b.claim(&who("b"), 10).await.expect("a look");
    assert!(batch.claims.is_empty());
    assert_eq!(batch.deferred, [(id.clone(), Deferral::Locked)]);
    assert_eq!(LockProvider::renew(&world.a, &lease, HOUR).await, Ok(Renewed::Held));
    assert_eq!(world.a.release(&lease).await, Ok(true));
    world.edit(&id, "ow_not_before=NULL").await;
    let claim = claim_one(&world.b, "b").await;
    assert!(claim.lease.fence > lease.fence, "one row of fences after another");
    assert_eq!(world.a.is_locked(&key).await, Ok(Some("b".into())));
}

pub async fn a_plain_key_is_listed_as_it_is_and_reaped_a_minute_past_its_time<S: Subject>()
where
    S::Store: LockProvider,
{
    let world = World::<S>::new().await;
    let key = key("jobs:nightly/2026-01-01");
    let lease = ours(world.a.acquire(&wish(&key, "a")).await.expect("an answer"));
    let filter = LockFilter { key: None, owner: None, expired: false, limit: 10 };
    let listed = world.b.locks(&filter).await.expect("a list");
    let listed: Vec<_> = listed.iter().map(|row| (row.key.as_str(), row.owner.as_str())).collect();
    assert_eq!(listed, [(key.as_str(), "a")]);
    world.pass(HOUR + Duration::from_secs(59)).await;
    assert_eq!(world.b.reap(10).await, Ok(0));
    assert_eq!(LockProvider::renew(&world.a, &lease, HOUR).await, Ok(Renewed::Expired));
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(world.b.reap(10).await, Ok(1));
    assert_eq!(LockProvider::renew(&world.a, &lease, HOUR).await, Ok(Renewed::Gone));
}

pub async fn a_release_leaves_no_row<S: Subject>()
where
    S::Store: LockProvider,
{
    let world = World::<S>::new().await;
    let wish = wish(&key("workflow_template:t"), "a");
    let lease = ours(world.a.acquire(&wish).await.expect("an answer"));
    assert_eq!(world.a.release(&lease).await, Ok(true));
    let rows = world.subject.one("SELECT COUNT(*) FROM distributed_locks").await;
    assert_eq!(rows.as_deref(), Some("0"), "the orchestrator would wait for it");
}

pub async fn a_database_that_was_never_migrated_answers_run_migrate<S: Subject>()
where
    S::Store: LockProvider,
{
    let subject = S::create().await;
    let store = subject.store().await;
    let refused = store.acquire(&wish(&key("k"), "a")).await;
    let is_told = |error: &LockError| matches!(error, LockError::NotReady(why) if why.contains("run `orchestrator-worker migrate`"));
    assert!(refused.as_ref().is_err_and(is_told), "{refused:?}");
    let refused = store.inspect(&key("k")).await;
    assert!(refused.as_ref().is_err_and(is_told), "{refused:?}");
    store.migrate(false).await.expect("it is migrated");
    ours(store.acquire(&wish(&key("k"), "a")).await.expect("an answer"));
}
