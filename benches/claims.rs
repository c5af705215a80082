//! Claiming and ending executions of one step, beside what the Go service does for one and beside single
//! durable commits, on the same server: how many a second, at 1, 4 and 16 claimers, and what one of them asks of
//! the server.
//!
//! `cargo bench --bench claims` measures MySQL and MariaDB where `ORCHESTRATOR_TEST_MYSQL_URL` and
//! `ORCHESTRATOR_TEST_MARIADB_URL` name servers (`ORCHESTRATOR_TEST_DURABLE=1 tests/servers up`).
//! `-- --executions 2000` is the number in one measurement, `-- --finished 10000` how many have ended
//! before.
//!
//! **Invariant:** a measurement in which an execution is left over is a panic, not a figure.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    domain::{
        definition::{Definition, RecordedStep},
        execution::{AttemptOutcome, ExecutionState},
        id::{Beat, Owner},
        intake::Supported,
        plan::Finish,
    },
    ports::{
        control::{About, Control, Start, Submission},
        executions::{Advance, Advanced, Claim, Claimant, ExecutionStore, StepEnd},
    },
};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row as _, query, raw_sql};
use tokio::{runtime::Runtime, task::JoinSet, time::Instant};

const CLAIMERS: [usize; 3] = [1, 4, 16];
const BATCHES: [usize; 2] = [1, 10];

fn main() {
    let executions = argument("--executions").unwrap_or(2_000);
    let finished = argument("--finished").unwrap_or(10_000);
    println!(
        "{executions} executions of one step with {finished} finished ones in the table; each figure is \
         a second's, at {CLAIMERS:?} claimers"
    );
    let runtime = Runtime::new().expect("a runtime");
    for (name, variable) in
        [("mysql", "ORCHESTRATOR_TEST_MYSQL_URL"), ("mariadb", "ORCHESTRATOR_TEST_MARIADB_URL")]
    {
        #[expect(clippy::disallowed_methods, reason = "the servers are told by the environment")]
        let Ok(server) = std::env::var(variable) else {
            println!("left out: {name}, because {variable} is not set");
            continue;
        };
        runtime.block_on(measure(name, &server, executions, finished));
    }
}

fn argument(name: &str) -> Option<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.parse().expect("a number"))
}

async fn measure(name: &str, server: &str, executions: usize, finished: usize) {
    let bench = Bench::make(server, executions).await;
    bench.end_before(finished).await;
    let mut commits = Vec::new();
    let mut twin = Vec::new();
    for claimers in CLAIMERS {
        commits.push(bench.commits(claimers).await);
        twin.push(bench.twin(claimers, bench.submit().await).await);
    }
    line(name, "one-row commits", &commits, None);
    line(name, "the Go service's sequence", &twin, None);
    for batch in BATCHES {
        let mut ours = Vec::new();
        let before = bench.deadlocks().await;
        for claimers in CLAIMERS {
            ours.push(bench.ours(claimers, batch).await);
        }
        let deadlocks = bench.deadlocks().await - before;
        line(name, &format!("this worker's, batches of {batch}"), &ours, Some(&twin));
        println!("{name:8} {:34} {deadlocks}", "  deadlocks");
    }
    bench.count(name).await;
    bench.drop().await;
}

fn line(name: &str, what: &str, figures: &[f64], than: Option<&[f64]>) {
    let shown: Vec<String> = figures.iter().map(|figure| format!("{figure:>8.0}")).collect();
    let times = than.map(|than| {
        let all = figures.iter().zip(than).map(|(figure, than)| format!("{:.1}", figure / than));
        format!("  ({} times the Go service's)", all.collect::<Vec<_>>().join(", "))
    });
    println!("{name:8} {what:34} {}{}", shown.join(" "), times.unwrap_or_default());
}

struct Bench {
    server: String,
    database: String,
    url: String,
    store: MySqlStore,
    executions: usize,
}

impl Bench {
    async fn make(server: &str, executions: usize) -> Self {
        let database = format!("ow_claims_{}", std::process::id());
        let url = format!("{server}{database}");
        execute(server, &format!("CREATE DATABASE {database}")).await;
        let store = MySqlStore::open(Settings::new(url.clone().into())).await.expect("it opens");
        store.migrate(false).await.expect("it is migrated");
        let step = RecordedStep {
            id: "step".into(),
            name: Some("s".into()),
            executor_type: Some("func".into()),
            parameters: Some(r#"{"func":"noop"}"#.into()),
            order: Some(0),
            ..RecordedStep::default()
        };
        let definition =
            Definition { template: "one".into(), name: "one".into(), steps: vec![step] };
        store.apply(&definition, &About::default()).await.expect("it is applied");
        let sql = "CREATE TABLE commits (id INT PRIMARY KEY, n INT NOT NULL)";
        execute(&url, sql).await;
        Self { server: server.into(), database, url, store, executions }
    }

    async fn drop(self) {
        execute(&self.server, &format!("DROP DATABASE {}", self.database)).await;
    }

    /// Executions that have ended long ago, each with its step.
    async fn end_before(&self, count: usize) {
        let series = format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n<{})",
            count.clamp(1, 1000)
        );
        for thousand in 0..count.div_ceil(1000) {
            let id = format!("CONCAT('old-', {thousand}, '-', n)");
            execute(
                &self.url,
                &format!(
                    "INSERT INTO workflow_executions(id, template_id, status, created_at, updated_at, \
                     finished_at, ow_fence) {series} SELECT {id}, 'one', 'success', \
                     NOW(3)-INTERVAL 1 HOUR, NOW(3), NOW(3), 1 FROM n"
                ),
            )
            .await;
            execute(
                &self.url,
                &format!(
                    "INSERT INTO workflow_step_executions(id, execution_id, step_id, status, created_at, \
                     updated_at) {series} SELECT {id}, {id}, 'step', 'success', NOW(3), NOW(3) FROM n"
                ),
            )
            .await;
        }
    }

    async fn submit(&self) -> Vec<String> {
        let mut ids = Vec::with_capacity(self.executions);
        for _ in 0..self.executions {
            let template = "one".to_owned();
            let submission = Submission {
                template,
                created_by: String::new(),
                start: Start::Now,
                traceparent: None,
            };
            let submitted = self.store.submit(&submission).await.expect("it is submitted");
            ids.push(submitted.execution.to_string());
        }
        ids
    }

    async fn ours(&self, claimers: usize, batch: usize) -> f64 {
        self.submit().await;
        let mut stores = Vec::new();
        for n in 0..claimers {
            let settings = Settings::new(self.url.clone().into());
            stores.push((MySqlStore::open(settings).await.expect("it opens"), claimant(n)));
        }
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (store, who) in stores {
            tasks.spawn(async move {
                loop {
                    let claims = store.claim(&who, batch).await.expect("a claim").claims;
                    if claims.is_empty() {
                        return;
                    }
                    let ends: Vec<Advance> = claims.iter().map(end).collect();
                    let answers = store.advance(&ends).await;
                    assert!(answers.iter().all(|it| *it == Ok(Advanced::Recorded)));
                }
            });
        }
        tasks.join_all().await;
        self.per_second(began.elapsed()).await
    }

    /// As the tests' twin of the Go service does it, without its waits: an id is taken by one alone.
    async fn twin(&self, claimers: usize, ids: Vec<String>) -> f64 {
        let ids = Arc::new(Mutex::new(VecDeque::from(ids)));
        let mut connections = Vec::new();
        for _ in 0..claimers {
            connections.push(MySqlConnection::connect(&self.url).await.expect("a connection"));
        }
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (n, mut connection) in connections.into_iter().enumerate() {
            let ids = ids.clone();
            tasks.spawn(async move {
                loop {
                    let Some(id) = ids.lock().expect("no panic").pop_front() else { return };
                    // Its sweep and its insert deadlock now and then; it tries again.
                    while sequence(&mut connection, &id, &format!("gohost-{n:08x}")).await.is_err()
                    {
                    }
                }
            });
        }
        tasks.join_all().await;
        self.per_second(began.elapsed()).await
    }

    /// One row changed and committed, each claimer its own.
    async fn commits(&self, claimers: usize) -> f64 {
        execute(&self.url, "DELETE FROM commits").await;
        let mut connections = Vec::new();
        for n in 0..claimers {
            execute(&self.url, &format!("INSERT INTO commits VALUES ({n}, 0)")).await;
            connections.push(MySqlConnection::connect(&self.url).await.expect("a connection"));
        }
        let each = self.executions / claimers;
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (n, mut connection) in connections.into_iter().enumerate() {
            tasks.spawn(async move {
                for _ in 0..each {
                    let update = query("UPDATE commits SET n=n+1 WHERE id=?");
                    let number = i64::try_from(n).expect("a small number");
                    update.bind(number).execute(&mut connection).await.expect("a commit");
                }
            });
        }
        tasks.join_all().await;
        rate(each * claimers, began.elapsed())
    }

    async fn per_second(&self, took: Duration) -> f64 {
        let left = "SELECT COUNT(*) FROM workflow_executions WHERE status<>'success'";
        assert_eq!(number(&self.url, left).await, 0, "an execution was left over");
        rate(self.executions, took)
    }

    async fn deadlocks(&self) -> i64 {
        number(&self.url, &metric("lock_deadlocks")).await
    }

    /// What one execution costs the server, claimed and ended by one claimer who is alone.
    async fn count(&self, name: &str) {
        for counter in METRICS {
            execute(&self.server, &format!("SET GLOBAL innodb_monitor_enable='{counter}'")).await;
        }
        let ids = self.submit().await;
        let before = self.fresh_counts().await;
        self.twin(1, ids).await;
        self.tell(name, "the Go service's sequence", before, self.counts().await);
        let settings = Settings::new(self.url.clone().into());
        let (store, who) = (MySqlStore::open(settings).await.expect("it opens"), claimant(0));
        for batch in BATCHES {
            self.submit().await;
            let before = self.fresh_counts().await;
            let mut batches = Vec::new();
            loop {
                let claims = store.claim(&who, batch).await.expect("a claim").claims;
                if claims.is_empty() {
                    break;
                }
                batches.push(claims);
            }
            assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), self.executions);
            let between = self.counts().await;
            for claims in batches {
                let ends: Vec<Advance> = claims.iter().map(end).collect();
                let answers = store.advance(&ends).await;
                assert!(answers.iter().all(|it| *it == Ok(Advanced::Recorded)));
            }
            let after = self.counts().await;
            self.tell(name, &format!("this worker's claim, {batch} at once"), before, between);
            self.tell(name, &format!("its end, {batch} at once"), between, after);
        }
    }

    fn tell(&self, name: &str, what: &str, before: Counts, after: Counts) {
        let each = |from: i64, to: i64| {
            let count = u32::try_from(to - from).expect("it grows");
            f64::from(count) / f64::from(u32::try_from(self.executions).expect("not that many"))
        };
        println!(
            "{name:8} {what:34} {:.2} statements, {:.2} commits, {:.1} rows examined, {:.1} locked",
            each(before.statements, after.statements),
            each(before.commits, after.commits),
            each(before.examined, after.examined),
            each(before.locked, after.locked)
        );
    }

    /// Those before a section, without the tombstones of the one before, which somebody would have to sweep.
    async fn fresh_counts(&self) -> Counts {
        execute(&self.url, "DELETE FROM distributed_locks").await;
        self.counts().await
    }

    /// Of the whole server, which nobody else uses.
    async fn counts(&self) -> Counts {
        Counts {
            statements: status(&self.url, "Questions").await,
            commits: number(&self.url, &metric("trx_rw_commits")).await,
            examined: status(&self.url, "Handler_read%").await,
            locked: number(&self.url, &metric("lock_rec_lock_requests")).await,
        }
    }
}

/// What a server counts only if it is told to.
const METRICS: [&str; 2] = ["trx_rw_commits", "lock_rec_lock_requests"];

#[derive(Clone, Copy)]
struct Counts {
    statements: i64,
    /// Of transactions that wrote something.
    commits: i64,
    /// Times that the server asked its tables for a row, for reading or changing; of 2,000 executions 0.2 each
    /// are for what tells of this.
    examined: i64,
    /// Requests for a lock of one record in an index.
    locked: i64,
}

fn metric(name: &str) -> String {
    format!(
        "SELECT CAST(COALESCE(MAX(`COUNT`), 0) AS SIGNED) FROM information_schema.INNODB_METRICS WHERE NAME='{name}'"
    )
}

fn rate(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).expect("not that many")) / took.as_secs_f64()
}

async fn sequence(connection: &mut MySqlConnection, id: &str, owner: &str) -> sqlx::Result<()> {
    let key = format!("workflow_execution:{id}");
    let read = query("SELECT status FROM workflow_executions WHERE id=?");
    read.bind(id).fetch_one(&mut *connection).await?;
    query("DELETE FROM distributed_locks WHERE expires_at < NOW(3)")
        .execute(&mut *connection)
        .await?;
    let mut transaction = connection.begin().await?;
    query(
        "INSERT IGNORE INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) \
         VALUES (?, ?, NOW(3)+INTERVAL 5 MINUTE, NOW(3), NOW(3))",
    )
    .bind(&key)
    .bind(owner)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    for sql in [
        "UPDATE workflow_executions SET status='running', started_at=NOW(3) WHERE id=?",
        "UPDATE distributed_locks SET expires_at=NOW(3)+INTERVAL 10 MINUTE WHERE \
         lock_key=CONCAT('workflow_execution:', ?)",
        "UPDATE workflow_step_executions SET status='running' WHERE execution_id=? AND step_id='step'",
        "UPDATE workflow_step_executions SET status='success', output='' WHERE execution_id=? \
         AND step_id='step'",
        "UPDATE workflow_executions SET status='success', finished_at=NOW(3) WHERE id=?",
    ] {
        query(sql).bind(id).execute(&mut *connection).await?;
    }
    let unlock = query("DELETE FROM distributed_locks WHERE lock_key=? AND owner=?");
    unlock.bind(&key).bind(owner).execute(connection).await?;
    Ok(())
}

fn claimant(n: usize) -> Claimant {
    let set = |words: &[&str]| words.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    Claimant {
        owner: Owner::try_new(&format!("claimer-{n}")).expect("a name"),
        uid: String::new(),
        ttl: Duration::from_secs(30),
        beat: Beat(1),
        steps_at_once: 16,
        supported: Arc::new(Supported { kinds: set(&["func"]), functions: set(&["noop"]) }),
        eligibility: Arc::default(),
        unknown_after: Duration::from_secs(600),
        poison_claims: 10,
    }
}

/// Its one step has succeeded, and so has it.
fn end(claim: &Claim) -> Advance {
    let slot = &claim.slots[0];
    let mut advance = Advance::new(claim.lease.clone());
    advance.ended.push(StepEnd {
        step: slot.id.clone(),
        attempt: slot.attempt,
        succeeded: true,
        outcome: AttemptOutcome::Success,
        output: Some(String::new()),
        error: None,
        retry_count: 0,
    });
    advance.finish = Some(Finish { state: ExecutionState::Success, error: None });
    advance
}

async fn execute(url: &str, sql: &str) {
    let mut connection = MySqlConnection::connect(url).await.expect("a server");
    let done = raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn number(url: &str, sql: &str) -> i64 {
    let mut connection = MySqlConnection::connect(url).await.expect("a server");
    query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.expect("a number").get(0)
}

/// The sum of all that are named so.
async fn status(url: &str, names: &str) -> i64 {
    let mut connection = MySqlConnection::connect(url).await.expect("a server");
    let sql = format!("SHOW GLOBAL STATUS LIKE '{names}'");
    let rows = raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("a status");
    rows.iter().map(|row| row.get::<String, _>(1).parse::<i64>().expect("a number")).sum()
}
