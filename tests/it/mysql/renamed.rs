//! A database whose lock table is called otherwise, and by a word that has to be quoted.

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    domain::{
        doctor::{Repaired, View, diagnose, grants},
        lock_table::LockTable,
    },
    ports::control::Control,
};
use secrecy::SecretString;

use super::{Database, Server};
use crate::{
    contract::{
        Row, Subject,
        doctor::{problems, view},
        world::*,
    },
    process::{Worker, json, run},
};

const NAME: &str = "order";
const VARIABLE: (&str, &str) = ("ORCHESTRATOR_WORKER__LOCK__TABLE", NAME);

/// Strangers say its usual name, and mean this table.
pub struct Renamed<S: Server>(Database<S>);

fn lock_table() -> LockTable {
    LockTable::try_new(NAME).expect("a name")
}

async fn open(url: &str) -> MySqlStore {
    let lock_table = lock_table();
    let settings = Settings { lock_table, ..Settings::new(SecretString::from(url)) };
    MySqlStore::open(settings).await.expect("a store")
}

#[async_trait]
impl<S: Server> Subject for Renamed<S> {
    type Store = MySqlStore;

    async fn create() -> Self {
        Self(Database::make().await)
    }

    async fn store(&self) -> MySqlStore {
        open(&self.0.url(None)).await
    }

    async fn exec(&self, sql: &str) -> u64 {
        self.0.exec(&lock_table().named(sql)).await
    }

    async fn rows(&self, sql: &str) -> Vec<Row> {
        self.0.rows(&lock_table().named(sql)).await
    }

    fn now() -> &'static str {
        Database::<S>::now()
    }

    fn moved(time: &str, milliseconds: i64) -> String {
        Database::<S>::moved(time, milliseconds)
    }
}

pub async fn doctor_and_grants_name_the_lock_table_as_it_is_called<S: Server>() {
    let world = World::<Renamed<S>>::new().await;
    let url = world.subject.0.user("").await;
    let name = world.subject.one("SELECT DATABASE()").await.expect("a name");
    let all = grants(world.subject.0.user_name(), &format!("`{name}`"), false, &lock_table());
    assert!(all.iter().all(|grant| !grant.contains(LockTable::USUAL)), "{all:?}");
    for grant in &all {
        world.subject.0.exec(grant).await;
    }
    assert_eq!(problems(&open(&url).await.examine().await), [], "they are all that it needs");

    world.subject.exec("ALTER TABLE distributed_locks DROP INDEX ow_expires").await;
    world.subject.exec("DROP INDEX idx_distributed_locks_lock_key ON distributed_locks").await;
    let view = View { lock_table: lock_table(), ..view() };
    let facts = world.subject.store().await.examine().await;
    let found = diagnose(&facts, &view, &Repaired::default());
    let texts: Vec<String> = found
        .iter()
        .filter(|it| it.check == "indexes")
        .map(|it| format!("{}; {}", it.found, it.repair.as_deref().unwrap_or_default()))
        .collect();
    let [expires, lock_key] = &texts[..] else { panic!("{texts:?}") };
    assert_eq!(
        expires,
        "`order` has no ow_expires; CREATE INDEX ow_expires ON `order` (expires_at)"
    );
    assert!(lock_key.starts_with("`order` has no unique key over lock_key alone"), "{lock_key}");
    assert!(lock_key.ends_with("ALTER TABLE `order` ADD UNIQUE KEY (lock_key)"), "{lock_key}");
}

/// An orchestrator that was told another name may have left the usual table behind.
pub async fn a_table_of_the_usual_name_beside_it_is_left_alone<S: Server>() {
    let database = Database::<S>::make().await;
    let url = database.url(None);
    assert!(run(&url, ["migrate"]).status.success());
    let row = "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) \
               VALUES ('k', 'go', NOW(3), NOW(3), NOW(3))";
    database.exec(row).await;
    let before = database.rows("SELECT * FROM distributed_locks").await;

    let store = open(&url).await;
    let steps = store.migrate(false).await.expect("it is migrated");
    let steps: Vec<String> = steps.into_iter().map(|step| step.what).collect();
    assert_eq!(
        steps,
        ["create table `order`", "add the worker's columns and the key ow_expires to `order`"]
    );
    assert_eq!(store.migrate(false).await, Ok(Vec::new()));

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("w.yaml");
    std::fs::write(&file, "name: w\nsteps: [{name: a, func: noop}]").expect("it can be written");
    json(&url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    let worker = Worker::start(&url, "a", &[VARIABLE]);
    assert!(run(&url, ["submit", "--wait", "w"]).status.success());
    drop(worker);
    assert_eq!(database.one("SELECT owner FROM `order`").await.as_deref(), Some("~finished"));
    assert_eq!(database.rows("SELECT * FROM distributed_locks").await, before);
}
