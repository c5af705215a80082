//! Workers whose leases are in Redis or etcd, and whose executions are in a database: the stories of
//! [`crash`](crate::crash) on both, and what becomes of work when the lock server itself goes away or forgets.

use std::{fs, future::Future, marker::PhantomData};

use async_trait::async_trait;
use orchestrator_worker::{
    domain::lock::PlainKey,
    ports::lock::{Inspected, LockProvider},
};
use rustix::process::Signal;
use tokio::time::{Duration, sleep, timeout};
use uuid::Uuid;

use crate::{
    contract::{Row, Subject, world::World},
    crash::{Served, TenSteps, start, submit, wait_for_success},
    mysql,
    process::{Worker, json},
    servers,
};

mod faults;

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
    inner: S,
    prefix: String,
    keeper: PhantomData<K>,
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

type OnRedis = Leased<mysql::Database<mysql::MySql>, Redis>;
type OnEtcd = Leased<mysql::Database<mysql::MariaDb>, Etcd>;

crate::stores::tests! {
    on_mysql_and_redis, super::OnRedis;
    a_worker_that_keeps_leases_in_the_store_takes_nothing_that_is_kept_elsewhere
    what_is_told_of_a_lease_that_is_kept_elsewhere_is_true
    no_step_calls_the_server_that_keeps_the_leases
}
crate::stores::tests! {
    on_mariadb_and_etcd, super::OnEtcd;
    a_worker_that_keeps_leases_in_the_store_takes_nothing_that_is_kept_elsewhere
    what_is_told_of_a_lease_that_is_kept_elsewhere_is_true
    no_step_calls_the_server_that_keeps_the_leases
}

/// A subject whose leases can be looked at.
trait Watched: Served {
    fn holder(&self, execution: &str) -> impl Future<Output = Option<Inspected>>;
}

impl<S: Served, K: Keeper> Watched for Leased<S, K> {
    async fn holder(&self, execution: &str) -> Option<Inspected> {
        let key = PlainKey::of_execution(&execution.into()).expect("a key");
        K::locks(&self.prefix).await.inspect(&key).await.expect("it answers")
    }
}

async fn a_worker_that_keeps_leases_in_the_store_takes_nothing_that_is_kept_elsewhere<
    S: Watched,
>() {
    let world = World::<S>::new().await;
    let (ten, url) = (TenSteps::new(), world.subject.url());
    let mut a = start(&world.subject, "a", &[]);
    a.wait_for("worker.started");
    let execution = submit(&url, &ten.file());
    ten.wait_for_step_4(1);
    let holder = world.subject.holder(&execution).await.expect("it is held");
    assert_eq!(holder.owner, "a");
    let in_the_store = Worker::start(&url, "s", &[]);
    in_the_store.wait_for("worker.idle");

    a.signal(Signal::KILL);
    a.wait();
    // By then it would have taken over from a worker of its own kind.
    let row = format!("SELECT COUNT(*) FROM distributed_locks WHERE expires_at < {}", S::now());
    let free = async {
        while world.subject.one(&row).await.as_deref() != Some("1")
            || world.subject.holder(&execution).await.is_some()
        {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(60), free).await.expect("row and key come to their end");
    let b = start(&world.subject, "b", &[]);
    // It has not seen the lease: it waits for the longest that there is.
    b.wait_for("execution.taken_over");
    assert_eq!(in_the_store.logged("execution.taken_over"), 0);
    ten.open_gate();
    wait_for_success(&url, &execution);
    ten.assert_only_step_4_ran_again();
}

async fn what_is_told_of_a_lease_that_is_kept_elsewhere_is_true<S: Watched>() {
    let world = World::<S>::new().await;
    let (ten, url) = (TenSteps::new(), world.subject.url());
    let a = start(&world.subject, "a", &[]);
    a.wait_for("worker.started");
    let execution = submit(&url, &ten.file());
    ten.wait_for_step_4(1);
    // As after a quarter of an hour, in which nobody has renewed the row.
    world.subject.exec("UPDATE distributed_locks SET expires_at='2026-01-01 00:00:00'").await;
    let provider = world.subject.settings().remove(0).1;
    let explained = json(&url, ["explain", &execution]);
    assert_eq!(explained["reason"], "running", "{explained}");
    assert!(explained["next"].as_str().is_some_and(|next| next.contains(&provider)), "{explained}");
    let workers = json(&url, ["workers"]);
    assert_eq!((&workers[0]["owner"], &workers[0]["executions"]), (&"a".into(), &1.into()));
    ten.open_gate();
    wait_for_success(&url, &execution);
}

async fn no_step_calls_the_server_that_keeps_the_leases<S: Watched>() {
    let world = World::<S>::new().await;
    let (url, folder) = (world.subject.url(), tempfile::tempdir().expect("a folder"));
    let settings = world.subject.settings();
    let server = settings.iter().find_map(|(_, value)| value.split_once("://")).expect("a URL").1;
    let file = folder.path().join("ten.yaml");
    let text = format!("name: ten\nsteps:\n  - name: call\n    http: {{url: 'http://{server}'}}\n");
    fs::write(&file, text).expect("it can be written");
    let a = start(&world.subject, "a", &[]);
    a.wait_for("worker.started");
    let execution = submit(&url, &file);
    a.wait_for("execution.finished");
    let shown = json(&url, ["show", &execution]);
    let error = shown["steps"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("this worker's own lock server"), "{shown}");
}
