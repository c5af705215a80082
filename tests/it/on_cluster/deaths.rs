//! Pods and nodes that end without a word, and pods that are cut off and go on running.

use std::{collections::BTreeMap, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::Row as _;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{
    kube::{Pod, cluster, processes_of, seconds},
    stand::Stand,
};
use crate::{
    nemesis::{say, workload::ask},
    process::{CEILING, wait_until},
};

/// Pods stand on both nodes, and leave one that is lost within seconds.
const SETTINGS: &str = "replicas: 4
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
const UNDER_WAY: i64 = 16;
const SECOND_NODE: &str = "2";

/// Executions with the fence under which each is held.
type Held = BTreeMap<String, u64>;

/// What pods hold and work on, once each of them does.
async fn held(stand: &Stand, pods: &[Pod]) -> Held {
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
async fn goes_on(stand: &Stand, what: &str, held: &Held, struck: &str) {
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
    say(&format!("deaths: {what}: others went on after {}", shown.join(", ")));
}

async fn now(stand: &Stand) -> String {
    stand.one("SELECT CAST(NOW(3) AS CHAR)").await
}

/// One that is ready, on this node if one is named.
fn one_of(stand: &Stand, node: Option<&str>) -> Pod {
    let is = |pod: &Pod| {
        pod.is_ready && pod.told_to_go.is_none() && node.is_none_or(|node| pod.node == node)
    };
    wait_until("a pod is ready", || stand.pods().into_iter().find(&is))
}

fn all_on(stand: &Stand, node: &str) -> Vec<Pod> {
    stand.pods().into_iter().filter(|pod| pod.node == node && pod.told_to_go.is_none()).collect()
}

/// Strikes pods that are at work, and waits until others go on with what they held.
async fn strike(stand: &Stand, what: &str, pods: &[Pod], blow: impl FnOnce()) {
    let held = held(stand, pods).await;
    let struck = now(stand).await;
    block_in_place(blow);
    goes_on(stand, what, &held, &struck).await;
}

fn kill(pod: &Pod) {
    let pids = processes_of(pod);
    assert!(!pids.is_empty(), "{pod:?} has no process");
    for pid in pids {
        let pid = Pid::from_raw(pid).expect("not 0");
        kill_process(pid, Signal::KILL).expect("it is there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_death_of_a_container_a_pod_or_a_node_loses_or_doubles_work() {
    let stand = Stand::new("deaths").await;
    block_in_place(|| stand.install(SETTINGS));
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, true).await;

    let pod = block_in_place(|| one_of(&stand, None));
    strike(&stand, "kill -9 of a container", std::slice::from_ref(&pod), || kill(&pod)).await;
    block_in_place(|| {
        wait_until("the container is there again", || {
            stand.pods().into_iter().find(|it| it.uid == pod.uid && it.is_ready && it.restarts > 0)
        });
    });

    let pod = block_in_place(|| one_of(&stand, None));
    strike(&stand, "a forced delete", std::slice::from_ref(&pod), || {
        stand.kubectl(&["delete", "pod", &pod.name, "--force", "--grace-period=0"]);
    })
    .await;
    block_in_place(|| stand.ready(4));

    // Its pods go on running, and others start in their place.
    let cut_off = block_in_place(|| all_on(&stand, "node2"));
    strike(&stand, "a node that is unplugged", &cut_off, || cluster(&["unplug", SECOND_NODE]))
        .await;
    block_in_place(|| {
        cluster(&["plug", SECOND_NODE]);
        stand.ready(4);
    });

    let dark = block_in_place(|| {
        one_of(&stand, Some("node1"));
        // Whoever is on node1 alone is spread again.
        stand.kubectl(&["rollout", "restart", "deployment", super::stand::RELEASE]);
        stand.kubectl(&["rollout", "status", "deployment", super::stand::RELEASE, "--timeout=3m"]);
        stand.ready(4);
        all_on(&stand, "node2")
    });
    assert!(!dark.is_empty(), "node2 has pods again");
    strike(&stand, "a node without power", &dark, || cluster(&["crash-node", SECOND_NODE])).await;
    block_in_place(|| cluster(&["add-node", SECOND_NODE]));

    let submitted = load.end().await;
    say(&format!("deaths: {submitted} submitted"));
    stand.judge().await;
}
