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

/// Leases that stand longer than a cluster takes to give a node up, with the watch on.
pub fn of_long_leases() -> String {
    let settings = SETTINGS.replace("{ttl: 10s, renew_every: 2s}", "{ttl: 30s, renew_every: 5s}");
    format!("{settings}kubernetes: {{deadOwnerWatch: true}}\n")
}

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

/// What was taken over: how long after the blow that began again, and how long its lease had still stood then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TakenOver {
    pub after: Duration,
    lease_left: Duration,
}

impl TakenOver {
    /// Its lease had not stood its time.
    pub fn was_early(&self) -> bool {
        self.after < self.lease_left
    }
}

/// Where nobody can know whether those who were struck are dead.
pub fn none_was_early(taken: &[TakenOver]) {
    assert!(!taken.is_empty(), "something was taken over");
    assert!(!taken.iter().any(TakenOver::was_early), "{taken:?}");
}

fn of_microseconds(count: i64) -> Duration {
    Duration::from_micros(u64::try_from(count).unwrap_or(0))
}

/// How long after `struck` the leases end under which work is held, of those that are there.
async fn leases_left(stand: &Stand, held: &Held, struck: &str) -> BTreeMap<String, Duration> {
    let sql = format!(
        "SELECT e.id, l.ow_fence, CAST(TIMESTAMPDIFF(MICROSECOND, '{struck}', l.expires_at) AS SIGNED) \
         FROM distributed_locks l \
         JOIN workflow_executions e ON l.lock_key=CONCAT('workflow_execution:', e.id)"
    );
    let rows = ask(&stand.url(), &sql).await.expect("the tables");
    let left = rows.iter().map(|row| (row.get::<String, _>(0), row.get(1), row.get(2)));
    let theirs = left.filter(|(id, fence, _)| held.get(id) == Some(fence));
    theirs.map(|(id, _, left)| (id, of_microseconds(left))).collect()
}

/// Waits until others have begun all of it again, or it has ended; what of it they began after `struck`.
async fn goes_on(
    stand: &Stand,
    what: &str,
    held: &Held,
    struck: &str,
    lease_left: &BTreeMap<String, Duration>,
) -> Vec<TakenOver> {
    let since = Instant::now();
    let mut taken = Vec::new();
    for (id, fence) in held {
        let sql = format!(
            "SELECT e.status, CAST(TIMESTAMPDIFF(MICROSECOND, '{struck}', \
             (SELECT MIN(a.started_at) FROM ow_attempts a WHERE a.execution_id=e.id AND a.fence>{fence})) \
             AS SIGNED) FROM workflow_executions e WHERE e.id='{id}'"
        );
        loop {
            let rows = ask(&stand.url(), &sql).await.expect("the tables");
            let (status, began): (String, Option<i64>) = (rows[0].get(0), rows[0].get(1));
            if let Some(began) = began {
                let lease_left = lease_left.get(id).copied().unwrap_or_default();
                taken.push(TakenOver { after: of_microseconds(began), lease_left });
                break;
            }
            if status != "running" {
                break;
            }
            assert!(since.elapsed() < CEILING, "{what}: nobody goes on with {id}");
            sleep(Duration::from_millis(100)).await;
        }
    }
    taken.sort();
    let shown: Vec<String> = taken.iter().map(|it| seconds(it.after)).collect();
    say(&format!("{}: {what}: others went on after {}", stand.name, shown.join(", ")));
    taken
}

/// What the rows say of the attempts that this pod has lost.
pub async fn causes(stand: &Stand, pod: &Pod) -> Vec<String> {
    let sql = format!(
        "SELECT DISTINCT cause FROM ow_attempts WHERE owner='{}' AND outcome='lost'",
        pod.name
    );
    let rows = ask(&stand.url(), &sql).await.expect("the tables");
    let its_node = format!("node {}", pod.node);
    rows.iter().map(|row| row.get::<String, _>(0).replace(&its_node, "its node")).collect()
}

/// By the clock of the database.
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
pub async fn strike(
    stand: &Stand,
    what: &str,
    pods: &[Pod],
    blow: impl FnOnce(),
) -> Vec<TakenOver> {
    let held = held(stand, pods).await;
    let struck = now(stand).await;
    // A lease that is given back is not there afterwards, one that was renewed meanwhile stands longer.
    let mut lease_left = leases_left(stand, &held, &struck).await;
    block_in_place(blow);
    lease_left.extend(leases_left(stand, &held, &struck).await);
    goes_on(stand, what, &held, &struck, &lease_left).await
}
