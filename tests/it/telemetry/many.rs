//! Many executions on three workers that are killed, one after the other: as many traces, each whole.
//!
//! **Invariant:** what misses a span, or has one twice, was in the hands of a worker shortly before that was
//! killed, and no worker tells twice. How many do is printed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use orchestrator_worker::{
    domain::trace::Trace,
    ports::{
        control::{Control, ExecutionDetail, StepDetail},
        traced::Untold,
    },
};
use rustix::process::Signal;
use tokio::{
    task::block_in_place,
    time::{Duration, Instant, sleep},
};

use super::{
    keepers::Keeper,
    tree::{Kept, TWICE, draw},
    trees::{PATIENCE, Scene, Stage},
};
use crate::{
    contract::Subject,
    process::{Worker, is_soak},
};

crate::stores::tests! { on_jaeger, crate::telemetry::trees::InJaeger; killed_workers_leave_as_many_whole_traces_as_executions }
crate::stores::tests! {
    on_mysql, crate::telemetry::trees::Own<crate::mysql::Database<crate::mysql::MySql>>;
    killed_workers_leave_as_many_whole_traces_as_executions
}
crate::stores::tests! {
    on_mariadb, crate::telemetry::trees::Own<crate::mysql::Database<crate::mysql::MariaDb>>;
    killed_workers_leave_as_many_whole_traces_as_executions
}

const STEPS: &str = "- {name: one, func: sleep, parameters: {ms: 100}}
- {name: two, depends_on: [one], func: echo, parameters: {x: 1}}
- {name: three, depends_on: [one], func: sleep, parameters: {ms: 300}}
- {name: four, depends_on: [two, three], func: noop}";

/// Spans are on their way for no longer than from one renewal to the next, and as long as a machine
/// takes to send them that has much else to do.
const RENEW_EVERY: &str = "2500ms";
const ON_ITS_WAY: i64 = 4_000;

/// When workers were killed, in milliseconds since 1970.
type Kills = BTreeMap<String, i64>;

async fn killed_workers_leave_as_many_whole_traces_as_executions<S: Stage>() {
    let (executions, kills) = if is_soak() { (1_000, 30) } else { (120, 6) };
    let scene = Scene::<S>::new().await;
    let mut ids = vec![scene.submit(STEPS, &[])];
    for _ in 1..executions {
        ids.push(scene.world.submit(&"it".into()).await.to_string());
    }
    let worker = |number: usize| {
        let name = format!("w{number}");
        let settings = [
            ("ORCHESTRATOR_WORKER__SLOTS", "4"),
            ("ORCHESTRATOR_WORKER__LOCK__RENEW_EVERY", RENEW_EVERY),
        ];
        block_in_place(|| scene.worker(&name, &settings))
    };
    let mut workers: Vec<Worker> = (0..3).map(worker).collect();
    let mut killed = Kills::new();
    for kill in 0..kills {
        // Evenly over the whole work, each at whatever the worker is at.
        ended(&scene, (kill + 1) * executions / (kills + 2)).await;
        sleep(Duration::from_millis(rand::random_range(0..300))).await;
        let place = kill % workers.len();
        workers[place].signal(Signal::KILL);
        killed.insert(workers[place].name.clone(), Timestamp::now().as_millisecond());
        workers[place] = worker(3 + kill);
    }
    ended(&scene, executions).await;
    let dead: Vec<String> = killed.keys().map(|name| format!("'~untold:{name}'")).collect();
    // As if the patience of others were over.
    let waited = -i64::try_from(Untold::PATIENCE.as_millis()).expect("it is short");
    let expires = S::Store::moved("expires_at", waited);
    let sql = format!(
        "UPDATE distributed_locks SET expires_at={expires} WHERE owner IN ({})",
        dead.join(", ")
    );
    let untold = scene.world.subject.exec(&sql).await;
    all_told(&scene).await;

    let mut details = Vec::new();
    for id in &ids {
        details.push(scene.world.a.show(&id.as_str().into()).await.expect("it is there"));
    }
    let began = Instant::now();
    let cut = loop {
        let mut cut = Vec::new();
        let mut missing = Vec::new();
        for detail in &details {
            let id = &detail.summary.execution;
            let trace = Trace::of(id, &detail.origin).id().to_string();
            match whole(&scene.keeper.trace(&trace).await, detail) {
                Ok(()) => {}
                Err(why) if was_struck(detail, &killed) => cut.push(format!("{id}: {why}")),
                Err(why) => missing.push(why),
            }
        }
        // A late span may still make one whole that was struck.
        if missing.is_empty() && (cut.is_empty() || began.elapsed() > LATE) {
            break cut;
        }
        assert!(began.elapsed() < PATIENCE, "{} are not whole: {}", missing.len(), missing[0]);
        sleep(Duration::from_millis(200)).await;
    };
    for why in &cut {
        println!("{why}");
    }
    let twice = cut.iter().filter(|why| why.contains(TWICE)).count();
    let lost = cut.len() - twice;
    println!(
        "{kills} kills: {} whole traces, {} that miss something, {twice} told twice; {untold} ends were \
         told by others",
        executions - cut.len(),
        lost
    );
    let all: Vec<Kept> = scene.keeper.all().await;
    let traces: BTreeSet<_> = all.iter().map(|span| &span.trace).collect();
    assert_eq!(traces.len(), executions, "each has one");
    let roots = all.iter().filter(|span| span.name == "RUN it").count();
    assert!(roots <= executions + twice && roots + lost >= executions, "{roots} roots");
    no_worker_tells_twice(&all);
}

/// What stands twice was told by the worker that was killed, and once more by another.
fn no_worker_tells_twice(all: &[Kept]) {
    let told_by = |span: &Kept| span.attributes.get("orchestrator.told_by").cloned();
    let mut holds = BTreeSet::new();
    for hold in all.iter().filter(|span| span.name == "hold it") {
        assert!(holds.insert((&hold.trace, &hold.id, told_by(hold))), "{hold:#?}");
    }
}

const LATE: Duration = Duration::from_secs(2);

/// Waits until nobody has an end to tell of any more.
async fn all_told<S: Stage>(scene: &Scene<S>) {
    let count = "SELECT COUNT(*) FROM distributed_locks WHERE owner LIKE '~untold:%'";
    let began = Instant::now();
    while scene.world.subject.one(count).await.as_deref() != Some("0") {
        assert!(began.elapsed() < PATIENCE, "not all is told");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn ended<S: Stage>(scene: &Scene<S>, at_least: usize) {
    let count = "SELECT COUNT(*) FROM workflow_executions WHERE status='success'";
    let began = Instant::now();
    loop {
        let ended = scene.world.subject.one(count).await.and_then(|it| it.parse::<usize>().ok());
        if ended.is_some_and(|ended| ended >= at_least) {
            return;
        }
        assert!(began.elapsed() < 5 * PATIENCE, "{ended:?} of {at_least} have ended");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether it is one tree, with every attempt that the database knows and no other.
fn whole(spans: &[Kept], detail: &ExecutionDetail) -> Result<(), String> {
    let drawn = draw(spans, &[])?;
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
    if (count("RUN it"), count("wait it")) != (1, 1) || !drawn.starts_with("RUN it [success]\n") {
        return Err(drawn);
    }
    if drawn.lines().filter(|line| !line.starts_with(' ')).count() != 1 {
        return Err(format!("several trees:\n{drawn}"));
    }
    let told: Vec<(String, String, String)> = sorted(spans.iter().filter_map(|span| {
        let of = |key: &str| span.attributes.get(key).cloned();
        let outcome = of("orchestrator.attempt.outcome")?;
        Some((of("cicd.pipeline.task.run.id")?, of("orchestrator.attempt")?, outcome))
    }));
    let known = sorted(detail.steps.iter().flat_map(attempts));
    if told == known { Ok(()) } else { Err(format!("{known:?}, but told is:\n{drawn}")) }
}

fn attempts(step: &StepDetail) -> impl Iterator<Item = (String, String, String)> + '_ {
    step.attempts.iter().map(|attempt| {
        let outcome = attempt.outcome.clone().unwrap_or_default();
        (step.step_execution.clone(), attempt.attempt.to_string(), outcome)
    })
}

fn sorted<T: Ord>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.collect();
    all.sort();
    all
}

/// Whether a worker was killed soon after it had written something of it.
fn was_struck(detail: &ExecutionDetail, killed: &Kills) -> bool {
    let attempts = detail.steps.iter().flat_map(|step| &step.attempts);
    attempts.into_iter().any(|attempt| {
        let Some(at) = killed.get(&attempt.owner) else { return false };
        let times = [attempt.started_at, attempt.finished_at].into_iter().flatten();
        times.into_iter().any(|time| (0..ON_ITS_WAY).contains(&(at - time.0)))
    })
}
