//! A server that dies, and in its place a replica that has not got the last of its writes; or one that is
//! relieved in order, and lives on.
//!
//! **Invariant:** what was lost with the server may be done again; nothing is done by two at a time, and
//! everything ends.

use std::{net::SocketAddr, thread, time::Duration};

use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    ports::{
        control::{About, Control, Start, Submission},
        executions::{Advance, AdvanceError, Advanced, ExecutionStore},
    },
};
use rustix::process::Signal;
use secrecy::SecretString;
use sqlx::Row as _;
use tokio::{
    runtime::Runtime,
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{
    CEILING,
    history::{Effect, Rows, Violation, violations, violations_after_loss},
    place::USER,
    say, shown,
    workload::{LONG, Workload, ask, left, needs, rows},
};
use crate::{
    contract::{
        world::{claims, fan, who, workflow},
        writes::{advance, succeeded, success},
    },
    mysql::{PASSWORD, Server},
    own_server::OwnServer,
    process::Worker,
    proxy::Proxy,
    stores::on_both_servers,
};

on_both_servers! {
    a_failover_that_loses_writes_lets_nothing_run_twice_at_a_time
    a_failover_in_order_loses_nothing
    workers_that_only_look_leave_a_server_that_takes_no_writes_any_more
    an_execution_with_a_step_whose_end_was_lost_does_not_end
}

const DATABASE: &str = "failover";
const SHORT: usize = 30;
const LONG_ONES: usize = 4;
/// Failovers that lose writes.
const TIMES: usize = 10;
const AT_ONCE: usize = 5;
/// Steps whose ends are lost, at least.
const LOST: i64 = 8;
const ENDS: &str = "SELECT COUNT(*) FROM ow_attempts WHERE outcome='success'";

/// A server that writes down what it does, for another to repeat.
fn server<S: Server>(id: u32) -> OwnServer<S> {
    let id = format!("--server-id={id}");
    let settings = ["--log-bin=binlog", "--binlog-format=ROW", id.as_str()];
    block_in_place(|| OwnServer::start(&settings, &[], |_| {}))
}

fn url<S: Server>(server: &OwnServer<S>) -> String {
    format!("{}{DATABASE}", server.url("127.0.0.1"))
}

/// A server, another that repeats what it does whenever it gets to it, and an address for both.
struct Pair<S: Server> {
    primary: OwnServer<S>,
    replica: OwnServer<S>,
    proxy: Proxy,
}

impl<S: Server> Pair<S> {
    /// What the replica's side of a replication is called.
    fn side() -> &'static str {
        if S::NAME == "MariaDB" { "SLAVE" } else { "REPLICA" }
    }

    async fn start() -> Self {
        let (primary, replica) = (server::<S>(1), server::<S>(2));
        let port = primary.port();
        let follow = if S::NAME == "MariaDB" {
            format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', \
                 MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=4"
            )
        } else {
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, \
                 SOURCE_USER='root', SOURCE_LOG_FILE='binlog.000001', SOURCE_LOG_POS=4, \
                 GET_SOURCE_PUBLIC_KEY=1"
            )
        };
        replica.exec(&format!("{follow}; START {}", Self::side())).await;
        primary.exec(&format!("CREATE DATABASE {DATABASE}")).await;
        let proxy = Proxy::start(address(&primary)).await;
        Self { primary, replica, proxy }
    }

    /// Of whichever server is the one to write to.
    fn through(&self) -> String {
        format!("mysql://root@{}/{DATABASE}", self.proxy.address())
    }

    async fn cut(&self) {
        self.replica.exec(&format!("STOP {}", Self::side())).await;
    }

    /// As [`Pair::through`], of a user whom a server that is read only refuses.
    async fn through_as_worker(&self) -> String {
        let grant = format!(
            "CREATE USER {USER} IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON {DATABASE}.* TO {USER}"
        );
        self.primary.exec(&grant).await;
        format!("mysql://{USER}:{PASSWORD}@{}/{DATABASE}", self.proxy.address())
    }

    /// The primary takes no more writes, and gives way once the replica has got all of them. It lives on, and so
    /// do connections to it.
    async fn hand_over(&self) {
        self.primary.exec("SET GLOBAL read_only=1").await;
        self.primary.exec(&format!("CREATE TABLE {DATABASE}.last (id INT PRIMARY KEY)")).await;
        reaches(&url(&self.replica), "SELECT COUNT(*) FROM last", 0).await;
        self.cut().await;
        self.replica.exec(&format!("RESET {} ALL", Self::side())).await;
        self.proxy.lead_to(address(&self.replica));
    }

    /// The primary dies, and what the replica has got is all there is.
    async fn fail_over(self) -> (OwnServer<S>, Proxy) {
        let Self { primary, replica, proxy } = self;
        block_in_place(|| drop(primary));
        replica.exec(&format!("RESET {} ALL", Self::side())).await;
        proxy.lead_to(address(&replica));
        (replica, proxy)
    }
}

fn address<S: Server>(server: &OwnServer<S>) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port()))
}

async fn store(url: String) -> MySqlStore {
    MySqlStore::open(Settings::new(SecretString::from(url))).await.expect("a store")
}

async fn count(url: &str, sql: &str) -> i64 {
    match ask(url, sql).await {
        Ok(rows) => rows[0].get(0),
        // A replica may not have got the tables yet.
        Err(_) => -1,
    }
}

/// Waits until a count is large enough.
async fn reaches(url: &str, sql: &str, at_least: i64) {
    let since = Instant::now();
    while count(url, sql).await < at_least {
        assert!(since.elapsed() < CEILING, "{sql} stays below {at_least}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Ten, some at a time: most of one is waiting. Each on a thread of its own, with which its servers would end.
#[expect(clippy::unused_async, reason = "as every story is called")]
async fn a_failover_that_loses_writes_lets_nothing_run_twice_at_a_time<S: Server>() {
    let lane = || {
        let runtime = Runtime::new().expect("a runtime");
        for _ in 0..TIMES / AT_ONCE {
            runtime.block_on(lose_writes::<S>());
        }
    };
    block_in_place(|| {
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(lane);
            }
        });
    });
}

async fn lose_writes<S: Server>() {
    let pair = Pair::<S>::start().await;
    let (control, workload) = prepared(&pair).await;
    submit(&workload, &control).await;
    let workers = workers(&pair.through());
    reaches(&url(&pair.replica), ENDS, 5).await;
    pair.cut().await;
    let known = count(&url(&pair.replica), ENDS).await;
    reaches(&url(&pair.primary), ENDS, known + LOST).await;
    let lost = count(&url(&pair.primary), ENDS).await - known;
    drop(control);
    let (replica, _proxy) = pair.fail_over().await;
    let failed_over = Instant::now();

    let all = SHORT + LONG_ONES;
    judge(&workload, &url(&replica), all, violations_after_loss).await;
    say(&format!(
        "failover on {}: {lost} ends of steps lost, all {all} executions ended {:.1} s later",
        S::NAME,
        failed_over.elapsed().as_secs_f64()
    ));
    let quarantine = "SELECT COUNT(*) FROM ow_attempts, ow_primary WHERE fence BETWEEN \
                      TIMESTAMPDIFF(MICROSECOND, '1970-01-01', since) AND \
                      TIMESTAMPDIFF(MICROSECOND, '1970-01-01', since + INTERVAL 59 SECOND)";
    assert_eq!(count(&url(&replica), quarantine).await, 0, "nothing is claimed for a minute");
    let newer = "SELECT COUNT(*) FROM ow_attempts, ow_primary WHERE fence > \
                 TIMESTAMPDIFF(MICROSECOND, '1970-01-01', since)";
    assert!(count(&url(&replica), newer).await > 0, "and then it is");
    go(workers);
}

/// Its tables and templates are there.
async fn prepared<S: Server>(pair: &Pair<S>) -> (MySqlStore, Workload) {
    let (control, workload) = (store(url(&pair.primary)).await, Workload::new());
    control.migrate(false).await.expect("it is migrated");
    workload.apply(&control).await;
    (control, workload)
}

async fn submit(workload: &Workload, control: &MySqlStore) {
    let mut random = rand::make_rng();
    for _ in 0..LONG_ONES {
        assert!(workload.submit(control, LONG).await);
    }
    for _ in 0..SHORT {
        assert!(workload.submit_any(control, &mut random).await);
    }
}

fn workers(url: &str) -> Vec<Worker> {
    let start = |place| {
        let settings = [("ORCHESTRATOR_WORKER__SLOTS", "4")];
        Worker::start(url, &format!("w{place}"), &settings)
    };
    (0..3).map(start).collect()
}

fn go(workers: Vec<Worker>) {
    for mut worker in workers {
        worker.signal(Signal::TERM);
        assert!(block_in_place(|| worker.wait()).success(), "{}", worker.name);
    }
}

/// Once everything has ended, or never will.
async fn judge(
    workload: &Workload,
    url: &str,
    submitted: usize,
    check: fn(&[Effect], &Rows) -> Vec<Violation>,
) {
    let since = Instant::now();
    while left(url).await.unwrap_or(1) > 0 && since.elapsed() < CEILING {
        sleep(Duration::from_millis(200)).await;
    }
    let rows = rows(url, needs).await.expect("the tables");
    let found = check(&workload.effects(), &rows);
    assert_eq!(found, [], "{}", shown(&found));
    assert_eq!(rows.executions.len(), submitted);
}

async fn a_failover_in_order_loses_nothing<S: Server>() {
    let pair = Pair::<S>::start().await;
    let (control, workload) = prepared(&pair).await;
    submit(&workload, &control).await;
    let workers = workers(&pair.through_as_worker().await);
    reaches(&url(&pair.primary), ENDS, 5).await;
    drop(control);
    pair.hand_over().await;

    judge(&workload, &url(&pair.replica), SHORT + LONG_ONES, violations).await;
    go(workers);
}

/// Their connections stand, and nothing that they ask for fails.
async fn workers_that_only_look_leave_a_server_that_takes_no_writes_any_more<S: Server>() {
    let pair = Pair::<S>::start().await;
    let (control, workload) = prepared(&pair).await;
    let workers = workers(&pair.through_as_worker().await);
    block_in_place(|| {
        for worker in &workers {
            worker.wait_for("worker.idle");
        }
    });
    drop(control);
    pair.hand_over().await;

    let new = url(&pair.replica);
    let mut random = rand::make_rng();
    assert!(workload.submit_any(&store(new.clone()).await, &mut random).await);
    judge(&workload, &new, 1, violations).await;
    go(workers);
}

/// Two executions of which a worker holds two running steps each. That one of one of them has ended is lost.
async fn an_execution_with_a_step_whose_end_was_lost_does_not_end<S: Server>() {
    let pair = Pair::<S>::start().await;
    let worker = store(pair.through()).await;
    worker.migrate(false).await.expect("it is migrated");
    let definition = workflow("w", fan(&["a", "b"]));
    worker.apply(&definition, &About::default()).await.expect("it is applied");
    for _ in 0..2 {
        let submission = Submission {
            template: definition.template.to_string(),
            created_by: "ann@example.org".into(),
            start: Start::Now,
            traceparent: None,
        };
        worker.submit(&submission).await.expect("it is submitted");
    }
    let held = claims(worker.claim(&who("a"), 10).await.expect("a claim"));
    let held: Vec<_> = held.into_values().collect();
    let running = "SELECT COUNT(*) FROM workflow_step_executions WHERE status='running'";
    reaches(&url(&pair.replica), running, 4).await;
    pair.cut().await;
    let ends = |step: &'static str| {
        let end = move |claim| Advance { ended: vec![succeeded(claim, step)], ..advance(claim) };
        held.iter().map(end).collect::<Vec<_>>()
    };
    let [lost, kept] = &ends("a")[..] else { panic!("two executions") };
    assert_eq!(worker.advance(std::slice::from_ref(lost)).await, [Ok(Advanced::Recorded)]);
    let (replica, _proxy) = pair.fail_over().await;

    assert_eq!(told(&worker, std::slice::from_ref(kept)).await, [Ok(Advanced::Recorded)]);
    let finish = |it| Advance { finish: Some(success()), ..it };
    let last: Vec<_> = ends("b").into_iter().map(finish).collect();
    let answers = told(&worker, &last).await;
    assert_eq!(answers, [Err(AdvanceError::Fenced), Ok(Advanced::Recorded)]);
    let states = "SELECT COUNT(*) FROM workflow_executions e JOIN workflow_step_executions s ON \
                  s.execution_id=e.id WHERE e.status=s.status AND s.status=";
    for (status, steps) in [("'running'", 2), ("'success'", 2)] {
        assert_eq!(count(&url(&replica), &format!("{states}{status}")).await, steps, "{status}");
    }
}

/// The answers, once the server has given them.
async fn told(store: &MySqlStore, advances: &[Advance]) -> Vec<Result<Advanced, AdvanceError>> {
    let since = Instant::now();
    loop {
        let answers = store.advance(advances).await;
        if !answers.iter().any(|it| matches!(it, Err(AdvanceError::Store(_)))) {
            return answers;
        }
        assert!(since.elapsed() < CEILING, "{answers:?}");
        sleep(Duration::from_millis(50)).await;
    }
}
