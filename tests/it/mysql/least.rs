//! The contract of a store's worker verbs, under a user who has what `migrate --print-grants` prints
//! and nothing else.
//!
//! **Invariant:** no verb of a worker goes over a connection of anybody else; operators' verbs, and what
//! a stranger does, go over the server's own user.

use std::time::Duration;

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    domain::{
        definition::Definition,
        doctor::{self, Circumstances, Stored, grants},
        eligibility::Eligibility,
        execution::ExecutionState,
        explain::Facts,
        id::{Beat, ExecutionId, Owner, StepExecutionId},
        lease::{Lease, Renewal},
        lock_table::LockTable,
        recovery::{Held, TakeOver},
    },
    ports::{
        control::{
            About, Applied, BacklogSummary, Cancelled, Control, ControlError, Drawn,
            ExecutionDetail, ExecutionSummary, Filter, LockFilter, LockRow, MigrationStep,
            Pausable, PauseChange, Paused, Submission, Submitted, WorkerRow,
        },
        executions::{
            Advance, AdvanceError, Advanced, Batch, Claimant, ExecutionStore, HandBack, Named,
            Queue, StoreError,
        },
        rows::RowStore,
        traced::{Former, Remains, Telling, TracedEnd, Untold},
    },
};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, mysql::MySqlDatabaseError, raw_sql};
use tokio::sync::OnceCell;

use super::{Database, Server};
use crate::{
    contract::{Row, Subject, world::*},
    process::json,
};

/// A database whose stores work as such a user; `RETENTION`: who may delete what has ended as well.
pub struct Least<S: Server, const RETENTION: bool> {
    database: Database<S>,
    /// With the user's name and password.
    url: String,
}

impl<S: Server, const RETENTION: bool> Least<S, RETENTION> {
    /// Those that `migrate --print-grants` prints.
    fn grants(&self) -> Vec<String> {
        let user = format!("'{}'@'%'", self.database.user_name());
        grants(&user, &format!("`{}`", self.database.name), RETENTION, &LockTable::default())
    }
}

#[async_trait]
impl<S: Server, const RETENTION: bool> Subject for Least<S, RETENTION> {
    type Store = Divided;

    async fn create() -> Self {
        let database = Database::<S>::create().await;
        let url = database.user("").await;
        Self { database, url }
    }

    async fn store(&self) -> Divided {
        Divided {
            operator: self.database.store().await,
            worker: OnceCell::new(),
            root: self.database.url(None),
            url: self.url.clone(),
            grants: self.grants(),
        }
    }

    async fn exec(&self, sql: &str) -> u64 {
        self.database.exec(sql).await
    }

    async fn rows(&self, sql: &str) -> Vec<Row> {
        self.database.rows(sql).await
    }

    fn now() -> &'static str {
        Database::<S>::now()
    }

    fn moved(time: &str, milliseconds: i64) -> String {
        Database::<S>::moved(time, milliseconds)
    }
}

/// A worker's verbs by the user with the fewest rights, an operator's by another.
pub struct Divided {
    operator: MySqlStore,
    /// Opened when it is first asked for something: there is nothing to grant before a migration.
    worker: OnceCell<MySqlStore>,
    root: String,
    url: String,
    grants: Vec<String>,
}

impl Divided {
    async fn worker(&self) -> &MySqlStore {
        let open = || async {
            let settings = Settings::new(SecretString::from(self.url.as_str()));
            MySqlStore::open(settings).await.expect("its user may connect")
        };
        self.worker.get_or_init(open).await
    }
}

#[async_trait]
impl RowStore for Divided {
    async fn due(&self, as_who: &Claimant, limit: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.worker().await.due(as_who, limit).await
    }

    async fn claim_these(
        &self,
        as_who: &Claimant,
        executions: &[ExecutionId],
    ) -> Result<Batch, StoreError> {
        self.worker().await.claim_these(as_who, executions).await
    }

    async fn put_off(&self, executions: &[ExecutionId]) -> Result<(), StoreError> {
        self.worker().await.put_off(executions).await
    }

    async fn standing(
        &self,
        within: Duration,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        self.worker().await.standing(within, leases).await
    }
}

#[async_trait]
impl ExecutionStore for Divided {
    async fn claim(&self, as_who: &Claimant, limit: usize) -> Result<Batch, StoreError> {
        self.worker().await.claim(as_who, limit).await
    }

    async fn claim_named(
        &self,
        as_who: &Claimant,
        execution: &ExecutionId,
    ) -> Result<Named, StoreError> {
        self.worker().await.claim_named(as_who, execution).await
    }

    async fn renew(
        &self,
        ttl: Duration,
        beat: Beat,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        self.worker().await.renew(ttl, beat, leases).await
    }

    async fn advance(&self, advances: &[Advance]) -> Vec<Result<Advanced, AdvanceError>> {
        self.worker().await.advance(advances).await
    }

    async fn note_output(
        &self,
        lease: &Lease,
        step: &StepExecutionId,
        attempt: u32,
        text: &str,
    ) -> Result<bool, StoreError> {
        self.worker().await.note_output(lease, step, attempt, text).await
    }

    async fn hand_back(&self, returns: &[HandBack]) -> Vec<Result<Advanced, AdvanceError>> {
        self.worker().await.hand_back(returns).await
    }

    async fn survey(&self) -> Result<Vec<Held>, StoreError> {
        self.worker().await.survey().await
    }

    async fn take_over(&self, as_who: &Claimant, due: &[TakeOver]) -> Result<Batch, StoreError> {
        self.worker().await.take_over(as_who, due).await
    }

    async fn remains(&self, of: &[Former]) -> Result<Vec<Remains>, StoreError> {
        self.worker().await.remains(of).await
    }

    async fn note_told(
        &self,
        owner: &Owner,
        ends: &[TracedEnd],
        telling: Telling,
    ) -> Result<(), StoreError> {
        self.worker().await.note_told(owner, ends, telling).await
    }

    async fn take_untold(&self, owner: &Owner, limit: u32) -> Result<Vec<Untold>, StoreError> {
        self.worker().await.take_untold(owner, limit).await
    }

    async fn reap(&self, limit: u32) -> Result<u64, StoreError> {
        self.worker().await.reap(limit).await
    }

    async fn orphans(&self) -> Result<Vec<Held>, StoreError> {
        self.worker().await.orphans().await
    }

    async fn fail_unknown(
        &self,
        after: Duration,
    ) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.worker().await.fail_unknown(after).await
    }

    async fn expire(
        &self,
        state: ExecutionState,
        kept: Duration,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.worker().await.expire(state, kept, limit).await
    }

    async fn queue(&self, eligibility: &Eligibility) -> Result<Queue, StoreError> {
        self.worker().await.queue(eligibility).await
    }
}

#[async_trait]
impl Control for Divided {
    /// Whoever migrates grants.
    async fn migrate(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError> {
        let steps = self.operator.migrate(dry_run).await?;
        let mut root = MySqlConnection::connect(&self.root).await.expect("a connection");
        for grant in self.grants.iter().filter(|_| !dry_run) {
            let granted = raw_sql(AssertSqlSafe(grant.clone())).execute(&mut root).await;
            granted.unwrap_or_else(|error| panic!("{grant}: {error}"));
        }
        Ok(steps)
    }

    async fn guard(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError> {
        self.operator.guard(dry_run).await
    }

    async fn apply(&self, definition: &Definition, about: &About) -> Result<Applied, ControlError> {
        self.operator.apply(definition, about).await
    }

    async fn submit(&self, submission: &Submission) -> Result<Submitted, ControlError> {
        self.operator.submit(submission).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<ExecutionSummary>, ControlError> {
        self.operator.list(filter).await
    }

    async fn show(&self, execution: &ExecutionId) -> Result<ExecutionDetail, ControlError> {
        self.operator.show(execution).await
    }

    async fn draw(&self, which: &str) -> Result<Drawn, ControlError> {
        self.operator.draw(which).await
    }

    async fn facts(&self, execution: &ExecutionId) -> Result<Facts, ControlError> {
        self.operator.facts(execution).await
    }

    async fn examine(&self) -> doctor::Facts {
        self.operator.examine().await
    }

    /// A worker looks at them.
    async fn circumstances(&self) -> Result<Circumstances, ControlError> {
        self.worker().await.circumstances().await
    }

    async fn templates(&self) -> Result<Vec<Stored>, ControlError> {
        self.operator.templates().await
    }

    async fn locks(&self, filter: &LockFilter) -> Result<Vec<LockRow>, ControlError> {
        self.operator.locks(filter).await
    }

    async fn clean_locks(&self, dry_run: bool) -> Result<u64, ControlError> {
        self.operator.clean_locks(dry_run).await
    }

    fn clean_locks_sql(&self) -> String {
        self.operator.clean_locks_sql()
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, ControlError> {
        self.operator.workers().await
    }

    async fn cancel(&self, execution: &ExecutionId) -> Result<Cancelled, ControlError> {
        self.operator.cancel(execution).await
    }

    async fn retry(&self, execution: &ExecutionId) -> Result<(), ControlError> {
        self.operator.retry(execution).await
    }

    async fn pause(&self, which: &Pausable) -> Result<PauseChange, ControlError> {
        self.operator.pause(which).await
    }

    async fn resume(&self, which: &Pausable) -> Result<PauseChange, ControlError> {
        self.operator.resume(which).await
    }

    async fn paused(&self) -> Result<Vec<Paused>, ControlError> {
        self.operator.paused().await
    }

    async fn backlog(&self) -> Result<BacklogSummary, ControlError> {
        self.operator.backlog().await
    }

    async fn release_backlog(&self, template: Option<&str>) -> Result<u64, ControlError> {
        self.operator.release_backlog(template).await
    }
}

pub async fn the_printed_grants_are_those_that_this_contract_runs_under<S: Server>() {
    let world = World::<Least<S, false>>::new().await;
    let user = world.subject.database.user_name();
    let printed = json(&world.subject.url, ["migrate", "--print-grants", "--grant-to", user]);
    let printed: Vec<&str> =
        printed.as_array().expect("a list").iter().filter_map(|grant| grant.as_str()).collect();
    assert_eq!(printed, world.subject.grants());
}

/// What a worker's user must not do, and the error that it meets: 1142 (on a table), 1143 (on a
/// column), 1044 (on a database), 1227 (on the server), 1419 (of triggers, with a binary log).
const FORBIDDEN: [(&str, &[u16]); 37] = [
    // What its scripts are, and which are run.
    ("UPDATE steps SET shell_script='rm -rf /'", &[1142]),
    ("INSERT INTO steps(id, name) VALUES ('mine', 'mine')", &[1142]),
    ("DELETE FROM steps", &[1142]),
    ("UPDATE workflow_templates SET is_active=0", &[1142]),
    ("INSERT INTO workflow_templates(id) VALUES ('mine')", &[1142]),
    ("DELETE FROM workflow_templates", &[1142]),
    ("UPDATE workflow_template_steps SET dependencies=''", &[1142]),
    ("INSERT INTO workflow_template_steps(id) VALUES ('mine')", &[1142]),
    ("DELETE FROM workflow_template_steps", &[1142]),
    ("UPDATE ow_plans SET plan='{}'", &[1142]),
    ("DELETE FROM ow_plans", &[1142]),
    // What is to be run, and for whom.
    ("INSERT INTO workflow_executions(id, status) VALUES ('mine', 'pending')", &[1142]),
    ("UPDATE workflow_executions SET template_id='mine'", &[1143]),
    ("UPDATE workflow_executions SET created_by='somebody'", &[1143]),
    ("UPDATE workflow_executions SET created_at=NOW(3)", &[1143]),
    ("UPDATE workflow_executions SET id='mine'", &[1143]),
    ("UPDATE workflow_step_executions SET execution_id='mine'", &[1143]),
    ("UPDATE workflow_step_executions SET step_id='mine'", &[1143]),
    ("INSERT INTO workflow_step_executions(id, output) VALUES ('mine', 'all is well')", &[1143]),
    ("INSERT INTO ow_paused(template_id, since) VALUES ('*', NOW(3))", &[1142]),
    ("DELETE FROM ow_paused", &[1142]),
    // What is known of the tables and of the server.
    ("UPDATE ow_meta SET oldest_reader=0", &[1142]),
    ("DELETE FROM ow_meta", &[1142]),
    ("INSERT INTO ow_primary(id, identity, since) VALUES (2, '', NOW(6))", &[1142]),
    ("DELETE FROM ow_primary", &[1142]),
    // The tables.
    ("CREATE TABLE mine (id INT)", &[1142]),
    ("ALTER TABLE workflow_executions ADD COLUMN mine INT", &[1142]),
    ("CREATE INDEX mine ON workflow_executions (created_by(10))", &[1142]),
    ("TRUNCATE TABLE distributed_locks", &[1142]),
    ("DROP TABLE ow_attempts", &[1142]),
    ("CREATE VIEW mine AS SELECT id FROM steps", &[1142]),
    ("CREATE TRIGGER mine BEFORE UPDATE ON steps FOR EACH ROW SET NEW.name=''", &[1142, 1419]),
    ("LOCK TABLES workflow_executions WRITE", &[1044]),
    // Everything else.
    ("CREATE DATABASE ow_mine", &[1044]),
    ("CREATE USER ow_mine", &[1227]),
    ("SELECT * FROM mysql.user", &[1142]),
    ("SET GLOBAL max_connections=1", &[1227]),
];

/// What belongs to executions that have ended: with a retention these rows may go.
const HISTORY: [&str; 3] = [
    "DELETE FROM ow_attempts",
    "DELETE FROM workflow_step_executions",
    "DELETE FROM workflow_executions",
];

/// The number of the error that a statement meets; 0 if it is done.
async fn refusal(connection: &mut MySqlConnection, sql: &str) -> u16 {
    match raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await {
        Ok(_) => 0,
        Err(sqlx::Error::Database(error)) => error.downcast_ref::<MySqlDatabaseError>().number(),
        Err(error) => panic!("{sql}: {error}"),
    }
}

pub async fn what_a_worker_does_not_do_is_forbidden_to_its_user<S: Server>() {
    forbidden::<S, false>(1142).await;
}

pub async fn a_retention_lets_a_worker_delete_history_and_nothing_else<S: Server>() {
    forbidden::<S, true>(0).await;
}

async fn forbidden<S: Server, const RETENTION: bool>(of_history: u16) {
    let world = World::<Least<S, RETENTION>>::new().await;
    world.a_claims(chain(&["one"])).await;
    let before = world.everything().await;
    let mut worker = MySqlConnection::connect(&world.subject.url).await.expect("a connection");
    for (sql, numbers) in FORBIDDEN {
        let met = refusal(&mut worker, sql).await;
        assert!(numbers.contains(&met), "{sql} met {met}");
    }
    assert_eq!(world.everything().await, before);
    for sql in HISTORY {
        assert_eq!(refusal(&mut worker, sql).await, of_history, "{sql}");
    }
}
