//! Workers whose leases are in Redis or etcd, and whose executions are in a database: the stories of
//! [`crash`](crate::crash) on both, and what becomes of work when the lock server itself goes away or forgets.

use std::marker::PhantomData;

use async_trait::async_trait;
use orchestrator_worker::{
    domain::lock::PlainKey,
    ports::lock::{Inspected, LockProvider},
};
use uuid::Uuid;

use crate::{
    contract::{Row, Subject},
    crash::Served,
    servers,
};

/// A lock server as a subject's workers are told of it.
#[async_trait]
pub trait Keeper: Send + Sync + 'static {
    /// As `lock.provider` has it.
    const NAME: &'static str;

    /// Settings of workers whose keys begin with `prefix`.
    fn settings(prefix: &str) -> Vec<(&'static str, String)>;

    /// The same locks.
    async fn locks(prefix: &str) -> Box<dyn LockProvider>;
}

/// A subject with its leases in `K`, under keys of its own.
pub struct Leased<S, K> {
    pub inner: S,
    prefix: String,
    keeper: PhantomData<K>,
}

impl<S: Subject, K: Keeper> Leased<S, K> {
    /// Who holds an execution there.
    pub async fn holder(&self, execution: &str) -> Option<Inspected> {
        let key = PlainKey::of_execution(&execution.into()).expect("a key");
        K::locks(&self.prefix).await.inspect(&key).await.expect("it answers")
    }
}

#[async_trait]
impl<S: Subject, K: Keeper> Subject for Leased<S, K> {
    type Store = S::Store;

    async fn create() -> Self {
        let prefix = format!("{}/", Uuid::new_v4().simple());
        Self { inner: S::create().await, prefix, keeper: PhantomData }
    }

    async fn store(&self) -> S::Store {
        self.inner.store().await
    }

    async fn exec(&self, sql: &str) -> u64 {
        self.inner.exec(sql).await
    }

    async fn rows(&self, sql: &str) -> Vec<Row> {
        self.inner.rows(sql).await
    }

    fn now() -> &'static str {
        S::now()
    }

    fn moved(time: &str, milliseconds: i64) -> String {
        S::moved(time, milliseconds)
    }
}

impl<S: Served, K: Keeper> Served for Leased<S, K> {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![("ORCHESTRATOR_WORKER__LOCK__PROVIDER", K::NAME.to_owned())];
        settings.extend(K::settings(&self.prefix));
        settings
    }
}

pub struct Redis;

#[async_trait]
impl Keeper for Redis {
    const NAME: &'static str = "redis";

    fn settings(prefix: &str) -> Vec<(&'static str, String)> {
        vec![
            ("ORCHESTRATOR_WORKER__LOCK__REDIS__URL", servers::redis_url()),
            ("ORCHESTRATOR_WORKER__LOCK__REDIS__KEY_PREFIX", prefix.into()),
        ]
    }

    async fn locks(prefix: &str) -> Box<dyn LockProvider> {
        use orchestrator_worker::adapters::redis::{RedisLocks, Settings};
        let settings = Settings::new(servers::redis_url().into());
        let settings = Settings { prefix: prefix.into(), ..settings };
        Box::new(RedisLocks::open(settings).await.expect("it is there"))
    }
}

pub struct Etcd;

#[async_trait]
impl Keeper for Etcd {
    const NAME: &'static str = "etcd";

    fn settings(prefix: &str) -> Vec<(&'static str, String)> {
        vec![
            ("ORCHESTRATOR_WORKER__LOCK__ETCD__ENDPOINTS", servers::etcd_url()),
            ("ORCHESTRATOR_WORKER__LOCK__ETCD__KEY_PREFIX", prefix.into()),
        ]
    }

    async fn locks(prefix: &str) -> Box<dyn LockProvider> {
        use orchestrator_worker::adapters::etcd::{EtcdLocks, Settings};
        let settings = Settings::new(vec![servers::etcd_url().parse().expect("a URL")]);
        let settings = Settings { prefix: prefix.into(), ..settings };
        Box::new(EtcdLocks::open(settings).await.expect("it is there"))
    }
}
