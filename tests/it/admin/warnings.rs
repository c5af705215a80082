//! A worker that begins on a server which is not as it should be: it says so once, and in a metric.

use std::collections::BTreeSet;

use super::{metrics, ok, ready_until};
use crate::{
    contract::{Subject, world::World},
    mysql::{Database, Server},
    own_server::OwnServer,
    process::{Worker, run},
    stores::on_both_servers,
};

on_both_servers! {
    what_a_server_may_lose_is_told_as_it_is_set
    a_zone_with_daylight_saving_and_a_binary_log_that_is_not_synced_are_told
}

const FLUSH_LOG: &str = "innodb_flush_log_at_trx_commit";
const SYNC_BINLOG: &str = "sync_binlog";
const DAYLIGHT_SAVING: &str = "daylight_saving";

/// These kinds are told, once each, and no others.
async fn tells(worker: &Worker, expected: &BTreeSet<&str>) {
    ready_until(worker, |said| *said == ok()).await;
    let metrics = metrics::of(worker).await;
    for kind in [FLUSH_LOG, SYNC_BINLOG, DAYLIGHT_SAVING] {
        let value = if expected.contains(kind) { 1.0 } else { 0.0 };
        let labels = format!("kind={kind:?}");
        let name = "orchestrator_worker_database_warnings";
        assert!(metrics.is(name, &labels, value), "{kind} is not {value}");
        if expected.contains(kind) {
            let told = worker.wait_for_line("database.warning", |line| line["kind"] == kind);
            assert_eq!(told["level"], "WARN");
            assert!(told["repair"].as_str().is_some_and(|repair| !repair.is_empty()), "{told}");
        }
    }
    assert_eq!(worker.logged("database.warning"), expected.len());
}

async fn what_a_server_may_lose_is_told_as_it_is_set<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let is = async |ask: &str| world.subject.one(ask).await.as_deref() == Some("1");
    let mut expected = BTreeSet::new();
    if !is("SELECT @@innodb_flush_log_at_trx_commit").await {
        expected.insert(FLUSH_LOG);
    }
    if is("SELECT @@log_bin").await && !is("SELECT @@sync_binlog").await {
        expected.insert(SYNC_BINLOG);
    }
    tells(&Worker::start(&world.subject.url(None), "a", &[]), &expected).await;
}

async fn a_zone_with_daylight_saving_and_a_binary_log_that_is_not_synced_are_told<S: Server>() {
    let settings = [
        "--innodb-flush-log-at-trx-commit=1",
        "--log-bin={}/data/binlog",
        "--server-id=1",
        "--sync-binlog=0",
    ];
    // The rules are in the name, so that no file of zones is needed.
    let server = OwnServer::<S>::start(&settings, &[("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")], |_| {});
    let url = format!("{}d", server.url("127.0.0.1"));
    server.exec("CREATE DATABASE d").await;
    assert!(run(&url, ["migrate"]).status.success());
    let worker = Worker::start(&url, "a", &[]);
    tells(&worker, &[SYNC_BINLOG, DAYLIGHT_SAVING].into()).await;
    let told = worker.wait_for_line("database.warning", |line| line["kind"] == DAYLIGHT_SAVING);
    let zone = told["message"].as_str().expect("a text");
    assert!(zone.starts_with("the server's time zone (CE"), "{zone}");
}
