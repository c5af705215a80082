//! Clears up now and then: old lock rows, executions whose status is none, and what the retention
//! says.
//!
//! **Invariant:** it is never in a hurry: small batches, random moments, and nothing at all during a
//! drain. Any number of workers may do it at once.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{
    Shared,
    unclaimed::{self, Unclaimed},
};
use crate::{domain::execution::ExecutionState, ports::executions::StoreError};

/// Between two rounds, more or less.
const EVERY: Duration = Duration::from_secs(60);
/// Lock rows a round at most.
const LOCKS: u32 = 1_000;
/// Executions a transaction at most, and transactions a round and state.
const EXECUTIONS: u32 = 100;
const BATCHES: u32 = 50;

/// Clears up until the drain begins.
pub async fn reap(shared: Arc<Shared>) {
    let draining = shared.tools.drain.draining.clone();
    let mut failing = None;
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = sleep(EVERY.mul_f64(0.5 + rand::random::<f64>())) => {}
        }
        match shared.store.reap(LOCKS).await {
            Ok(0) => {}
            Ok(cleaned_count) => {
                info!(event = "locks.reaped", cleaned_count, "old lock rows were deleted");
            }
            Err(error) => debug!(%error, "old lock rows could not be deleted"),
        }
        match shared.store.fail_unknown(shared.settings.unknown_after).await {
            Ok(failed) => {
                let refused = |(id, reason)| (id, Unclaimed::Refused(reason));
                unclaimed::say(&shared, failed.into_iter().map(refused).collect());
            }
            Err(error) => debug!(%error, "executions of unknown status could not be failed"),
        }
        for (state, kept) in shared.settings.retention.limits() {
            match expire(&shared, state, kept).await {
                Ok(0) => {}
                Ok(count) => info!(
                    event = "executions.expired",
                    count,
                    result = state.as_str(),
                    "old executions were deleted"
                ),
                Err(error) if failing.as_ref() != Some(&error) => {
                    warn!(event = "retention.failed", %error, "old executions could not be deleted");
                    failing = Some(error);
                }
                Err(_) => {}
            }
        }
    }
}

/// Some batches; the rest is left for the next round.
async fn expire(shared: &Shared, state: ExecutionState, kept: Duration) -> Result<u64, StoreError> {
    let mut all = 0;
    for _ in 0..BATCHES {
        let count = shared.store.expire(state, kept, EXECUTIONS).await?;
        all += count;
        if count < u64::from(EXECUTIONS) || shared.tools.drain.draining.is_cancelled() {
            break;
        }
    }
    Ok(all)
}
