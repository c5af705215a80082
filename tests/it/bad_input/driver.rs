//! Writes the entries into a database, lets a worker work until each has become something, and
//! compares.
//!
//! **Invariant:** one run tells everything that is not as it should be, and not the first thing only.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::runners::{
        Runners,
        func::FuncRegistry,
        http::{HttpRunner, HttpSettings},
        shell::ShellSettings,
    },
    domain::{
        definition::{Definition, RecordedStep},
        explain::{View, explain},
        id::{ExecutionId, Owner},
        lease::LeaseTerms,
        pod::PodProcess,
        retention::Retention,
        retry::Backoff,
    },
    instruments::Instruments,
    ports::{
        control::{About, Control, ControlError, Start, Submission},
        executions::ExecutionStore,
        runner::StepRunner,
    },
    worker::{Settings, Shutdown, Summary, Worker, health::Health},
};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{Becomes, Entry, Written, graph, noop, on_one_store, requests, rows, steps};
use crate::{
    contract::{
        Subject,
        sqlite::{File, Memory},
        world::{HOUR, World},
    },
    mysql::{Database, Server},
    process::CEILING,
};

/// A store and what only its rows can hold.
#[async_trait]
pub trait Kind: Subject {
    fn own_entries() -> Vec<Entry>;

    /// Before anything is written.
    async fn prepare(&self) {}
}

impl Kind for File {
    fn own_entries() -> Vec<Entry> {
        on_one_store::sqlite()
    }
}

impl Kind for Memory {
    fn own_entries() -> Vec<Entry> {
        on_one_store::sqlite()
    }
}

#[async_trait]
impl<S: Server> Kind for Database<S> {
    fn own_entries() -> Vec<Entry> {
        on_one_store::servers()
    }

    /// Strangers write what a strict server refuses.
    async fn prepare(&self) {
        self.exec("SET SESSION sql_mode='ALLOW_INVALID_DATES'").await;
    }
}

crate::stores::tests! { on_sqlite_file, crate::contract::sqlite::File; every_entry_becomes_what_it_must }
crate::stores::tests! { on_sqlite_memory, crate::contract::sqlite::Memory; every_entry_becomes_what_it_must }
crate::stores::tests! { on_mysql, crate::mysql::Database<crate::mysql::MySql>; every_entry_becomes_what_it_must }
crate::stores::tests! { on_mariadb, crate::mysql::Database<crate::mysql::MariaDb>; every_entry_becomes_what_it_must }

async fn every_entry_becomes_what_it_must<S: Kind>() {
    let mut entries = steps::entries();
    entries.extend(requests::entries());
    entries.extend(graph::entries());
    entries.extend(rows::entries());
    entries.extend(S::own_entries());
    let world = World::<S>::new().await;
    world.subject.prepare().await;
    run(&world, entries).await;
}

/// Writes the entries, runs a worker, and compares what has become of them.
pub async fn run<S: Subject>(world: &World<S>, entries: Vec<Entry>) {
    let mut written = Vec::new();
    for (n, entry) in entries.into_iter().enumerate() {
        if n % 10 == 0 {
            let steps = vec![noop("one"), noop("two")];
            let honest = Entry::steps("an honest workflow", steps, Becomes::Success);
            written.push(Case::write(world, format!("h{n}-"), honest).await);
        }
        written.push(Case::write(world, format!("e{n}-"), entry).await);
    }
    // A worker's reaper does it too, at its own pace.
    world.b.fail_unknown(HOUR).await.expect("a look");
    let running = Running::start(world.subject.store().await);
    let deadline = Instant::now() + CEILING;
    while Instant::now() < deadline && !have_become(world, &written).await {
        sleep(Duration::from_millis(100)).await;
    }
    let mut wrong = Vec::new();
    for case in &written {
        wrong.extend(case.complaint(world).await);
    }
    wrong.extend(left_held(world).await);
    let lost = running.drain().await.lost;
    assert!(wrong.is_empty() && lost == 0, "{lost} were lost:\n{}", wrong.join("\n"));
}

/// An entry in the database.
struct Case {
    entry: Entry,
    /// Makes its ids its own.
    prefix: String,
    submitted: Result<ExecutionId, String>,
}

impl Case {
    async fn write<S: Subject>(world: &World<S>, prefix: String, entry: Entry) -> Self {
        let chain = || vec![noop("one"), graph::after(noop("two"), r#"["{e}one"]"#)];
        let steps = match &entry.written {
            Written::Steps(steps) => steps.clone(),
            Written::Rows(_) => chain(),
        };
        let definition = definition(&prefix, steps);
        let submitted = submit(world, &definition).await.map_err(|error| error.to_string());
        if let (Written::Rows(statements), Ok(id)) = (&entry.written, &submitted) {
            for statement in statements {
                world.subject.exec(&filled::<S>(statement, &prefix, id)).await;
            }
        }
        Self { entry, prefix, submitted }
    }

    /// What is wrong with what has become of it.
    async fn complaint<S: Subject>(&self, world: &World<S>) -> Option<String> {
        let (is, why) = match &self.submitted {
            Err(why) => ("refused".into(), Some(why.clone())),
            Ok(id) => {
                self.can_be_looked_at(world, id).await;
                (world.status(id).await, world.execution(id, "error").await)
            }
        };
        let (must_be, because) = match &self.entry.becomes {
            Becomes::Refused(piece) => ("refused", Some(piece)),
            Becomes::Failed(piece) => ("failed", Some(piece)),
            Becomes::Success => ("success", None),
            Becomes::Waits => ("pending", None),
        };
        let said = |piece: &String| {
            why.as_ref().is_some_and(|why| why.contains(&piece.replace("{e}", &self.prefix)))
        };
        let right = is == must_be && because.is_none_or(said);
        let why: String = why.unwrap_or_default().chars().take(300).collect();
        (!right).then(|| {
            format!("{:?} is {is} ({why}), and must be {:?}", self.entry.name, self.entry.becomes)
        })
    }

    /// Whoever asks what has become of it gets an answer.
    async fn can_be_looked_at<S: Subject>(&self, world: &World<S>, id: &ExecutionId) {
        let name = &self.entry.name;
        let detail = world.b.show(id).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(detail.summary.execution, *id);
        let facts = world.b.facts(id).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let explanation = explain(&facts, &View::default());
        assert!(!explanation.because.is_empty() && !explanation.next.is_empty(), "{name}");
    }
}

fn definition(prefix: &str, mut steps: Vec<RecordedStep>) -> Definition {
    for step in &mut steps {
        let own = |text: &str| text.replace("{e}", prefix);
        step.id = own(step.id.as_str()).into();
        step.name = step.name.as_deref().map(|name| name.replace("{e}", ""));
        step.dependencies = step.dependencies.as_deref().map(own);
    }
    Definition { template: format!("{prefix}t").into(), name: format!("{prefix}w"), steps }
}

async fn submit<S: Subject>(
    world: &World<S>,
    definition: &Definition,
) -> Result<ExecutionId, ControlError> {
    world.a.apply(definition, &About::default()).await?;
    let template = definition.template.to_string();
    let submission =
        Submission { template, created_by: String::new(), start: Start::Now, traceparent: None };
    Ok(world.a.submit(&submission).await?.execution)
}

fn filled<S: Subject>(statement: &str, prefix: &str, id: &ExecutionId) -> String {
    let past = S::moved(S::now(), -2 * 3_600_000);
    let soon = S::moved(S::now(), 1_000);
    let filled = statement.replace("{e}", prefix).replace("{id}", id.as_str());
    filled.replace("{past}", &past).replace("{soon}", &soon).replace("{now}", S::now())
}

/// Whether each is what it will be; those that wait have been looked at for long enough by then.
async fn have_become<S: Subject>(world: &World<S>, cases: &[Case]) -> bool {
    for case in cases {
        let Ok(id) = &case.submitted else { continue };
        let is_final = ["success", "failed"].contains(&world.status(id).await.as_str());
        if !is_final && !matches!(case.entry.becomes, Becomes::Waits) {
            return false;
        }
    }
    true
}

/// What somebody would still hold though nothing runs any more.
async fn left_held<S: Subject>(world: &World<S>) -> Vec<String> {
    let mut left = Vec::new();
    for (what, sql) in [
        ("executions run", "SELECT COUNT(*) FROM workflow_executions WHERE status='running'"),
        ("executions are owned", "SELECT COUNT(*) FROM workflow_executions WHERE ow_owner<>''"),
        (
            "locks are held",
            "SELECT COUNT(*) FROM distributed_locks WHERE owner NOT LIKE '~%' AND owner<>'go-1'",
        ),
        ("attempts are open", "SELECT COUNT(*) FROM ow_attempts WHERE finished_at IS NULL"),
        (
            "steps run",
            "SELECT COUNT(*) FROM workflow_step_executions WHERE status='running' \
             AND step_id<>'elsewhere'",
        ),
    ] {
        let count = world.subject.one(sql).await.unwrap_or_default();
        if count != "0" {
            left.push(format!("{count} {what}"));
        }
    }
    left
}

struct Running {
    tasks: JoinSet<Summary>,
    shutdown: Shutdown,
    _state: TempDir,
}

impl Running {
    fn start(store: impl ExecutionStore) -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let health = Health::new(Duration::from_secs(1));
        let worker = Worker::new(
            Arc::new(store),
            Arc::new(runners(&state)),
            settings(),
            Arc::new(Instruments::new()),
            health,
        );
        let (shutdown, mut tasks) = (Shutdown::default(), JoinSet::new());
        let told = shutdown.clone();
        tasks.spawn(async { worker.run(told).await.expect("it works to its end") });
        Self { tasks, shutdown, _state: state }
    }

    async fn drain(mut self) -> Summary {
        self.shutdown.drain.cancel();
        let ended = timeout(CEILING, self.tasks.join_next()).await.expect("it ends in time");
        ended.expect("it was started").expect("it does not panic")
    }
}

/// As `app` builds them.
fn runners(state: &TempDir) -> impl StepRunner + use<> {
    let shell = ShellSettings {
        program: env!("CARGO_BIN_EXE_orchestrator-worker").into(),
        state_dir: state.path().to_owned(),
        ..ShellSettings::default()
    };
    let http = HttpRunner::new(HttpSettings::default());
    Runners::new(Some(shell), FuncRegistry::default()).with(http)
}

fn settings() -> Settings {
    let milliseconds = Duration::from_millis;
    Settings {
        owner: Owner::try_new("w").expect("a name"),
        process: PodProcess::default(),
        slots: 60,
        poll_interval: milliseconds(50),
        terms: LeaseTerms::try_new(Duration::from_secs(20), Duration::from_secs(1)).expect("terms"),
        claim_batch: 50,
        eligibility: Arc::default(),
        unknown_after: Duration::ZERO,
        drain_deadline: Duration::from_secs(30),
        steps_at_once: 8,
        backoff: Backoff { base: milliseconds(10), cap: milliseconds(100) },
        poison_claims: 10,
        retention: Retention::default(),
        adopt_orphans: false,
        until_idle: false,
    }
}
