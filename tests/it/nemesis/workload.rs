//! Executions whose steps write down what they do, and what the tables say of them at the end.
//!
//! **Invariant:** every step that is left alone succeeds, or fails where its template goes on without
//! it: an execution that fails was wronged.

use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator_worker::{
    cli::workflow_file,
    domain::id::ExecutionId,
    ports::control::{Control, Start, Submission},
};
use rand::{RngExt, rngs::StdRng, seq::IteratorRandom};
use sqlx::{Connection, MySqlConnection, Row as _, query};
use tempfile::TempDir;
use tokio::time::sleep;

use super::history::{AttemptRow, Effect, Rows, StepRow, What};
use crate::process::is_soak;

/// Steps as (name, what it waits for, kind).
type Shape = &'static [(&'static str, &'static [&'static str], Kind)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Serial,
    /// It takes longer than any lease.
    Long,
    Parallel,
    /// Its first answer is a failure.
    Flaky,
    /// It fails, and the execution goes on without it.
    Skipped,
    /// It takes so many tenths of a second.
    Tenths(u32),
    /// One command of it wants more memory than a container has, and the execution goes on without it.
    Greedy,
    /// At its first attempt, and once it may, so many small processes of it run that the container's
    /// memory is used up, though none of them is as large as the worker.
    Crowded,
    /// It ends once the gate is open.
    Gated,
}

const SHAPES: [(&str, Shape); 8] = [
    (
        "chain",
        &[
            ("a", &[], Kind::Serial),
            ("b", &["a"], Kind::Serial),
            ("c", &["b"], Kind::Flaky),
            ("d", &["c"], Kind::Serial),
        ],
    ),
    (
        "diamond",
        &[
            ("a", &[], Kind::Serial),
            ("b", &["a"], Kind::Parallel),
            ("c", &["a"], Kind::Parallel),
            ("d", &["a"], Kind::Parallel),
            ("e", &["b", "c", "d"], Kind::Serial),
        ],
    ),
    ("skip", &[("a", &[], Kind::Skipped), ("b", &["a"], Kind::Serial)]),
    (LONG, &[("a", &[], Kind::Long)]),
    (
        MIXED,
        &[
            ("a", &[], Kind::Tenths(1)),
            ("b", &["a"], Kind::Tenths(5)),
            ("c", &["b"], Kind::Tenths(20)),
            ("d", &["c"], Kind::Tenths(50)),
            ("e", &["d"], Kind::Tenths(100)),
            ("f", &["e"], Kind::Tenths(200)),
        ],
    ),
    (GREEDY, &[("a", &[], Kind::Greedy), ("b", &["a"], Kind::Serial)]),
    (CROWDED, &[("a", &[], Kind::Crowded)]),
    (GATED, &[("a", &[], Kind::Gated)]),
];

// The templates that are submitted only by name.
pub const LONG: &str = "long";
/// Steps of 0.1 to 20 s.
pub const MIXED: &str = "mixed";
pub const GREEDY: &str = "greedy";
pub const CROWDED: &str = "crowded";
pub const GATED: &str = "gated";
const BY_NAME: [&str; 5] = [LONG, MIXED, GREEDY, CROWDED, GATED];

const SCRIPT: &str = r#"
say() { echo "$1 $ORCHESTRATOR_EXECUTION_ID $STEP $ORCHESTRATOR_FENCE $ORCHESTRATOR_ATTEMPT $ORCHESTRATOR_IDEMPOTENCY_KEY" >> "$DIR/log"; }
say start
tick=0
while [ $tick -lt $TICKS ]; do tick=$((tick + 1)); sleep $PAUSE; say tick; done
say end
echo "$ORCHESTRATOR_FENCE $ORCHESTRATOR_ATTEMPT"
"#;
const FAILS_FIRST: &str = "mark=\"$DIR/$ORCHESTRATOR_EXECUTION_ID.$STEP\"; [ -e \"$mark\" ] || { : > \"$mark\"; exit 7; }\n";

const WAITS: &str = "until [ -e \"$DIR/gate\" ]; do sleep 0.1; done";
const WANTS_MUCH: &str = "dd if=/dev/zero of=/dev/null bs=1G count=1";
/// Each holds 4 MiB until its reader ends.
const CROWD: &str = r#"
mark="$DIR/$ORCHESTRATOR_EXECUTION_ID.$STEP"
if ! [ -e "$mark" ]; then
  : > "$mark"
  until [ -e "$DIR/crowd" ]; do sleep 0.1; done
  for each in $(seq 200); do dd if=/dev/zero bs=4M count=1 2>/dev/null | sleep 60 & done
  wait
fi
"#;

pub struct Workload {
    dir: TempDir,
    /// Ticks of the long step, and the seconds between two.
    long: (u32, f64),
}

impl Workload {
    pub fn new() -> Self {
        Self::with_long(200, 0.1)
    }

    pub fn with_long(ticks: u32, pause: f64) -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), long: (ticks, pause) }
    }

    /// In a folder that users of any kind may write to, those of pods too.
    pub fn for_pods() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let workload = Self { dir, ..Self::new() };
        File::create(workload.log()).expect("the log");
        for (path, mode) in [(workload.folder(), 0o777), (&workload.log(), 0o666)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
        }
        workload
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Where the effects are written.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub async fn apply(&self, control: &impl Control) {
        for (name, shape) in SHAPES {
            let text = self.file(name, shape);
            let file = workflow_file::parse(Path::new("f.yaml"), &text, "nemesis");
            let file = file.expect("a workflow");
            control.apply(&file.definition, &file.about).await.expect("applied");
        }
    }

    fn file(&self, name: &str, shape: Shape) -> String {
        let steps = shape.iter().map(|step| self.step(step)).collect::<Vec<_>>().join("\n");
        format!("name: {name}\nsteps:\n{steps}")
    }

    fn step(&self, (step, needs, kind): &(&str, &[&str], Kind)) -> String {
        let mode = if *kind == Kind::Parallel { "parallel" } else { "serial" };
        let (ticks, pause) = match kind {
            Kind::Long => self.long,
            Kind::Tenths(tenths) => (*tenths, 0.1),
            // Each tick is a process; so many at one time leave nothing for the workers.
            _ if is_soak() => (2, 0.3),
            _ => (6, 0.1),
        };
        let (on_failure, retries, last) = match kind {
            Kind::Skipped => ("skip", 0, "exit 3"),
            Kind::Greedy => ("skip", 0, WANTS_MUCH),
            Kind::Crowded => ("abort", 50, CROWD),
            Kind::Gated => ("abort", 50, WAITS),
            _ => ("abort", 50, ""),
        };
        let first = if *kind == Kind::Flaky { FAILS_FIRST } else { "" };
        let script = format!("{first}{SCRIPT}{last}").replace('\n', "\n      ");
        let (needs, dir) = (needs.join(", "), self.dir.path().display());
        format!(
            "  - name: {step}
    depends_on: [{needs}]
    mode: {mode}
    on_failure: {on_failure}
    retries: {retries}
    timeout: 10m
    env: {{DIR: \"{dir}\", STEP: {step}, TICKS: {ticks}, PAUSE: {pause}}}
    shell: |
      {script}"
        )
    }

    /// Lets the crowded step use up its container's memory.
    pub fn let_crowd(&self) {
        File::create(self.dir.path().join("crowd")).expect("it is ours");
    }

    /// Lets every gated step end.
    pub fn open_gate(&self) {
        File::create(self.dir.path().join("gate")).expect("it is ours");
    }

    /// Has every gated step wait again.
    pub fn close_gate(&self) {
        fs::remove_file(self.dir.path().join("gate")).ok();
    }

    /// Submits one of any but those that are submitted by name; whether the server has said so.
    pub async fn submit_any(&self, control: &impl Control, random: &mut StdRng) -> bool {
        let short =
            SHAPES.map(|(template, _)| template).into_iter().filter(|it| !BY_NAME.contains(it));
        self.submit(control, short.choose(random).expect("there are some")).await
    }

    pub async fn submit(&self, control: &impl Control, template: &str) -> bool {
        let submission = Submission {
            template: template.into(),
            created_by: "nemesis".into(),
            start: Start::Now,
            traceparent: None,
        };
        let submitted = control.submit(&submission).await;
        if let Ok(submitted) = &submitted {
            self.note("submitted", &submitted.execution);
        }
        submitted.is_ok()
    }

    /// Of the harness, among what the steps say.
    fn note(&self, what: &str, execution: &ExecutionId) {
        append(&self.log(), &format!("{what} {execution} - 0 0 -"));
    }

    /// Cancels an execution that a worker holds, and notes when nobody holds it any more.
    pub async fn cancel(&self, control: &impl Control, url: &str, random: &mut StdRng) -> bool {
        let running = "SELECT id FROM workflow_executions WHERE status='running' AND ow_owner > '' \
                       AND ow_owner <> '~released'";
        let Ok(rows) = ask(url, running).await else { return false };
        if rows.is_empty() {
            return false;
        }
        let id: String = rows[random.random_range(0..rows.len())].get(0);
        let execution = ExecutionId::from(id.as_str());
        self.note("asked", &execution);
        if control.cancel(&execution).await.is_err() {
            return false;
        }
        self.note("promised", &execution);
        let free = format!(
            "SELECT status FROM workflow_executions WHERE id='{id}' AND \
             (ow_owner='' OR status<>'cancelled')"
        );
        loop {
            if let Ok(rows) = ask(url, &free).await
                && let Some(row) = rows.first()
            {
                let is_cancelled = row.get::<String, _>(0) == "cancelled";
                if is_cancelled {
                    self.note("cancelled", &execution);
                }
                return is_cancelled;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether any step runs, or has.
    pub fn has_begun(&self) -> bool {
        self.effects().iter().any(|effect| effect.what == What::Start)
    }

    /// All that the steps have written, and the harness.
    pub fn effects(&self) -> Vec<Effect> {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().filter_map(Effect::parse).collect()
    }
}

/// One line, whole.
pub fn append(log: &Path, line: &str) {
    let mut file = File::options().create(true).append(true).open(log).expect("the log");
    file.write_all(format!("{line}\n").as_bytes()).expect("it is written");
}

pub async fn ask(url: &str, sql: &str) -> sqlx::Result<Vec<sqlx::mysql::MySqlRow>> {
    let mut connection = MySqlConnection::connect(url).await?;
    let rows = query(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(rows)
}

/// Executions that have not ended.
pub async fn left(url: &str) -> sqlx::Result<i64> {
    let sql = "SELECT COUNT(*) FROM workflow_executions WHERE status IN ('pending','running') \
               OR (status='cancelled' AND ow_owner > '')";
    Ok(ask(url, sql).await?[0].get(0))
}

/// Which steps of a template wait for which.
pub fn needs(template: &str) -> Vec<(String, Vec<String>)> {
    let (_, steps) = SHAPES.iter().find(|(name, _)| *name == template).expect("one of ours");
    let all = |needs: &[&str]| needs.iter().map(ToString::to_string).collect();
    steps.iter().map(|(step, needs, _)| ((*step).to_owned(), all(needs))).collect()
}

/// What the tables say at the end; `needs` as [`needs`] for the template's name.
pub async fn rows(
    url: &str,
    needs: impl Fn(&str) -> Vec<(String, Vec<String>)>,
) -> sqlx::Result<Rows> {
    let mut all = Rows::default();
    let executions = "SELECT e.id, e.status, COALESCE(e.error, ''), t.name FROM workflow_executions e \
                      JOIN workflow_templates t ON t.id=e.template_id";
    for row in ask(url, executions).await? {
        let (id, template): (String, String) = (row.get(0), row.get(3));
        for (step, needed) in needs(&template) {
            all.needs.insert((id.clone(), step), needed);
        }
        all.executions.insert(id, (row.get(1), row.get(2)));
    }
    let steps = "SELECT x.execution_id, s.name, x.status, x.ow_attempt, x.ow_fence, \
                 COALESCE(x.output, '') FROM workflow_step_executions x JOIN steps s ON s.id=x.step_id";
    for row in ask(url, steps).await? {
        let step = StepRow {
            status: row.get(2),
            attempt: row.get(3),
            fence: row.get(4),
            output: row.get(5),
        };
        all.steps.insert((row.get(0), row.get(1)), step);
    }
    let attempts = "SELECT a.execution_id, s.name, a.attempt, a.fence, COALESCE(a.outcome, '') \
                    FROM ow_attempts a JOIN workflow_step_executions x ON x.id=a.step_execution_id \
                    JOIN steps s ON s.id=x.step_id ORDER BY a.step_execution_id, a.attempt";
    for row in ask(url, attempts).await? {
        let attempt = AttemptRow { number: row.get(2), fence: row.get(3), outcome: row.get(4) };
        all.attempts.entry((row.get(0), row.get(1))).or_default().push(attempt);
    }
    Ok(all)
}
