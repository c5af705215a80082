//! The lock guide, row by row, through the public library.

use std::{sync::Arc, time::Duration};

use orchestrator_worker::{
    adapters::{
        memory::MemoryLocks,
        mysql::{Given, Settings},
    },
    domain::{id::Owner, lock_table::LockTable},
    orchestrator::{
        Database as Place, LockConfig, LockConfigError, LockOptions, MySqlLockConfig, NameTaken,
        Orchestrator, ProviderRegistry,
    },
    ports::{
        control::Control,
        lock::{LockError, LockErrorKind, LockProvider},
    },
};
use sqlx::{MySqlPool, SqlitePool};
use tempfile::TempDir;

use crate::{
    contract::{Subject, world::World},
    mysql::{Database, Server},
    stores::on_both_servers,
};

on_both_servers! {
    a_pool_is_all_that_it_needs_and_the_locks_are_those_of_the_database
    a_custom_table_name_is_the_one_that_is_locked_in
    a_database_that_was_never_migrated_says_run_migrate
    an_orchestrator_in_another_zone_is_told_by_its_rows_and_locked_beside_in_its_own
}

/// Asks once.
fn impatient() -> LockConfig {
    LockConfig { default_retry_count: 0, ..LockConfig::default() }
}

fn named(database: impl Into<Place>, config: LockConfig, owner: &str) -> Orchestrator {
    let owner = Owner::try_new(owner).expect("a name");
    Orchestrator::builder(database).lock_config(config).owner(owner).build().expect("it is good")
}

pub async fn a_pool_is_all_that_it_needs_and_the_locks_are_those_of_the_database<S: Server>() {
    let database = Database::<S>::make().await;
    database.store().await.migrate(false).await.expect("it is migrated");
    let pool = MySqlPool::connect(&database.url(None)).await.expect("a pool");
    let (a, b) = (Orchestrator::new(&pool), named(&pool, impatient(), "b"));
    let handle = a.lock_workflow_execution("e1").await.expect("it is free");
    let row = "SELECT owner FROM distributed_locks WHERE lock_key='workflow_execution:e1'";
    assert_eq!(database.one(row).await.as_deref(), Some(a.owner().as_str()));
    let refused = b.lock_workflow_execution("e1").await.expect_err("a has it");
    assert_eq!(refused.kind(), LockErrorKind::WorkflowAlreadyRunning);
    handle.release().await.expect("it was held");
    assert_eq!(database.one(row).await, None, "released by a DELETE");
    pool.close().await;
    b.lock_workflow_execution("e1")
        .await
        .expect("its connections are its own")
        .release()
        .await
        .expect("it was held");
}

pub async fn a_custom_table_name_is_the_one_that_is_locked_in<S: Server>() {
    let database = Database::<S>::make().await;
    let pool = MySqlPool::connect(&database.url(None)).await.expect("a pool");
    let table = LockTable::try_new("my_custom_locks").expect("a name");
    let settings =
        Settings { lock_table: table, ..Settings::of_given(Given::new(&pool.connect_options())) };
    let store = orchestrator_worker::adapters::mysql::MySqlStore::open(settings).await;
    store.expect("a store").migrate(false).await.expect("it is migrated");
    let config = LockConfig {
        default_ttl: Duration::from_secs(600),
        default_retry_count: 5,
        default_retry_delay: Duration::from_secs(2),
        mysql: MySqlLockConfig { table_name: "my_custom_locks".into() },
        ..LockConfig::default()
    };
    let orchestrator = Orchestrator::with_lock_config(&pool, config).expect("it is good");
    let handle = orchestrator.lock("k").await.expect("it is free");
    let rows = database.one("SELECT lock_key FROM my_custom_locks").await;
    assert_eq!(rows.as_deref(), Some("k"));
    handle.release().await.expect("it was held");
}

pub async fn a_database_that_was_never_migrated_says_run_migrate<S: Server>() {
    let database = Database::<S>::make().await;
    let pool = MySqlPool::connect(&database.url(None)).await.expect("a pool");
    let refused = Orchestrator::new(&pool).lock("k").await.expect_err("there are no tables");
    assert!(refused.to_string().contains("run `orchestrator-worker migrate`"), "{refused}");
    database.store().await.migrate(false).await.expect("it is migrated");
    let handle = Orchestrator::new(&pool).lock("k").await.expect("it is free");
    handle.release().await.expect("it was held");
}

pub async fn an_orchestrator_in_another_zone_is_told_by_its_rows_and_locked_beside_in_its_own<
    S: Server,
>() {
    let world = World::<Database<S>>::new().await;
    world.foreign_lock(&"e".into(), "go-1", 8 * 3_600 + 300).await;
    let there = Database::<S>::moved(Database::<S>::now(), 8 * 3_600_000);
    world.edit_lock(&"e".into(), &format!("created_at={there}, updated_at={there}")).await;
    let pool = MySqlPool::connect(&world.subject.url(None)).await.expect("a pool");
    let refused = named(&pool, impatient(), "a").lock("k").await.expect_err("another zone");
    assert!(refused.to_string().contains("database.time_offset to +08:00"), "{refused}");

    let place = Place::from(&pool).with_time_offset("+08:00");
    let orchestrator = named(place, impatient(), "a");
    let held = orchestrator.inspect("workflow_execution:e").await.expect("an answer");
    let held = held.expect("its time is not past");
    assert!(held.expires_in <= Duration::from_secs(300), "{held:?}");
    let handle = orchestrator.lock("k").await.expect("it is free");
    let sql = format!("SELECT COUNT(*) FROM distributed_locks WHERE expires_at < {there}");
    assert_eq!(world.subject.one(&sql).await.as_deref(), Some("0"), "its cleaner deletes none");
    handle.release().await.expect("it was held");
}

#[test]
fn mysql_as_a_provider_is_the_database_if_it_is_one() {
    let config = || LockConfig { provider: "mysql".into(), ..LockConfig::default() };
    let sqlite = Orchestrator::with_lock_config(std::path::PathBuf::from("/nowhere"), config());
    assert_eq!(sqlite.err(), Some(LockConfigError::NoMySql));
    let settings = Settings::new("mysql://root@127.0.0.1:1/d".to_owned().into());
    assert!(Orchestrator::with_lock_config(settings, config()).is_ok());
}

#[tokio::test]
async fn an_sqlite_file_is_made_and_migrated_when_it_is_first_used() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("locks.db");
    let a = named(path.clone(), impatient(), "a");
    assert!(!path.exists(), "nothing is opened before it is needed");
    let handle = a.lock("k").await.expect("it is free");
    let pool = SqlitePool::connect(&format!("sqlite://{}", path.display())).await.expect("a pool");
    let b = named(&pool, impatient(), "b");
    let refused = b.lock("k").await.expect_err("a has it");
    assert!(
        matches!(&refused, LockError::AlreadyExists { owner, .. } if owner == "a"),
        "{refused}"
    );
    handle.release().await.expect("it was held");
    b.lock("k").await.expect("it is free").release().await.expect("it was held");
}

/// Two orchestrators on one table in memory.
fn two(config: LockConfig) -> (Orchestrator, Orchestrator) {
    let providers = ProviderRegistry::default();
    let config = LockConfig { provider: LockConfig::MEMORY.into(), ..config };
    let of = |name| {
        Orchestrator::builder(std::path::PathBuf::from("/nowhere"))
            .lock_config(config.clone())
            .owner(Owner::try_new(name).expect("a name"))
            .providers(providers.clone())
            .build()
            .expect("it is good")
    };
    (of("a"), of("b"))
}

#[tokio::test]
async fn in_memory_there_is_no_server_and_no_neighbour() {
    let (a, b) = (Orchestrator::in_memory(), Orchestrator::in_memory());
    let (of_a, of_b) = (a.lock("k").await, b.lock("k").await);
    assert!(of_a.is_ok_and(|handle| handle.is_held()));
    assert!(of_b.is_ok_and(|handle| handle.is_held()));
}

#[tokio::test]
async fn the_retry_settings_are_used_and_a_count_of_zero_is_no_retry() {
    let (a, b) = two(LockConfig {
        default_retry_count: 2,
        default_retry_delay: Duration::from_millis(5),
        ..LockConfig::default()
    });
    let handle = a.lock("k").await.expect("it is free");
    let refused = b.lock("k").await.expect_err("a has it");
    assert!(matches!(refused, LockError::Timeout { tries: 3, .. }), "{refused:?}");
    let once = LockOptions { retry_count: 0, ..b.locks().await.expect("locks").options() };
    let refused = b.lock_with("k", once).await.expect_err("a has it");
    assert_eq!(refused.kind(), LockErrorKind::AlreadyExists);
    handle.release().await.expect("it was held");
}

#[tokio::test]
async fn both_workflow_locks_have_the_keys_of_the_orchestrator() {
    let (a, b) = two(impatient());
    let execution = a.lock_workflow_execution("e").await.expect("it is free");
    let template = a.lock_workflow_template("t").await.expect("it is free");
    assert_eq!(execution.key(), "workflow_execution:e");
    assert_eq!(template.key(), "workflow_template:t");
    assert!(template.remaining() > Duration::from_secs(590), "ten minutes");
    let expected = LockOptions {
        ttl: Duration::from_secs(600),
        retry_count: 2,
        retry_delay: Duration::from_secs(5),
        auto_renew: true,
    };
    assert_eq!(LockOptions::TEMPLATE, expected);
    let refused = b.lock_workflow_execution("e").await.expect_err("a has it");
    for kind in [LockErrorKind::WorkflowAlreadyRunning, LockErrorKind::AlreadyExists] {
        assert!(LockError::is(&refused, kind), "{refused:?}");
    }
    execution.release().await.expect("it was held");
    template.release().await.expect("it was held");
}

#[tokio::test]
async fn whoever_asks_is_told_who_holds_a_key_and_for_how_long() {
    let (a, b) = two(impatient());
    assert_eq!(b.is_locked("k").await, Ok(None));
    let handle = a.lock("k").await.expect("it is free");
    assert_eq!(b.is_locked("k").await, Ok(Some("a".into())));
    let held = b.inspect("k").await.expect("an answer").expect("it is held");
    assert_eq!((held.owner.as_str(), held.fence), ("a", handle.fence()));
    assert!(held.expires_in <= Duration::from_secs(300) && held.age.is_some());
    handle.release().await.expect("it was held");
}

#[tokio::test]
async fn metrics_count_what_was_had_and_what_was_not() {
    let (a, b) = two(impatient());
    let outer = a.lock("k").await.expect("it is free");
    let inner = a.lock("k").await.expect("it is entered again");
    b.lock("k").await.expect_err("a has it");
    outer.release().await.expect("it was held");
    inner.release().await.expect("it was held");
    let text = a.metrics().encode();
    for line in [
        r#"orchestrator_worker_lease_acquire_total{result="acquired"} 1"#,
        r#"orchestrator_worker_lease_acquire_total{result="reentered"} 1"#,
        "orchestrator_worker_lease_acquire_duration_seconds_count 2",
        "orchestrator_worker_lease_hold_duration_seconds_count 1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
    }
    assert_eq!((b.metrics().acquires("held"), b.metrics().acquires("acquired")), (1, 0));
}

#[tokio::test]
async fn a_provider_of_ones_own_is_used_under_its_name() {
    let table = Arc::new(MemoryLocks::default());
    let mut providers = ProviderRegistry::default();
    let shared = table.clone();
    let make = move |_| {
        let provider: Arc<dyn LockProvider> = Arc::new(shared.beside());
        async { Ok(provider) }
    };
    providers.register("closet", make.clone()).expect("the name is free");
    assert_eq!(providers.register("closet", make), Err(NameTaken("closet".into())));
    let config = LockConfig { provider: "closet".into(), ..LockConfig::default() };
    let place = std::path::PathBuf::from("/nowhere");
    let refused = Orchestrator::with_lock_config(place.clone(), config.clone()).err();
    assert!(matches!(refused, Some(LockConfigError::Provider { .. })), "{refused:?}");
    let ours = Orchestrator::builder(place).lock_config(config).providers(providers).build();
    let handle = ours.expect("it is registered").lock("k").await.expect("it is free");
    assert!(table.is_locked(&super::key("k")).await.expect("an answer").is_some());
    handle.release().await.expect("it was held");
    assert_eq!(table.is_locked(&super::key("k")).await, Ok(None));
}

#[tokio::test]
async fn a_closed_orchestrator_takes_no_more_locks() {
    let (a, b) = two(impatient());
    drop(a.lock("k").await.expect("it is free"));
    a.close().await;
    // The release that was under way has been waited for.
    b.lock("k").await.expect("it is free").release().await.expect("it was held");
    assert_eq!(a.lock("k").await.expect_err("it is closed"), LockError::Closed);
    assert_eq!(a.is_locked("k").await, Err(LockError::Closed));
}

#[tokio::test]
async fn what_cannot_be_a_lock_is_refused_before_anybody_is_asked() {
    let (a, _) = two(impatient());
    for key in ["", &"k".repeat(256)] {
        assert_eq!(a.lock(key).await.expect_err("no key").kind(), LockErrorKind::Invalid);
    }
    let options = LockOptions { ttl: Duration::from_millis(1), ..LockOptions::TEMPLATE };
    let refused = a.lock_with("k", options).await.expect_err("no time");
    assert_eq!(refused.kind(), LockErrorKind::Invalid);
}
