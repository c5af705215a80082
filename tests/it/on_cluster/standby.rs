//! Pods that are about to go and claim nothing new: on a cordoned node, and in a rollout.

use sqlx::Row as _;
use tokio::{task::block_in_place, time::Instant};

use super::{
    blows::{all_on, held, now},
    kube::{Pod, kubectl, seconds},
    stand::{RELEASE, Stand},
};
use crate::{
    nemesis::{
        say,
        workload::{LONG, ask},
    },
    process::{is_soak, wait_until},
};

/// Pods stand on both nodes. A drain is much shorter than the long step, and than a rollout, so that what one pod hands
/// back could be claimed by another that goes next.
const SETTINGS: &str = "replicas: 4
config:
  slots: 20
  drain_deadline: 1s
  lock: {ttl: 10s, renew_every: 2s}
  database: {tls: insecure}
topologySpread:
  - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway}
";
const UNDER_WAY: i64 = 16;

/// A node on which nothing new is put, until the handle is dropped.
struct Cordoned<'a>(&'a str);

impl<'a> Cordoned<'a> {
    fn begin(node: &'a str) -> Self {
        kubectl(&["cordon", node]);
        Self(node)
    }
}

impl Drop for Cordoned<'_> {
    fn drop(&mut self) {
        kubectl(&["uncordon", self.0]);
    }
}

fn names(pods: &[Pod]) -> String {
    let names: Vec<String> = pods.iter().map(|pod| format!("'{}'", pod.name)).collect();
    names.join(",")
}

/// Waits until each of them has said it; how long that took.
fn all_said(stand: &Stand, pods: &[Pod], event: &str) -> String {
    let (began, event) = (Instant::now(), format!("\"{event}\""));
    for pod in pods {
        wait_until(&event, || stand.log(pod).contains(&event).then_some(()));
    }
    seconds(began.elapsed())
}

/// What these pods have claimed or taken over since then.
fn claimed(pods: &[Pod], since: &str) -> String {
    format!(
        "SELECT execution_id FROM ow_attempts WHERE owner IN ({}) \
         GROUP BY execution_id, fence HAVING MIN(started_at) > '{since}'",
        names(pods)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cordoned_nodes_pods_end_what_they_hold_and_claim_again_when_it_is_uncordoned() {
    let stand = Stand::new("cordoned").await;
    let pods = block_in_place(|| {
        stand.install(&format!("{SETTINGS}kubernetes: {{cordonWatch: true}}\n"));
        let pods = stand.ready(4);
        all_said(&stand, &pods, "kubernetes.answers");
        pods
    });
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[LONG]).await;
    let going = all_on(&stand, &pods[0].node);
    let staying: Vec<Pod> = pods.iter().filter(|it| !going.contains(it)).cloned().collect();
    assert!(!staying.is_empty(), "they stand on both nodes: {pods:?}");
    held(&stand, &pods).await;

    let cordoned = block_in_place(|| {
        let cordoned = Cordoned::begin(&going[0].node);
        let took = all_said(&stand, &going, "claiming.paused");
        say(&format!("cordoned: {} pods stand by after {took}, looks included", going.len()));
        cordoned
    });
    let since = now(&stand).await;
    let (began, kept) = (Instant::now(), held_by(&stand, &going).await);
    // One that was under way then is no new one.
    stand.until_row(&claimed(&staying, &since)).await;
    let since = now(&stand).await;
    all_end(&stand, &kept).await;
    say(&format!(
        "cordoned: {} executions that they held ended within {}",
        kept.len(),
        seconds(began.elapsed())
    ));
    let others = ask(&stand.url(), &claimed(&staying, &since)).await.expect("the tables").len();
    say(&format!("cordoned: others claimed {others} meanwhile"));
    assert!(others > 0);
    assert!(ask(&stand.url(), &claimed(&going, &since)).await.expect("the tables").is_empty());
    let moved = "SELECT 1 FROM ow_attempts WHERE outcome IN ('drained', 'lost')";
    assert!(ask(&stand.url(), moved).await.expect("the tables").is_empty(), "nothing was stopped");

    let since = now(&stand).await;
    let uncordoned = Instant::now();
    block_in_place(|| drop(cordoned));
    stand.until_row(&claimed(&going, &since)).await;
    say(&format!("cordoned: they claim again {} after", seconds(uncordoned.elapsed())));
    block_in_place(|| all_said(&stand, &going, "claiming.resumed"));
    let submitted = load.end().await;
    say(&format!("cordoned: {submitted} submitted"));
    stand.judge().await;
}

/// What they hold, of which there may be nothing.
async fn held_by(stand: &Stand, pods: &[Pod]) -> Vec<String> {
    let sql = format!(
        "SELECT id FROM workflow_executions WHERE status='running' AND ow_owner IN ({})",
        names(pods)
    );
    let rows = ask(&stand.url(), &sql).await.expect("the tables");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn all_end(stand: &Stand, executions: &[String]) {
    for id in executions {
        let ended =
            format!("SELECT 1 FROM workflow_executions WHERE id='{id}' AND status<>'running'");
        stand.until_row(&ended).await;
    }
}

/// Rolls out so often under load; how often each execution was interrupted by one of the rollouts.
async fn roll_out(name: &'static str, settings: &str) -> Vec<i64> {
    let stand = Stand::new(name).await;
    block_in_place(|| {
        stand.install(&format!("{SETTINGS}{settings}"));
        stand.ready(4);
    });
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[LONG]).await;
    held(&stand, &stand.pods()).await;
    let mut all = Vec::new();
    for _ in 0..if is_soak() { 10 } else { 2 } {
        let since = now(&stand).await;
        let took = block_in_place(|| {
            let began = Instant::now();
            stand.kubectl(&["rollout", "restart", "deployment", RELEASE]);
            stand.kubectl(&["rollout", "status", "deployment", RELEASE, "--timeout=3m"]);
            stand.ready(4);
            seconds(began.elapsed())
        });
        let times = interrupted(&stand, &since).await;
        let often = times.iter().filter(|times| **times > 1).count();
        say(&format!(
            "{name}: rolled out after {took}, {} interrupted, of them {often} more than once",
            times.len()
        ));
        all.extend(times);
    }
    let submitted = load.end().await;
    say(&format!(
        "{name}: {submitted} submitted, {} interruptions of {}",
        all.iter().sum::<i64>(),
        all.len()
    ));
    stand.judge().await;
    all
}

/// How often each execution was handed back in the middle of a step since then, if it was.
async fn interrupted(stand: &Stand, since: &str) -> Vec<i64> {
    let sql = format!(
        "SELECT COUNT(DISTINCT fence) FROM ow_attempts \
         WHERE outcome='drained' AND finished_at > '{since}' GROUP BY execution_id"
    );
    let rows = ask(&stand.url(), &sql).await.expect("the tables");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollout_interrupts_an_execution_once_at_most() {
    if is_soak() {
        // For the figures; what holds is not held to anything.
        roll_out("unaware", "").await;
    }
    let times = roll_out("aware", "kubernetes: {rolloutAware: true}\n").await;
    assert!(!times.is_empty(), "no step was long enough to be interrupted");
    assert!(times.iter().all(|times| *times == 1), "{times:?}");
}
