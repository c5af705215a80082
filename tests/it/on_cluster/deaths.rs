//! Containers and nodes that end without a word, and pods that are cut off and go on running: what is on a node that
//! is lost is never taken before its leases have stood their time, whatever the API server says of it.

use std::collections::BTreeSet;

use rustix::process::Signal;
use tokio::task::block_in_place;

use super::{
    blows::{UNDER_WAY, all_on, causes, none_was_early, of_long_leases, one_of, strike},
    kube::{Pod, cluster, signal},
    stand::{RELEASE, Stand},
};
use crate::{
    nemesis::{say, workload::LONG},
    process::wait_until,
};

const SECOND_NODE: &str = "2";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_death_of_a_container_or_a_node_loses_or_doubles_work() {
    let stand = Stand::new("deaths").await;
    block_in_place(|| {
        stand.install(&of_long_leases());
    });
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[LONG]).await;

    let pod = block_in_place(|| one_of(&stand, Some("node1")));
    strike(&stand, "kill -9 of a container", std::slice::from_ref(&pod), || {
        signal(&pod, Signal::KILL);
    })
    .await;
    block_in_place(|| {
        wait_until("the container is there again", || {
            stand.pods().into_iter().find(|it| it.uid == pod.uid && it.is_ready && it.restarts > 0)
        });
    });

    // Its pods go on running, and others start in their place.
    let cut_off = block_in_place(|| all_on(&stand, "node2"));
    let unplug = || cluster(&["unplug", SECOND_NODE]);
    is_lost(&stand, "a node that is unplugged", &cut_off, unplug).await;
    block_in_place(|| {
        cluster(&["plug", SECOND_NODE]);
        stand.ready(4);
    });

    let dark = block_in_place(|| {
        one_of(&stand, Some("node1"));
        // Whoever is on node1 alone is spread again.
        stand.kubectl(&["rollout", "restart", "deployment", RELEASE]);
        stand.kubectl(&["rollout", "status", "deployment", RELEASE, "--timeout=3m"]);
        stand.ready(4);
        all_on(&stand, "node2")
    });
    assert!(!dark.is_empty(), "node2 has pods again");
    let crash = || cluster(&["crash-node", SECOND_NODE]);
    is_lost(&stand, "a node without power", &dark, crash).await;
    block_in_place(|| cluster(&["add-node", SECOND_NODE]));

    let submitted = load.end().await;
    say(&format!("deaths: {submitted} submitted"));
    stand.judge().await;
}

/// Strikes the node of these pods, of which nobody hears from then on.
async fn is_lost(stand: &Stand, what: &str, pods: &[Pod], blow: impl FnOnce()) {
    none_was_early(&strike(stand, what, pods, blow).await);
    let mut seen = BTreeSet::new();
    for pod in pods {
        seen.extend(causes(stand, pod).await);
    }
    assert_eq!(seen, BTreeSet::from(["node_lost (its node)".to_owned()]), "{what}");
}
