//! A worker beside tables of a later version: additive ones it works on, others it waits out.

use reqwest::StatusCode;

use super::{Gated, get, ok, ready_until};
use crate::{
    contract::world::World,
    crash::Served,
    process::{Worker, json, wait_until},
    stores::on_every_store,
};

on_every_store! {
    a_worker_works_on_a_later_version_that_it_may_read_and_waits_out_one_that_it_may_not
}

const TOO_NEW: &str = "the database was migrated by a newer version and needs a worker of schema 2 or \
                       later; this one knows 1: upgrade it";

/// So many executions have succeeded.
pub fn succeeded(url: &str, count: usize) {
    wait_until("they have succeeded", || {
        let listed = json(url, ["list", "--state", "success"]);
        (listed.as_array().map(Vec::len) == Some(count)).then_some(())
    });
}

async fn a_worker_works_on_a_later_version_that_it_may_read_and_waits_out_one_that_it_may_not<
    S: Served,
>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let gated = Gated::apply(&url, "gated");
    gated.open();
    gated.submit(&url);
    world.subject.exec("UPDATE ow_meta SET version=2 WHERE id=1").await;
    let a = Worker::start(&url, "a", &[]);
    assert_eq!(ready_until(&a, |said| *said == ok()).await, ok());
    succeeded(&url, 1);

    world.subject.exec("UPDATE ow_meta SET oldest_reader=2 WHERE id=1").await;
    let b = Worker::start(&url, "b", &[]);
    let waiting = ready_until(&b, |said| said.text.trim_end() == TOO_NEW).await;
    assert_eq!(waiting.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&b, "/livez").await, ok());
    assert_eq!(get(&b, "/startupz").await, ok());
    assert_eq!(b.wait_for("store.waiting")["error"], TOO_NEW);
    assert_eq!(b.logged("worker.started"), 0);

    world.subject.exec("UPDATE ow_meta SET oldest_reader=1 WHERE id=1").await;
    assert_eq!(
        ready_until(&b, |said| *said == ok()).await,
        ok(),
        "rolled back, and the same process"
    );
    b.wait_for("worker.started");
    drop(a);
    gated.submit(&url);
    succeeded(&url, 2);
    b.wait_for("execution.finished");
}
