//! Taking a key and freeing it, with each provider of locks in one run, beside the least that a server
//! offers for it: `GET_LOCK` of MySQL and MariaDB, `SET NX PX` of Redis.
//!
//! `cargo bench --bench locks` measures the servers that `ORCHESTRATOR_TEST_MYSQL_URL`, `…_MARIADB_URL`,
//! `…_REDIS_URL` and `…_ETCD_URL` name (`ORCHESTRATOR_TEST_DURABLE=1 tests/servers up`), SQLite in a
//! temporary file, and memory. `-- --locks 1000` is the number in one measurement.
//!
//! **Invariant:** two contenders that hold a key at one time are a panic, not a figure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::{
        etcd::{self, EtcdLocks},
        memory::MemoryLocks,
        mysql::{MySqlStore, Settings},
        redis::{self as locks_in_redis, RedisLocks},
        sqlite::{self, SqlitePath, SqliteStore},
    },
    domain::{
        id::Owner,
        lock::{LockNonce, PlainKey},
    },
    ports::{
        control::Control,
        lock::{Acquire, Acquired, KeyLease, LockProvider},
    },
};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, query, query_scalar, raw_sql};
use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, sleep},
};

const CONTENDERS: [usize; 2] = [1, MOST];
const MOST: usize = 16;
/// Before a key that another holds is asked for again.
const PAUSE: Duration = Duration::from_millis(1);
const TTL: Duration = Duration::from_secs(60);

fn main() {
    let locks = argument("--locks").unwrap_or(1_000);
    println!(
        "{locks} times a key is taken and freed, by 1 and by 16 who want the same one and ask again \
         after {PAUSE:?}: for each, how many a second, and p50 and p99 of the taking in milliseconds"
    );
    Runtime::new().expect("a runtime").block_on(measure(locks));
}

fn argument(name: &str) -> Option<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "the servers are told by the environment")]
fn server(name: &str) -> Option<String> {
    let variable = format!("ORCHESTRATOR_TEST_{}_URL", name.to_uppercase());
    let url = std::env::var(&variable).ok();
    if url.is_none() {
        println!("left out: {name}, because {variable} is not set");
    }
    url
}

async fn measure(locks: usize) {
    provider("memory", locks, MemoryLocks::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = SqlitePath::File(folder.path().join("locks.db"));
    let sqlite = SqliteStore::open(sqlite::Settings { path }).await.expect("it opens");
    sqlite.migrate(false).await.expect("it is migrated");
    provider("sqlite", locks, sqlite).await;
    for name in ["mysql", "mariadb"] {
        let Some(server) = server(name) else { continue };
        let database = format!("ow_locks_{}", std::process::id());
        execute(&server, &format!("CREATE DATABASE {database}")).await;
        let url = format!("{server}{database}");
        let store = MySqlStore::open(Settings::new(url.into())).await.expect("it opens");
        store.migrate(false).await.expect("it is migrated");
        provider(name, locks, store).await;
        execute(&server, &format!("DROP DATABASE {database}")).await;
        let mut all: Vec<Box<dyn Contender>> = Vec::new();
        for _ in 0..MOST {
            let connection = MySqlConnection::connect(&server).await.expect("a connection");
            all.push(Box::new(NamedLock(connection)));
        }
        line(&format!("  {name}'s GET_LOCK"), locks, all).await;
    }
    if let Some(url) = server("redis") {
        let settings = locks_in_redis::Settings::new(url.clone().into());
        provider("redis", locks, RedisLocks::open(settings).await.expect("it opens")).await;
        let client = redis::Client::open(url).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await.expect("a connection");
        let one = |_| Box::new(SetNx(connection.clone())) as Box<dyn Contender>;
        line("  redis' SET NX PX", locks, (0..MOST).map(one).collect()).await;
    }
    if let Some(url) = server("etcd") {
        let settings = etcd::Settings::new(vec![url.parse().expect("a URL")]);
        provider("etcd", locks, EtcdLocks::open(settings).await.expect("it opens")).await;
    }
}

async fn execute(url: &str, sql: &str) {
    let mut connection = MySqlConnection::connect(url).await.expect("a connection");
    raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect("it is done");
}

/// Who wants the key.
#[async_trait]
trait Contender: Send {
    /// Returns once it has it.
    async fn take(&mut self);
    async fn free(&mut self);
}

struct Provided {
    provider: Arc<dyn LockProvider>,
    owner: Owner,
    lease: Option<KeyLease>,
}

#[async_trait]
impl Contender for Provided {
    async fn take(&mut self) {
        let wish = Acquire {
            key: PlainKey::try_new("bench").expect("a key"),
            owner: self.owner.clone(),
            ttl: TTL,
            nonce: LockNonce::of(rand::random()),
        };
        while self.lease.is_none() {
            match self.provider.acquire(&wish).await.expect("an answer") {
                Acquired::Ours(lease) => self.lease = Some(lease),
                Acquired::Theirs(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn free(&mut self) {
        let lease = self.lease.take().expect("it has the key");
        assert!(self.provider.release(&lease).await.expect("an answer"), "it was lost");
    }
}

struct NamedLock(MySqlConnection);

#[async_trait]
impl Contender for NamedLock {
    async fn take(&mut self) {
        let taken = query_scalar("SELECT CAST(GET_LOCK('ow_bench', 60) AS SIGNED)");
        let taken: i64 = taken.fetch_one(&mut self.0).await.expect("an answer");
        assert_eq!(taken, 1);
    }

    async fn free(&mut self) {
        query("DO RELEASE_LOCK('ow_bench')").execute(&mut self.0).await.expect("an answer");
    }
}

struct SetNx(redis::aio::MultiplexedConnection);

#[async_trait]
impl Contender for SetNx {
    async fn take(&mut self) {
        let mut set = redis::cmd("SET");
        set.arg("bench").arg("me").arg("NX").arg("PX").arg(60_000);
        loop {
            let taken: Option<String> = set.query_async(&mut self.0).await.expect("an answer");
            if taken.is_some() {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn free(&mut self) {
        let deleted = redis::cmd("DEL").arg("bench").query_async(&mut self.0).await;
        assert_eq!(deleted, Ok(1));
    }
}

async fn provider(name: &str, locks: usize, provider: impl LockProvider) {
    let provider: Arc<dyn LockProvider> = Arc::new(provider);
    let one = |place| -> Box<dyn Contender> {
        let owner = Owner::try_new(&format!("contender-{place}")).expect("a name");
        Box::new(Provided { provider: provider.clone(), owner, lease: None })
    };
    line(name, locks, (0..MOST).map(one).collect()).await;
}

async fn line(name: &str, locks: usize, mut all: Vec<Box<dyn Contender>>) {
    let mut shown = String::new();
    for contenders in CONTENDERS {
        let (back, figures) = contend(locks, all.drain(..contenders).collect()).await;
        all.extend(back);
        shown.push_str(&figures);
    }
    println!("{name:20}{shown}");
}

/// Those of one measurement, and what it shows.
async fn contend(locks: usize, all: Vec<Box<dyn Contender>>) -> (Vec<Box<dyn Contender>>, String) {
    let (left, is_held) = (Arc::new(AtomicUsize::new(locks)), Arc::new(AtomicBool::new(false)));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for mut contender in all {
        let (left, is_held) = (left.clone(), is_held.clone());
        running.spawn(async move {
            let mut times = Vec::new();
            let one_less = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                let wished = Instant::now();
                contender.take().await;
                times.push(wished.elapsed());
                assert!(!is_held.swap(true, Ordering::SeqCst), "two hold it");
                is_held.store(false, Ordering::SeqCst);
                contender.free().await;
            }
            (contender, times)
        });
    }
    let (back, times): (Vec<_>, Vec<_>) = running.join_all().await.into_iter().unzip();
    let took = began.elapsed().as_secs_f64();
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    let rate = locks as f64 / took;
    (back, format!("{rate:>9.0} {:>8.2} {:>8.2}", at(50), at(99)))
}
