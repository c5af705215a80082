//! Other workers' leases as seen over time: what stands still for its time, was handed back, or was held by
//! a pod that has ended, is taken over.
//!
//! **Invariant:** nothing is taken over that this process has not itself watched, that its owner has not
//! given back, and whose owner is not proved dead (but for the orchestrator's own, where somebody has said
//! so); and never more than there are free slots, of which claims leave it as many as it needs.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::{Shared, spans::Past};
use crate::{
    domain::{
        death::News,
        id::ExecutionId,
        recovery::{Cause, TakeOver},
    },
    instruments::millis,
    ports::executions::{Batch, StoreError},
};

/// What was tried and not obtained goes behind everything else for so long, and no slot is kept free
/// for it: another has it, or none can run it.
const SET_BACK: Duration = Duration::from_secs(30);

/// Watches until the drain begins. What pods held that have ended is looked at as soon as that is told, and while
/// this worker stands by it goes on looking, so that it takes over at once when it no longer does.
pub async fn watch(shared: Arc<Shared>, mut pods: Option<Receiver<News>>) {
    let draining = shared.tools.drain.draining.clone();
    let mut standby = shared.standby();
    let mut failing = false;
    let mut tried = HashMap::new();
    loop {
        let pause = shared.settings.poll_interval.mul_f64(1.0 + rand::random::<f64>() / 4.0);
        tokio::select! {
            () = draining.cancelled() => return,
            news = told(&mut pods) => shared.note(news),
            Ok(()) = standby.changed() => {}
            () = sleep(pause) => {}
        }
        // Many may have ended at one time.
        while let Some(Ok(news)) = pods.as_mut().map(Receiver::try_recv) {
            shared.note(news);
        }
        match look(&shared, &mut tried).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    warn!(event = "watcher.failed", %error, "other workers could not be watched");
                }
                failing = true;
                shared.owe(0);
                if error == StoreError::PrimaryChanged {
                    shared.forget_observations();
                }
            }
        }
    }
}

/// What is told next of a pod; never, if nobody tells.
async fn told(pods: &mut Option<Receiver<News>>) -> News {
    match pods {
        Some(told) => match told.recv().await {
            Some(news) => news,
            None => pending().await,
        },
        None => pending().await,
    }
}

/// Before the first claim, so that what somebody has begun, perhaps the process before this one, goes
/// before what is new. Whatever keeps it from looking, the claim that follows tells.
pub async fn look_first(shared: &Arc<Shared>) {
    if let Err(error) = look(shared, &mut Tried::new()).await {
        debug!(%error, "other workers could not be watched");
        shared.owe(0);
    }
}

/// When each was tried without success.
type Tried = HashMap<ExecutionId, Instant>;

async fn look(shared: &Arc<Shared>, tried: &mut Tried) -> Result<(), StoreError> {
    let sent = shared.age();
    let survey = shared.store.survey().await?;
    let replied = shared.age();
    let (cancelled, due): (Vec<_>, Vec<_>) = shared
        .observe(sent, replied, &survey)
        .into_iter()
        .chain(orphans(shared).await?)
        .partition(|take_over| take_over.seen.cancelled);
    // They are ended here and now: no slot is needed for that.
    let tidied = tidy(shared, &cancelled).await;
    take_over(shared, tried, due).await.and(tidied)
}

async fn tidy(shared: &Arc<Shared>, cancelled: &[TakeOver]) -> Result<(), StoreError> {
    if cancelled.is_empty() {
        return Ok(());
    }
    let batch = shared.store.take_over(&shared.claimant(), cancelled).await?;
    let of_us = cancelled.iter().filter(|it| batch.tidied.contains(&it.seen.execution));
    shared.tell_of_past(of_us.map(Past::ended).collect());
    Ok(())
}

/// What a takeover leaves to be told of those that it took.
fn past(batch: &Batch, due: &[TakeOver]) -> Vec<Past> {
    let taken: HashMap<_, _> =
        batch.claims.iter().map(|claim| (&claim.lease.execution, claim)).collect();
    let refused: HashSet<_> = batch.refused.iter().map(|(execution, _)| execution).collect();
    let left = batch.deferred.iter().filter(|(_, reason)| reason.is_after_a_claim());
    let left: HashSet<_> = left.map(|(execution, _)| execution).collect();
    let of = |one: &TakeOver| match &one.seen.execution {
        id if refused.contains(id) => Some(Past::ended(one)),
        id if left.contains(id) => Some(Past::left(one)),
        id => taken.get(id).map(|claim| Past::taken(one, claim)),
    };
    due.iter().filter_map(of).collect()
}

/// What the orchestrator itself has left running, if it is to be taken over.
async fn orphans(shared: &Shared) -> Result<Vec<TakeOver>, StoreError> {
    if !shared.settings.adopt_orphans {
        return Ok(Vec::new());
    }
    let orphans = shared.store.orphans().await?.into_iter();
    Ok(orphans.map(|seen| TakeOver { seen, cause: Cause::OrchestratorSilent }).collect())
}

async fn take_over(
    shared: &Arc<Shared>,
    tried: &mut Tried,
    mut due: Vec<TakeOver>,
) -> Result<(), StoreError> {
    let due_now: HashSet<&ExecutionId> = due.iter().map(|it| &it.seen.execution).collect();
    tried.retain(|id, since| since.elapsed() < SET_BACK && due_now.contains(id));
    due.sort_by_key(|it| tried.get(&it.seen.execution).copied());
    shared.owe(due.iter().filter(|it| !tried.contains_key(&it.seen.execution)).count());
    let Some(slots) = shared.reserve(due.len()) else { return Ok(()) };
    due.truncate(slots.num_permits());
    let trying = due.iter().map(|it| (it.seen.execution.as_str(), it.cause.as_str()));
    debug!(executions = ?trying.collect::<Vec<_>>(), "trying to take over");
    let claimed_at = crate::clock::boot_now();
    let began = Instant::now();
    let batch = shared.store.take_over(&shared.claimant(), &due).await?;
    let now = Instant::now();
    let past = past(&batch, &due);
    tried.extend(due.into_iter().map(|it| (it.seen.execution, now)));
    for claim in &batch.claims {
        tried.remove(&claim.lease.execution);
    }
    if !batch.claims.is_empty() {
        info!(
            event = "executions.taken_over",
            count = batch.claims.len(),
            duration_ms = millis(began.elapsed()),
            "took over executions of other workers"
        );
    }
    shared.admit(batch, claimed_at, slots, Some(past));
    Ok(())
}

/// Keeps the queue's gauges fresh until the drain begins.
pub async fn count(shared: Arc<Shared>) {
    const EVERY: Duration = Duration::from_secs(15);
    let draining = shared.tools.drain.draining.clone();
    loop {
        if let Err(error) = shared.count_queue().await {
            debug!(%error, "the queue could not be counted");
        }
        tokio::select! {
            () = draining.cancelled() => return,
            () = sleep(EVERY.mul_f64(0.5 + rand::random::<f64>())) => {}
        }
    }
}
