//! Everything goes wrong, again and again, while real workers run executions beside a Go service; then
//! what the steps wrote themselves is held against what the tables say.
//!
//! `ORCHESTRATOR_NEMESIS_SEED` repeats the choices of an earlier run, `ORCHESTRATOR_NEMESIS_ROUNDS` says
//! how often each fault strikes (ten times if it is not given, 300 times with
//! `ORCHESTRATOR_TEST_SCALE=soak`, and then at several servers at a time). `ORCHESTRATOR_NEMESIS_URL` has it
//! strike at an empty database on somebody's own server, by the faults that need no server of its own.
//!
//! **Invariant:** the harness judges by the history alone; it knows nothing of how a worker works.

use std::{collections::VecDeque, io::Write, time::Duration};

use futures_util::future::join_all;
use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    domain::{doctor::grants, lock_table::LockTable},
    ports::control::Control,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, raw_sql};
use tokio::{
    sync::{Mutex, RwLock, watch},
    task::{JoinSet, block_in_place},
    time::{Instant, sleep},
};
use url::Url;

use self::{
    faults::{Arena, Fault},
    fleet::Fleet,
    history::{Violation, violations},
    phase::phases,
    place::{DATABASE, Place, USER, given_url},
    record::Record,
    twin::Twin,
    workload::{Workload, ask, left, needs, rows},
};
use crate::{instance::Instance, process::is_soak};

mod failover;
mod faults;
mod fleet;
mod handover;
pub mod history;
mod outage;
mod phase;
mod place;
mod races;
mod record;
mod spoiled;
mod theirs;
mod twin;
mod unwatched;
pub mod workload;

const WORKERS: usize = 4;
/// Faults at one time.
const AT_ONCE: usize = 3;
/// A run that has not ended so long after its last fault never will.
const CEILING: Duration = Duration::from_secs(300);

/// Executions that have not ended, kept up while faults strike.
fn under_way() -> i64 {
    if is_soak() { 120 } else { 30 }
}

/// Each with workers of its own: most of a fault is waiting.
fn servers() -> u64 {
    if is_soak() && given_url().is_none() { 4 } else { 1 }
}

/// A number that `tests/run` or a person may give.
#[expect(clippy::disallowed_methods, reason = "people speak to tests by their environment")]
fn given(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a whole number"))
}

async fn no_fault_loses_or_doubles_work(server: &'static str) {
    let seed = given("ORCHESTRATOR_NEMESIS_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let rounds = given("ORCHESTRATOR_NEMESIS_ROUNDS").unwrap_or(if is_soak() { 300 } else { 10 });
    say(&format!("nemesis on {server}: ORCHESTRATOR_NEMESIS_SEED={seed}"));
    let each = rounds.div_ceil(servers());
    let mut runs = JoinSet::new();
    for place in 0..servers() {
        runs.spawn(run(server, seed.wrapping_add(place), each));
    }
    let mut all = Record::default();
    for record in runs.join_all().await {
        all.add(record);
    }
    if servers() > 1 {
        all.tell();
    }
    // A few faults may all strike idle workers.
    assert!(rounds < 10 || all.lost > 0, "nothing was ever in danger");
    let (faults, executions) = (all.faults(), all.executions());
    assert!(executions >= wanted(faults), "{executions} executions under {faults} faults");
}

/// How many executions so many faults are to meet.
fn wanted(faults: u32) -> u32 {
    if is_soak() { 10 * faults } else { 0 }
}

/// At one server; panics if it finds anything.
async fn run(server: &'static str, seed: u64, rounds: u64) -> Record {
    let mut random = StdRng::seed_from_u64(seed);
    let workload = Workload::new();
    let place = match given_url() {
        Some(url) => Place::theirs(url),
        None => Place::ours(block_in_place(|| Instance::start_with_clock(server))).await,
    };
    let is_ours = place.instance.is_some();
    let faults = Fault::ALL.into_iter().filter(|fault| is_ours || !fault.needs_own_server());
    let faults: Vec<Fault> = faults.collect();
    let (arena, control) = set_up(place, &workload).await;

    let began = Instant::now();
    let record = Mutex::new(Record::default());
    let (over, is_over) = watch::channel(false);
    let striking = async {
        // Fast workers keep it below what is submitted.
        while left(&arena.url).await.unwrap_or(0) < under_way() / 2 {
            sleep(Duration::from_millis(50)).await;
        }
        strike_all(&arena, &faults, rounds, &mut random, &record).await;
        over.send_replace(true);
    };
    let random = || StdRng::seed_from_u64(seed.wrapping_add(1));
    tokio::join!(
        striking,
        submit(&arena, &control, &workload, random(), &record, is_over.clone()),
        cancel(&arena, &control, &workload, random(), &record, is_over.clone()),
        rival(&arena, &workload, &record, is_over),
    );
    drain(&arena).await;

    let (effects, rows) = (workload.effects(), rows(&arena.url, needs).await.expect("the tables"));
    let found = violations(&effects, &rows);
    let mut record = record.into_inner();
    for (status, _) in rows.executions.values() {
        *record.ended.entry(status.clone()).or_default() += 1;
    }
    let attempts = rows.attempts.values().flatten();
    record.lost = attempts.filter(|attempt| attempt.outcome == "lost").count();
    (record.effects, record.took) = (effects.len(), began.elapsed());
    record.tell();
    say(&format!("nemesis on {server}: {} violations", found.len()));
    arena.fleet.stop();
    assert_eq!(found, [], "{}", shown(&found));
    record
}

/// A migrated and guarded database, the workers as a user with the least rights, the templates.
async fn set_up(place: Place, workload: &Workload) -> (Arena, MySqlStore) {
    let Place { instance, url, user, password } = place;
    // Before anything is changed. Without tables there are none.
    let any = ask(&url, "SELECT 1 FROM workflow_executions LIMIT 1").await.unwrap_or_default();
    assert!(any.is_empty(), "it has executions; give a database of its own");
    let settings = Settings::new(SecretString::from(url.clone()));
    let control = MySqlStore::open(settings).await.expect("a store");
    control.migrate(false).await.expect("it is migrated");
    control.guard(false).await.expect("it is guarded");
    if instance.is_some() {
        let mut stranger = MySqlConnection::connect(&url).await.expect("a server");
        for grant in grants(USER, DATABASE, false, &LockTable::default()) {
            raw_sql(AssertSqlSafe(grant)).execute(&mut stranger).await.expect("granted");
        }
    }
    workload.apply(&control).await;
    let parsed = Url::parse(&url).expect("it is one");
    let server = parsed.socket_addrs(|| Some(3306)).expect("its host is known")[0];
    let database = parsed.path();
    let named = |proxy| format!("mysql://{user}:{password}@{proxy}{database}");
    let fleet = Fleet::start(WORKERS, server, named).await;
    let arena = Arena { fleet, server: Mutex::new(instance), url, user, clock: RwLock::new(()) };
    (arena, control)
}

/// Each fault so often, in any order; one that met nothing does not count.
async fn strike_all(
    arena: &Arena,
    faults: &[Fault],
    rounds: u64,
    random: &mut StdRng,
    record: &Mutex<Record>,
) {
    let mut schedule: Vec<Fault> = (0..rounds).flat_map(|_| faults.iter().copied()).collect();
    schedule.shuffle(random);
    let schedule: VecDeque<(Fault, u64)> =
        schedule.into_iter().map(|fault| (fault, random.random())).collect();
    let schedule = std::sync::Mutex::new(schedule);
    let striker = async |_| {
        loop {
            let next = schedule.lock().expect("no panic").pop_front();
            let Some((fault, seed)) = next else { return };
            let met = phases(&arena.url).await;
            let began = Instant::now();
            if !arena.strike(fault, seed).await {
                // Once more, later.
                schedule.lock().expect("no panic").push_back((fault, seed));
                record.lock().await.missed += 1;
                continue;
            }
            let mut record = record.lock().await;
            for (phase, count) in met {
                *record.met.entry((fault, phase)).or_default() += count;
            }
            let (count, time) = record.struck.entry(fault).or_default();
            *count += 1;
            *time += began.elapsed();
            drop(record);
            sleep(Duration::from_millis(300)).await;
        }
    };
    join_all((0..AT_ONCE).map(striker)).await;
}

async fn submit(
    arena: &Arena,
    control: &MySqlStore,
    workload: &Workload,
    mut random: StdRng,
    record: &Mutex<Record>,
    is_over: watch::Receiver<bool>,
) {
    let is_enough = async || {
        let record = record.lock().await;
        *is_over.borrow() && record.submitted >= wanted(record.faults())
    };
    while !is_enough().await {
        for _ in left(&arena.url).await.unwrap_or(under_way())..under_way() {
            let _clock = arena.clock.read().await;
            if workload.submit_any(control, &mut random).await {
                record.lock().await.submitted += 1;
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn cancel(
    arena: &Arena,
    control: &MySqlStore,
    workload: &Workload,
    mut random: StdRng,
    record: &Mutex<Record>,
    is_over: watch::Receiver<bool>,
) {
    while !*is_over.borrow() {
        sleep(Duration::from_secs(2)).await;
        if workload.cancel(control, &arena.url, &mut random).await {
            record.lock().await.cancelled += 1;
        }
    }
}

/// A Go service that runs what it finds, and whose clock is an hour ahead.
async fn rival(
    arena: &Arena,
    workload: &Workload,
    record: &Mutex<Record>,
    is_over: watch::Receiver<bool>,
) {
    let mut twin = Twin::new(arena.url.clone(), workload.log(), 3600);
    while !*is_over.borrow() {
        if let Some(execution) = twin.find().await {
            let fared = twin.run(&execution).await;
            *record.lock().await.fared.entry(fared).or_default() += 1;
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// Waits until every execution has ended.
async fn drain(arena: &Arena) {
    let since = Instant::now();
    while left(&arena.url).await.unwrap_or(1) > 0 {
        if since.elapsed() > CEILING {
            // The checker names them.
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Past the test harness, which keeps what a passing test prints.
pub fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("somebody listens");
}

pub fn shown(found: &[Violation]) -> String {
    let lines: Vec<String> = found.iter().take(50).map(ToString::to_string).collect();
    format!("{} violations:\n{}", found.len(), lines.join("\n"))
}

mod on_mysql {
    #[tokio::test(flavor = "multi_thread", worker_threads = 6)]
    async fn no_fault_loses_or_doubles_work() {
        Box::pin(super::no_fault_loses_or_doubles_work("mysql")).await;
    }
}

mod on_mariadb {
    #[tokio::test(flavor = "multi_thread", worker_threads = 6)]
    async fn no_fault_loses_or_doubles_work() {
        Box::pin(super::no_fault_loses_or_doubles_work("mariadb")).await;
    }
}
