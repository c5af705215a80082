//! A backup that is restored to the same server, as `docs/databases.md` tells it.

use std::time::Duration;

use orchestrator_worker::ports::executions::{Advance, Advanced, Claimant, ExecutionStore};
use rustix::process::Signal;

use super::{Database, Server};
use crate::{
    contract::{Subject, world::*, writes::*},
    process::{Worker, json, wait_until},
};

/// What the page tells to do, so that the first worker finds another server.
const ANOTHER: &str = "UPDATE ow_primary SET identity='restored' WHERE id=1";
/// Of the worker that is gone with the server, and so how long its work stands still.
const TTL: Duration = Duration::from_secs(8);

/// Every table with the columns that are written.
async fn tables<S: Server>(database: &Database<S>) -> Vec<(String, String)> {
    let sql = "SELECT c.table_name AS name, GROUP_CONCAT(CONCAT('`', c.column_name, '`')) AS list \
               FROM information_schema.columns c \
               JOIN information_schema.tables t USING (table_schema, table_name) \
               WHERE table_schema=DATABASE() AND table_type='BASE TABLE' \
               AND COALESCE(generation_expression, '')='' GROUP BY c.table_name";
    let rows = database.rows(sql).await.into_iter();
    let text = |cell: &Option<String>| cell.clone().expect("a name");
    rows.map(|row| (text(&row["name"]), text(&row["list"]))).collect()
}

async fn back_up<S: Server>(database: &Database<S>, tables: &[(String, String)]) {
    for (table, columns) in tables {
        let make = format!("CREATE TABLE saved_{table} LIKE {table}");
        database.exec(&make).await;
        let fill = format!("INSERT INTO saved_{table} ({columns}) SELECT {columns} FROM {table}");
        database.exec(&fill).await;
    }
}

async fn restore<S: Server>(database: &Database<S>, tables: &[(String, String)]) {
    for (table, columns) in tables {
        database.exec(&format!("DELETE FROM {table}")).await;
        let fill = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM saved_{table}");
        database.exec(&fill).await;
    }
}

pub async fn a_restored_backup_is_waited_out_and_goes_on_as_it_was_but_for_what_was_cancelled<
    S: Server,
>() {
    let page = include_str!("../../../docs/databases.md");
    assert!(page.contains(ANOTHER));
    let world = World::<Database<S>>::new().await;
    let (database, url) = (&world.subject, world.subject.url(None));
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let running = world.submit(&template).await;
    let quick = Claimant { ttl: TTL, ..who("a") };
    let claim = only(world.a.claim(&quick, 1).await.expect("a claim"));
    let pending = world.submit(&template).await;
    let tables = tables(database).await;
    back_up(database, &tables).await;
    // All of it happens after the backup.
    let other = claim_one(&world.a, "a").await;
    for claim in [&claim, &other] {
        let end = Advance {
            ended: vec![succeeded(claim, "one")],
            finish: Some(success()),
            ..advance(claim)
        };
        assert_eq!(send(&world.a, &end).await, Ok(Advanced::Recorded));
    }

    restore(database, &tables).await;
    database.exec(ANOTHER).await;
    json(&url, ["pause", "--all"]);
    let listed = json(&url, ["list"]).to_string();
    assert!(listed.contains(pending.as_str()), "{listed}");
    json(&url, ["cancel", pending.as_str()]);
    let mut worker = Worker::start(&url, "b", &[("ORCHESTRATOR_WORKER__LOCK__TTL", "8s")]);
    worker.wait_for("worker.started");
    json(&url, ["resume", "--all"]);
    let later = world.submit(&template).await;
    for refused in ["database.failed", "watcher.failed"] {
        worker.wait_for_line(refused, |line| {
            line["error"].as_str().is_some_and(|error| error.contains("the same for 60 s"))
        });
    }
    assert_eq!(world.status(&later).await, "pending", "no claim");
    assert_eq!(world.execution(&running, "ow_owner").await.as_deref(), Some("a"), "no takeover");

    // As if a minute had passed: the row says since when this server has been the primary.
    database.exec("UPDATE ow_primary SET since=since - INTERVAL 61 SECOND").await;
    wait_until("all has ended", || (worker.logged("execution.finished") == 2).then_some(()));
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
    assert_eq!(world.attempt(&running, "one", 1).await.as_deref(), Some("lost/lease_expired/a"));
    let ended = [&running, &later, &pending];
    let mut statuses = Vec::new();
    for id in ended {
        statuses.push(world.status(id).await);
    }
    assert_eq!(statuses, ["success", "success", "cancelled"]);
}
