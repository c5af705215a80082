//! The worker: when to look, claim, spawn, drain. The loop a newcomer reads first is
//! [`Worker::run`].
//!
//! **Invariant:** every task is owned and gone when `run` returns; every claimed execution is
//! ended, handed back, or lost, and each is said.

pub mod attempts;
pub mod drain;
pub mod driver;
pub mod health;
pub mod keeper;
pub mod leases;
mod live;
mod metered;
mod notices;
pub mod poller;
mod reaper;
pub mod recorder;
mod shared;
mod single;
mod spans;
mod standby;
mod teller;
mod told;
mod unclaimed;
mod watchdog;
mod watcher;

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc::Receiver, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{
    drain::Drain,
    health::Health,
    keeper::Keeper,
    metered::Metered,
    poller::{Found, Poller},
    recorder::Recorder,
    shared::Shared,
    watchdog::Watchdog,
};
pub use self::{
    drain::Shutdown,
    notices::Notices,
    shared::{Finished, Summary},
    single::Single,
    spans::Tracing,
};
use crate::{
    clock::boot_now,
    domain::{
        death::News,
        eligibility::Eligibility,
        id::Owner,
        lease::LeaseTerms,
        marks::Load,
        notice::{Left, What},
        pod::PodProcess,
        retention::Retention,
        retry::Backoff,
        standby::Standby,
    },
    instruments::{ByResult, Instruments, as_seconds, millis},
    ports::{
        executions::{ExecutionStore, StoreError},
        runner::StepRunner,
    },
};

/// How a worker works.
#[derive(Clone, Debug)]
pub struct Settings {
    pub owner: Owner,
    /// Which process of which pod this is.
    pub process: PodProcess,
    /// Executions at once.
    pub slots: usize,
    pub poll_interval: Duration,
    pub terms: LeaseTerms,
    /// Executions claimed in one transaction at most.
    pub claim_batch: usize,
    pub eligibility: Arc<Eligibility>,
    pub unknown_after: Duration,
    pub drain_deadline: Duration,
    /// Steps of one execution at once.
    pub steps_at_once: usize,
    pub backoff: Backoff,
    pub poison_claims: u32,
    pub retention: Retention,
    /// Take over what the orchestrator itself has left running.
    pub adopt_orphans: bool,
    /// Stop when nothing is left to claim.
    pub until_idle: bool,
}

/// Why a worker stopped before its time.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error("cannot start the worker: {0}")]
    Watchdog(io::Error),
    #[error("a part of the worker has ended before its time; see the log")]
    Broken,
    /// Only a person can mend it, and whoever waits until nothing is left would wait for ever.
    #[error(transparent)]
    Store(StoreError),
}

/// A worker that has not begun.
pub struct Worker {
    store: Arc<dyn ExecutionStore>,
    runner: Arc<dyn StepRunner>,
    settings: Settings,
    instruments: Arc<Instruments>,
    health: Arc<Health>,
    tracing: Option<Tracing>,
    is_watched: bool,
    pods: Option<Receiver<News>>,
    load: watch::Sender<Load>,
    standby: watch::Receiver<Standby>,
    notices: Notices,
}

impl Worker {
    pub fn new(
        store: Arc<dyn ExecutionStore>,
        runner: Arc<dyn StepRunner>,
        settings: Settings,
        instruments: Arc<Instruments>,
        health: Arc<Health>,
    ) -> Self {
        let (metered, asked) = (instruments.clone(), health.clone());
        let store = Arc::new(Metered { store, instruments: metered, health: asked });
        Self {
            store,
            runner,
            settings,
            instruments,
            health,
            tracing: None,
            is_watched: true,
            pods: None,
            load: watch::Sender::default(),
            standby: watch::Sender::default().subscribe(),
            notices: Notices::default(),
        }
    }

    /// With nobody who ends what outlives its lease: for the tests of what would notice.
    #[doc(hidden)]
    #[must_use]
    pub fn without_watchdog(self) -> Self {
        Self { is_watched: false, ..self }
    }

    /// Tells what it does in spans.
    #[must_use]
    pub fn traced(self, tracing: Option<Tracing>) -> Self {
        Self { tracing, ..self }
    }

    /// Takes over at once what pods held that have ended.
    #[must_use]
    pub fn told_of_pods(self, pods: Option<Receiver<News>>) -> Self {
        Self { pods, ..self }
    }

    /// Tells there what it has under way: at once when its first run begins, its last one ends, or it drains.
    #[must_use]
    pub fn telling(self, load: watch::Sender<Load>) -> Self {
        Self { load, ..self }
    }

    /// Claims and takes over nothing while it is told to stand by, and goes on with what it holds. Whoever tells
    /// has to take it back when he ends.
    #[must_use]
    pub fn standing_by(self, standby: watch::Receiver<Standby>) -> Self {
        Self { standby, ..self }
    }

    /// Tells there what people who look at its pod should know.
    #[must_use]
    pub fn noticed(self, notices: Notices) -> Self {
        Self { notices, ..self }
    }

    /// Works until it is told to stop, or until nothing is left if so set. Before an error, what it
    /// holds is handed back as in a drain.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<Summary, WorkError> {
        let deadline = self.settings.drain_deadline;
        let pods = self.pods.take();
        let mut running = self.begin(shutdown)?;
        let (shared, drain) = (running.shared.clone(), running.shared.tools.drain.clone());
        let mut watchers = JoinSet::new();
        watchers.spawn(watcher::watch(shared.clone(), pods));
        watchers.spawn(reaper::reap(shared.clone()));
        watchers.spawn(watcher::count(shared.clone()));
        watchers.spawn(follow_drain(shared.clone()));
        watchers.spawn(standby::tell(shared.clone()));
        if shared.is_traced() {
            watchers.spawn(teller::watch(shared.clone()));
        }

        let work = async {
            announce(&shared).await;
            watcher::look_first(&shared).await;
            claim_until_draining(&shared).await.map_err(WorkError::Store)
        };
        let worked = work_while_whole(&shared, &mut running.services, &mut watchers, work).await;
        drain.begin();
        // Whoever would tell of it may be ended before he has.
        shared.tell_of_drain();
        // What they are taking over must not be lost; only when told to end now it is left to others.
        tokio::select! {
            biased;
            () = drain.abort.cancelled() => watchers.abort_all(),
            () = async { while watchers.join_next().await.is_some() {} } => {}
        }
        finish_drain(&shared, deadline).await;
        teller::finish(&shared, &mut running.noting).await;
        drop(shared);
        let summary = running.end().await;
        worked.map(|_| summary)
    }

    /// Starts what every lease needs: the recorder, the keeper, the watchdog, and the drain.
    fn begin(self, shutdown: Shutdown) -> Result<Running, WorkError> {
        let drain = Drain::default();
        let mut services = JoinSet::new();
        let recorder = Recorder::start(&self.store, &self.instruments, &mut services);
        let shared = Arc::new(Shared::new(&self, drain.clone(), recorder));
        drop(self.runner);
        let watchdog = (self.is_watched)
            .then(|| Watchdog::start(shared.leases.clone(), self.instruments.clone()))
            .transpose()
            .map_err(WorkError::Watchdog)?;
        let done = CancellationToken::new();
        let deadline = self.settings.drain_deadline;
        services.spawn(drain.follow(shutdown, deadline, done.clone()));
        let keeper = Keeper {
            store: self.store,
            leases: shared.leases.clone(),
            terms: self.settings.terms,
            beats: shared.beats.clone(),
            instruments: self.instruments,
        };
        services.spawn(keeper.run(done.clone()));
        let mut noting = JoinSet::new();
        noting.spawn(teller::note(shared.clone(), shared.untold.gone()));
        Ok(Running { shared, services, noting, watchdog, done })
    }
}

/// What holds leases.
struct Running {
    shared: Arc<Shared>,
    services: JoinSet<()>,
    /// What was told.
    noting: JoinSet<()>,
    watchdog: Option<Watchdog>,
    done: CancellationToken,
}

impl Running {
    async fn end(self) -> Summary {
        let Self { shared, mut services, noting: _, watchdog, done } = self;
        done.cancel();
        let summary = shared.summary();
        drop(shared);
        // Only what was abandoned before still holds a service; it ends with the runtime.
        timeout(LeaseTerms::KILL, async { while services.join_next().await.is_some() {} })
            .await
            .ok();
        drop(watchdog);
        summary
    }
}

/// Works until the drain, and drains when a part ends before its time. What is being claimed is
/// waited for, unless everything is to end now: then there is no answer.
async fn work_while_whole<T>(
    shared: &Arc<Shared>,
    services: &mut JoinSet<()>,
    watchers: &mut JoinSet<()>,
    work: impl Future<Output = Result<T, WorkError>>,
) -> Result<Option<T>, WorkError> {
    let drain = &shared.tools.drain;
    let mut work = pin!(work);
    let mut broken = false;
    let worked = loop {
        let whole = !broken && !drain.draining.is_cancelled();
        let ended = tokio::select! {
            biased;
            () = drain.abort.cancelled() => break Ok(None),
            worked = &mut work => break worked.map(Some),
            Some(ended) = services.join_next(), if whole => ended,
            Some(ended) = watchers.join_next(), if whole => ended,
        };
        // A watcher may have ended because the drain began a moment ago.
        if !drain.draining.is_cancelled() {
            broken = true;
            error!(event = "worker.broken", reason = ?ended.err().map(|error| error.to_string()),
                "a part of the worker has ended before its time: going away");
            drain.begin();
        }
    };
    if broken { Err(WorkError::Broken) } else { worked }
}

/// Says that no more is claimed as soon as that is so, even while the last claim is under way.
async fn follow_drain(shared: Arc<Shared>) {
    shared.tools.drain.draining.cancelled().await;
    shared.tell_of_drain();
}

async fn announce(shared: &Shared) {
    let (owner, slots) = (shared.settings.owner.as_str(), shared.settings.slots);
    match shared.count_queue().await {
        Ok(queue) => {
            info!(
                event = "worker.started",
                lease.owner = owner,
                slots,
                due = queue.due,
                later = queue.later,
                running = queue.running,
                backlog = queue.backlog,
                "started: {} pending, {} running{}",
                queue.due + queue.later,
                queue.running,
                match queue.backlog {
                    0 => String::new(),
                    held =>
                        format!("; {held} old ones are held: see `orchestrator-worker backlog`"),
                }
            );
            if queue.backlog > 0 {
                shared.notices.tell(What::BacklogHeld(queue.backlog));
            }
        }
        Err(error) => {
            info!(event = "worker.started", lease.owner = owner, slots, "started");
            shared.database_failed(&error);
        }
    }
}

/// The claim loop. Fails only with `until_idle`, where a person is needed and nothing runs.
async fn claim_until_draining(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let mut poller = Poller::new(shared.settings.poll_interval);
    let mut said_idle = false;
    let mut standby = shared.standby();
    let draining = shared.tools.drain.draining.clone();
    while !draining.is_cancelled() {
        shared.health.beat();
        let Some(slots) = shared.reserve_for_claims(shared.settings.claim_batch) else {
            tokio::select! {
                () = draining.cancelled() => {}
                () = shared.slot_freed() => {}
                Ok(()) = standby.changed() => {}
                () = sleep(shared.settings.poll_interval) => {}
            }
            continue;
        };
        let found = claim(shared, slots).await?;
        let idle = found == Found::Work(0) && shared.active() == 0;
        if idle && shared.settings.until_idle && nothing_left(shared).await {
            info!(event = "worker.finished", "nothing is left to claim");
            return Ok(());
        }
        if idle && !said_idle {
            info!(event = "worker.idle", "idle: waiting for executions");
        }
        said_idle = idle;
        let pause = poller.pause(found, rand::random());
        if pause.is_zero() {
            continue;
        }
        tokio::select! {
            () = draining.cancelled() => {}
            () = sleep(pause) => {}
            // With `until_idle` the end of the last execution is worth a look at once.
            () = shared.slot_freed(), if shared.settings.until_idle => {}
        }
    }
    Ok(())
}

async fn claim(
    shared: &Arc<Shared>,
    slots: tokio::sync::OwnedSemaphorePermit,
) -> Result<Found, StoreError> {
    let asked = slots.num_permits();
    let sent = boot_now();
    let began = shared.age();
    let answer = shared.store.claim(&shared.claimant(), asked).await;
    shared.instruments.poll_duration.observe(as_seconds(shared.age().saturating_sub(began)));
    let (result, found) = match answer {
        Ok(batch) => {
            shared.database_answered();
            let taken = batch.claims.len() + batch.refused.len();
            shared.admit(batch, sent, slots, None);
            (if taken > 0 { "work" } else { "empty" }, Found::Work(taken))
        }
        Err(error) if shared.gives_up_on(&error) => return Err(error),
        Err(error) => {
            if error == StoreError::PrimaryChanged {
                shared.forget_observations();
            }
            shared.database_failed(&error);
            ("error", Found::Failed)
        }
    };
    shared.instruments.polls.get_or_create(&ByResult { result }).inc();
    Ok(found)
}

/// Nothing is due, running anywhere, or put back for a moment.
async fn nothing_left(shared: &Shared) -> bool {
    match shared.count_queue().await {
        Ok(queue) => queue.due == 0 && queue.running == 0,
        Err(error) => {
            shared.database_failed(&error);
            false
        }
    }
}

/// Waits for every driver; this is what the loop does now, and it is alive.
async fn all_done(shared: &Shared) {
    loop {
        shared.health.beat();
        if timeout(shared.settings.poll_interval, shared.all_done()).await.is_ok() {
            return;
        }
    }
}

/// Waits until every execution is ended or handed back; at the deadline, or when told to end now, says
/// what is not.
async fn finish_drain(shared: &Shared, deadline: Duration) {
    let drain = &shared.tools.drain;
    let patience = deadline.saturating_sub(drain.age());
    let is_done = tokio::select! {
        biased;
        done = timeout(patience, all_done(shared)) => done.is_ok(),
        () = drain.abort.cancelled() => false,
    };
    if !is_done {
        shared.tools.drain.interrupt.cancel();
        shared.tools.drain.abort.cancel();
        // The processes under a guardian end with this one; a moment lets them be reaped.
        if timeout(LeaseTerms::KILL, shared.all_done()).await.is_err() {
            let left = shared.active();
            shared.instruments.drain_abandoned.inc_by(left as u64);
            error!(
                event = "drain.abandoned",
                executions = left,
                "not handed back in time; others take them over when the lease ends"
            );
            for standing in shared.leases.standing() {
                shared.tell_if_overdue(&standing.lease.execution, Left::Abandoned);
            }
        }
    }
    let took = drain.age();
    shared.instruments.drain_duration.set(as_seconds(took));
    let summary = shared.summary();
    if summary.lost > 0 {
        warn!(event = "worker.lost", executions = summary.lost, "executions were lost to others");
    }
    info!(
        event = "drain.finished",
        duration_ms = millis(took),
        handed_back = summary.handed_back,
        "stopped"
    );
}
