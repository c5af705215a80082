//! Blows to pods that are at work, and who goes on with that work, and when.

use std::{collections::BTreeMap, time::Duration};

use sqlx::Row as _;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{
    kube::{Pod, seconds},
    stand::Stand,
};
use crate::{
    nemesis::{say, workload::ask},
    process::{CEILING, wait_until},
};

/// Pods stand on both nodes, and leave one that is lost within seconds.
pub const SETTINGS: &str = "replicas: 4
config:
  slots: 20
  drain_deadline: 5s
  lock: {ttl: 10s, renew_every: 2s}
  poison: {claims: 1000}
  database: {tls: insecure}
topologySpread:
  - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway}
tolerations:
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
";
pub const UNDER_WAY: i64 = 16;

/// Executions with the fence under which each is held.
pub type Held = BTreeMap<String, u64>;

/// What pods hold and work on, once each of them does.
pub async fn held(stand: &Stand, pods: &[Pod]) -> Held {
    let since = Instant::now();
    loop {
        let sql = "SELECT e.id, e.ow_fence, e.ow_owner FROM workflow_executions e WHERE e.status='running' \
                   AND EXISTS (SELECT 1 FROM ow_attempts a WHERE a.execution_id=e.id AND \
                               a.fence=e.ow_fence AND a.outcome IS NULL)";
        let rows = ask(&stand.url(), sql).await.expect("the tables");
        let of = |pod: &Pod| -> Held {
            let mine = rows.iter().filter(|row| row.get::<String, _>(2) == pod.name);
            mine.map(|row| (row.get(0), row.get(1))).collect()
        };
        let each: Vec<Held> = pods.iter().map(of).collect();
        if each.iter().all(|held| !held.is_empty()) {
            return each.into_iter().flatten().collect();
        }
        assert!(since.elapsed() < CEILING, "{pods:?} hold nothing");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until others have begun all of it again, or it has ended; how long after `struck` each began.
pub async fn goes_on(stand: &Stand, what: &str, held: &Held, struck: &str) {
    let since = Instant::now();
    let mut figures = Vec::new();
    for (id, fence) in held {
        let sql = format!(
            "SELECT e.status, CAST(TIMESTAMPDIFF(MICROSECOND, '{struck}', \
             (SELECT MIN(a.started_at) FROM ow_attempts a WHERE a.execution_id=e.id AND a.fence>{fence})) \
             AS SIGNED) FROM workflow_executions e WHERE e.id='{id}'"
        );
        loop {
            let rows = ask(&stand.url(), &sql).await.expect("the tables");
            let (status, began): (String, Option<i64>) = (rows[0].get(0), rows[0].get(1));
            if let Some(microseconds) = began {
                figures.push(Duration::from_micros(u64::try_from(microseconds).unwrap_or(0)));
                break;
            }
            if status != "running" {
                break;
            }
            assert!(since.elapsed() < CEILING, "{what}: nobody goes on with {id}");
            sleep(Duration::from_millis(100)).await;
        }
    }
    figures.sort();
    let shown: Vec<String> = figures.iter().map(|figure| seconds(*figure)).collect();
    say(&format!("{}: {what}: others went on after {}", stand.name, shown.join(", ")));
}

pub async fn now(stand: &Stand) -> String {
    stand.one("SELECT CAST(NOW(3) AS CHAR)").await
}

/// One that is ready, on this node if one is named.
pub fn one_of(stand: &Stand, node: Option<&str>) -> Pod {
    let is = |pod: &Pod| {
        pod.is_ready && pod.told_to_go.is_none() && node.is_none_or(|node| pod.node == node)
    };
    wait_until("a pod is ready", || stand.pods().into_iter().find(&is))
}

pub fn all_on(stand: &Stand, node: &str) -> Vec<Pod> {
    stand.pods().into_iter().filter(|pod| pod.node == node && pod.told_to_go.is_none()).collect()
}

/// Strikes pods that are at work, and waits until others go on with what they held.
pub async fn strike(stand: &Stand, what: &str, pods: &[Pod], blow: impl FnOnce()) {
    let held = held(stand, pods).await;
    let struck = now(stand).await;
    block_in_place(blow);
    goes_on(stand, what, &held, &struck).await;
}
