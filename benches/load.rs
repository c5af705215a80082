//! Many executions of three `func` steps on two worker processes, per store: how fast they go
//! through, what each costs the database and the workers, what tracing all of them adds to the workers'
//! CPU, and what a worker costs that has nothing to do.
//!
//! `cargo bench --bench load` measures SQLite, and MySQL and MariaDB where
//! `ORCHESTRATOR_TEST_MYSQL_URL` and `ORCHESTRATOR_TEST_MARIADB_URL` name servers (for figures that
//! mean something start them with `ORCHESTRATOR_TEST_DURABLE=1 tests/servers up`).
//! `-- --executions 10000` is the number, `-- --slots 10` those of each worker.
//!
//! **Invariant:** a run in which an execution fails, is left over or has a step with a second attempt
//! is a panic, not a figure.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{Router, body::Bytes};
use orchestrator_worker::{
    adapters::{
        mysql::{MySqlStore, Settings as MySqlSettings},
        sqlite::{Settings as SqliteSettings, SqlitePath, SqliteStore},
    },
    domain::definition::{Definition, RecordedStep},
    ports::{
        control::{About, Control, Filter, Start, Submission},
        executions::ExecutionStore,
    },
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use tokio::{net::TcpListener, runtime::Runtime, time::Instant};

/// Executions whose statements are counted, in a run of their own.
const COUNTED: u32 = 300;
/// Runs with and without tracing, in turn, of a part of the executions each.
const PAIRS: u32 = 5;
const PART: u32 = 4;
const IDLE: Duration = Duration::from_secs(20);
const STEPS: u32 = 3;
/// The log filter of a worker where nobody says otherwise.
const DEFAULT_LOG: &str = "warn,orchestrator_worker=info";
const STATEMENTS: &str = "warn,sqlx=trace";

fn main() {
    let executions = argument("--executions").unwrap_or(10_000);
    let slots = argument("--slots").unwrap_or(10);
    let runtime = Runtime::new().expect("a runtime");
    println!("{executions} executions of {STEPS} func steps, two workers of {slots} slots each");
    let sink = Sink::start(&runtime);
    println!(
        "{:8} {:>9} {:>8} {:>8} {:>11} {:>8} {:>9} {:>9} {:>8} {:>9} {:>9}",
        "store",
        "seconds",
        "exec/s",
        "steps/s",
        "statements",
        "commits",
        "CPU ms",
        "tracing",
        "peak MiB",
        "idle CPU",
        "idle MiB"
    );
    for store in Store::all() {
        let (statements, commits) = count(&runtime, &store, slots);
        let load = load(&runtime, &store, executions, slots, None);
        let tracing = tracing(&runtime, &store, executions / PART, slots, &sink);
        let idle = idle(&runtime, &store);
        let per_second = |many: u32| f64::from(many) / load.took.as_secs_f64();
        println!(
            "{:8} {:9.2} {:8.0} {:8.0} {:11.1} {:8.2} {:9.2} {:>+8.1}% {:8.1} {:8.2}% {:9.1}",
            store.name,
            load.took.as_secs_f64(),
            per_second(executions),
            per_second(executions * STEPS),
            statements,
            commits,
            load.cpu.as_secs_f64() * 1000.0 / f64::from(executions),
            tracing,
            load.peak_mib,
            100.0 * idle.cpu.as_secs_f64() / IDLE.as_secs_f64(),
            idle.peak_mib
        );
        std::io::stdout().flush().expect("standard output takes a line");
    }
}

fn argument(name: &str) -> Option<u32> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.parse().expect("a number"))
}

/// A kind of store, and how to have an empty one.
struct Store {
    name: &'static str,
    /// A server's URL, without a database.
    server: Option<String>,
}

impl Store {
    #[expect(clippy::disallowed_methods, reason = "the servers are told by the environment")]
    fn all() -> Vec<Self> {
        let mut all = vec![Self { name: "sqlite", server: None }];
        for (name, variable) in
            [("mysql", "ORCHESTRATOR_TEST_MYSQL_URL"), ("mariadb", "ORCHESTRATOR_TEST_MARIADB_URL")]
        {
            match std::env::var(variable) {
                Ok(server) => all.push(Self { name, server: Some(server) }),
                Err(_) => println!("left out: {name}, because {variable} is not set"),
            }
        }
        all
    }
}

/// A migrated database that is dropped with it.
struct Database<'r> {
    runtime: &'r Runtime,
    url: String,
    server: Option<(String, String)>,
    _folder: tempfile::TempDir,
}

impl<'r> Database<'r> {
    fn make(runtime: &'r Runtime, store: &Store) -> (Self, Arc<dyn Both>) {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(server) = &store.server else {
            let path = folder.path().join("load.db");
            let settings = SqliteSettings { path: SqlitePath::File(path.clone()) };
            let opened = runtime.block_on(async {
                let opened = SqliteStore::open(settings).await.expect("a file");
                opened.migrate(false).await.expect("it is migrated");
                opened
            });
            let url = format!("sqlite://{}", path.display());
            return (Self { runtime, url, server: None, _folder: folder }, Arc::new(opened));
        };
        let name = format!("ow_load_{}", std::process::id());
        execute(runtime, server, &format!("CREATE DATABASE {name}"));
        let url = format!("{server}{name}");
        let opened = runtime.block_on(async {
            let opened = MySqlStore::open(MySqlSettings::new(url.clone().into())).await;
            let opened = opened.expect("the server opens");
            opened.migrate(false).await.expect("it is migrated");
            opened
        });
        let server = Some((server.clone(), name));
        (Self { runtime, url, server, _folder: folder }, Arc::new(opened))
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if let Some((server, name)) = &self.server {
            execute(self.runtime, server, &format!("DROP DATABASE {name}"));
        }
    }
}

fn execute(runtime: &Runtime, server: &str, sql: &str) {
    runtime.block_on(async {
        let mut connection = MySqlConnection::connect(server).await.expect("a server");
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    });
}

trait Both: ExecutionStore + Control {}

impl<S: ExecutionStore + Control> Both for S {}

fn submit(runtime: &Runtime, store: &dyn Both, executions: u32) {
    let steps = (0..STEPS).map(|n| RecordedStep {
        id: format!("step-{n}").into(),
        name: Some(format!("s{n}")),
        executor_type: Some("func".into()),
        parameters: Some(r#"{"func":"noop"}"#.into()),
        dependencies: (n > 0).then(|| format!(r#"["step-{}"]"#, n - 1)),
        order: Some(n.into()),
        ..RecordedStep::default()
    });
    let name = "three".to_owned();
    let definition = Definition { template: "three".into(), name, steps: steps.collect() };
    runtime.block_on(async {
        store.apply(&definition, &About::default()).await.expect("it is applied");
        for _ in 0..executions {
            let template = "three".to_owned();
            let submission = Submission {
                template,
                created_by: String::new(),
                start: Start::Now,
                traceparent: None,
            };
            store.submit(&submission).await.expect("it is submitted");
        }
    });
}

/// A worker process and what it has cost so far.
struct Worker {
    child: Child,
    cost: Cost,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    cpu: Duration,
    peak_mib: f64,
}

impl Worker {
    fn start(url: &str, name: &str, arguments: &[String], filter: &str, log: Stdio) -> Self {
        Self::spawn(&mut Self::command(url, name, arguments, filter, log))
    }

    fn command(url: &str, name: &str, arguments: &[String], filter: &str, log: Stdio) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator-worker"));
        command
            .args(["run", "--name", name, "--admin-listen", "off", "--log-format", "json"])
            .args(["--database-url", url])
            .args(arguments)
            .env("ORCHESTRATOR_WORKER__LOG__FILTER", filter)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    fn spawn(command: &mut Command) -> Self {
        let child = command.spawn().expect("the binary starts");
        Self { child, cost: Cost::default() }
    }

    /// Takes note of what it has used; what the last moments before its end cost is not seen.
    fn look(&mut self) {
        let proc = format!("/proc/{}", self.child.id());
        let read = |file: &str| fs::read_to_string(format!("{proc}/{file}")).unwrap_or_default();
        let stat = read("stat");
        // After the name in brackets, which may hold anything: the state is the first.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .map(|rest| rest.split_whitespace().collect())
            .unwrap_or_default();
        let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok());
        if let (Some(user), Some(system)) = (ticks(11), ticks(12)) {
            self.cost.cpu = Duration::from_millis((user + system) * 10);
        }
        if let Some(line) = read("status").lines().find(|line| line.starts_with("VmHWM")) {
            let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
            self.cost.peak_mib = kib.unwrap_or_default() / 1024.0;
        }
    }

    /// Looks now and then until it has ended.
    fn watch(mut self) -> Cost {
        loop {
            self.look();
            if let Some(status) = self.child.try_wait().expect("a child") {
                assert!(status.success(), "a worker ended with {status}");
                return self.cost;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Load {
    took: Duration,
    cpu: Duration,
    peak_mib: f64,
}

/// A collector that reads spans and throws them away.
struct Sink {
    endpoint: String,
    requests: Arc<AtomicU64>,
}

impl Sink {
    fn start(runtime: &Runtime) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(AtomicU64::new(0));
        let seen = requests.clone();
        let app = Router::new().fallback(async move |_: Bytes| {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        runtime.spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { endpoint, requests }
    }
}

/// How much more CPU, in percent, workers need that send all of their spans: the median of pairs of runs.
fn tracing(runtime: &Runtime, store: &Store, executions: u32, slots: u32, sink: &Sink) -> f64 {
    let mut more: Vec<f64> = (0..PAIRS)
        .map(|_| {
            let [off, on] = [None, Some(sink)]
                .map(|sink| load(runtime, store, executions, slots, sink).cpu.as_secs_f64());
            100.0 * (on / off - 1.0)
        })
        .collect();
    assert!(sink.requests.swap(0, Ordering::Relaxed) > 0, "nothing was traced");
    more.sort_by(f64::total_cmp);
    more[more.len() / 2]
}

fn load(
    runtime: &Runtime,
    store: &Store,
    executions: u32,
    slots: u32,
    sink: Option<&Sink>,
) -> Load {
    let (database, opened) = Database::make(runtime, store);
    submit(runtime, &*opened, executions);
    let began = Instant::now();
    let workers = ["a", "b"].map(|name| {
        let arguments = ["--until-idle".into(), format!("--slots={slots}")];
        let mut command =
            Worker::command(&database.url, name, &arguments, DEFAULT_LOG, Stdio::null());
        if let Some(sink) = sink {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.endpoint);
        }
        let worker = Worker::spawn(&mut command);
        thread::spawn(|| worker.watch())
    });
    let costs = workers.map(|worker| worker.join().expect("it does not panic"));
    let took = began.elapsed();
    assert_all_succeeded(runtime, &*opened, executions);
    Load {
        took,
        cpu: costs[0].cpu + costs[1].cpu,
        peak_mib: costs[0].peak_mib.max(costs[1].peak_mib),
    }
}

/// All have succeeded, and none has run a step twice.
fn assert_all_succeeded(runtime: &Runtime, store: &dyn Both, executions: u32) {
    runtime.block_on(async {
        let filter = Filter { limit: executions + 1, ..Filter::default() };
        let listed = store.list(&filter).await.expect("a list");
        assert_eq!(listed.len(), executions as usize);
        assert!(listed.iter().all(|one| one.status.as_deref() == Some("success")));
        for one in &listed {
            let detail = store.show(&one.execution).await.expect("it is there");
            assert!(detail.steps.iter().all(|step| step.attempts.len() == 1), "none ran twice");
        }
    });
}

/// Statements and commits an execution, as the workers' own logs have them.
fn count(runtime: &Runtime, store: &Store, slots: u32) -> (f64, f64) {
    let (database, opened) = Database::make(runtime, store);
    submit(runtime, &*opened, COUNTED);
    let readers = ["a", "b"].map(|name| {
        let arguments = ["--until-idle".into(), format!("--slots={slots}")];
        let mut worker = Worker::start(&database.url, name, &arguments, STATEMENTS, Stdio::piped());
        let log = worker.child.stderr.take().expect("it is piped");
        thread::spawn(move || {
            let mut counts = (0_u32, 0_u32);
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if line["target"] == "sqlx::query" {
                    counts.0 += 1;
                    let summary = line["summary"].as_str().unwrap_or_default();
                    counts.1 += u32::from(summary.trim_start().starts_with("COMMIT"));
                }
            }
            assert!(worker.child.wait().expect("a child").success());
            counts
        })
    });
    let counts = readers.map(|reader| reader.join().expect("it does not panic"));
    assert_all_succeeded(runtime, &*opened, COUNTED);
    let [(statements_of_a, commits_of_a), (statements_of_b, commits_of_b)] = counts;
    assert!(commits_of_a + commits_of_b > 0, "the logs hold no statements");
    let per = |count: u32| f64::from(count) / f64::from(COUNTED);
    (per(statements_of_a + statements_of_b), per(commits_of_a + commits_of_b))
}

/// What a worker costs for [`IDLE`] that has nothing to do.
fn idle(runtime: &Runtime, store: &Store) -> Cost {
    let (database, _opened) = Database::make(runtime, store);
    let mut worker = Worker::start(&database.url, "idle", &[], DEFAULT_LOG, Stdio::null());
    thread::sleep(Duration::from_secs(3));
    worker.look();
    let before = worker.cost.cpu;
    thread::sleep(IDLE);
    worker.look();
    let cost = Cost { cpu: worker.cost.cpu.saturating_sub(before), ..worker.cost };
    worker.child.kill().expect("it runs");
    worker.child.wait().expect("a child");
    cost
}
