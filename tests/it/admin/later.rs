//! A worker beside the migration of a later version.

use std::fs;

use super::{Gated, ok, ready_until, versions::succeeded};
use crate::{
    contract::{Subject, world::World},
    mysql::{Database, Server},
    process::Worker,
    stores::on_both_servers,
};

on_both_servers! {
    a_worker_goes_on_through_the_migration_of_a_later_version
}

/// What a later version may do to these tables, as MariaDB wants it done: no column is added to a
/// table that has a key over a virtual one.
const LATER: [&str; 8] = [
    "ALTER TABLE workflow_executions DROP KEY ow_poll, ALGORITHM=INPLACE, LOCK=NONE",
    "ALTER TABLE workflow_executions ADD COLUMN ow_later INT NOT NULL DEFAULT 0, ALGORITHM=INSTANT",
    "ALTER TABLE workflow_executions ADD KEY ow_poll (status, ow_due, id), ALGORITHM=INPLACE, \
     LOCK=NONE",
    "ALTER TABLE workflow_step_executions ADD COLUMN ow_later INT NOT NULL DEFAULT 0, \
     ALGORITHM=INSTANT",
    "ALTER TABLE distributed_locks ADD COLUMN ow_later INT NOT NULL DEFAULT 0, ALGORITHM=INPLACE, \
     LOCK=NONE",
    "ALTER TABLE ow_attempts ADD COLUMN later INT NOT NULL DEFAULT 0, ALGORITHM=INSTANT",
    "CREATE TABLE ow_later (id INT PRIMARY KEY) ENGINE=InnoDB",
    "UPDATE ow_meta SET version=2 WHERE id=1",
];

async fn a_worker_goes_on_through_the_migration_of_a_later_version<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let url = world.subject.url(None);
    let gated = Gated::apply(&url, "gated");
    gated.submit(&url);
    let worker = Worker::start(&url, "a", &[]);
    gated.wait_until_begun();
    for sql in LATER {
        world.subject.exec(sql).await;
        if sql.contains("DROP KEY") {
            // It looks for work by that key, and says that it is not there.
            worker.wait_for("database.failed");
        }
    }
    worker.wait_for("database.answers");
    assert_eq!(ready_until(&worker, |said| *said == ok()).await, ok());
    gated.open();
    succeeded(&url, 1);
    fs::remove_file(gated.path("begun")).expect("it was there");
    gated.submit(&url);
    succeeded(&url, 2);
    assert_eq!(worker.logged("execution.claimed"), 2, "nobody took them away from it");
    assert_eq!(worker.logged("execution.lost"), 0);
    let later = world.subject.rows("SELECT ow_later FROM workflow_executions").await;
    assert_eq!(later.len(), 2);
}
