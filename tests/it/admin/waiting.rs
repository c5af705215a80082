//! A worker whose database is not there, or not what it needs: alive, not ready, and it says why.

use reqwest::StatusCode;
use tokio::task::block_in_place;

use super::{Said, get, ok, ready_until, said};
use crate::{
    contract::{Subject, world::World},
    mysql::{Database, Server},
    own_server::OwnServer,
    process::{Worker, run},
    proxy::{Mode, Proxy},
    stores::on_both_servers,
};

on_both_servers! {
    a_worker_waits_for_a_migration_and_then_begins
    a_worker_that_would_misread_the_orchestrators_times_names_the_offset_and_waits
    a_worker_does_not_start_on_a_server_that_cannot_keep_the_protocol_and_names_the_setting
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

async fn a_worker_that_would_misread_the_orchestrators_times_names_the_offset_and_waits<
    S: Server,
>() {
    let world = World::<Database<S>>::new().await;
    let url = world.subject.url(None);
    let key = "workflow_execution:go".into();
    world.foreign_lock(&key, "go-1", 300).await;
    let eight_hours_on = Database::<S>::moved(Database::<S>::now(), 8 * 3_600_000);
    world.edit_lock(&key, &format!("updated_at={eight_hours_on}")).await;

    let worker = Worker::start(&url, "a", &[]);
    let told = worker.wait_for("store.waiting")["error"].as_str().expect("a text").to_owned();
    let begin = "database.time_offset does not fit: times at +00:00; the orchestrator's newest lock \
                 row is of 7h 59m from now; set database.time_offset to +08:00 for every worker";
    assert!(told.starts_with(begin), "{told}");
    let waiting = ready_until(&worker, |said| said.text.contains("+08:00")).await;
    assert_eq!(waiting, not_ready(&format!("{told}\n")));
    assert_alive(&worker).await;
    let line = ["run", "--until-idle", "--admin-listen", "off"];
    let refused = run(&url, line);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(begin), "{refused:?}");
    let fits =
        Worker::start(&url, "b", &[("ORCHESTRATOR_WORKER__DATABASE__TIME_OFFSET", "+08:00")]);
    assert_eq!(ready_until(&fits, |said| *said == ok()).await, ok());
    drop(fits);

    world.edit_lock(&key, &format!("updated_at={}", Database::<S>::now())).await;
    ready_until(&worker, |said| *said == ok()).await;
    world.edit_lock(&key, &format!("updated_at={eight_hours_on}")).await;
    let misled = Worker::start(&url, "d", &[]);
    misled.wait_for("store.waiting");
    world.subject.exec("DELETE FROM distributed_locks WHERE ow_fence=0").await;
    ready_until(&misled, |said| *said == ok()).await;
    assert_eq!(get(&worker, "/readyz").await, ok(), "who has begun goes on");
}

async fn a_worker_does_not_start_on_a_server_that_cannot_keep_the_protocol_and_names_the_setting<
    S: Server,
>() {
    let settings =
        ["--server-id=1", "--log-bin=binlog", "--binlog-format=STATEMENT", "--autocommit=0"];
    let server = block_in_place(|| OwnServer::<S>::start(&settings, &[], |_| {}));
    server.exec("CREATE DATABASE refused").await;
    let url = format!("{}refused", server.url("127.0.0.1"));
    let start = || {
        let ended = run(&url, ["run", "--until-idle", "--admin-listen", "off"]);
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    for (setting, mended) in [
        ("autocommit off", "SET GLOBAL autocommit=ON"),
        ("binlog_format=STATEMENT", "SET GLOBAL binlog_format='ROW'"),
    ] {
        let (code, told) = start();
        let begin = format!("this server cannot be used: it runs with {setting}");
        assert!(told.contains(&begin) && told.contains(mended), "{told}");
        assert_eq!(code, Some(1));
        server.exec(mended).await;
    }
    assert!(run(&url, ["migrate"]).status.success());
    let lock = "ALTER TABLE refused.distributed_locks";
    for (change, told_of, mended) in [
        ("ENGINE=MEMORY", "distributed_locks is kept by MEMORY", "ENGINE=InnoDB"),
        (
            "DROP KEY idx_distributed_locks_lock_key",
            "unique",
            "ADD UNIQUE KEY idx_distributed_locks_lock_key (lock_key)",
        ),
    ] {
        server.exec(&format!("{lock} {change}")).await;
        let (code, told) = start();
        assert!(told.contains(told_of), "{told}");
        assert_eq!(code, Some(1));
        server.exec(&format!("{lock} {mended}")).await;
    }
    let (code, told) = start();
    assert_eq!(code, Some(0), "{told}");
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
