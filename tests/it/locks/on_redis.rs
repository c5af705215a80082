//! Redis, alone and behind Sentinel.

use std::{fs, sync::Arc, time::Duration};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::redis::{RedisLocks, Sentinels, Settings},
    conformance,
    orchestrator::{LockConfig, RedisLockConfig},
    ports::lock::{Acquired, LockError, LockProvider, Renewed},
};
use sqlx::{Connection, SqliteConnection, query};
use tokio::task::block_in_place;
use uuid::Uuid;

use super::{
    a_lock_excludes_and_grows_its_fence, contenders,
    faults::{self, PATIENCE, answered, taken},
    key,
    own::Own,
    wish,
};
use crate::{authority::Authority, proxy::Proxy, servers::redis_url};

struct Redis(Settings);

#[async_trait]
impl conformance::Subject for Redis {
    async fn provider(&self) -> Arc<dyn LockProvider> {
        Arc::new(open(&self.0).await)
    }

    fn contenders(&self) -> usize {
        contenders()
    }
}

async fn open(settings: &Settings) -> RedisLocks {
    RedisLocks::open(settings.clone()).await.expect("a server")
}

fn at(url: &str) -> Settings {
    Settings { prefix: format!("test-{}:", Uuid::new_v4().simple()), ..Settings::new(url.into()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_of_a_lock_provider_is_kept() {
    conformance::check(Redis(at(&redis_url()))).await;
}

async fn proxied() -> (RedisLocks, RedisLocks, Proxy) {
    let near = at(&redis_url());
    let url = url::Url::parse(&redis_url()).expect("one");
    let server = url.socket_addrs(|| None).expect("its address")[0];
    let proxy = Proxy::start(server).await;
    let url = format!("redis://{}/", proxy.address()).into();
    let far = Settings { url, timeout: PATIENCE, ..near.clone() };
    (open(&near).await, open(&far).await, proxy)
}

faults::stories! { "redis" }

/// A master, a replica that has all that it has, and one who watches both.
struct Watched {
    master: Own,
    replica: Own,
    sentinel: Own,
}

impl Watched {
    fn start() -> Self {
        let master = Own::redis(&[]);
        let port = master.port.to_string();
        let replica = Own::redis(&["--replicaof", "127.0.0.1", &port]);
        replica.wait_for("Finished with success");
        let sentinel = Own::start(
            "Sentinel ID is",
            |folder, own| {
                let text = format!(
                    "port {own}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\n\
                     sentinel down-after-milliseconds main 500\n\
                     sentinel failover-timeout main 2000\n"
                );
                fs::write(folder.join("sentinel.conf"), text).expect("it can be written");
            },
            |seen, _| {
                let conf = format!("{seen}/sentinel.conf");
                vec!["redis-server".into(), conf, "--sentinel".into()]
            },
        );
        sentinel.wait_for("+slave");
        Self { master, replica, sentinel }
    }

    fn settings(&self) -> Settings {
        let urls = vec![format!("redis://127.0.0.1:{}", self.sentinel.port).into()];
        let sentinels = Some(Sentinels { urls, master: "main".into() });
        Settings { sentinels, timeout: PATIENCE, ..at("redis://unused/") }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept_behind_sentinel() {
    let watched = block_in_place(Watched::start);
    conformance::check(Redis(Settings { timeout: Duration::from_secs(3), ..watched.settings() }))
        .await;
}

/// A row that is written under a fence: by whoever has a larger one than all before.
async fn write(row: &mut SqliteConnection, text: &str, fence: u64) -> bool {
    let fence = i64::try_from(fence).expect("microseconds");
    let update = query("UPDATE row SET text=?, fence=? WHERE fence<=?");
    let done = update.bind(text).bind(fence).bind(fence).execute(row).await;
    done.expect("it answers").rows_affected() == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_that_lost_the_lock_the_fence_refuses_its_former_holder() {
    let mut watched = block_in_place(Watched::start);
    let settings = watched.settings();
    let (a, b) = (open(&settings).await, open(&settings).await);
    let mut row = SqliteConnection::connect("sqlite::memory:").await.expect("a database");
    let table = "CREATE TABLE row(text, fence); INSERT INTO row VALUES ('', 0)";
    sqlx::raw_sql(table).execute(&mut row).await.expect("a table");

    block_in_place(|| watched.replica.kill());
    let former = taken(&a, &wish(&key("job"), "a")).await;
    assert!(write(&mut row, "a", former.fence.0).await);
    block_in_place(|| {
        drop(watched.master);
        watched.replica.start_again();
    });

    // Nobody has told `a` anything, and `b` has the key: this is what a lock alone cannot prevent.
    let asked = wish(&key("job"), "b");
    let next = taken(&b, &asked).await;
    assert!(next.fence > former.fence, "though the new master knows of no fence");
    assert!(write(&mut row, "b", next.fence.0).await);
    assert!(!write(&mut row, "a", former.fence.0).await, "the late write of a former holder");

    let lost = answered(|| a.renew(&former, Duration::from_secs(60))).await;
    assert_eq!(lost, Renewed::Gone);
    assert!(!answered(|| a.release(&former)).await);
    assert!(matches!(answered(|| a.acquire(&asked)).await, Acquired::Ours(lease) if lease == next));
}

const PASSWORD: &str = "correct-horse-battery";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_must_prove_its_name_and_its_users_theirs() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let words = [
        "--port",
        "0",
        "--tls-port",
        "{port}",
        "--tls-cert-file",
        "{}/server.pem",
        "--tls-key-file",
        "{}/key.pem",
        "--tls-ca-cert-file",
        "{}/ca.pem",
        "--tls-auth-clients",
        "no",
        "--requirepass",
        PASSWORD,
    ];
    let server =
        block_in_place(|| Own::redis_with(&words, |folder| ours.write_server("localhost", folder)));
    let ca = fs::read(server.file("ca.pem")).expect("it is there");
    theirs.write(&server.file("theirs.pem"));
    let strange = fs::read(server.file("theirs.pem")).expect("it is there");
    let with = |user: &str, host: &str, ca: &[u8]| Settings {
        ca: ca.to_vec(),
        ..at(&format!("rediss://{user}{host}:{}/", server.port))
    };
    let right = format!(":{PASSWORD}@");
    taken(&open(&with(&right, "localhost", &ca)).await, &wish(&key("k"), "a")).await;
    for (what, settings, is_for_a_person) in [
        ("an authority that we do not know", with(&right, "localhost", &strange), false),
        ("another name than it proves", with(&right, "127.0.0.1", &ca), false),
        ("a wrong password", with(":wrong@", "localhost", &ca), true),
        ("none", with("", "localhost", &ca), true),
    ] {
        let refused = RedisLocks::open(settings).await.err().expect(what);
        assert!(!refused.to_string().contains(PASSWORD), "{what}: {refused}");
        assert_eq!(matches!(refused, LockError::NotReady(_)), is_for_a_person, "{what}: {refused}");
    }
    let plain = at(&format!("redis://{right}localhost:{}/", server.port));
    assert!(RedisLocks::open(plain).await.is_err(), "without TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_enough_to_lock_in_it() {
    let config = LockConfig {
        provider: "redis".into(),
        redis: RedisLockConfig {
            url: redis_url(),
            key_prefix: format!("test-{}:", Uuid::new_v4().simple()),
            ..RedisLockConfig::default()
        },
        ..LockConfig::default()
    };
    a_lock_excludes_and_grows_its_fence(config).await;
}
