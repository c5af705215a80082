//! Back to the version before, on tables that the version after it has migrated.

use tokio::task::block_in_place;

use super::{
    kube::seconds,
    stand::{RELEASE, Stand},
};
use crate::nemesis::say;

const SETTINGS: &str = "config:
  drain_deadline: 8s
  lock: {ttl: 10s, renew_every: 2s}
  database: {tls: insecure}
";
/// What a later version's migration would do: it adds, and says who may still read.
const NEXT_VERSION: &str = "ALTER TABLE workflow_executions ADD COLUMN ow_next INT NULL, ADD KEY ow_next (ow_next); \
                            CREATE TABLE ow_next (id INT PRIMARY KEY); \
                            UPDATE ow_meta SET version=version+1";
const UNDER_WAY: i64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_version_before_works_on_tables_that_the_next_has_migrated() {
    let stand = Stand::new("rollback").await;
    let version = "SELECT CAST(version AS SIGNED) FROM ow_meta";
    block_in_place(|| stand.install(SETTINGS));
    stand.apply_workload().await;
    let ours: i64 = stand.one(version).await;
    let load = stand.load(UNDER_WAY, &[]).await;
    let next = block_in_place(|| {
        stand.install(&format!("{SETTINGS}podAnnotations: {{version: next}}\n"));
        stand.ready(2)
    });
    stand.exec(NEXT_VERSION).await;

    block_in_place(|| {
        let began = tokio::time::Instant::now();
        stand.helm(&["rollback", RELEASE, "1", "--wait", "--timeout", "3m"]);
        let former = stand.ready(2);
        say(&format!("rollback: ready on the newer tables after {}", seconds(began.elapsed())));
        assert!(former.iter().all(|pod| next.iter().all(|it| it.uid != pod.uid)), "new pods");
        assert!(former.iter().all(|pod| pod.restarts == 0), "{former:?}");
        let tested = stand.helm(&["test", RELEASE, "--logs"]);
        assert!(tested.contains("no problem"), "{tested}");
        let newer = format!("version {}, for workers of schema {ours} and later", ours + 1);
        assert!(tested.contains(&newer), "{tested}");

        // Whoever goes back by an upgrade has the former version's migration run on these tables.
        stand.install(&format!("{SETTINGS}podAnnotations: {{version: former}}\n"));
        stand.ready(2);
    });
    assert_eq!(stand.one::<i64>(version).await, ours + 1, "the former version took nothing back");
    let last = format!(
        "SELECT 1 FROM ow_attempts WHERE owner='{}' AND outcome='success' LIMIT 1",
        block_in_place(|| stand.pods().remove(0)).name
    );
    stand.until_row(&last).await;
    let submitted = load.end().await;
    say(&format!("rollback: {submitted} submitted"));
    stand.judge().await;
}
