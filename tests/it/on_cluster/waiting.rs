//! Pods that cannot work yet: alive, not ready, saying why, and ready by themselves once it is mended.

use std::time::Duration;

use orchestrator_worker::telemetry;
use reqwest::Client;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{
    kube::{Pod, seconds},
    stand::Stand,
};
use crate::{
    mysql::PASSWORD,
    nemesis::say,
    process::{CEILING, run, wait_until},
    proxy::Mode,
};

const BY_FILE: &str = "migrations: {mode: none}
replicas: 1
config: {database: {tls: insecure}}
";

/// As long as an outage has to last for a container to be restarted by its probes, and longer.
const OUTAGE: Duration = Duration::from_secs(60);

/// The values of a release whose password is a file.
fn by_file(stand: &Stand) -> String {
    let address = stand.proxy.address();
    let (host, port) = (address.ip(), address.port());
    format!(
        "{BY_FILE}database: {{existingSecret: database, host: {host}, port: {port}, name: {}, user: worker}}\n",
        stand.name
    )
}

fn the_pod(stand: &Stand) -> Pod {
    wait_until("there is one pod", || {
        let pods = stand.pods();
        let running = pods.len() == 1 && !pods[0].node.is_empty();
        running.then(|| pods[0].clone())
    })
}

/// Waits until the one pod says this at `/readyz` and in its log, and is not ready.
async fn says(stand: &Stand, what: &str) {
    let since = Instant::now();
    loop {
        let pod = block_in_place(|| the_pod(stand));
        let (status, said) = readyz(&pod).await.unwrap_or_default();
        let log = block_in_place(|| stand.log(&pod));
        if status == 503 && said.contains(what) && log.contains(what) && !pod.is_ready {
            return;
        }
        assert!(since.elapsed() < CEILING, "it never says {what:?}, but {status} {said}");
        sleep(Duration::from_millis(200)).await;
    }
}

async fn readyz(pod: &Pod) -> Option<(u16, String)> {
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().ok()?;
    let response = client.get(format!("http://{}:9400/readyz", pod.ip)).send().await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}

fn is_ready_and_was_never_restarted(stand: &Stand) {
    let pods = stand.ready(1);
    assert_eq!(pods[0].restarts, 0, "{pods:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_keeps_a_pod_from_working_is_told_and_restarts_nothing() {
    telemetry::install_tls();
    let stand = Stand::new("waiting").await;
    let begun = Instant::now();
    block_in_place(|| {
        stand.set_secret("mysql://nobody", "wrong");
        stand.install_only(&by_file(&stand));
    });
    says(&stand, "refused user").await;
    block_in_place(|| stand.set_secret("mysql://nobody", PASSWORD));
    says(&stand, "migrate").await;
    let after = Instant::now();
    block_in_place(|| {
        assert!(run(&stand.url(), ["migrate"]).status.success());
        is_ready_and_was_never_restarted(&stand);
    });
    say(&format!("waiting: ready {} after the migration", seconds(after.elapsed())));

    stand.exec("UPDATE ow_meta SET version=version+100, oldest_reader=version").await;
    block_in_place(|| stand.kubectl(&["delete", "pod", &stand.pods()[0].name]));
    says(&stand, "newer").await;
    stand.exec("UPDATE ow_meta SET version=version-100, oldest_reader=1").await;
    block_in_place(|| is_ready_and_was_never_restarted(&stand));

    stand.proxy.set(Mode::Refuse);
    let gone = Instant::now();
    says(&stand, "database").await;
    say(&format!("waiting: not ready {} after the database was gone", seconds(gone.elapsed())));
    sleep(OUTAGE.saturating_sub(gone.elapsed())).await;
    stand.proxy.set(Mode::Pass);
    let back = Instant::now();
    block_in_place(|| is_ready_and_was_never_restarted(&stand));
    say(&format!("waiting: ready {} after it was back", seconds(back.elapsed())));
    assert!(begun.elapsed() > OUTAGE);
}
