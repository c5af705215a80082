//! Containers whose memory is used up: the kernel kills whichever process in it is the largest, and
//! that is either a command of a step or the worker.

use sqlx::Row as _;
use tokio::task::block_in_place;

use super::{
    blows::{SETTINGS, UNDER_WAY, held, one_of, strike},
    kube::Pod,
    stand::Stand,
};
use crate::{
    nemesis::{
        history::{Effect, What},
        say,
        workload::{CROWDED, GREEDY, ask},
    },
    process::wait_until,
};

/// Enough for the worker and all its steps but one of those that this is about.
const LIMIT: &str = "resources: {requests: {cpu: 10m}, limits: {memory: 256Mi}}\n";
/// What the kernel tells of a container's memory, seen from within.
const COUNTERS: &str = "cat /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events 2>/dev/null \
                        | grep '^oom_kill '; true";

/// How many processes the kernel has killed in a container since that began.
fn kills(stand: &Stand, pod: &Pod) -> u32 {
    let said = stand.kubectl(&["exec", &pod.name, "--", "sh", "-c", COUNTERS]);
    said.split_whitespace().last().and_then(|count| count.parse().ok()).expect("a counter")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_command_of_a_step_that_wants_all_memory_is_killed_alone_and_the_step_says_so() {
    let stand = Stand::new("greedy").await;
    block_in_place(|| stand.install(&format!("{SETTINGS}{LIMIT}")));
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[]).await;
    let pods = block_in_place(|| stand.ready(4));
    held(&stand, &pods).await;
    let control = stand.control().await;
    for _ in &pods {
        assert!(stand.workload.submit(&control, GREEDY).await);
    }
    let submitted = load.end().await;
    say(&format!("greedy: {submitted} submitted besides"));
    stand.judge().await;

    let sql = "SELECT a.outcome, COALESCE(x.error, '') FROM ow_attempts a \
               JOIN workflow_step_executions x ON x.id=a.step_execution_id \
               JOIN steps s ON s.id=x.step_id JOIN workflow_executions e ON e.id=a.execution_id \
               JOIN workflow_templates t ON t.id=e.template_id WHERE t.name='greedy' AND s.name='a'";
    let attempts = ask(&stand.url(), sql).await.expect("the tables");
    assert_eq!(attempts.len(), pods.len(), "none was begun again");
    for attempt in &attempts {
        let (outcome, error): (String, String) = (attempt.get(0), attempt.get(1));
        assert_eq!(outcome, "failed", "{error}");
        assert!(error.contains("memory limit"), "{error}");
    }
    say(&format!("greedy: {}", attempts[0].get::<String, _>(1)));
    let after = block_in_place(|| stand.ready(4));
    let killed: u32 = block_in_place(|| after.iter().map(|pod| kills(&stand, pod)).sum());
    assert_eq!(usize::try_from(killed), Ok(pods.len()), "so many processes, and not one more");
    assert_eq!(after, pods, "no container was restarted");
    let lost = "SELECT COUNT(*) FROM ow_attempts WHERE outcome='lost'";
    assert_eq!(stand.one::<i64>(lost).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_is_killed_for_want_of_memory_loses_and_doubles_nothing() {
    let stand = Stand::new("crowded").await;
    block_in_place(|| stand.install(&format!("{SETTINGS}{LIMIT}")));
    stand.apply_workload().await;
    let load = stand.load(UNDER_WAY, &[]).await;
    block_in_place(|| one_of(&stand, None));
    assert!(stand.workload.submit(&stand.control().await, CROWDED).await);
    let pod = crowded(&stand).await;
    strike(&stand, "a container without memory", std::slice::from_ref(&pod), || {
        stand.workload.let_crowd();
    })
    .await;
    let again = block_in_place(|| {
        wait_until("the container is there again", || {
            stand.pods().into_iter().find(|it| it.uid == pod.uid && it.is_ready && it.restarts > 0)
        })
    });
    assert_eq!((again.before, again.restarts), (Some(("OOMKilled".into(), 137)), 1));
    let submitted = load.end().await;
    say(&format!("crowded: {submitted} submitted besides"));
    stand.judge().await;
    let lost = "SELECT COUNT(*) FROM ow_attempts a JOIN workflow_executions e ON e.id=a.execution_id \
                JOIN workflow_templates t ON t.id=e.template_id WHERE t.name='crowded' AND a.outcome='lost'";
    assert_eq!(stand.one::<i64>(lost).await, 1, "its attempt was lost, and the next one did it");
    let restarted =
        block_in_place(|| stand.pods().into_iter().filter(|it| it.restarts > 0).count());
    assert_eq!(restarted, 1, "no other was killed");
}

/// The pod in which the crowded step waits for its moment.
async fn crowded(stand: &Stand) -> Pod {
    let sql = "SELECT e.ow_owner, e.id FROM workflow_executions e \
               JOIN workflow_templates t ON t.id=e.template_id WHERE t.name='crowded' AND e.ow_owner>''";
    let row = stand.until_row(sql).await;
    let (owner, id): (String, String) = (row.get(0), row.get(1));
    block_in_place(|| {
        wait_until("it waits for its moment", || {
            let is_there = |it: &Effect| it.what == What::End && it.execution == id;
            stand.workload.effects().iter().any(is_there).then_some(())
        });
        stand.pods().into_iter().find(|pod| pod.name == owner).expect("its worker's")
    })
}
