//! A worker whose database is not there, or not what it needs: alive, not ready, and it says why.

use reqwest::StatusCode;

use super::{Said, get, ok, ready_until, said};
use crate::{
    contract::Subject,
    mysql::{Database, Server},
    process::{Worker, run},
    proxy::{Mode, Proxy},
    stores::on_both_servers,
};

on_both_servers! {
    a_worker_waits_for_a_migration_and_then_begins
}

// It takes a minute, and nothing in it depends on the server's kind.
crate::stores::tests! { on_mysql_alone, crate::mysql::MySql;
    a_worker_waits_for_its_server_and_outlives_its_absence
}

fn not_ready(text: &str) -> Said {
    said(StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn assert_alive(worker: &Worker) {
    assert_eq!(get(worker, "/startupz").await, ok());
    assert_eq!(get(worker, "/livez").await, ok());
}

async fn a_worker_waits_for_a_migration_and_then_begins<S: Server>() {
    let database = Database::<S>::create().await;
    let url = database.url(None);
    let worker = Worker::start(&url, "a", &[]);
    worker.wait_for("store.waiting");
    let reason = "the tables are not there yet; run `orchestrator-worker migrate` first\n";
    assert_eq!(ready_until(&worker, |said| said.text == reason).await, not_ready(reason));
    assert_alive(&worker).await;

    assert!(run(&url, ["migrate"]).status.success());
    assert_eq!(ready_until(&worker, |said| *said == ok()).await, ok());
    assert_eq!(worker.logged("store.waiting"), 1, "one reason is said once");
}

async fn a_worker_waits_for_its_server_and_outlives_its_absence<S: Server>() {
    let database = Database::<S>::create().await;
    assert!(run(&database.url(None), ["migrate"]).status.success());
    let proxy = Proxy::start(Database::<S>::address()).await;
    proxy.set(Mode::Refuse);
    let worker = Worker::start(&database.url(Some(proxy.address())), "a", &[]);
    worker.wait_for("store.waiting");
    let away = format!("the database cannot be reached: {} does not answer", proxy.address());
    let waiting = ready_until(&worker, |said| said.text.starts_with(&away)).await;
    assert_eq!(waiting.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_alive(&worker).await;

    proxy.set(Mode::Pass);
    ready_until(&worker, |said| *said == ok()).await;

    // Some silence is no outage yet: the worker stays ready for a while.
    proxy.set(Mode::Refuse);
    worker.wait_for("database.failed");
    let silent = ready_until(&worker, |said| *said != ok()).await;
    assert_eq!(silent.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(silent.text.starts_with("the database has not answered for "), "{silent:?}");
    assert!(silent.text.contains(&away), "{silent:?}");
    assert_alive(&worker).await;

    proxy.set(Mode::Pass);
    worker.wait_for("database.answers");
    assert_eq!(ready_until(&worker, |said| *said == ok()).await, ok());
}
