//! A node whose kubelet is dead: its pods go on running and renewing, for all that the API server takes
//! them for lost and has others started in their place.

use tokio::{task::block_in_place, time::Instant};

use super::{
    blows::{SETTINGS, UNDER_WAY, all_on, held, now},
    kube::{Pod, Watch, cluster_on, kubectl, seconds},
    stand::Stand,
};
use crate::{
    nemesis::{say, workload::LONG},
    process::wait_until,
};

const NODE: &str = "node2";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pods_whose_kubelet_is_dead_work_on_beside_their_replacements_until_it_is_back() {
    let stand = Stand::new("kubelet").await;
    block_in_place(|| {
        stand.install(&format!("{SETTINGS}kubernetes: {{deadOwnerWatch: true}}\n"));
    });
    let watch = Watch::start(stand.name);
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[LONG]).await;
    let left_alone = block_in_place(|| {
        stand.ready(4);
        all_on(&stand, NODE)
    });
    assert!(!left_alone.is_empty(), "the pods are spread");
    held(&stand, &left_alone).await;

    let dead = Instant::now();
    block_in_place(|| {
        cluster_on(NODE, &["stop", "kubelet"]);
        let not_ready = format!("--for=condition=Ready=Unknown node/{NODE}");
        let words: Vec<&str> = not_ready.split(' ').collect();
        kubectl(&[&["wait", "--timeout=2m"], &*words].concat());
        say(&format!("kubelet: its node was given up after {}", seconds(dead.elapsed())));
        wait_until("others stand in for its pods", || {
            let is_one = |pod: &&Pod| pod.is_ready && pod.told_to_go.is_none() && pod.node != NODE;
            (stand.pods().iter().filter(is_one).count() == 4).then_some(())
        });
        say(&format!("kubelet: four pods elsewhere were ready after {}", seconds(dead.elapsed())));
    });
    let replaced = now(&stand).await;
    for pod in &left_alone {
        works_on(&stand, pod, &replaced).await;
    }

    let back = Instant::now();
    block_in_place(|| {
        cluster_on(NODE, &["start", "kubelet"]);
        kubectl(&["wait", "--timeout=2m", "--for=condition=Ready", &format!("node/{NODE}")]);
        stand.ready(4);
        say(&format!("kubelet: all was whole {} after it was back", seconds(back.elapsed())));
    });
    let submitted = load.end().await;
    say(&format!("kubelet: {submitted} submitted"));
    stand.judge().await;
    for pod in &left_alone {
        let seen = watch.seen().into_iter().find(|it| it.uid == pod.uid).expect("it was watched");
        assert_eq!((seen.exit, seen.restarts), (Some(0), 0), "it drained in the end: {seen:?}");
    }
    let lost = "SELECT COUNT(*) FROM ow_attempts WHERE outcome='lost'";
    assert_eq!(stand.one::<i64>(lost).await, 0, "nothing was taken from anybody");
}

/// Waits until the pod has begun a step after that moment, and ended one well.
async fn works_on(stand: &Stand, pod: &Pod, since: &str) {
    let sql = format!(
        "SELECT 1 FROM ow_attempts WHERE owner='{}' AND started_at>'{since}' AND outcome='success' LIMIT 1",
        pod.name
    );
    stand.until_row(&sql).await;
    let held = "SELECT COUNT(*) FROM workflow_executions WHERE ow_owner";
    let held: i64 = stand.one(&format!("{held}='{}' AND status='running'", pod.name)).await;
    say(&format!("kubelet: {} works on, with {held} executions in its hands", pod.name));
}
