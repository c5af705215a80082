//! What every story needs: a migrated database with two workers' stores on it, workflows to put in,
//! and a look at the rows.
//!
//! **Invariant:** nothing in here waits; time passes by [`World::pass`], which moves every stored
//! time into the past.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use orchestrator_worker::{
    domain::{
        definition::{Definition, RecordedStep},
        id::{Beat, ExecutionId, Owner, StepId, TemplateId},
        intake::Supported,
        recovery::{Cause, Held, TakeOver},
    },
    ports::{
        control::{About, Applied, Control, Start, Submission},
        executions::{Batch, Claim, Claimant, ExecutionStore},
    },
};

use super::Subject;

pub const HOUR: Duration = Duration::from_secs(3600);
pub const TTL: Duration = Duration::from_secs(30);

/// Every time that a store writes, but for `ow_meta` and `ow_primary`.
const TIMES: [(&str, &[&str]); 7] = [
    ("workflow_templates", &["created_at", "updated_at"]),
    ("steps", &["created_at", "updated_at"]),
    (
        "workflow_executions",
        &["started_at", "finished_at", "created_at", "updated_at", "ow_not_before"],
    ),
    ("workflow_step_executions", &["started_at", "finished_at", "created_at", "updated_at"]),
    ("distributed_locks", &["expires_at", "created_at", "updated_at"]),
    ("ow_plans", &["created_at"]),
    ("ow_attempts", &["started_at", "finished_at"]),
];

/// A migrated database and the stores of two workers, "a" and "b".
pub struct World<S: Subject> {
    pub subject: S,
    pub a: S::Store,
    pub b: S::Store,
}

impl<S: Subject> World<S> {
    pub async fn new() -> Self {
        let subject = S::create().await;
        let a = subject.store().await;
        a.migrate(false).await.expect("an empty database is migrated");
        let b = subject.store().await;
        Self { subject, a, b }
    }

    /// Puts a workflow in that is new, or changes one.
    pub async fn apply(&self, definition: &Definition) -> TemplateId {
        let applied = self.a.apply(definition, &About::default()).await.expect("it is applied");
        assert_ne!(applied, Applied::Unchanged);
        definition.template.clone()
    }

    /// Puts a workflow in, submits it, and has `a` claim it.
    pub async fn a_claims(&self, steps: Vec<RecordedStep>) -> Claim {
        let definition = workflow("w", steps);
        self.a.apply(&definition, &About::default()).await.expect("it is applied");
        self.submit(&definition.template).await;
        claim_one(&self.a, "a").await
    }

    pub async fn submit(&self, template: &TemplateId) -> ExecutionId {
        let submission = Submission {
            template: template.to_string(),
            created_by: "ann@example.org".into(),
            start: Start::Now,
            traceparent: None,
        };
        self.a.submit(&submission).await.expect("it is submitted").execution
    }

    /// One execution of a new workflow whose steps follow one another.
    pub async fn submit_chain(&self, names: &[&str]) -> ExecutionId {
        let template = self.apply(&workflow("chain", chain(names))).await;
        self.submit(&template).await
    }

    /// As if `by` had gone by.
    pub async fn pass(&self, by: Duration) {
        let milliseconds = i64::try_from(by.as_millis()).expect("a story is short");
        for (table, columns) in TIMES {
            let moved = |column: &&str| format!("{column}={}", S::moved(column, -milliseconds));
            let sets: Vec<String> = columns.iter().map(moved).collect();
            self.subject.exec(&format!("UPDATE {table} SET {}", sets.join(", "))).await;
        }
    }

    /// A column of an execution, as text.
    pub async fn execution(&self, id: &ExecutionId, column: &str) -> Option<String> {
        let sql = format!("SELECT {column} FROM workflow_executions WHERE id='{id}'");
        self.subject.one(&sql).await
    }

    pub async fn status(&self, id: &ExecutionId) -> String {
        self.execution(id, "status").await.unwrap_or_else(|| "NULL".into())
    }

    /// A column of the first row of the step that [`step`] made under this name.
    pub async fn step(&self, id: &ExecutionId, name: &str, column: &str) -> Option<String> {
        let sql = format!(
            "SELECT {column} FROM workflow_step_executions WHERE execution_id='{id}' AND \
             step_id='{}' ORDER BY id LIMIT 1",
            step_id(name)
        );
        self.subject.one(&sql).await
    }

    /// The statuses of steps.
    pub async fn steps(&self, id: &ExecutionId, names: &[&str]) -> Vec<String> {
        let mut statuses = Vec::new();
        for name in names {
            statuses.push(self.step(id, name, "status").await.unwrap_or_else(|| "NULL".into()));
        }
        statuses
    }

    /// `outcome/cause/owner` of an attempt at a step, `-` for NULL; `None` if there is no row.
    pub async fn attempt(&self, id: &ExecutionId, name: &str, attempt: u32) -> Option<String> {
        let step = self.step(id, name, "id").await.expect("the step has a row");
        let mut texts = Vec::new();
        for column in ["outcome", "cause", "owner"] {
            let sql = format!(
                "SELECT COALESCE({column}, '-') FROM ow_attempts WHERE step_execution_id='{step}' \
                 AND attempt={attempt}"
            );
            texts.push(self.subject.one(&sql).await?);
        }
        Some(texts.join("/"))
    }

    /// Every row of every table that a store writes, one text a row.
    pub async fn everything(&self) -> Vec<String> {
        self.texts(|_| true).await
    }

    /// The same but for the times: a write that is sent again may move those.
    pub async fn everything_but_times(&self) -> Vec<String> {
        let is_time = |column: &str| TIMES.iter().any(|(_, times)| times.contains(&column));
        self.texts(|column| !is_time(column) && column != "duration" && column != "ow_due").await
    }

    async fn texts(&self, of: impl Fn(&str) -> bool) -> Vec<String> {
        let mut texts = Vec::new();
        for (table, _) in TIMES {
            for row in self.subject.rows(&format!("SELECT * FROM {table}")).await {
                let cells = row.into_iter().filter(|(column, _)| of(column));
                let cells = cells.map(|(column, cell)| format!(" {column}={}", shown(cell)));
                texts.push(format!("{table}:{}", cells.collect::<String>()));
            }
        }
        texts.sort();
        texts
    }

    /// A column of an execution's lock row; `None` if it has none.
    pub async fn lock(&self, id: &ExecutionId, column: &str) -> Option<String> {
        let sql = format!(
            "SELECT {column} FROM distributed_locks WHERE lock_key='workflow_execution:{id}'"
        );
        self.subject.one(&sql).await
    }

    /// Puts in the lock row of a Go service: it expires so many seconds from now, or is expired
    /// since then if they are negative.
    pub async fn foreign_lock(&self, id: &ExecutionId, owner: &str, seconds: i64) {
        let now = S::now();
        let sql = format!(
            "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) \
             VALUES ('workflow_execution:{id}', '{owner}', {}, {now}, {now})",
            S::moved(now, seconds * 1000)
        );
        assert_eq!(self.subject.exec(&sql).await, 1);
    }

    /// Sets columns of an execution's lock row, as somebody else.
    pub async fn edit_lock(&self, id: &ExecutionId, set: &str) {
        let sql =
            format!("UPDATE distributed_locks SET {set} WHERE lock_key='workflow_execution:{id}'");
        assert_eq!(self.subject.exec(&sql).await, 1, "{sql}");
    }

    /// Somebody deletes an execution's lock row.
    pub async fn drop_lock(&self, id: &ExecutionId) {
        let sql = format!("DELETE FROM distributed_locks WHERE lock_key='workflow_execution:{id}'");
        assert_eq!(self.subject.exec(&sql).await, 1, "{sql}");
    }

    /// Sets columns of an execution, as somebody else.
    pub async fn edit(&self, id: &ExecutionId, set: &str) {
        let sql = format!("UPDATE workflow_executions SET {set} WHERE id='{id}'");
        assert_eq!(self.subject.exec(&sql).await, 1, "{sql}");
    }

    /// What the survey says of one execution.
    pub async fn held(&self, id: &ExecutionId) -> Option<Held> {
        let survey = self.b.survey().await.expect("a survey");
        survey.into_iter().find(|held| held.execution == *id).map(untimed)
    }

    /// The worker that holds `id` is dead: `b` takes it over as it is now.
    pub async fn b_takes_over(&self, id: &ExecutionId, cause: Cause) -> Batch {
        let seen = self.held(id).await.expect("it is held");
        self.b.take_over(&who("b"), &[TakeOver { seen, cause }]).await.expect("a takeover")
    }
}

/// Without the time that is only told.
pub fn untimed(mut held: Held) -> Held {
    if let Some(lock) = &mut held.lock {
        assert!(lock.expires_ms > 0, "{lock:?}");
        lock.expires_ms = 0;
    }
    held
}

fn shown(cell: Option<String>) -> String {
    cell.map_or_else(
        || "NULL".into(),
        |text| format!("{:?}", text.chars().take(80).collect::<String>()),
    )
}

/// A claimant that knows `func` and `shell` steps and the function `noop`.
pub fn who(name: &str) -> Claimant {
    let set = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    Claimant {
        owner: Owner::try_new(name).expect("a name"),
        uid: String::new(),
        ttl: TTL,
        beat: Beat(1),
        steps_at_once: 8,
        supported: Arc::new(Supported {
            kinds: set(&["func", "shell"]),
            functions: set(&["noop"]),
        }),
        eligibility: Arc::default(),
        unknown_after: HOUR,
        poison_claims: 3,
    }
}

/// The claims by execution; there is nothing else in the batch.
pub fn claims(batch: Batch) -> BTreeMap<ExecutionId, Claim> {
    assert!(batch.deferred.is_empty(), "deferred: {:?}", batch.deferred);
    assert!(batch.refused.is_empty(), "refused: {:?}", batch.refused);
    batch.claims.into_iter().map(|claim| (claim.lease.execution.clone(), claim)).collect()
}

/// The one claim of a batch that holds nothing else.
pub fn only(batch: Batch) -> Claim {
    let mut claims: Vec<Claim> = claims(batch).into_values().collect();
    assert_eq!(claims.len(), 1, "one claim");
    claims.remove(0)
}

/// Nothing was claimed, put back or refused.
pub fn is_nothing(batch: &Batch) -> bool {
    batch.claims.is_empty() && batch.deferred.is_empty() && batch.refused.is_empty()
}

/// Claims the one execution that is due.
pub async fn claim_one(store: &impl ExecutionStore, name: &str) -> Claim {
    only(store.claim(&who(name), 10).await.expect("a claim"))
}

/// The names of the steps that a claim has started.
pub fn started(claim: &Claim) -> Vec<String> {
    claim.plan.start.iter().map(|id| claim.workflow.node(*id).step.name.clone()).collect()
}

/// `steps.id` of the step that [`step`] makes under a name.
pub fn step_id(name: &str) -> StepId {
    format!("step-{name}").into()
}

/// A serial `noop` without dependencies and retries.
pub fn step(name: &str) -> RecordedStep {
    RecordedStep {
        id: step_id(name),
        name: Some(name.into()),
        executor_type: Some("func".into()),
        parameters: Some(r#"{"func":"noop"}"#.into()),
        timeout: Some(30),
        retries: Some(0),
        run_mode: Some("serial".into()),
        on_failure: Some("abort".into()),
        order: Some(0),
        ..RecordedStep::default()
    }
}

/// `step`, which waits for others.
pub fn after(mut step: RecordedStep, names: &[&str]) -> RecordedStep {
    let ids: Vec<String> =
        names.iter().map(|name| format!("{:?}", step_id(name).as_str())).collect();
    step.dependencies = Some(format!("[{}]", ids.join(",")));
    step
}

/// Steps that start beside each other.
pub fn fan(names: &[&str]) -> Vec<RecordedStep> {
    let parallel = Some("parallel".to_owned());
    names.iter().map(|name| RecordedStep { run_mode: parallel.clone(), ..step(name) }).collect()
}

/// Steps of which each waits for the one before.
pub fn chain(names: &[&str]) -> Vec<RecordedStep> {
    let mut steps: Vec<RecordedStep> = names.iter().map(|name| step(name)).collect();
    for (place, before) in names.iter().enumerate().take(names.len().saturating_sub(1)) {
        steps[place + 1] = after(steps[place + 1].clone(), &[before]);
    }
    steps
}

/// `one` and `two` beside each other, then `last`.
pub fn fork() -> Vec<RecordedStep> {
    let mut steps = fan(&["one", "two"]);
    steps.push(after(step("last"), &["one", "two"]));
    steps
}

pub fn workflow(name: &str, mut steps: Vec<RecordedStep>) -> Definition {
    for (place, step) in (0..).zip(&mut steps) {
        step.order = Some(place);
    }
    Definition { template: format!("template-{name}").into(), name: name.into(), steps }
}
