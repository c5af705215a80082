//! What a large backlog costs: nothing. The servers' own counts of rows read say so.

use async_trait::async_trait;
use orchestrator_worker::{
    domain::eligibility::Eligibility,
    ports::{control::Control, executions::ExecutionStore},
};

use super::{Database, MariaDb, MySql, Server};
use crate::contract::{Subject, world::*};

/// Counts the rows that were read of `workflow_executions`.
#[async_trait]
pub trait Counting: Server {
    async fn begin(database: &Database<Self>)
    where
        Self: Sized;
    /// Rows read since the last call by whatever speaks to this database.
    async fn rows_read(database: &Database<Self>) -> u64
    where
        Self: Sized;
}

#[async_trait]
impl Counting for MySql {
    async fn begin(_: &Database<Self>) {}

    async fn rows_read(database: &Database<Self>) -> u64 {
        let sql = "SELECT COUNT_READ FROM performance_schema.table_io_waits_summary_by_table \
                   WHERE OBJECT_SCHEMA=DATABASE() AND OBJECT_NAME='workflow_executions'";
        number(database, sql).await
    }
}

#[async_trait]
impl Counting for MariaDb {
    /// Every connection counts from its begin on.
    async fn begin(database: &Database<Self>) {
        database.exec("SET GLOBAL userstat=1").await;
    }

    async fn rows_read(database: &Database<Self>) -> u64 {
        let sql = "SELECT SUM(ROWS_READ) FROM information_schema.TABLE_STATISTICS \
                   WHERE TABLE_SCHEMA=DATABASE() AND TABLE_NAME='workflow_executions'";
        number(database, sql).await
    }
}

async fn number<S: Server>(database: &Database<S>, sql: &str) -> u64 {
    database.one(sql).await.map_or(0, |text| text.parse().expect("a number"))
}

pub async fn a_claim_reads_no_row_of_a_held_backlog<S: Counting>() {
    const HELD: u64 = 4_000;
    let database = Database::<S>::make().await;
    S::begin(&database).await;
    let store = database.store().await;
    store.migrate(false).await.expect("it is migrated");
    let world = World { a: database.store().await, b: store, subject: database };
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    let many = format!(
        "INSERT INTO workflow_executions(id, template_id, status, created_at, updated_at) \
         WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n+1 FROM n WHERE n < 1000) \
         SELECT CONCAT(:part, '-', n), '{template}', 'pending', NOW(3) - INTERVAL 30 DAY, NOW(3) \
         FROM n"
    );
    for part in 0..HELD / 1000 {
        world.subject.exec(&many.replace(":part", &part.to_string())).await;
    }
    world.subject.exec("ANALYZE TABLE workflow_executions").await;
    let before = S::rows_read(&world.subject).await;
    for _ in 0..3 {
        world.submit(&template).await;
    }
    assert_eq!(claims(world.a.claim(&who("a"), 10).await.expect("a claim")).len(), 3);
    for _ in 0..5 {
        assert!(is_nothing(&world.a.claim(&who("a"), 10).await.expect("a claim")));
    }
    let read = S::rows_read(&world.subject).await - before;
    assert!((3..200).contains(&read), "{read} rows were read");
    let queue = world.a.queue(&Eligibility::default()).await.expect("numbers");
    assert_eq!((queue.due, queue.backlog), (0, HELD));
}
