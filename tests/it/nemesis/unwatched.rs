//! Whether the checker would notice that nobody ends what runs on when its lease is over: the script of a
//! frozen worker, with its guardian and without; a step of a worker that is cut off from the database, which
//! does not end by itself, with its watchdog and without.
//!
//! **Invariant:** with guardian and watchdog nothing overlaps; so it is the one that is missing that is found.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::mysql::MySqlStore,
    domain::{
        eligibility::Eligibility, id::Owner, intake::Supported, lease::LeaseTerms, pod::PodProcess,
        retention::Retention, retry::Backoff,
    },
    instruments::Instruments,
    ports::runner::{Attempt, Outcome, StepRunner},
    worker::{Settings, Shutdown, Worker, health::Health},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    CEILING,
    faults::TTL,
    history::{Effect, Rows, Rule, Violation, What, violations},
    shown,
    spoiled::tell,
    workload::{LONG, Workload},
};
use crate::{
    contract::world::{World, step, workflow},
    mysql::{Database, Server},
    process::{Worker as Process, wait_until},
    proxy::{Mode, Proxy},
    stores::on_both_servers,
};

on_both_servers! {
    a_script_that_outlives_its_frozen_worker_without_a_guardian_is_found
    a_request_that_outlives_its_lease_without_a_watchdog_is_found
}

/// Of all workers, in their order.
type Effects = Arc<Mutex<Vec<Effect>>>;

/// Asks for something that never comes, and writes down that it still waits.
struct Waiting(Effects);

impl Waiting {
    fn does(&self, what: What, attempt: &Attempt) {
        self.0.lock().expect("no panic").push(Effect {
            what,
            execution: attempt.execution.to_string(),
            step: attempt.step.name.clone(),
            fence: attempt.fence.0,
            attempt: attempt.number,
            key: attempt.idempotency_key.clone(),
        });
    }
}

#[async_trait]
impl StepRunner for Waiting {
    fn supported(&self) -> Supported {
        Supported { kinds: ["func".to_owned()].into(), functions: ["noop".to_owned()].into() }
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        self.does(What::Start, &attempt);
        let halted = async {
            tokio::select! {
                () = attempt.halt.stop.cancelled() => {}
                () = attempt.halt.kill.cancelled() => {}
            }
        };
        let waits = async {
            loop {
                sleep(Duration::from_millis(100)).await;
                self.does(What::Tick, &attempt);
            }
        };
        tokio::select! {
            () = halted => Outcome::Stopped { output: None },
            () = waits => unreachable!("it never comes"),
        }
    }
}

fn worker(name: &str, store: MySqlStore, effects: &Effects) -> Worker {
    let seconds = Duration::from_secs;
    let settings = Settings {
        owner: Owner::try_new(name).expect("a name"),
        process: PodProcess::default(),
        slots: 1,
        poll_interval: Duration::from_millis(100),
        terms: LeaseTerms::try_new(TTL, seconds(1)).expect("terms"),
        claim_batch: 1,
        eligibility: Arc::<Eligibility>::default(),
        unknown_after: seconds(600),
        drain_deadline: Duration::from_millis(100),
        steps_at_once: 1,
        backoff: Backoff { base: seconds(1), cap: seconds(1) },
        poison_claims: 10,
        retention: Retention::default(),
        adopt_orphans: false,
        until_idle: false,
    };
    let (store, runner) = (Arc::new(store), Arc::new(Waiting(effects.clone())));
    Worker::new(store, runner, settings, Arc::new(Instruments::new()), Health::new(seconds(1)))
}

/// Waits for this many effects of an attempt.
async fn has_done(effects: &Effects, number: u32, so_many: usize) {
    let since = Instant::now();
    let count = || {
        let effects = effects.lock().expect("no panic");
        effects.iter().filter(|effect| effect.attempt == number).count()
    };
    while count() < so_many {
        assert!(since.elapsed() < CEILING, "attempt {number} has done {} of {so_many}", count());
        sleep(Duration::from_millis(20)).await;
    }
}

/// One worker is cut off in the middle of a step, and another goes on with it.
async fn cut_off<S: Server>(is_watched: bool) -> Vec<Violation> {
    let world = World::<Database<S>>::new().await;
    let template = world.apply(&workflow("w", vec![step("waits")])).await;
    world.submit(&template).await;
    let proxy = Proxy::start(Database::<S>::address()).await;
    let effects = Effects::default();
    let (shutdown, mut workers) = (Shutdown::default(), JoinSet::new());
    let first = worker("a", world.subject.open(Some(proxy.address())).await, &effects);
    let first = if is_watched { first } else { first.without_watchdog() };
    workers.spawn(first.run(shutdown.clone()));
    has_done(&effects, 1, 1).await;
    proxy.set(Mode::BlackHole);
    workers.spawn(worker("b", world.subject.open(None).await, &effects).run(shutdown.clone()));
    // Ten ticks: a second in which the first one could still write.
    has_done(&effects, 2, 10).await;
    shutdown.abort.cancel();
    workers.join_all().await;
    let effects = effects.lock().expect("no panic");
    violations(&effects, &Rows::default())
}

async fn a_request_that_outlives_its_lease_without_a_watchdog_is_found<S: Server>() {
    let found = cut_off::<S>(true).await;
    assert!(!found.iter().any(is_overlap), "with a watchdog: {}", shown(&found));
    let since = Instant::now();
    let found = cut_off::<S>(false).await;
    assert!(found.iter().any(is_overlap), "without: {}", shown(&found));
    tell(Rule::Overlap, since);
}

/// The guardians of a worker's scripts, as `/proc` has its children.
fn guardians(worker: u32) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{worker}/task")).expect("it runs");
    let children = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<i32> = children
        .flat_map(|line| line.split_whitespace().map(str::parse).collect::<Vec<_>>())
        .filter_map(Result::ok)
        .collect();
    pids.into_iter().filter_map(Pid::from_raw).collect()
}

/// A worker freezes in the middle of a script, and another goes on with it.
async fn frozen<S: Server>(is_guarded: bool) -> Vec<Violation> {
    let world = World::<Database<S>>::new().await;
    let (url, workload) = (world.subject.url(None), Workload::new());
    workload.apply(&world.a).await;
    let frozen = Process::start(&url, "a", &[]);
    frozen.wait_for("worker.started");
    assert!(workload.submit(&world.a, LONG).await);
    wait_until("the script runs", || workload.has_begun().then_some(()));
    frozen.signal(Signal::STOP);
    let guardians = guardians(frozen.pid());
    assert_eq!(guardians.len(), 1);
    if !is_guarded {
        kill_process(guardians[0], Signal::KILL).expect("it is there");
    }

    let _second = Process::start(&url, "b", &[]);
    let done = |what: What, attempt: u32| {
        let effects = workload.effects().into_iter();
        effects.filter(|effect| (effect.what, effect.attempt) == (what, attempt)).count()
    };
    // Ten ticks: a second in which the first one could still write.
    wait_until("the second script runs", || (done(What::Tick, 2) >= 10).then_some(()));
    // It wakes, and kills what the guardian has left: the first script never comes to its end.
    frozen.signal(Signal::CONT);
    frozen.wait_for("execution.lost");
    wait_until("the second script ends", || (done(What::End, 2) > 0).then_some(()));
    assert_eq!(done(What::End, 1), 0);
    violations(&workload.effects(), &Rows::default())
}

fn is_overlap(violation: &Violation) -> bool {
    violation.rule == Rule::Overlap
}

async fn a_script_that_outlives_its_frozen_worker_without_a_guardian_is_found<S: Server>() {
    let found = frozen::<S>(true).await;
    assert!(!found.iter().any(is_overlap), "with a guardian: {}", shown(&found));
    let since = Instant::now();
    let found = frozen::<S>(false).await;
    assert!(found.iter().any(is_overlap), "without: {}", shown(&found));
    tell(Rule::Overlap, since);
}
