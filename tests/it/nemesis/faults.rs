//! What can happen to workers, their network and their server.
//!
//! **Invariant:** a fault is over when [`Arena::strike`] returns: the process runs again, the network
//! passes, the server answers and has its settings and its time.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row as _, query, raw_sql};
use tokio::{
    sync::{Mutex, RwLock},
    task::{JoinSet, block_in_place},
    time::sleep,
};

use super::fleet::Fleet;
use crate::{
    instance::Instance,
    proxy::{COMMIT, Mode},
};

/// Of the workers' leases: the shortest that there is.
pub const TTL: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL, and a new process.
    Kill,
    /// SIGSTOP for half a TTL to three.
    Freeze,
    /// SIGTERM, and a new process.
    Terminate,
    /// The server ends some of the workers' connections.
    KillConnections,
    /// One worker's network swallows everything.
    BlackHole,
    /// One worker's requests arrive, and no answer does.
    HalfOpen,
    /// One worker is refused.
    Refuse,
    /// The answer to a COMMIT never comes.
    LoseCommit,
    /// The answer to some statement never comes.
    LoseAnswer,
    /// A COMMIT never arrives.
    LoseRequest,
    /// The sweep of a Go service whose clock is an hour ahead.
    Cleaner,
    /// A change of the executions' table waits behind a reader, and everybody behind it.
    MetadataLock,
    /// The server takes writes of administrators alone.
    ReadOnly,
    /// No connection is left.
    TooManyConnections,
    ServerKill,
    ServerStop,
    /// The server's clock goes an hour forward or back, and home again.
    ClockJump,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::Kill,
        Self::Freeze,
        Self::Terminate,
        Self::KillConnections,
        Self::BlackHole,
        Self::HalfOpen,
        Self::Refuse,
        Self::LoseCommit,
        Self::LoseAnswer,
        Self::LoseRequest,
        Self::Cleaner,
        Self::MetadataLock,
        Self::ReadOnly,
        Self::TooManyConnections,
        Self::ServerKill,
        Self::ServerStop,
        Self::ClockJump,
    ];

    /// The others need no more rights than a worker's and to change its tables.
    pub const fn needs_own_server(self) -> bool {
        matches!(
            self,
            Self::ReadOnly
                | Self::TooManyConnections
                | Self::ServerKill
                | Self::ServerStop
                | Self::ClockJump
        )
    }
}

pub struct Arena {
    pub fleet: Fleet,
    /// One fault of the server at a time; `None` where it is somebody else's.
    pub server: Mutex<Option<Instance>>,
    /// Of the database, as its administrator.
    pub url: String,
    /// The user that all workers share.
    pub user: String,
    /// Read by whoever writes times of the server's clock into rows that outlive its jumps.
    pub clock: RwLock<()>,
}

impl Arena {
    /// Whether it met anything.
    pub async fn strike(&self, fault: Fault, seed: u64) -> bool {
        let mut random = StdRng::seed_from_u64(seed);
        let random = &mut random;
        match fault {
            Fault::Kill | Fault::Terminate | Fault::Freeze => self.signal(fault, random).await,
            Fault::BlackHole | Fault::HalfOpen | Fault::Refuse => self.cut(fault, random).await,
            Fault::LoseCommit | Fault::LoseAnswer | Fault::LoseRequest => {
                return self.lose(fault, random).await;
            }
            Fault::KillConnections => {
                let mut control = self.connect().await;
                let most = random.random_range(1..=20);
                return self.kill_connections(&mut control, most).await > 0;
            }
            Fault::Cleaner => {
                let sweep =
                    "DELETE FROM distributed_locks WHERE expires_at < NOW(3) + INTERVAL 1 HOUR";
                self.tell(sweep).await;
            }
            Fault::MetadataLock => return self.lock_metadata(random).await,
            Fault::ReadOnly => {
                let _server = self.server.lock().await;
                self.tell("SET GLOBAL read_only=1").await;
                sleep(between(random, 500, 4000)).await;
                self.tell("SET GLOBAL read_only=0").await;
            }
            Fault::TooManyConnections => return self.use_up_connections(random).await,
            Fault::ServerKill | Fault::ServerStop => {
                let mut server = self.server.lock().await;
                let order = if fault == Fault::ServerKill { "kill" } else { "stop" };
                let server = server.as_mut().expect("it is ours");
                block_in_place(|| server.tell(order));
                sleep(between(random, 0, 2000)).await;
                block_in_place(|| server.tell("start"));
            }
            Fault::ClockJump => self.jump(random).await,
        }
        true
    }

    async fn signal(&self, fault: Fault, random: &mut StdRng) {
        let mut member = self.fleet.any(random).await;
        match fault {
            Fault::Freeze => {
                member.worker.signal(Signal::STOP);
                sleep(TTL.mul_f64(random.random_range(0.5..3.0))).await;
                member.worker.signal(Signal::CONT);
            }
            Fault::Kill => {
                member.worker.signal(Signal::KILL);
                if random.random() {
                    sleep(between(random, 0, 12_000)).await;
                }
                member.restart();
            }
            _ => {
                member.worker.signal(Signal::TERM);
                member.restart();
            }
        }
    }

    async fn cut(&self, fault: Fault, random: &mut StdRng) {
        let member = self.fleet.any(random).await;
        member.proxy.set(match fault {
            Fault::BlackHole => Mode::BlackHole,
            Fault::HalfOpen => Mode::NoAnswers,
            _ => Mode::Refuse,
        });
        sleep(between(random, 500, 12_000)).await;
        member.proxy.set(Mode::Pass);
    }

    /// One connection falls silent for good; whether the statement was carried out, nobody hears.
    async fn lose(&self, fault: Fault, random: &mut StdRng) -> bool {
        let member = self.fleet.any(random).await;
        member.proxy.set(match fault {
            Fault::LoseCommit => Mode::HoldAnswer(COMMIT),
            Fault::LoseRequest => Mode::LoseRequest(COMMIT),
            _ => Mode::HoldAnswerOf(random.random_range(1..40)),
        });
        // A worker that has nothing to do commits nothing.
        for _ in 0..400 {
            if member.proxy.passes() {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        member.proxy.set(Mode::Pass);
        false
    }

    /// The server ends up to so many of the workers' connections; how many.
    async fn kill_connections(&self, control: &mut MySqlConnection, most: usize) -> usize {
        let all =
            query("SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE user=?");
        let rows = all.bind(&self.user).fetch_all(&mut *control).await.unwrap_or_default();
        let mut killed = 0;
        for row in rows.iter().take(most) {
            let kill = format!("KILL {}", row.get::<i64, _>(0));
            // It may have ended by itself.
            let done = raw_sql(AssertSqlSafe(kill)).execute(&mut *control).await;
            killed += usize::from(done.is_ok());
        }
        killed
    }

    async fn lock_metadata(&self, random: &mut StdRng) -> bool {
        let _server = self.server.lock().await;
        let mut reader = self.connect().await;
        let read = "START TRANSACTION; SELECT 1 FROM workflow_executions LIMIT 1";
        if raw_sql(read).execute(&mut reader).await.is_err() {
            return false;
        }
        let mut changer = self.connect().await;
        let mut changing = JoinSet::new();
        changing.spawn(async move {
            raw_sql("SET lock_wait_timeout=60; ALTER TABLE workflow_executions COMMENT 'changed'")
                .execute(&mut changer)
                .await
                .ok();
        });
        sleep(between(random, 500, 5000)).await;
        drop(reader);
        changing.join_all().await;
        true
    }

    async fn use_up_connections(&self, random: &mut StdRng) -> bool {
        let _server = self.server.lock().await;
        let mut control = self.connect().await;
        if raw_sql("SET GLOBAL max_connections=10").execute(&mut control).await.is_err() {
            return false;
        }
        let mut hoard = Vec::new();
        while hoard.len() < 12
            && let Ok(connection) = MySqlConnection::connect(&self.url).await
        {
            hoard.push(connection);
        }
        self.kill_connections(&mut control, usize::MAX).await;
        sleep(between(random, 500, 4000)).await;
        drop(hoard);
        drop(control);
        self.tell("SET GLOBAL max_connections=500").await;
        true
    }

    async fn jump(&self, random: &mut StdRng) {
        let _alone = self.clock.write().await;
        let mut server = self.server.lock().await;
        let server = server.as_mut().expect("it is ours");
        let seconds = if random.random() { 3600 } else { -3600 };
        block_in_place(|| server.tell(&format!("clock {seconds}")));
        sleep(between(random, 2000, 8000)).await;
        block_in_place(|| server.tell("clock 0"));
        // It takes effect within a second.
        let home = "SELECT ABS(TIMESTAMPDIFF(SECOND, NOW(), FROM_UNIXTIME(?))) < 600";
        loop {
            let mut connection = self.connect().await;
            let near = query(home).bind(unix_now()).fetch_one(&mut connection).await;
            if near.is_ok_and(|row| row.get::<i32, _>(0) == 1) {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        // What was put off by a clock that was ahead is due by that clock; an operator sets it right.
        self.tell(
            "UPDATE workflow_executions SET ow_not_before=NULL, created_at=LEAST(created_at, NOW(3)) \
             WHERE status='pending'",
        )
        .await;
    }

    /// As the administrator, until it is done.
    async fn tell(&self, sql: &str) {
        loop {
            let mut connection = self.connect().await;
            if raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn connect(&self) -> MySqlConnection {
        loop {
            if let Ok(connection) = MySqlConnection::connect(&self.url).await {
                return connection;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the machine's clock is what the server's comes home to"
)]
pub fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn between(random: &mut StdRng, least: u64, most: u64) -> Duration {
    Duration::from_millis(random.random_range(least..=most))
}
