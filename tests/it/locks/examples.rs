//! The examples of the lock guide do what they say.

use orchestrator_worker::{
    adapters::mysql::Settings,
    domain::execution::ExecutionState,
    orchestrator::{Database as Place, Executed},
    ports::control::Control,
};
use secrecy::SecretString;
use tempfile::TempDir;

use crate::{
    contract::Subject,
    mysql::{Database, Server},
    stores::on_both_servers,
};

macro_rules! example {
    ($name:ident, $file:literal) => {
        #[path = $file]
        #[expect(dead_code, reason = "a program's own beginning")]
        mod $name;
    };
}

example!(errors, "../../../examples/errors.rs");
example!(lock_config, "../../../examples/lock_config.rs");
example!(monitoring, "../../../examples/monitoring.rs");
example!(own_provider, "../../../examples/own_provider.rs");
// It brings examples/quick_start.rs along.
example!(two_replicas, "../../../examples/two_replicas.rs");

use two_replicas::quick_start;

on_both_servers! {
    on_a_server_the_quick_start_runs_an_execution
    on_a_server_of_two_replicas_one_runs_it
}

const SUCCESS: Executed = Executed::Ended { state: ExecutionState::Success, error: None };

async fn migrated<S: Server>() -> (Database<S>, Place) {
    let database = Database::<S>::make().await;
    database.store().await.migrate(false).await.expect("it is migrated");
    let place = Settings::new(SecretString::from(database.url(None))).into();
    (database, place)
}

pub async fn on_a_server_the_quick_start_runs_an_execution<S: Server>() {
    let (_database, place) = migrated::<S>().await;
    assert_eq!(quick_start::run(place).await.expect("it runs"), SUCCESS);
}

pub async fn on_a_server_of_two_replicas_one_runs_it<S: Server>() {
    let (_database, place) = migrated::<S>().await;
    two_replicas::run(place).await.expect("it runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_every_example_does_what_it_says() {
    let folder = TempDir::new().expect("a folder");
    let file = |name| Place::from(folder.path().join(name));
    assert_eq!(quick_start::run(file("one.db")).await.expect("it runs"), SUCCESS);
    two_replicas::run(file("two.db")).await.expect("it runs");
    lock_config::run().await.expect("it runs");
    errors::run().await.expect("it runs");
    let metrics = monitoring::run().await.expect("it runs");
    assert!(metrics.contains("lease_hold_duration_seconds_count 1"), "{metrics}");
    let book = own_provider::run().await.expect("it runs");
    assert!(matches!(&book[..], [line] if line.contains(" took reports:daily under fence ")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_provider_of_the_example_keeps_every_promise() {
    own_provider::check().await;
}
