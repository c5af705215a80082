//! A server that dies, and in its place a replica that has not got the last of its writes.
//!
//! **Invariant:** what was lost with the server may be done again; nothing is done by two at a time, and
//! everything ends.

use std::{net::SocketAddr, time::Duration};

use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    ports::control::Control,
};
use rustix::process::Signal;
use secrecy::SecretString;
use sqlx::Row as _;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{
    CEILING,
    history::violations_after_loss,
    say, shown,
    workload::{LONG, Workload, ask, left, needs, rows},
};
use crate::{
    mysql::Server, own_server::OwnServer, process::Worker, proxy::Proxy, stores::on_both_servers,
};

on_both_servers! {
    a_failover_that_loses_writes_lets_nothing_run_twice_at_a_time
}

const DATABASE: &str = "failover";
const SHORT: usize = 30;
const LONG_ONES: usize = 4;
/// Steps whose ends are lost, at least.
const LOST: i64 = 8;

/// A server that writes down what it does, for another to repeat.
fn server<S: Server>(id: u32) -> OwnServer<S> {
    let id = format!("--server-id={id}");
    let settings = ["--log-bin=binlog", "--binlog-format=ROW", id.as_str()];
    block_in_place(|| OwnServer::start(&settings, &[], |_| {}))
}

fn url<S: Server>(server: &OwnServer<S>) -> String {
    format!("{}{DATABASE}", server.url("127.0.0.1"))
}

/// Has one repeat what the other does, from its first line on, whenever it gets to it.
async fn follow<S: Server>(replica: &OwnServer<S>, primary: &OwnServer<S>) {
    let port = primary.port();
    let follow = if S::NAME == "MariaDB" {
        format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', \
             MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=4; START SLAVE"
        )
    } else {
        format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, \
             SOURCE_USER='root', SOURCE_LOG_FILE='binlog.000001', SOURCE_LOG_POS=4, \
             GET_SOURCE_PUBLIC_KEY=1; START REPLICA"
        )
    };
    replica.exec(&follow).await;
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

async fn a_failover_that_loses_writes_lets_nothing_run_twice_at_a_time<S: Server>() {
    let (primary, replica) = (server::<S>(1), server::<S>(2));
    follow(&replica, &primary).await;
    primary.exec(&format!("CREATE DATABASE {DATABASE}")).await;
    let settings = Settings::new(SecretString::from(url(&primary)));
    let control = MySqlStore::open(settings).await.expect("a store");
    control.migrate(false).await.expect("it is migrated");
    let workload = Workload::new();
    workload.apply(&control).await;
    let mut random = rand::make_rng();
    for _ in 0..LONG_ONES {
        assert!(workload.submit(&control, LONG).await);
    }
    for _ in 0..SHORT {
        assert!(workload.submit_any(&control, &mut random).await);
    }
    let address = |server: &OwnServer<S>| SocketAddr::from(([127, 0, 0, 1], server.port()));
    let proxy = Proxy::start(address(&primary)).await;
    let through = format!("mysql://root@{}/{DATABASE}", proxy.address());
    let mut workers: Vec<Worker> = (0..3)
        .map(|place| {
            let settings = [("ORCHESTRATOR_WORKER__SLOTS", "4")];
            Worker::start(&through, &format!("w{place}"), &settings)
        })
        .collect();

    let ends = "SELECT COUNT(*) FROM ow_attempts WHERE outcome='success'";
    reaches(&url(&replica), ends, 5).await;
    let word = if S::NAME == "MariaDB" { "SLAVE" } else { "REPLICA" };
    replica.exec(&format!("STOP {word}")).await;
    let known = count(&url(&replica), ends).await;
    reaches(&url(&primary), ends, known + LOST).await;
    let lost = count(&url(&primary), ends).await - known;
    drop(control);
    block_in_place(|| drop(primary));
    replica.exec(&format!("RESET {word} ALL")).await;
    proxy.lead_to(address(&replica));
    let failed_over = Instant::now();

    let since = Instant::now();
    while left(&url(&replica)).await.unwrap_or(1) > 0 && since.elapsed() < CEILING {
        sleep(Duration::from_millis(200)).await;
    }
    let rows = rows(&url(&replica), needs).await.expect("the tables");
    let found = violations_after_loss(&workload.effects(), &rows);
    assert_eq!(found, [], "{}", shown(&found));
    say(&format!(
        "failover on {}: {lost} ends of steps lost, all {} executions ended {:.1} s later",
        S::NAME,
        rows.executions.len(),
        failed_over.elapsed().as_secs_f64()
    ));
    assert_eq!(rows.executions.len(), SHORT + LONG_ONES);
    let quarantine = "SELECT COUNT(*) FROM ow_attempts, ow_primary WHERE fence BETWEEN \
                      TIMESTAMPDIFF(MICROSECOND, '1970-01-01', since) AND \
                      TIMESTAMPDIFF(MICROSECOND, '1970-01-01', since + INTERVAL 59 SECOND)";
    assert_eq!(count(&url(&replica), quarantine).await, 0, "nothing is claimed for a minute");
    let newer = "SELECT COUNT(*) FROM ow_attempts, ow_primary WHERE fence > \
                 TIMESTAMPDIFF(MICROSECOND, '1970-01-01', since)";
    assert!(count(&url(&replica), newer).await > 0, "and then it is");
    for worker in &mut workers {
        worker.signal(Signal::TERM);
        assert!(block_in_place(|| worker.wait()).success(), "{}", worker.name);
    }
}
