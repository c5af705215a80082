//! `migrate` on tables that an orchestrator has made, filled and goes on using.
//!
//! **Invariant:** those tables are as its own auto-migration makes them, read off both servers: in one
//! of its versions with foreign keys, in a later one without. Nothing of ours is there before `migrate`.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_worker::{
    domain::id::ExecutionId,
    ports::{
        control::{Control, MigrationStep},
        executions::{Advance, Advanced, ExecutionStore},
    },
};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, raw_sql};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{Database, Server};
use crate::{
    contract::{Subject, world::*, writes::*},
    nemesis::say,
};

const WITH_KEYS: &str = include_str!("migration/with_foreign_keys.sql");
const WITHOUT_KEYS: &str = include_str!("migration/without_foreign_keys.sql");
const ROWS: &str = include_str!("migration/rows.sql");

/// Its tables, each with the columns that it names in its statements.
const TABLES: [(&str, &str); 6] = [
    (
        "steps",
        "id, name, description, parameters, creator_email, exception_type, executor_type, \
         http_method, http_url, http_headers, http_body, shell_script, shell_env, timeout, retries, \
         created_at, updated_at",
    ),
    (
        "workflow_templates",
        "id, name, description, creator_email, is_active, created_at, updated_at",
    ),
    (
        "workflow_template_steps",
        "id, template_id, step_id, dependencies, run_mode, on_failure, `order`, created_at",
    ),
    (
        "workflow_executions",
        "id, template_id, status, started_at, finished_at, duration, error, created_by, \
         created_at, updated_at",
    ),
    (
        "workflow_step_executions",
        "id, execution_id, step_id, status, output, error, started_at, finished_at, duration, \
         retry_count, created_at, updated_at",
    ),
    ("distributed_locks", "id, lock_key, owner, expires_at, created_at, updated_at"),
];

/// What its auto-migration looks at, and more: columns, keys, foreign keys.
const SCHEMA: [&str; 4] = [
    "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLUMN_DEFAULT, COLLATION_NAME, \
     COLUMN_COMMENT, EXTRA FROM information_schema.COLUMNS WHERE TABLE_SCHEMA=DATABASE()",
    "SELECT TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX, COLUMN_NAME, SUB_PART, NON_UNIQUE \
     FROM information_schema.STATISTICS WHERE TABLE_SCHEMA=DATABASE()",
    "SELECT TABLE_NAME, CONSTRAINT_NAME, REFERENCED_TABLE_NAME, UPDATE_RULE, DELETE_RULE \
     FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA=DATABASE()",
    "SELECT TABLE_NAME, ENGINE, TABLE_COLLATION FROM information_schema.TABLES \
     WHERE TABLE_SCHEMA=DATABASE()",
];

/// The statements of a file.
fn statements(file: &str) -> impl Iterator<Item = &str> {
    file.split(";\n").map(str::trim).filter(|sql| !sql.is_empty())
}

async fn run_all<S: Server>(database: &Database<S>, file: &str) {
    for sql in statements(file) {
        database.exec(sql).await;
    }
}

async fn made<S: Server>(tables: &str) -> Database<S> {
    let database = Database::<S>::create().await;
    run_all(&database, tables).await;
    run_all(&database, ROWS).await;
    database
}

/// Everything in [`SCHEMA`], one text a row.
async fn schema<S: Server>(database: &Database<S>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for sql in SCHEMA {
        all.extend(database.rows(sql).await.iter().map(|row| format!("{row:?}")));
    }
    all
}

/// Every value that the orchestrator has written.
async fn values<S: Server>(database: &Database<S>) -> Vec<String> {
    let mut all = Vec::new();
    for (table, columns) in TABLES {
        let sql = format!("SELECT {columns} FROM {table} ORDER BY id");
        all.extend(database.rows(&sql).await.iter().map(|row| format!("{table}: {row:?}")));
    }
    all
}

fn names(steps: &[MigrationStep]) -> Vec<&str> {
    steps.iter().map(|step| step.what.as_str()).collect()
}

/// An orchestrator's own session: with the server's settings and its own isolation.
async fn orchestrator_of<S: Server>(database: &Database<S>) -> MySqlConnection {
    MySqlConnection::connect(&database.url(None)).await.expect("a connection")
}

/// Runs a statement of the orchestrator's; returns how many rows it met.
async fn send(connection: &mut MySqlConnection, sql: &str) -> u64 {
    let done = raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
}

const NIGHTLY: &str = "22222222-0000-4000-8000-000000000001";
const PENDING: &str = "44444444-0000-4000-8000-000000000001";

/// What an orchestrator sends to create an execution.
fn creation(execution: &str) -> [String; 2] {
    let of_step = |n: u8| {
        format!(
            "(UUID(), '{execution}', '11111111-0000-4000-8000-00000000000{n}', 'pending', '', '', \
             NULL, NULL, 0, 0, NOW(3), NOW(3))"
        )
    };
    [
        format!(
            "INSERT INTO `workflow_executions` (`id`,`template_id`,`status`,`started_at`,\
             `finished_at`,`duration`,`error`,`created_by`,`created_at`,`updated_at`) VALUES \
             ('{execution}', '{NIGHTLY}', 'pending', NULL, NULL, 0, '', 'ann', NOW(3), NOW(3))"
        ),
        format!(
            "INSERT INTO `workflow_step_executions` (`id`,`execution_id`,`step_id`,`status`,\
             `output`,`error`,`started_at`,`finished_at`,`duration`,`retry_count`,`created_at`,\
             `updated_at`) VALUES {}, {}",
            of_step(1),
            of_step(2)
        ),
    ]
}

/// What it sends to run one of two steps, each statement with the rows that it meets.
fn running(execution: &str) -> [(String, u64); 10] {
    let key = format!("workflow_execution:{execution}");
    let step = |set: &str| {
        format!(
            "UPDATE `workflow_step_executions` SET {set}, `updated_at`=NOW(3) WHERE \
             execution_id = '{execution}' AND step_id = '11111111-0000-4000-8000-000000000001'"
        )
    };
    let set = |set: &str| {
        format!(
            "UPDATE `workflow_executions` SET {set}, `updated_at`=NOW(3) WHERE id = '{execution}'"
        )
    };
    let lock = |set: &str| {
        format!(
            "UPDATE `distributed_locks` SET {set}, `updated_at`=NOW(3) WHERE lock_key = '{key}' \
             AND owner = 'go-1'"
        )
    };
    [
        ("DELETE FROM `distributed_locks` WHERE expires_at < NOW(3) - INTERVAL 1 YEAR".into(), 0),
        (
            format!(
                "INSERT INTO `distributed_locks` (`lock_key`,`owner`,`expires_at`,`created_at`,\
                 `updated_at`) VALUES ('{key}', 'go-1', NOW(3) + INTERVAL 5 MINUTE, NOW(3), NOW(3))"
            ),
            1,
        ),
        (set("`started_at`=NOW(3), `status`='running'"), 1),
        (lock("`expires_at`=NOW(3) + INTERVAL 10 MINUTE"), 1),
        (step("`started_at`=NOW(3), `status`='running'"), 1),
        (step("`finished_at`=NOW(3), `output`='ok', `status`='success', `duration`=3"), 1),
        (set("`duration`=7, `finished_at`=NOW(3), `status`='success'"), 1),
        (format!("DELETE FROM `distributed_locks` WHERE lock_key = '{key}' AND owner = 'go-1'"), 1),
        (format!("DELETE FROM `workflow_step_executions` WHERE execution_id = '{execution}'"), 2),
        (format!("DELETE FROM `workflow_executions` WHERE id = '{execution}'"), 1),
    ]
}

/// An orchestrator does all that it ever does to an execution, and to definitions.
async fn goes_on_as_before<S: Server>(database: &Database<S>) {
    let mut go = orchestrator_of(database).await;
    let execution = uuid::Uuid::new_v4().to_string();
    send(&mut go, "BEGIN").await;
    for sql in creation(&execution) {
        send(&mut go, &sql).await;
    }
    send(&mut go, "COMMIT").await;
    for (sql, met) in running(&execution) {
        assert_eq!(send(&mut go, &sql).await, met, "{sql}");
    }
    for (table, columns) in &TABLES[..3] {
        // Names of columns as values: a row like the first but for its id.
        let others = columns.trim_start_matches("id, ");
        let sql = format!(
            "INSERT INTO {table} ({columns}) SELECT 'mine', {others} FROM {table} ORDER BY id LIMIT 1"
        );
        assert_eq!(send(&mut go, &sql).await, 1);
        assert_eq!(send(&mut go, &format!("DELETE FROM {table} WHERE id='mine'")).await, 1);
    }
    let listed = database
        .rows(
            "SELECT e.id, e.status, COUNT(se.id) AS total FROM workflow_executions e LEFT JOIN \
             workflow_step_executions se ON e.id = se.execution_id GROUP BY e.id",
        )
        .await;
    assert!(listed.len() >= 4, "{listed:?}");
}

/// A worker takes what is due and is not the orchestrator's, and runs it to its end.
async fn a_worker_works<S: Server>(database: &Database<S>) {
    let store = database.store().await;
    let claim = claim_one(&store, "a").await;
    assert_eq!(claim.lease.execution.as_str(), PENDING);
    let end = Advance {
        ended: vec![succeeded(&claim, "fetch")],
        started: vec![start(&claim, "größe")],
        ..advance(&claim)
    };
    assert_eq!(crate::contract::writes::send(&store, &end).await, Ok(Advanced::Recorded));
    assert!(is_nothing(&store.claim(&who("b"), 10).await.expect("a claim")));
    let held = store.survey().await.expect("a survey");
    assert_eq!(held.len(), 1, "{held:?}");
}

pub async fn what_an_orchestrator_has_made_is_added_to_and_it_goes_on<S: Server>() {
    for tables in [WITH_KEYS, WITHOUT_KEYS] {
        let database = made::<S>(tables).await;
        let (before, rows) = (schema(&database).await, values(&database).await);
        let store = database.store().await;
        let announced = store.migrate(true).await.expect("a dry run");
        assert!(announced.iter().all(|step| step.took.is_none()), "{announced:?}");
        assert_eq!(schema(&database).await, before, "a dry run changes nothing");

        let done = store.migrate(false).await.expect("a migration");
        assert_eq!(names(&done), names(&announced));
        assert!(!names(&done).iter().any(|what| what.starts_with("create table work")), "{done:?}");
        let after = schema(&database).await;
        let lost: Vec<&String> = before.difference(&after).collect();
        assert_eq!(lost, Vec::<&String>::new(), "nothing is dropped or changed");
        let added = after.difference(&before);
        assert!(added.clone().all(|it| it.contains("ow_")), "{added:?}");
        assert_eq!(values(&database).await, rows, "what it wrote stays");
        assert_eq!(store.migrate(false).await, Ok(Vec::new()));
        assert_eq!(store.migrate(true).await, Ok(Vec::new()));

        goes_on_as_before(&database).await;
        a_worker_works(&database).await;
        goes_on_as_before(&database).await;
    }
}

pub async fn two_migrations_beside_an_orchestrator_do_each_step_once<S: Server>() {
    let database = made::<S>(WITH_KEYS).await;
    let (a, b) = (database.store().await, database.store().await);
    let announced = a.migrate(true).await.expect("a dry run");
    let mut go = orchestrator_of(&database).await;
    let execution = uuid::Uuid::new_v4().to_string();
    let beside = async {
        for sql in creation(&execution) {
            send(&mut go, &sql).await;
        }
        for (sql, met) in running(&execution) {
            assert_eq!(send(&mut go, &sql).await, met, "{sql}");
        }
    };
    let (of_a, of_b, ()) = tokio::join!(a.migrate(false), b.migrate(false), beside);
    let mut all = of_a.expect("a migration");
    all.extend(of_b.expect("a migration"));
    assert_eq!(names(&all), names(&announced));
    a_worker_works(&database).await;
}

/// The block of statements that follows `before` on the page for those who come from the Go service.
fn told(before: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/coming-from-the-go-service.md");
    let page = std::fs::read_to_string(path).expect("there is a page");
    let (_, rest) = page.split_once(before).expect("a sentence");
    let (block, _) =
        rest.split_once("```sql\n").and_then(|(_, it)| it.split_once("```")).expect("a block");
    block.to_owned()
}

pub async fn the_way_back_leaves_an_orchestrators_tables_as_they_were<S: Server>() {
    for tables in [WITH_KEYS, WITHOUT_KEYS] {
        let database = made::<S>(tables).await;
        let before = schema(&database).await;
        let store = database.store().await;
        store.migrate(false).await.expect("a migration");
        store.guard(false).await.expect("a guard");
        a_worker_works(&database).await;
        let rows = values(&database).await;
        run_all(&database, &told("deletes leave their rows in `ow_attempts`")).await;
        run_all(&database, &told("This removes every trace")).await;
        if tables == WITHOUT_KEYS {
            run_all(&database, &told("has a key `ow_execution`")).await;
        }
        assert_eq!(schema(&database).await, before);
        assert_eq!(values(&database).await, rows, "no value of the orchestrator's is lost");
        goes_on_as_before(&database).await;

        let again = database.store().await.migrate(false).await.expect("a migration");
        assert!(!again.is_empty());
        let id = ExecutionId::from(PENDING);
        assert!(store.show(&id).await.is_ok());
    }
}

/// How many executions there are, how many locks.
fn scale() -> (u32, u32) {
    let soak = std::env::var_os("ORCHESTRATOR_TEST_SCALE").is_some_and(|scale| scale == "soak");
    if soak { (1_000_000, 10_000) } else { (5_000, 500) }
}

/// Longer than any statement of an orchestrator waits for a migration: an ALTER that meets a long
/// transaction steps aside after 3 s, and those that came meanwhile have waited behind it.
const CEILING: Duration = Duration::from_secs(10);

/// So many numbers, from 0.
fn numbers(count: u32) -> String {
    let digit = "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION \
                 SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
    format!(
        "(SELECT a.d+10*b.d+100*c.d+1000*d.d+10000*e.d+100000*f.d n FROM {digit} a, {digit} b, \
         {digit} c, {digit} d, {digit} e, {digit} f) numbers WHERE n < {count}"
    )
}

/// Executions of a year, most of them ended, each with a step.
async fn fill<S: Server>(database: &Database<S>, executions: u32, locks: u32) {
    database
        .exec(&format!(
            "INSERT INTO workflow_executions ({}) SELECT CONCAT('e-', LPAD(n, 10, '0')), \
             '{NIGHTLY}', ELT(1 + n MOD 5, 'success', 'success', 'failed', 'cancelled', 'pending'), \
             NOW(3), NOW(3), 17, '', 'ann', NOW(3) - INTERVAL n MOD 31536000 SECOND, NOW(3) FROM {}",
            TABLES[3].1,
            numbers(executions)
        ))
        .await;
    database
        .exec(&format!(
            "INSERT INTO workflow_step_executions ({}) SELECT CONCAT('s-', LPAD(n, 10, '0')), \
             CONCAT('e-', LPAD(n, 10, '0')), '11111111-0000-4000-8000-000000000001', 'success', \
             REPEAT('line of output\\n', 8), '', NOW(3), NOW(3), 17, 0, NOW(3), NOW(3) FROM {}",
            TABLES[4].1,
            numbers(executions)
        ))
        .await;
    database
        .exec(&format!(
            "INSERT INTO distributed_locks (lock_key, owner, expires_at, created_at, updated_at) \
             SELECT CONCAT('of-', n), 'go-1', NOW(3) + INTERVAL 1 DAY, NOW(3), NOW(3) FROM {}",
            numbers(locks)
        ))
        .await;
}

/// An orchestrator that creates, runs and deletes executions one after the other until it is told to
/// stop, and tells how many so far; returns the longest that one of its statements took.
async fn busy(
    mut go: MySqlConnection,
    rounds: watch::Sender<u32>,
    stop: Arc<AtomicBool>,
) -> (Duration, String) {
    let (mut longest, mut which) = (Duration::ZERO, String::new());
    while !stop.load(Ordering::Acquire) {
        let execution = uuid::Uuid::new_v4().to_string();
        let created = creation(&execution).into_iter();
        let all = created.chain(running(&execution).into_iter().map(|(sql, _)| sql));
        for sql in all {
            let began = Instant::now();
            send(&mut go, &sql).await;
            let took = began.elapsed();
            if took > longest {
                (longest, which) = (took, sql);
            }
        }
        rounds.send_modify(|rounds| *rounds += 1);
    }
    (longest, which)
}

/// Waits until it has run so many more; returns how many it has run. One that has failed runs no more.
async fn more(rounds: &mut watch::Receiver<u32>, count: u32) -> u32 {
    let enough = *rounds.borrow() + count;
    rounds.wait_for(|rounds| *rounds >= enough).await.ok();
    *rounds.borrow()
}

pub async fn an_orchestrator_is_not_kept_waiting_while_its_tables_are_migrated<S: Server>() {
    let (executions, locks) = scale();
    let database = made::<S>(WITH_KEYS).await;
    fill(&database, executions, locks).await;
    let (told, mut rounds) = watch::channel(0);
    let stop = Arc::new(AtomicBool::new(false));
    let mut orchestrator = JoinSet::new();
    orchestrator.spawn(busy(orchestrator_of(&database).await, told, stop.clone()));
    let before = more(&mut rounds, 1).await;
    let began = Instant::now();
    let done = database.store().await.migrate(false).await.expect("a migration");
    let took = began.elapsed();
    let meanwhile = *rounds.borrow() - before;
    more(&mut rounds, 2).await;
    stop.store(true, Ordering::Release);
    let ended = orchestrator.join_next().await.expect("there is one");
    let (longest, which) = ended.expect("none of its statements failed");
    say(&format!("{executions} executions with a step each, {locks} locks: {took:.2?}"));
    for MigrationStep { what, took } in &done {
        say(&format!("{:>10.2?}  {what}", took.expect("it was done")));
    }
    say(&format!(
        "{meanwhile} executions meanwhile; the longest statement took {longest:.2?}: {which}"
    ));
    assert!(meanwhile > 0, "it was kept waiting for the whole migration");
    assert!(longest < CEILING, "{longest:?} for {which}");
    let left = database.one("SELECT COUNT(*) FROM workflow_executions").await;
    assert_eq!(left, Some((executions + 4).to_string()));
    let undue = "SELECT COUNT(*) FROM workflow_executions WHERE ow_due IS NULL OR ow_fence <> 0";
    assert_eq!(database.one(undue).await.as_deref(), Some("0"));
}
