//! The lock library: every provider keeps every promise of the conformance suite and survives the loss
//! of its connection in every call, and plain keys get on with what else stands in the lock table.
//!
//! **Invariant:** a story that is about one kind of table says so by where it stands.

use std::sync::Arc;

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::memory::MemoryLocks,
    conformance,
    domain::{
        id::Owner,
        lock::{LockNonce, PlainKey},
    },
    orchestrator::{LockConfig, Orchestrator},
    ports::{
        control::Control,
        lock::{Acquire, Acquired, KeyLease, LockErrorKind, LockProvider},
    },
};

use crate::{
    contract::{Subject, world::HOUR},
    process::is_soak,
};

mod examples;
mod execute;
mod faults;
mod guide;
mod library;
mod network;
mod on_etcd;
mod on_redis;
mod own;
mod rows;

fn contenders() -> usize {
    if is_soak() { 1_000 } else { 50 }
}

struct Memory(MemoryLocks);

#[async_trait]
impl conformance::Subject for Memory {
    async fn provider(&self) -> Arc<dyn LockProvider> {
        Arc::new(self.0.beside())
    }

    fn contenders(&self) -> usize {
        contenders()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_every_promise_of_a_lock_provider() {
    conformance::check(Memory(MemoryLocks::default())).await;
}

/// A lock table beside executions.
struct Table<S: Subject>(S);

#[async_trait]
impl<S: Subject> conformance::Subject for Table<S>
where
    S::Store: LockProvider,
{
    async fn provider(&self) -> Arc<dyn LockProvider> {
        Arc::new(self.0.store().await)
    }

    fn contenders(&self) -> usize {
        contenders()
    }
}

async fn every_promise_of_a_lock_provider_is_kept<S: Subject>()
where
    S::Store: LockProvider,
{
    let subject = S::create().await;
    subject.store().await.migrate(false).await.expect("it is migrated");
    conformance::check(Table(subject)).await;
}

fn key(text: &str) -> PlainKey {
    PlainKey::try_new(text).expect("a key")
}

/// A wish for a key, for an hour.
fn wish(key: &PlainKey, who: &str) -> Acquire {
    let nonce = LockNonce::of(rand::random());
    let owner = Owner::try_new(who).expect("a name");
    Acquire { key: key.clone(), owner, ttl: HOUR, nonce }
}

fn ours(acquired: Acquired) -> KeyLease {
    match acquired {
        Acquired::Ours(lease) => lease,
        Acquired::Theirs(held) => panic!("another holds it: {held:?}"),
    }
}

macro_rules! on_every_table {
    ($($module:ident, $subject:ty;)*) => {
        $(mod $module {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn every_promise_of_a_lock_provider_is_kept() {
                super::every_promise_of_a_lock_provider_is_kept::<$subject>().await;
            }

            crate::locks::rows::stories! { $subject }
        })*
    };
}

on_every_table! {
    on_sqlite_file, crate::contract::sqlite::File;
    on_sqlite_memory, crate::contract::sqlite::Memory;
    on_mysql, crate::mysql::Database<crate::mysql::MySql>;
    on_mariadb, crate::mysql::Database<crate::mysql::MariaDb>;
    on_mysql_renamed, crate::mysql::renamed::Renamed<crate::mysql::MySql>;
}

/// Two programs with this configuration, whose provider is a server.
async fn a_lock_excludes_and_grows_its_fence(config: LockConfig) {
    let config = LockConfig { default_retry_count: 0, ..config };
    let of = || {
        let database = std::path::PathBuf::from("/nowhere");
        Orchestrator::with_lock_config(database, config.clone()).expect("it is good")
    };
    let (a, b) = (of(), of());
    let held = a.lock("nightly").await.expect("it is free");
    let refused = b.lock("nightly").await.expect_err("a has it");
    assert_eq!(refused.kind(), LockErrorKind::AlreadyExists, "{refused}");
    let former = held.fence();
    held.release().await.expect("it was held");
    let next = b.lock("nightly").await.expect("it is free");
    assert!(next.fence() > former);
    next.release().await.expect("it was held");
}
