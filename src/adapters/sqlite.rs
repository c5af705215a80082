//! The embedded store: one SQLite file on one host, or memory, shared by any number of workers.
//!
//! **Invariant:** a writing verb is one transaction that has the file to itself from its begin, and
//! each of its writes names the fence that it is made under.

mod admission;
mod advance;
mod cancelled;
mod claim;
mod control;
mod eligible;
mod errors;
mod live;
mod locks;
mod look;
mod oddities;
mod plain;
mod release;
mod remains;
mod renew;
mod retention;
mod rows;
mod schema;
mod session;
mod steps;
mod takeover;
mod taking;
mod templates;
mod untold;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::time::Instant;
use uuid::Uuid;

use self::{errors::Failure, session::Opener};
use super::{
    lane::{Lanes, LanesSettings},
    plans::Plans,
};
use crate::{
    domain::{
        deferral::{Deferral, Deferrals},
        eligibility::Eligibility,
        execution::ExecutionState,
        id::{Beat, ExecutionId, Owner, StepExecutionId},
        lease::{Lease, Renewal},
        recovery::{Held, TakeOver},
    },
    ports::{
        executions::{
            Advance, AdvanceError, Advanced, Batch, Claimant, ExecutionStore, HandBack, Named,
            Queue, StoreError,
        },
        rows::RowStore,
        traced::{Former, Remains, Telling, TracedEnd, Untold},
    },
};

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlitePath {
    File(PathBuf),
    /// Gone with the last store on it. Stores of one process that give the same name share it;
    /// without a name it is one store's own.
    Memory {
        name: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub path: SqlitePath,
}

/// An SQLite database as a source of work.
pub struct SqliteStore {
    place: errors::Place,
    shared: Arc<Shared>,
    work: Lanes<Opener>,
    /// Renewals do not queue behind work; `None` for memory, whose one lane serves all.
    leases: Option<Lanes<Opener>>,
    plain_keys_closed: AtomicBool,
    /// Memory lives as long as a connection to it.
    _anchor: Option<SqliteConnection>,
}

/// What all jobs of one store share.
pub(super) struct Shared {
    plans: Plans,
    deferrals: Mutex<Deferrals>,
    born: Instant,
}

impl Shared {
    /// Counts one more deferral; returns the back-off, and for how long it has been unknown.
    fn defer(&self, execution: &ExecutionId, deferral: &Deferral) -> (Duration, Duration) {
        let mut deferrals = self.deferrals.lock().expect("no panic while it is held");
        deferrals.defer(execution, deferral, self.born.elapsed())
    }

    /// This process does not take the execution over before its back-off is past; others may.
    fn leave_alone(&self, execution: &ExecutionId, backoff: Duration) {
        let mut deferrals = self.deferrals.lock().expect("no panic while it is held");
        deferrals.leave_alone(execution, self.born.elapsed(), backoff);
    }

    fn is_left_alone(&self, execution: &ExecutionId) -> bool {
        let deferrals = self.deferrals.lock().expect("no panic while it is held");
        deferrals.is_left_alone(execution, self.born.elapsed())
    }

    fn settle(&self, execution: &ExecutionId) {
        self.deferrals.lock().expect("no panic while it is held").settle(execution);
    }
}

/// Longer than a writer waits for the writers before it.
const LIMIT: Duration = Duration::from_secs(20);

impl SqliteStore {
    /// A store whose tables need not be there yet, nor its file: `migrate` makes them. What is wrong
    /// with a file is told by the first verb.
    pub async fn open(settings: Settings) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            plans: Plans::default(),
            deferrals: Mutex::default(),
            born: Instant::now(),
        });
        Ok(match settings.path {
            SqlitePath::File(path) => {
                let opener = Opener::file(&path, false);
                Self {
                    place: opener.place().clone(),
                    shared,
                    work: Lanes::start(opener.clone(), LanesSettings::new("work", 2)),
                    leases: Some(Lanes::start(opener, LanesSettings::new("leases", 1))),
                    plain_keys_closed: AtomicBool::new(false),
                    _anchor: None,
                }
            }
            SqlitePath::Memory { name } => {
                let name = name.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
                let opener = Opener::memory(&name);
                let anchor = opener.anchor().await;
                let place = opener.place().clone();
                let anchor = anchor.map_err(|failure| failure.into_store(&place))?;
                Self {
                    place,
                    shared,
                    work: Lanes::start(opener, LanesSettings::new("work", 1)),
                    leases: None,
                    plain_keys_closed: AtomicBool::new(false),
                    _anchor: Some(anchor),
                }
            }
        })
    }

    async fn job<T: Send + 'static>(
        &self,
        lanes: &Lanes<Opener>,
        job: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>>
        + Send
        + 'static,
    ) -> Result<T, Failure> {
        lanes.run(LIMIT, job).await
    }

    async fn on<T: Send + 'static>(
        &self,
        lanes: &Lanes<Opener>,
        job: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        self.job(lanes, job).await.map_err(|failure| failure.into_store(&self.place))
    }
}

#[async_trait]
impl ExecutionStore for SqliteStore {
    async fn claim(&self, as_who: &Claimant, limit: usize) -> Result<Batch, StoreError> {
        let (shared, as_who) = (self.shared.clone(), as_who.clone());
        self.on(&self.work, move |c| {
            Box::pin(async move { claim::claim(c, &shared, &as_who, limit).await })
        })
        .await
    }

    async fn claim_named(
        &self,
        as_who: &Claimant,
        execution: &ExecutionId,
    ) -> Result<Named, StoreError> {
        let (shared, as_who, execution) = (self.shared.clone(), as_who.clone(), execution.clone());
        self.on(&self.work, move |c| {
            Box::pin(async move { claim::claim_named(c, &shared, &as_who, &execution).await })
        })
        .await
    }

    async fn renew(
        &self,
        ttl: Duration,
        beat: Beat,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        let leases = leases.to_vec();
        let lanes = self.leases.as_ref().unwrap_or(&self.work);
        self.on(lanes, move |c| Box::pin(async move { renew::renew(c, ttl, beat, &leases).await }))
            .await
    }

    async fn advance(&self, advances: &[Advance]) -> Vec<Result<Advanced, AdvanceError>> {
        let (count, advances) = (advances.len(), advances.to_vec());
        let answers = self
            .on(&self.work, move |c| Box::pin(async move { advance::advance(c, &advances).await }))
            .await;
        each(answers, count)
    }

    async fn note_output(
        &self,
        lease: &Lease,
        step: &StepExecutionId,
        attempt: u32,
        text: &str,
    ) -> Result<bool, StoreError> {
        let (lease, step, text) = (lease.clone(), step.clone(), text.to_owned());
        self.on(&self.work, move |c| {
            Box::pin(async move { live::note_output(c, &lease, &step, attempt, &text).await })
        })
        .await
    }

    async fn hand_back(&self, returns: &[HandBack]) -> Vec<Result<Advanced, AdvanceError>> {
        let (count, returns) = (returns.len(), returns.to_vec());
        let answers = self
            .on(&self.work, move |c| Box::pin(async move { release::hand_back(c, &returns).await }))
            .await;
        each(answers, count)
    }

    async fn survey(&self) -> Result<Vec<Held>, StoreError> {
        self.on(&self.work, |c| Box::pin(look::survey(c))).await
    }

    async fn take_over(&self, as_who: &Claimant, due: &[TakeOver]) -> Result<Batch, StoreError> {
        let (shared, as_who, due) = (self.shared.clone(), as_who.clone(), due.to_vec());
        self.on(&self.work, move |c| {
            Box::pin(async move { takeover::take_over(c, &shared, &as_who, &due).await })
        })
        .await
    }

    async fn remains(&self, of: &[Former]) -> Result<Vec<Remains>, StoreError> {
        let of = of.to_vec();
        self.on(&self.work, move |c| Box::pin(async move { remains::remains(c, &of).await })).await
    }

    async fn note_told(
        &self,
        owner: &Owner,
        ends: &[TracedEnd],
        telling: Telling,
    ) -> Result<(), StoreError> {
        let (owner, ends) = (owner.clone(), ends.to_vec());
        self.on(&self.work, move |c| {
            Box::pin(async move { untold::note(c, &owner, &ends, telling).await })
        })
        .await
    }

    async fn take_untold(&self, owner: &Owner, limit: u32) -> Result<Vec<Untold>, StoreError> {
        let owner = owner.clone();
        self.on(&self.work, move |c| Box::pin(async move { untold::take(c, &owner, limit).await }))
            .await
    }

    async fn reap(&self, limit: u32) -> Result<u64, StoreError> {
        self.on(&self.work, move |c| Box::pin(release::reap(c, limit))).await
    }

    async fn orphans(&self) -> Result<Vec<Held>, StoreError> {
        self.on(&self.work, |c| Box::pin(oddities::orphans(c))).await
    }

    async fn fail_unknown(
        &self,
        after: Duration,
    ) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.on(&self.work, move |c| Box::pin(oddities::fail_unknown(c, after))).await
    }

    async fn expire(
        &self,
        state: ExecutionState,
        kept: Duration,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.on(&self.work, move |c| Box::pin(retention::expire(c, state, kept, limit))).await
    }

    async fn queue(&self, eligibility: &Eligibility) -> Result<Queue, StoreError> {
        let eligibility = eligibility.clone();
        self.on(&self.work, move |c| Box::pin(async move { look::queue(c, &eligibility).await }))
            .await
    }
}

#[async_trait]
impl RowStore for SqliteStore {
    async fn due(&self, as_who: &Claimant, limit: usize) -> Result<Vec<ExecutionId>, StoreError> {
        let as_who = as_who.clone();
        self.on(&self.work, move |c| Box::pin(async move { claim::due(c, &as_who, limit).await }))
            .await
    }

    async fn claim_these(
        &self,
        as_who: &Claimant,
        executions: &[ExecutionId],
    ) -> Result<Batch, StoreError> {
        let (shared, as_who) = (self.shared.clone(), as_who.clone());
        let executions = executions.to_vec();
        self.on(&self.work, move |c| {
            Box::pin(async move { claim::claim_these(c, &shared, &as_who, &executions).await })
        })
        .await
    }

    async fn put_off(&self, executions: &[ExecutionId]) -> Result<(), StoreError> {
        let (shared, executions) = (self.shared.clone(), executions.to_vec());
        self.on(&self.work, move |c| {
            Box::pin(async move { claim::put_off(c, &shared, &executions).await })
        })
        .await
    }

    async fn standing(
        &self,
        within: Duration,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        let leases = leases.to_vec();
        let lanes = self.leases.as_ref().unwrap_or(&self.work);
        let job =
            lanes.run(within, move |c| Box::pin(async move { renew::standing(c, &leases).await }));
        job.await.map_err(|failure: Failure| failure.into_store(&self.place))
    }
}

/// An error of the whole transaction is everybody's.
fn each<T>(
    answers: Result<Vec<Result<T, AdvanceError>>, StoreError>,
    count: usize,
) -> Vec<Result<T, AdvanceError>> {
    answers.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone().into())).collect())
}
