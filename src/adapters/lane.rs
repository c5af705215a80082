//! Lanes: tasks that own database connections, one each, and run whole jobs on them.
//!
//! sqlx loses track of a connection's transaction when a future is dropped inside `begin()`, and
//! such a connection, used again, loses writes that it acknowledged. It has no query timeout
//! either. So whoever wants something from a database hands a job to a lane and waits for the
//! answer; whoever stops waiting leaves the job alone.
//!
//! **Invariant:** this is the only place that ever drops a sqlx future before its end, and when it
//! does, the connection goes with it: a connection outlives no unfinished future, no error and no
//! panic. A lane outlives all of them.
//!
//! ```
//! use std::time::Duration;
//!
//! use futures_util::future::BoxFuture;
//! use orchestrator_worker::adapters::lane::{Connector, LaneError, Lanes, LanesSettings};
//!
//! /// A "database" that counts what was asked on each connection.
//! struct Counting;
//!
//! impl Connector for Counting {
//!     type Connection = u32;
//!     type Error = LaneError;
//!
//!     fn connect(&self) -> BoxFuture<'_, Result<u32, LaneError>> {
//!         Box::pin(async { Ok(0) })
//!     }
//!
//!     fn ping<'c>(&'c self, _: &'c mut u32) -> BoxFuture<'c, Result<(), LaneError>> {
//!         Box::pin(async { Ok(()) })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let lanes = Lanes::start(Counting, LanesSettings::new("work", 1));
//! let limit = Duration::from_millis(20);
//! for expected in [1, 2] {
//!     let asked = lanes.run(limit, |connection| {
//!         Box::pin(async move {
//!             *connection += 1;
//!             Ok(*connection)
//!         })
//!     });
//!     assert_eq!(asked.await, Ok(expected));
//! }
//! // A job that is never answered costs its connection, and the next one gets a fresh one.
//! let hangs = lanes.run(limit, |_| Box::pin(std::future::pending::<Result<(), _>>()));
//! assert_eq!(hangs.await, Err(LaneError::Overdue(limit)));
//! assert_eq!(lanes.run(limit, |c| Box::pin(async { Ok(*c) })).await, Ok(0));
//! // So does one that panics.
//! let panics = lanes.run(limit, |_| Box::pin(async { Err::<(), _>(panic!("it panics")) }));
//! assert_eq!(panics.await, Err(LaneError::Panicked));
//! assert_eq!(lanes.run(limit, |c| Box::pin(async { Ok(*c) })).await, Ok(0));
//! # }
//! ```

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout},
};

/// Makes and checks the connections of a set of lanes.
pub trait Connector: Send + Sync + 'static {
    type Connection: Send + 'static;
    type Error: From<LaneError> + Send + 'static;

    /// Opens a connection and prepares its session.
    fn connect(&self) -> BoxFuture<'_, Result<Self::Connection, Self::Error>>;

    /// Asks the server for a sign of life.
    fn ping<'c>(
        &'c self,
        connection: &'c mut Self::Connection,
    ) -> BoxFuture<'c, Result<(), Self::Error>>;
}

/// Why a lane gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// The job was not begun.
    #[error("no connection was ready within {0:?}")]
    NotConnected(Duration),
    /// The job was begun and did not end: its outcome is unknown.
    #[error("no answer within {0:?}")]
    Overdue(Duration),
    /// The job was begun and panicked: its outcome is unknown.
    #[error("a job on the database panicked: this is a bug, please report it")]
    Panicked,
    /// The lanes were closed.
    #[error("the store is closed")]
    Closed,
}

/// How a set of lanes treats its connections.
#[derive(Clone, Copy, Debug)]
pub struct LanesSettings {
    pub name: &'static str,
    /// Connections at most.
    pub lanes: usize,
    /// A connection without a job for so long is pinged; shorter than the server's own patience.
    pub ping_every: Duration,
    /// A connection without a job for so long is closed; `None` keeps it.
    pub idle: Option<Duration>,
    /// A connection older than this is replaced before its next job; `None` keeps it.
    pub life: Option<Duration>,
}

impl LanesSettings {
    /// Pings every 10 s, keeps connections for good.
    pub const fn new(name: &'static str, lanes: usize) -> Self {
        Self { name, lanes, ping_every: Duration::from_secs(10), idle: None, life: None }
    }
}

/// One job with its caller's answer: takes a lane's connection, or why there is none, and returns
/// whether the connection is still good.
type Order<K> = Box<
    dyn for<'c> FnOnce(
            Result<&'c mut <K as Connector>::Connection, <K as Connector>::Error>,
        ) -> BoxFuture<'c, bool>
        + Send,
>;

/// Some lanes that take jobs from one queue.
pub struct Lanes<K: Connector> {
    orders: mpsc::Sender<(Duration, Order<K>)>,
    // Lives as long as the lanes: dropping it drops each task together with its connection.
    _tasks: JoinSet<()>,
}

/// Jobs that may wait for a free lane; more make their callers wait.
const QUEUE: usize = 256;

impl<K: Connector> Lanes<K> {
    /// Starts the lanes; each connects when its first job comes. Needs a tokio runtime.
    pub fn start(connector: K, settings: LanesSettings) -> Self {
        let (orders, queue) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let connector = Arc::new(connector);
        let mut tasks = JoinSet::new();
        for _ in 0..settings.lanes.max(1) {
            let lane = Lane { connector: connector.clone(), settings, open: None };
            tasks.spawn(lane.serve(queue.clone()));
        }
        Self { orders, _tasks: tasks }
    }

    /// Runs `job` on one connection, to its end. `limit` bounds connecting and the job itself,
    /// each; the wait for a free lane comes on top. After any error the connection is closed, so
    /// an open transaction is rolled back by the server. A caller that stops waiting stops
    /// nothing.
    pub async fn run<T, F>(&self, limit: Duration, job: F) -> Result<T, K::Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut K::Connection) -> BoxFuture<'c, Result<T, K::Error>>
            + Send
            + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let order: Order<K> = Box::new(move |connection| {
            Box::pin(async move {
                let result = match connection {
                    Ok(connection) => {
                        let job = async { job(connection).await };
                        bounded(limit, job, LaneError::Overdue(limit)).await
                    }
                    Err(error) => Err(error),
                };
                let good = result.is_ok();
                // The caller may have stopped waiting; the job is done all the same.
                drop(answer.send(result));
                good
            })
        });
        if self.orders.send((limit, order)).await.is_err() {
            return Err(LaneError::Closed.into());
        }
        answered.await.unwrap_or_else(|_| Err(LaneError::Closed.into()))
    }
}

/// One lane: a task that owns at most one connection.
struct Lane<K: Connector> {
    connector: Arc<K>,
    settings: LanesSettings,
    open: Option<Open<K::Connection>>,
}

struct Open<C> {
    connection: C,
    since: Instant,
    used: Instant,
}

type Queue<K> = Arc<Mutex<mpsc::Receiver<(Duration, Order<K>)>>>;

impl<K: Connector> Lane<K> {
    async fn serve(mut self, queue: Queue<K>) {
        loop {
            // Waiting for a job may be cut short: neither the lock nor the receive loses anything.
            let next = async { queue.lock().await.recv().await };
            match timeout(self.settings.ping_every, next).await {
                Ok(Some((limit, order))) => self.carry_out(limit, order).await,
                Ok(None) => return,
                Err(_) => self.look_after().await,
            }
        }
    }

    async fn carry_out(&mut self, limit: Duration, order: Order<K>) {
        let mut open = match self.take_open(limit).await {
            Ok(open) => open,
            Err(error) => {
                order(Err(error)).await;
                return;
            }
        };
        if order(Ok(&mut open.connection)).await {
            open.used = Instant::now();
            self.open = Some(open);
        }
    }

    async fn take_open(&mut self, limit: Duration) -> Result<Open<K::Connection>, K::Error> {
        let outlived =
            |open: &Open<_>| self.settings.life.is_some_and(|life| open.since.elapsed() > life);
        if let Some(open) = self.open.take().filter(|open| !outlived(open)) {
            return Ok(open);
        }
        let connect = async { self.connector.connect().await };
        let connection = bounded(limit, connect, LaneError::NotConnected(limit)).await?;
        let now = Instant::now();
        Ok(Open { connection, since: now, used: now })
    }

    /// Between jobs: an idle connection is closed, any other has to answer a ping.
    async fn look_after(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if self.settings.idle.is_some_and(|idle| open.used.elapsed() >= idle) {
            return;
        }
        let limit = self.settings.ping_every;
        let ping = async { self.connector.ping(&mut open.connection).await };
        if bounded(limit, ping, LaneError::Overdue(limit)).await.is_ok() {
            self.open = Some(open);
        }
    }
}

/// The answer of `work`, or `late` once `limit` has passed. A panic is told on standard error by its
/// hook, and ends nothing but `work`.
async fn bounded<T, E: From<LaneError>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
    late: LaneError,
) -> Result<T, E> {
    // What a panic leaves half done is the connection alone, and that is given up.
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(LaneError::Panicked.into()),
        Err(_) => Err(late.into()),
    }
}
