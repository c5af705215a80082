//! Steps that misbehave in every way at once, through a whole worker process: for half an hour with
//! `ORCHESTRATOR_TEST_SCALE=soak`, for a few hundred executions without.
//!
//! **Invariant:** each execution ends as its steps deserve; what the worker holds in memory and keeps
//! open does not grow with their number; no process is left.

use std::{fs, path::Path, time::Duration};

use orchestrator_worker::{
    adapters::sqlite::{Settings, SqlitePath, SqliteStore},
    domain::{
        definition::{Definition, RecordedStep},
        eligibility::Eligibility,
    },
    ports::{
        control::{About, Control, Start, Submission},
        executions::ExecutionStore,
    },
};
use rustix::process::Signal;
use sqlx::{Connection, Row, SqliteConnection};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    http::server::{Act, Server},
    process::{Worker, is_soak, json, wait_until},
};

/// Executions at one time.
const AT_ONCE: u64 = 50;
/// Files that are open at one time: the pipes of so many scripts, or their connections, and the worker's own.
const FILES: u64 = AT_ONCE * 6 + 64;
/// By which the processes of this test's steps are known.
const MARK: &str = "OW_HOSTILE_STEPS";

/// For how long, and how many at least.
struct Scale {
    time: Duration,
    executions: u64,
    /// Bytes of one flood.
    flood: u64,
}

fn scale() -> Scale {
    if is_soak() {
        Scale { time: Duration::from_secs(30 * 60), executions: 0, flood: 1 << 30 }
    } else {
        Scale { time: Duration::ZERO, executions: 200, flood: 1 << 24 }
    }
}

/// Scripts, their names, and how an execution of each ends.
fn scripts(flood: u64) -> Vec<(&'static str, String, &'static str)> {
    let bomb = "bomb() {
        [ $1 -gt 0 ] && { bomb $(($1 - 1)) & bomb $(($1 - 1)) & }
        exec sleep 300
    }; bomb 7";
    vec![
        ("flood", format!("head -c {flood} /dev/zero"), "success"),
        ("binary", "head -c 200000 /dev/urandom".into(), "success"),
        ("pipe_held", "sleep 300 & echo gone".into(), "success"),
        ("double_fork", "setsid sh -c 'setsid sleep 300 &' & sleep 0.05".into(), "success"),
        ("deaf", "trap '' TERM; while :; do sleep 0.2; done".into(), "failed"),
        ("frozen", "kill -STOP $$".into(), "failed"),
        ("killed", "sleep 300 & kill -KILL $$".into(), "failed"),
        ("bomb", bomb.into(), "failed"),
        ("big_file", "ulimit -c 0; exec head -c 9000000 /dev/zero > big".into(), "failed"),
    ]
}

/// Paths of the server, and how an execution that asks for each ends.
const PATHS: [(&str, &str); 8] = [
    ("/fine", "success"),
    // It is cut.
    ("/endless", "success"),
    ("/drip", "failed"),
    ("/silent", "failed"),
    ("/reset", "failed"),
    ("/broken", "failed"),
    ("/loop", "failed"),
    ("/metadata", "failed"),
];

fn answer(path: &str, address: &str) -> Act {
    let repeat = |piece: String, every| Act::Repeat {
        head: "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".into(),
        piece,
        every: Duration::from_millis(every),
    };
    match path {
        "/endless" => repeat("x".repeat(1 << 18), 0),
        "/drip" => repeat("x".into(), 100),
        "/silent" => Act::Hang,
        "/reset" => Act::Reset("HTTP/1.1 200 OK\r\nContent-Le".into()),
        "/broken" => Act::answer("500 Internal Server Error", "Retry-After: 1\r\n", "no"),
        "/loop" => Act::redirect("302 Found", &format!("http://{address}/loop")),
        "/metadata" => Act::redirect("307 Temporary Redirect", "http://169.254.169.254/latest"),
        _ => Act::ok("fine"),
    }
}

/// What is to succeed has time for it on any machine.
fn definition(name: &str, step: RecordedStep, state: &str) -> Definition {
    let step = RecordedStep {
        id: format!("step-{name}").into(),
        name: Some(name.into()),
        timeout: Some(if state == "success" { 3600 } else { 2 }),
        retries: Some(0),
        ..step
    };
    Definition { template: name.into(), name: name.into(), steps: vec![step] }
}

/// The workflows, each with the state in which its executions end.
fn workflows(server: &Server, flood: u64) -> Vec<(Definition, &'static str)> {
    let shell = |(name, script, state): (&'static str, String, &'static str)| {
        let step = RecordedStep {
            executor_type: Some("shell".into()),
            shell_script: Some(script),
            shell_env: Some(format!(r#"{{"{MARK}":"1"}}"#)),
            ..RecordedStep::default()
        };
        (definition(name, step, state), state)
    };
    let http = |(path, state): (&'static str, &'static str)| {
        let step = RecordedStep {
            executor_type: Some("http".into()),
            http_method: Some("GET".into()),
            http_url: Some(server.url(path)),
            ..RecordedStep::default()
        };
        (definition(&path[1..], step, state), state)
    };
    scripts(flood).into_iter().map(shell).chain(PATHS.into_iter().map(http)).collect()
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    memory_kib: u64,
    files: u64,
}

impl Held {
    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        let memory = line.trim().trim_end_matches(" kB").parse().expect("a number");
        let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
        Self { memory_kib: memory, files: files as u64 }
    }

    /// The largest of each.
    fn peak(held: &[Self]) -> Self {
        let of = |get: fn(&Self) -> u64| held.iter().map(get).max().unwrap_or_default();
        Self { memory_kib: of(|it| it.memory_kib), files: of(|it| it.files) }
    }
}

/// Processes of steps of this test: by their environment, which all of them have from their script.
fn left() -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("it is there").flatten();
    let is_ours = |path: &Path| {
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == format!("{MARK}=1").as_bytes())
    };
    let paths = entries.map(|entry| entry.path()).filter(|path| is_ours(path));
    paths.map(|path| path.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_steps_in_any_number_leave_neither_processes_nor_memory_nor_open_files() {
    let scale = scale();
    let server = Server::start({
        |seen| {
            let path = seen.line.split(' ').nth(1).unwrap_or_default();
            answer(path, seen.header("host").unwrap_or_default())
        }
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("it.db");
    let url = format!("sqlite://{}", path.display());
    let store = SqliteStore::open(Settings { path: SqlitePath::File(path.clone()) }).await;
    let store = store.expect("a file");
    store.migrate(false).await.expect("it is migrated");
    let workflows = workflows(&server, scale.flood);
    for (definition, _) in &workflows {
        store.apply(definition, &About::default()).await.expect("it is applied");
    }
    let mut worker = Worker::start(
        &url,
        "a",
        &[
            ("ORCHESTRATOR_WORKER__SLOTS", "50"),
            // The defaults: what takes every processor's time must not cost leases.
            ("ORCHESTRATOR_WORKER__LOCK__TTL", "30s"),
            ("ORCHESTRATOR_WORKER__LOCK__RENEW_EVERY", "5s"),
            ("ORCHESTRATOR_WORKER__SHELL__LIMITS__PROCESSES", "60"),
            ("ORCHESTRATOR_WORKER__SHELL__LIMITS__FILE_SIZE", "8MiB"),
            ("ORCHESTRATOR_WORKER__LOG__FILTER", "error,orchestrator_worker::app=info"),
        ],
    );
    worker.wait_for("admin.listening");

    let began = Instant::now();
    let mut looks = Vec::new();
    let (mut submitted, mut were_seen): (u64, bool) = (0, false);
    let mut pace = interval(Duration::from_millis(100));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < scale.time || submitted < scale.executions {
        pace.tick().await;
        let queue = store.queue(&Eligibility::default()).await.expect("numbers");
        for _ in (queue.due + queue.running)..2 * AT_ONCE {
            let place = usize::try_from(submitted).expect("few") % workflows.len();
            let template = workflows[place].0.name.clone();
            let submission = Submission {
                template,
                created_by: String::new(),
                start: Start::Now,
                traceparent: None,
            };
            store.submit(&submission).await.expect("it is submitted");
            submitted += 1;
        }
        looks.push(Held::of(worker.pid()));
        were_seen = were_seen || !left().is_empty();
    }
    assert!(were_seen, "what is looked for can be found");
    let all_ended = || {
        let waiting = json(&url, ["list", "--state", "pending", "--limit", "1"]);
        let running = json(&url, ["list", "--state", "running", "--limit", "1"]);
        [waiting, running].iter().all(|it| it.as_array().is_some_and(Vec::is_empty)).then_some(())
    };
    wait_until("all have ended", all_ended);
    wait_until("no process is left", || left().is_empty().then_some(()));
    let after = wait_until("its connections are closed", || {
        let held = Held::of(worker.pid());
        (held.files <= looks[0].files + 8).then_some(held)
    });

    let first = Held::peak(&looks[..looks.len().div_ceil(2)]);
    let second = Held::peak(&looks[looks.len() / 2..]);
    println!(
        "{submitted} executions in {:?}; at most {first:?} in the first half, {second:?} in the \
         second, {after:?} afterwards",
        began.elapsed()
    );
    // What is at work at one time, and what the allocator keeps. On a busy machine the first half may be
    // over before everything is at work.
    assert!(second.memory_kib < first.memory_kib * 3 / 2 + 16 * 1024, "{first:?} {second:?}");
    assert!(first.files.max(second.files) <= FILES, "{first:?} {second:?}");
    assert_ended_as_they_deserve(&path, &workflows, submitted).await;
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}

async fn assert_ended_as_they_deserve(
    path: &Path,
    workflows: &[(Definition, &'static str)],
    submitted: u64,
) {
    let mut connection =
        SqliteConnection::connect(&path.display().to_string()).await.expect("a file");
    let rows = sqlx::query(
        "SELECT template_id, status, COUNT(*), MAX(error) FROM workflow_executions \
         GROUP BY template_id, status",
    )
    .fetch_all(&mut connection)
    .await
    .expect("rows");
    let mut all = 0;
    for row in &rows {
        let (template, status): (String, String) = (row.get(0), row.get(1));
        let known = workflows.iter().find(|(definition, _)| definition.name == template);
        let (_, state) = known.expect("one of them");
        assert_eq!(status, *state, "{template}: {:?}", row.get::<Option<String>, _>(3));
        all += u64::try_from(row.get::<i64, _>(2)).expect("a count");
    }
    assert_eq!((all, rows.len()), (submitted, workflows.len()));
}
