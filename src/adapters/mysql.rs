//! Executions in MySQL or MariaDB, on the tables of the Go orchestrator.
//!
//! Each verb is a piece of [`work`](self) done on one of a few lanes: leases on lanes of their own, so
//! that no long statement keeps a renewal waiting. PROTOCOL's statements stand in the file of their
//! verb.
//!
//! **Invariant:** every change is made under fence and nonce of its lease, in one transaction a verb,
//! with rows met in one order everywhere: executions by id, lock rows by key, step rows.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;

use self::{
    address::Address,
    errors::Fault,
    schema::Extent,
    session::{Entrance, Purpose, Session},
    shared::Shared,
    work::Work,
};
use super::lane::{Lanes, LanesSettings};
use crate::{
    domain::{
        definition::Definition,
        doctor::{self, Circumstances, Stored},
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
        traced::{Former, Remains, Telling, TracedEnd, Untold},
    },
};

mod address;
mod admit;
mod advance;
mod apart;
mod claim;
mod control;
mod draft;
mod eligible;
mod elsewhere;
mod ending;
mod errors;
mod facts;
mod live;
mod locks;
mod named;
mod oddities;
mod password;
mod plain;
mod release;
mod remains;
mod renew;
mod retention;
mod rows;
mod schema;
mod server;
mod session;
mod shared;
mod steps;
mod survey;
mod takeover;
mod templates;
mod tidy;
mod untold;
mod work;

pub use address::{Given, Tls};
pub use password::{PasswordFile, PasswordFileError};

/// How to reach a database, and with how many connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `mysql://user:password@host:3306/database`
    pub url: SecretString,
    /// In place of the URL, TLS and all.
    pub given: Option<Given>,
    /// Where the password stands, in place of one in the URL; read at every connect.
    pub password_file: Option<PasswordFile>,
    pub tls: Tls,
    /// Connections for renewals alone.
    pub lease_lanes: usize,
    /// Connections for everything else; those without work are closed.
    pub work_lanes: usize,
    /// The offset in which the Go service writes its local times: `+00:00`.
    pub time_offset: String,
    /// The database is a cluster, and all workers write to the same member of it.
    pub single_writer: bool,
    pub lock_table: LockTable,
}

impl Settings {
    /// The same, to where a pool of the program connects.
    pub fn of_given(given: Given) -> Self {
        Self { given: Some(given), ..Self::new(SecretString::default()) }
    }

    /// Host and port; `None` where the URL cannot be read.
    pub fn server(&self) -> Option<(String, u16)> {
        match &self.given {
            Some(given) => Some(given.server()),
            None => Given::of_url(&self.url).map(|given| given.server()),
        }
    }

    /// Two lanes for leases, four for work, times in UTC, identity verified.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            given: None,
            password_file: None,
            tls: Tls::VerifyIdentity,
            lease_lanes: 2,
            work_lanes: 4,
            time_offset: "+00:00".into(),
            single_writer: false,
            lock_table: LockTable::default(),
        }
    }
}

/// A lane without work gives its connection back to the server after this.
const IDLE: Duration = Duration::from_secs(20);
/// Lock rows that `clean_locks` deletes in one transaction.
const CLEANED: u32 = 1_000;
/// A connection is not kept for longer, so that a moved address is found.
const LIFE: Duration = Duration::from_secs(300);

/// A store of executions in MySQL or MariaDB.
pub struct MySqlStore {
    entrance: Entrance,
    shared: Arc<Shared>,
    leases: Lanes<Entrance>,
    work: Lanes<Entrance>,
    plain_keys_closed: AtomicBool,
}

impl MySqlStore {
    /// Connects once, to say at once what is wrong; the tables need not be there yet.
    pub async fn open(settings: Settings) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::new(settings.lock_table));
        let entrance = Entrance {
            address: match &settings.given {
                Some(given) => Address::of_given(given)?,
                None => Address::try_new(&settings.url, settings.password_file, settings.tls)?,
            },
            purpose: Purpose::Work,
            time_offset: time_offset(&settings.time_offset)?,
            single_writer: settings.single_writer,
            shared: shared.clone(),
        };
        let leases = LanesSettings::new("lease", settings.lease_lanes);
        let work = LanesSettings {
            idle: Some(IDLE),
            life: Some(LIFE),
            ..LanesSettings::new("work", settings.work_lanes)
        };
        let store = Self {
            leases: Lanes::start(Entrance { purpose: Purpose::Lease, ..entrance.clone() }, leases),
            work: Lanes::start(entrance.clone(), work),
            entrance,
            shared,
            plain_keys_closed: AtomicBool::new(false),
        };
        work::run(&store.work, work::CONNECT_LIMIT, Connect).await?;
        Ok(store)
    }
}

impl MySqlStore {
    /// The answer of a verb whose caller forgets what it has observed if the primary is another.
    fn told<T>(&self, answer: Result<T, Fault>) -> Result<T, StoreError> {
        if let Err(Fault::PrimaryChanged) = answer {
            self.shared.tell_of_primary();
        }
        Ok(answer?)
    }
}

/// Nothing but a connection.
struct Connect;

#[async_trait]
impl Work for Connect {
    type Answer = ();

    async fn attempt(&mut self, _: &mut Session) -> Result<(), Fault> {
        Ok(())
    }
}

/// `+00:00`, `-09:30`; anything else is refused, names of zones included: they need tables that few
/// servers have, and daylight saving.
fn time_offset(text: &str) -> Result<String, Fault> {
    let is_digit = |place: usize| text.as_bytes()[place].is_ascii_digit();
    let is_offset = text.len() == 6
        && text.starts_with(['+', '-'])
        && text.as_bytes()[3] == b':'
        && [1, 2, 4, 5].into_iter().all(is_digit);
    if is_offset {
        return Ok(text.to_owned());
    }
    Err(Fault::NotReady(format!(
        "database.time_offset is {text:?}; give an offset from UTC such as +00:00 or +08:00"
    )))
}

#[async_trait]
impl ExecutionStore for MySqlStore {
    async fn claim(&self, as_who: &Claimant, limit: usize) -> Result<Batch, StoreError> {
        self.told(claim::claim(&self.work, &self.shared, as_who, limit).await)
    }

    async fn claim_named(
        &self,
        as_who: &Claimant,
        execution: &ExecutionId,
    ) -> Result<Named, StoreError> {
        self.told(named::claim(&self.work, &self.shared, as_who, execution).await)
    }

    async fn renew(
        &self,
        ttl: Duration,
        beat: Beat,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        Ok(renew::renew(&self.leases, &self.shared, ttl, beat, leases).await?)
    }

    async fn advance(&self, advances: &[Advance]) -> Vec<Result<Advanced, AdvanceError>> {
        advance::advance(&self.work, &self.shared, advances).await
    }

    async fn note_output(
        &self,
        lease: &Lease,
        step: &StepExecutionId,
        attempt: u32,
        text: &str,
    ) -> Result<bool, StoreError> {
        Ok(live::note_output(&self.work, lease, step, attempt, text).await?)
    }

    async fn hand_back(&self, returns: &[HandBack]) -> Vec<Result<Advanced, AdvanceError>> {
        release::hand_back(&self.work, returns).await
    }

    async fn survey(&self) -> Result<Vec<Held>, StoreError> {
        self.told(survey::survey(&self.work).await)
    }

    async fn take_over(&self, as_who: &Claimant, due: &[TakeOver]) -> Result<Batch, StoreError> {
        self.told(takeover::take_over(&self.work, &self.shared, as_who, due).await)
    }

    async fn remains(&self, of: &[Former]) -> Result<Vec<Remains>, StoreError> {
        Ok(remains::remains(&self.work, of).await?)
    }

    async fn note_told(
        &self,
        owner: &Owner,
        ends: &[TracedEnd],
        telling: Telling,
    ) -> Result<(), StoreError> {
        Ok(untold::note(&self.work, owner, ends, telling).await?)
    }

    async fn take_untold(&self, owner: &Owner, limit: u32) -> Result<Vec<Untold>, StoreError> {
        Ok(untold::take(&self.work, owner, limit).await?)
    }

    async fn reap(&self, limit: u32) -> Result<u64, StoreError> {
        Ok(release::reap(&self.work, limit).await?)
    }

    async fn orphans(&self) -> Result<Vec<Held>, StoreError> {
        self.told(oddities::orphans(&self.work).await)
    }

    async fn fail_unknown(
        &self,
        after: Duration,
    ) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        Ok(oddities::fail_unknown(&self.work, after).await?)
    }

    async fn expire(
        &self,
        state: ExecutionState,
        kept: Duration,
        limit: u32,
    ) -> Result<u64, StoreError> {
        Ok(retention::expire(&self.work, state, kept, limit).await?)
    }

    async fn queue(&self, eligibility: &Eligibility) -> Result<Queue, StoreError> {
        Ok(survey::queue(&self.work, eligibility).await?)
    }
}

#[async_trait]
impl Control for MySqlStore {
    async fn migrate(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError> {
        Ok(schema::migrate(&self.entrance, Extent::Tables, dry_run).await?)
    }

    async fn guard(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError> {
        Ok(schema::migrate(&self.entrance, Extent::Guard, dry_run).await?)
    }

    async fn apply(&self, definition: &Definition, about: &About) -> Result<Applied, ControlError> {
        Ok(control::apply(&self.work, definition, about).await?)
    }

    async fn submit(&self, submission: &Submission) -> Result<Submitted, ControlError> {
        control::submit(&self.work, submission).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<ExecutionSummary>, ControlError> {
        Ok(control::list(&self.work, filter).await?)
    }

    async fn show(&self, execution: &ExecutionId) -> Result<ExecutionDetail, ControlError> {
        control::show(&self.work, execution).await
    }

    async fn draw(&self, which: &str) -> Result<Drawn, ControlError> {
        control::draw(&self.work, which).await
    }

    async fn facts(&self, execution: &ExecutionId) -> Result<Facts, ControlError> {
        control::facts(&self.work, execution).await
    }

    async fn examine(&self) -> doctor::Facts {
        control::examine(&self.work).await
    }

    async fn circumstances(&self) -> Result<Circumstances, ControlError> {
        Ok(control::circumstances(&self.work).await?)
    }

    async fn templates(&self) -> Result<Vec<Stored>, ControlError> {
        Ok(control::templates(&self.work).await?)
    }

    async fn locks(&self, filter: &LockFilter) -> Result<Vec<LockRow>, ControlError> {
        Ok(control::locks(&self.work, filter).await?)
    }

    async fn clean_locks(&self, dry_run: bool) -> Result<u64, ControlError> {
        if dry_run {
            return Ok(control::count_old(&self.work).await?);
        }
        let mut all = 0;
        loop {
            let deleted = release::reap(&self.work, CLEANED).await?;
            all += deleted;
            if deleted < u64::from(CLEANED) {
                return Ok(all);
            }
        }
    }

    fn clean_locks_sql(&self) -> String {
        self.shared.lock_table.named(control::CLEAN).into_owned()
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, ControlError> {
        Ok(control::workers(&self.work).await?)
    }

    async fn cancel(&self, execution: &ExecutionId) -> Result<Cancelled, ControlError> {
        control::cancel(&self.work, execution).await
    }

    async fn retry(&self, execution: &ExecutionId) -> Result<(), ControlError> {
        control::retry(&self.work, execution).await
    }

    async fn pause(&self, which: &Pausable) -> Result<PauseChange, ControlError> {
        control::pause(&self.work, which, true).await
    }

    async fn resume(&self, which: &Pausable) -> Result<PauseChange, ControlError> {
        control::pause(&self.work, which, false).await
    }

    async fn paused(&self) -> Result<Vec<Paused>, ControlError> {
        Ok(control::paused(&self.work).await?)
    }

    async fn backlog(&self) -> Result<BacklogSummary, ControlError> {
        Ok(control::backlog(&self.work).await?)
    }

    async fn release_backlog(&self, template: Option<&str>) -> Result<u64, ControlError> {
        control::release_backlog(&self.work, template).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_an_offset_and_nothing_that_could_end_a_statement() {
        for good in ["+00:00", "-09:30", "+14:00"] {
            assert_eq!(time_offset(good), Ok(good.to_owned()));
        }
        for bad in ["", "UTC", "+0:00", "+00-00", "+00:0'", "Europe/Berlin", "+äö:0"] {
            assert!(matches!(time_offset(bad), Err(Fault::NotReady(_))), "{bad}");
        }
    }
}
