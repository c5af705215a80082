//! Workers that die, freeze, or go away in the middle of an execution: what the steps themselves
//! wrote shows that nothing was lost and nothing ran twice that should not have.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use orchestrator_worker::domain::definition::RecordedStep;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    contract::{
        Subject,
        world::{HOUR, World, chain, step, workflow},
    },
    process::{Worker, binary, end_of, is_soak, json, wait_until},
};

/// A subject that processes of their own can open too.
pub trait Served: Subject {
    /// As `--database-url` takes it.
    fn url(&self) -> String;

    /// What its workers are told by their environment.
    fn settings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Starts a worker on a subject.
pub fn start<S: Served>(subject: &S, name: &str, more: &[(&str, &str)]) -> Worker {
    start_with(subject, name, more, &[])
}

fn start_with<S: Served>(subject: &S, name: &str, more: &[(&str, &str)], flags: &[&str]) -> Worker {
    let of_subject = subject.settings();
    let mut settings: Vec<_> = of_subject.iter().map(|(key, value)| (*key, &**value)).collect();
    settings.extend(more);
    Worker::start_with(&subject.url(), name, &settings, flags)
}

/// Makes a module of tests, one a story, for a subject.
macro_rules! crash {
    ($module:ident, $subject:ty) => {
        mod $module {
            crate::crash::stories! { $subject;
                a_killed_workers_execution_is_ended_by_the_other_and_no_step_is_repeated
                a_frozen_worker_loses_its_shell_its_lease_and_every_late_write
                a_restarted_container_goes_on_at_once_and_only_when_its_old_steps_are_gone
                beside_a_living_process_of_its_pod_a_worker_waits_for_the_lease
                a_terminated_worker_hands_over_within_its_deadline
                the_last_workers_execution_goes_on_an_hour_later_without_any_lock_row
                many_executions_on_two_workers_all_succeed_and_none_twice
            }
        }
    };
}

macro_rules! stories {
    ($subject:ty; $($story:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $story() {
            crate::crash::$story::<$subject>().await;
        })*
    };
}
use stories;

crash!(on_sqlite_file, crate::contract::sqlite::File);
crash!(on_mysql, crate::mysql::Database<crate::mysql::MySql>);
crash!(on_mariadb, crate::mysql::Database<crate::mysql::MariaDb>);
crash!(
    on_mysql_and_redis,
    crate::leased::Leased<crate::mysql::Database<crate::mysql::MySql>, crate::leased::Redis>
);
crash!(
    on_mariadb_and_etcd,
    crate::leased::Leased<crate::mysql::Database<crate::mysql::MariaDb>, crate::leased::Etcd>
);

/// A workflow of ten shell steps, each after the one before. Step 4 waits for a gate.
pub struct TenSteps {
    dir: TempDir,
}

/// One line that a step wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    what: String,
    step: String,
    key: String,
    attempt: u32,
    pid: u32,
}

impl TenSteps {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut file = String::from("name: ten\nsteps:\n");
        for n in 0..10 {
            let after = if n == 0 { String::new() } else { format!("s{}", n - 1) };
            let gate = if n == 4 { "until [ -e \"$DIR/gate\" ]; do sleep 0.05; done;" } else { "" };
            let step = format!(
                r#"
  - name: s{n}
    depends_on: [{after}]
    timeout: 100s
    retries: 0
    env: {{ DIR: "{dir}", STEP: s{n} }}
    shell: |
      say() {{ echo "$1 $STEP $ORCHESTRATOR_IDEMPOTENCY_KEY $ORCHESTRATOR_ATTEMPT $$" >> "$DIR/log"; }}
      say start; {gate} say end; echo "attempt $ORCHESTRATOR_ATTEMPT"
"#,
                dir = dir.path().display(),
            );
            file.push_str(&step);
        }
        fs::write(dir.path().join("ten.yaml"), file).expect("it can be written");
        Self { dir }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ten.yaml")
    }

    fn effects(&self) -> Vec<Effect> {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().map(Effect::parse).collect()
    }

    /// Waits until the `count`th attempt at step 4 has begun.
    pub fn wait_for_step_4(&self, count: usize) -> Effect {
        wait_until("step 4 begins", || {
            let starts = self.effects().into_iter().filter(|e| e.what == "start" && e.step == "s4");
            starts.collect::<Vec<_>>().get(count - 1).cloned()
        })
    }

    pub fn open_gate(&self) {
        fs::write(self.dir.path().join("gate"), "").expect("it can be written");
    }

    /// Every step ended once, in order; only step 4 began twice, under one key.
    pub fn assert_only_step_4_ran_again(&self) {
        let effects = self.effects();
        let ends: Vec<&str> =
            effects.iter().filter(|e| e.what == "end").map(|e| e.step.as_str()).collect();
        assert_eq!(ends, ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"]);
        let mut starts: BTreeMap<&str, Vec<&Effect>> = BTreeMap::new();
        for effect in effects.iter().filter(|e| e.what == "start") {
            starts.entry(&effect.step).or_default().push(effect);
        }
        for (step, starts) in starts {
            let attempts: Vec<u32> = starts.iter().map(|e| e.attempt).collect();
            let expected = if step == "s4" { vec![1, 2] } else { vec![1] };
            assert_eq!(attempts, expected, "attempts at {step}");
            assert!(starts.iter().all(|e| e.key == starts[0].key), "one key for {step}");
        }
    }
}

impl Effect {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        Self {
            what: words[0].into(),
            step: words[1].into(),
            key: words[2].into(),
            attempt: words[3].parse().expect("a number"),
            pid: words[4].parse().expect("a pid"),
        }
    }

    fn is_there(&self) -> bool {
        PathBuf::from(format!("/proc/{}", self.pid)).exists()
    }

    fn wait_until_gone(&self) {
        wait_until("the step's shell is gone", || (!self.is_there()).then_some(()));
    }
}

pub fn submit(url: &str, file: &Path) -> String {
    json(url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    let submitted = json(url, ["submit", "ten"]);
    submitted["execution"].as_str().expect("an id").to_owned()
}

fn show(url: &str, execution: &str) -> Value {
    json(url, ["show", execution])
}

pub fn wait_for_success(url: &str, execution: &str) -> Value {
    wait_until("the execution succeeds", || {
        let shown = show(url, execution);
        let status = shown["state"].as_str().expect("a state").to_owned();
        assert!(["pending", "running", "success"].contains(&status.as_str()), "{shown}");
        (status == "success").then_some(shown)
    })
}

/// The outcomes of the attempts at step 4, with their causes.
fn outcomes_of_step_4(shown: &Value) -> Vec<(String, Option<String>)> {
    let attempts = shown["steps"][4]["attempts"].as_array().expect("attempts");
    let text = |v: &Value| v.as_str().map(str::to_owned);
    attempts.iter().map(|a| (text(&a["outcome"]).unwrap_or_default(), text(&a["cause"]))).collect()
}

pub async fn a_killed_workers_execution_is_ended_by_the_other_and_no_step_is_repeated<S: Served>() {
    let world = World::<S>::new().await;
    let (ten, url) = (TenSteps::new(), world.subject.url());
    let mut a = start(&world.subject, "a", &[]);
    a.wait_for("worker.started");
    let execution = submit(&url, &ten.file());
    let in_flight = ten.wait_for_step_4(1);
    let b = start(&world.subject, "b", &[]);
    b.wait_for("worker.idle");

    a.signal(Signal::KILL);
    a.wait();
    in_flight.wait_until_gone();
    ten.open_gate();

    let shown = wait_for_success(&url, &execution);
    ten.assert_only_step_4_ran_again();
    let lost = ("lost".to_owned(), Some("lease_expired".to_owned()));
    assert_eq!(outcomes_of_step_4(&shown), [lost, ("success".to_owned(), None)]);
    assert_eq!(shown["steps"][4]["retry_count"], 0);
    assert_eq!(b.logged("execution.taken_over"), 1);
    let table = end_of(binary().args(["--database-url", &url, "show", &execution])).stdout;
    let line = ": attempt 1, of a, was lost: lease_expired";
    assert_eq!(table.lines().filter(|it| it.ends_with(line)).count(), 1, "{table}");
}

pub async fn a_frozen_worker_loses_its_shell_its_lease_and_every_late_write<S: Served>() {
    let world = World::<S>::new().await;
    let (ten, url) = (TenSteps::new(), world.subject.url());
    let mut a = start(&world.subject, "a", &[]);
    a.wait_for("worker.started");
    let execution = submit(&url, &ten.file());
    let in_flight = ten.wait_for_step_4(1);
    let b = start(&world.subject, "b", &[]);
    b.wait_for("worker.idle");

    a.signal(Signal::STOP);
    // Its guardian ends the shell at the lease's deadline although the worker itself is frozen.
    in_flight.wait_until_gone();
    ten.open_gate();
    let ended = wait_for_success(&url, &execution);

    a.signal(Signal::CONT);
    a.wait_for("execution.lost");
    assert_eq!(show(&url, &execution), ended, "the woken worker changed nothing");
    ten.assert_only_step_4_ran_again();
    a.signal(Signal::TERM);
    assert!(a.wait().success());
}

/// What makes a worker a process of one pod, whose volume is `folder`.
fn in_pod(folder: &TempDir) -> [(&'static str, &str); 2] {
    let folder = folder.path().to_str().expect("UTF-8");
    [
        ("POD_UID", "0f6c1e34-55ab-4a3c-9c1d-7d0b5d7c4e21"),
        ("ORCHESTRATOR_WORKER__STATE_DIR", folder),
    ]
}

pub async fn a_restarted_container_goes_on_at_once_and_only_when_its_old_steps_are_gone<
    S: Served,
>() {
    let world = World::<S>::new().await;
    let (ten, url) = (TenSteps::new(), world.subject.url());
    let volume = tempfile::tempdir().expect("a folder");
    let begin = || {
        // So long that nobody could have waited for it.
        let patient =
            [("ORCHESTRATOR_WORKER__LOCK__TTL", "60s"), ("ORCHESTRATOR_WORKER__SLOTS", "1")];
        start(&world.subject, "a", &[&in_pod(&volume)[..], &patient].concat())
    };
    let mut first = begin();
    first.wait_for("worker.started");
    let execution = submit(&url, &ten.file());
    let in_flight = ten.wait_for_step_4(1);
    // What is new would fill the only slot, and waits for what was begun.
    let waits = world.submit_chain(&["one"]).await;
    first.signal(Signal::KILL);
    first.wait();

    let second = begin();
    let taken = second.wait_for("execution.taken_over");
    assert_eq!(taken["cause"], "container_restarted");
    assert_eq!(world.status(&waits).await, "pending");
    ten.wait_for_step_4(2);
    assert!(!in_flight.is_there(), "it was gone before the next attempt began");
    ten.open_gate();

    let shown = wait_for_success(&url, &execution);
    ten.assert_only_step_4_ran_again();
    let lost = ("lost".to_owned(), Some("container_restarted".to_owned()));
    assert_eq!(outcomes_of_step_4(&shown), [lost, ("success".to_owned(), None)]);
    let claims = format!("SELECT ow_claims FROM workflow_executions WHERE id='{execution}'");
    assert_eq!(world.subject.one(&claims).await.as_deref(), Some("1"), "an unclean end");
}

pub async fn beside_a_living_process_of_its_pod_a_worker_waits_for_the_lease<S: Served>() {
    let world = World::<S>::new().await;
    let (ten, url) = (TenSteps::new(), world.subject.url());
    let volume = tempfile::tempdir().expect("a folder");
    let mut a = start(&world.subject, "a", &in_pod(&volume));
    a.wait_for("worker.started");
    let execution = submit(&url, &ten.file());
    ten.wait_for_step_4(1);
    let b = start(&world.subject, "b", &in_pod(&volume));
    b.wait_for("state_dir.in_use");
    b.wait_for("worker.idle");

    a.signal(Signal::KILL);
    a.wait();
    assert_eq!(b.wait_for("execution.taken_over")["cause"], "lease_expired");
    ten.open_gate();
    wait_for_success(&url, &execution);
    ten.assert_only_step_4_ran_again();
}

pub async fn a_terminated_worker_hands_over_within_its_deadline<S: Served>() {
    let world = World::<S>::new().await;
    let (ten, url) = (TenSteps::new(), world.subject.url());
    let mut a = start(&world.subject, "a", &[("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "4s")]);
    a.wait_for("worker.started");
    let execution = submit(&url, &ten.file());
    let in_flight = ten.wait_for_step_4(1);
    let b = start(&world.subject, "b", &[]);
    b.wait_for("worker.idle");

    a.signal(Signal::TERM);
    assert!(a.wait().success(), "a drained worker exits 0");
    assert_eq!(a.logged("execution.handed_back"), 1);
    in_flight.wait_until_gone();
    ten.wait_for_step_4(2);
    assert_eq!(
        b.wait_for("execution.taken_over")["cause"],
        "released",
        "nobody waited for a lease"
    );
    ten.open_gate();

    let shown = wait_for_success(&url, &execution);
    ten.assert_only_step_4_ran_again();
    let outcomes: Vec<String> = outcomes_of_step_4(&shown).into_iter().map(|o| o.0).collect();
    assert_eq!(outcomes, ["drained", "success"]);
    assert_eq!(shown["steps"][4]["retry_count"], 0, "a drain uses up no retry");
}

pub async fn the_last_workers_execution_goes_on_an_hour_later_without_any_lock_row<S: Served>() {
    let world = World::<S>::new().await;
    let (ten, url) = (TenSteps::new(), world.subject.url());
    let mut a = start(&world.subject, "a", &[("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "2s")]);
    a.wait_for("worker.started");
    let execution = submit(&url, &ten.file());
    ten.wait_for_step_4(1);
    a.signal(Signal::TERM);
    assert!(a.wait().success());

    world.subject.exec("DELETE FROM distributed_locks").await;
    world.pass(HOUR).await;
    ten.open_gate();
    let _b = start(&world.subject, "b", &[]);

    wait_for_success(&url, &execution);
    ten.assert_only_step_4_ran_again();
}

/// 60 here; the numbers of a real load with `ORCHESTRATOR_TEST_SCALE=soak`.
fn executions() -> u32 {
    if is_soak() { 10_000 } else { 60 }
}

/// Of each worker.
const SLOTS: u32 = 10;

/// A step that is done once the file is there.
fn gated(gate: &Path) -> RecordedStep {
    RecordedStep {
        executor_type: Some("shell".into()),
        shell_script: Some(format!("until [ -e '{}' ]; do sleep 0.05; done", gate.display())),
        parameters: None,
        ..step("gated")
    }
}

pub async fn many_executions_on_two_workers_all_succeed_and_none_twice<S: Served>() {
    let world = World::<S>::new().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let gate = dir.path().join("gate");
    // One more than a worker has slots for, before all others: each gets some.
    let first = world.apply(&workflow("first", vec![gated(&gate)])).await;
    for _ in 0..=SLOTS {
        world.submit(&first).await;
    }
    let template = world.apply(&workflow("three", chain(&["one", "two", "three"]))).await;
    let count = executions();
    for _ in 0..count {
        world.submit(&template).await;
    }
    let slots = SLOTS.to_string();
    let settings = [("ORCHESTRATOR_WORKER__SLOTS", &*slots)];
    let begin = |name| start_with(&world.subject, name, &settings, &["--until-idle"]);
    let mut workers = [begin("a"), begin("b")];
    for worker in &workers {
        worker.wait_for("execution.claimed");
    }
    fs::write(&gate, "").expect("it can be written");
    for worker in &mut workers {
        assert!(worker.wait().success());
        assert!(worker.logged("execution.finished") > 0, "{} had its share", worker.name);
    }

    let ask = async |sql: &str| world.subject.one(sql).await.unwrap_or_default();
    let (all, steps) = (count + SLOTS + 1, count * 3 + SLOTS + 1);
    let succeeded = "SELECT COUNT(*) FROM workflow_executions WHERE status='success'";
    assert_eq!(ask(succeeded).await, all.to_string());
    let ran = "SELECT COUNT(*) FROM workflow_step_executions WHERE status='success'";
    assert_eq!(ask(ran).await, steps.to_string());
    assert_eq!(ask("SELECT COUNT(*) FROM ow_attempts").await, steps.to_string());
    assert_eq!(ask("SELECT MAX(attempt) FROM ow_attempts").await, "1");
    assert_eq!(ask("SELECT MAX(ow_claims) FROM workflow_executions").await, "0");
}
