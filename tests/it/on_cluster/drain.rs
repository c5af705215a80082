//! Pods that come and go while executions run: scaled, rolled out, and told to go in the middle of a
//! step that takes longer than their drain.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sqlx::Row as _;
use tokio::{task::block_in_place, time::Instant};

use super::{
    kube::{Watch, seconds},
    stand::{RELEASE, Stand},
};
use crate::{
    nemesis::{
        say,
        workload::{LONG, MIXED, ask},
    },
    process::{is_soak, wait_until},
};

/// In soak some of the steps of 10 s, and of 20 s too, end within the drain.
fn settings() -> String {
    let deadline = if is_soak() { "15s" } else { "8s" };
    format!(
        "replicas: 1
config:
  slots: 30
  drain_deadline: {deadline}
  lock: {{ttl: 10s, renew_every: 2s}}
  database: {{tls: insecure}}
"
    )
}
/// Executions waiting or running; one worker has slots for all, so that none that is handed back waits.
const UNDER_WAY: i64 = 24;
/// The API server tells whole seconds, and a worker needs a moment to hear of its end.
const NOTICE: SignedDuration = SignedDuration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn scaling_and_rolling_out_under_load_loses_no_step() {
    let stand = Stand::new("rolling").await;
    let rollouts = if is_soak() { 10 } else { 3 };
    block_in_place(|| stand.install(&settings()));
    let watch = Watch::start(stand.name);
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, if is_soak() { &[MIXED, LONG] } else { &[LONG] }).await;
    block_in_place(|| {
        for replicas in [8, 2] {
            let began = Instant::now();
            stand.kubectl(&["scale", "deployment", RELEASE, &format!("--replicas={replicas}")]);
            stand.ready(replicas);
            say(&format!("rolling: {replicas} pods after {}", seconds(began.elapsed())));
        }
    });
    for _ in 0..rollouts {
        block_in_place(|| {
            let began = Instant::now();
            stand.kubectl(&["rollout", "restart", "deployment", RELEASE]);
            stand.kubectl(&["rollout", "status", "deployment", RELEASE, "--timeout=3m"]);
            stand.ready(2);
            say(&format!("rolling: rolled out after {}", seconds(began.elapsed())));
        });
        if is_soak() {
            a_long_step_ends(&stand).await;
        }
    }
    let submitted = load.end().await;
    say(&format!("rolling: {submitted} submitted"));
    stand.judge().await;
    hand_overs(&stand).await;
    ended_in_drains(&stand, &watch).await;
    nobody_was_killed_or_began_anew(&stand, &watch, 6 + 2 * rollouts).await;
}

/// Waits for one of 20 s in a pod that is there: where rollouts follow closer, it never ends.
async fn a_long_step_ends(stand: &Stand) {
    let pods: Vec<String> =
        block_in_place(|| stand.pods()).iter().map(|pod| format!("'{}'", pod.name)).collect();
    let sql = format!(
        "SELECT 1 FROM ow_attempts WHERE owner IN ({}) AND outcome='success' \
         AND finished_at >= started_at + INTERVAL 20 SECOND LIMIT 1",
        pods.join(",")
    );
    stand.until_row(&sql).await;
}

/// The steps that pods still brought to their end after they were told to go.
async fn ended_in_drains(stand: &Stand, watch: &Watch) {
    let mut figures = Vec::new();
    for pod in watch.seen() {
        let Some(told) = pod.told_to_go else { continue };
        let sql = format!(
            "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, started_at, finished_at) AS SIGNED) FROM ow_attempts \
             WHERE owner='{}' AND outcome='success' AND finished_at>FROM_UNIXTIME({})",
            pod.name,
            (told + NOTICE).as_second()
        );
        let rows = ask(&stand.url(), &sql).await.expect("the tables");
        figures.extend(rows.iter().map(|row| as_seconds(row.get(0))));
    }
    figures.sort_by(f64::total_cmp);
    let longest = figures.last().copied().unwrap_or_default();
    say(&format!(
        "{}: {} steps ended in a drain, the longest of {longest:.1} s",
        stand.name,
        figures.len()
    ));
    assert!(!is_soak() || longest > 10.0, "no long step was let end");
}

/// Every pod that was told to go ended by itself, and began nothing after that.
async fn nobody_was_killed_or_began_anew(stand: &Stand, watch: &Watch, went: usize) {
    let gone: Vec<_> = watch.seen().into_iter().filter(|pod| pod.told_to_go.is_some()).collect();
    assert_eq!(gone.len(), went, "{gone:?}");
    for pod in gone {
        assert_eq!((pod.exit, pod.restarts), (Some(0), 0), "{pod:?}");
        let last = format!(
            "SELECT CAST(UNIX_TIMESTAMP(MAX(started_at)) * 1000 AS SIGNED) FROM ow_attempts \
             WHERE owner='{}'",
            pod.name
        );
        let Some(last) = stand.one::<Option<i64>>(&last).await else { continue };
        let last = Timestamp::from_millisecond(last).expect("a time");
        let told = pod.told_to_go.expect("it was");
        assert!(
            last < told + NOTICE,
            "{} was told to go at {told} and began a step at {last}",
            pod.name
        );
    }
    let lost = "SELECT COUNT(*) FROM ow_attempts WHERE outcome='lost'";
    assert_eq!(stand.one::<i64>(lost).await, 0, "none was killed with a step in its hands");
}

/// From the end of an attempt that a drain stopped to the start of the next, in another pod.
async fn hand_overs(stand: &Stand) {
    let sql = "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, a.finished_at, b.started_at) AS SIGNED) \
               FROM ow_attempts a JOIN ow_attempts b ON b.step_execution_id=a.step_execution_id \
                AND b.attempt=a.attempt+1 WHERE a.outcome='drained' ORDER BY 1";
    let rows = ask(&stand.url(), sql).await.expect("the tables");
    let figures: Vec<f64> = rows.iter().map(|row| as_seconds(row.get(0))).collect();
    assert!(!figures.is_empty(), "no step was long enough to be handed over");
    let at = |percent: usize| figures[(figures.len() - 1) * percent / 100];
    say(&format!(
        "{}: hand-over p50 {:.2} s, p99 {:.2} s, of {}",
        stand.name,
        at(50),
        at(99),
        figures.len()
    ));
}

fn as_seconds(microseconds: i64) -> f64 {
    Duration::from_micros(u64::try_from(microseconds).unwrap_or(0)).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_step_longer_than_the_drain_is_handed_over_without_using_up_a_retry() {
    let stand = Stand::new("longer").await;
    block_in_place(|| stand.install(&settings()));
    let watch = Watch::start(stand.name);
    stand.apply_workload().await;
    assert!(stand.workload.submit(&stand.control().await, LONG).await);
    block_in_place(|| {
        wait_until("the step runs", || stand.workload.has_begun().then_some(()));
        let first = stand.pods().remove(0);
        stand.kubectl(&["delete", "pod", &first.name, "--wait=true", "--timeout=60s"]);
    });
    stand.judge().await;
    let attempts = "SELECT outcome, owner FROM ow_attempts ORDER BY attempt";
    let attempts = ask(&stand.url(), attempts).await.expect("the tables");
    let attempts: Vec<(String, String)> =
        attempts.iter().map(|row| (row.get(0), row.get(1))).collect();
    let [(drained, first), (success, second)] = attempts.as_slice() else { panic!("{attempts:?}") };
    assert_eq!((drained.as_str(), success.as_str()), ("drained", "success"));
    assert_ne!(first, second);
    assert_eq!(stand.one::<i64>("SELECT retry_count FROM workflow_step_executions").await, 0);
    nobody_was_killed_or_began_anew(&stand, &watch, 1).await;
    hand_overs(&stand).await;
}
