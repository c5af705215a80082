//! Other workers' leases as seen over time: what stands still for its time, or was handed back, is
//! taken over.
//!
//! **Invariant:** nothing is taken over that this process has not itself watched, or that its
//! owner has not given back; and never more than there are free slots.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::Shared;
use crate::{domain::recovery::TakeOver, instruments::millis, ports::executions::StoreError};

/// Watches until the drain begins.
pub async fn watch(shared: Arc<Shared>) {
    let draining = shared.tools.drain.draining.clone();
    let mut failing = false;
    loop {
        let pause = shared.settings.poll_interval.mul_f64(1.0 + rand::random::<f64>() / 4.0);
        tokio::select! {
            () = draining.cancelled() => return,
            () = sleep(pause) => {}
        }
        match look(&shared).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    warn!(event = "watcher.failed", %error, "other workers could not be watched");
                }
                failing = true;
                if error == StoreError::PrimaryChanged {
                    shared.forget_observations();
                }
            }
        }
    }
}

async fn look(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let sent = shared.age();
    let survey = shared.store.survey().await?;
    let replied = shared.age();
    let due = shared.observe(sent, replied, &survey);
    let Some(slots) = shared.reserve(due.len()) else { return Ok(()) };
    let due: Vec<TakeOver> = due.into_iter().take(slots.num_permits()).collect();
    for take_over in &due {
        debug!(execution.id = %take_over.seen.execution, cause = take_over.cause.as_str(),
            "trying to take over");
    }
    let claimed_at = crate::clock::boot_now();
    let began = Instant::now();
    let batch = shared.store.take_over(&shared.claimant(), &due).await?;
    if !batch.claims.is_empty() {
        info!(
            event = "executions.taken_over",
            count = batch.claims.len(),
            duration_ms = millis(began.elapsed()),
            "took over executions of other workers"
        );
    }
    shared.admit(batch, claimed_at, slots);
    Ok(())
}

/// Deletes old tombstones, now and then, until the drain begins.
pub async fn reap(shared: Arc<Shared>) {
    const EVERY: Duration = Duration::from_secs(60);
    const MOST: u32 = 1_000;
    let draining = shared.tools.drain.draining.clone();
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = sleep(EVERY.mul_f64(0.5 + rand::random::<f64>())) => {}
        }
        match shared.store.reap(MOST).await {
            Ok(0) => {}
            Ok(cleaned_count) => {
                info!(event = "locks.reaped", cleaned_count, "old lock rows were deleted");
            }
            Err(error) => debug!(%error, "old lock rows could not be deleted"),
        }
    }
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
