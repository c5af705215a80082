//! Stores what a running attempt has printed so far, for whoever follows it.
//!
//! **Invariant:** of an attempt one write at most is under way, none begins once the attempt has ended
//! or its lease may not be acted on, and its end is recorded only after the last one was answered.

use std::{convert::Infallible, future::pending, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::leases::Standing;
use crate::{
    clock::boot_now,
    domain::id::StepExecutionId,
    ports::executions::{ExecutionStore, StoreError},
};

/// One attempt, and what it told last.
pub struct Live {
    pub store: Arc<dyn ExecutionStore>,
    pub standing: Arc<Standing>,
    pub step: StepExecutionId,
    pub attempt: u32,
    pub told: watch::Receiver<String>,
    pub write: Option<BoxFuture<'static, Result<bool, StoreError>>>,
}

impl Live {
    /// Stores whatever is told, for as long as somebody polls it. It may be dropped and called again.
    pub async fn go_on(&mut self) -> Infallible {
        loop {
            if let Some(write) = &mut self.write {
                let answer = write.await;
                self.write = None;
                match answer {
                    Ok(true) => {}
                    Ok(false) => return pending().await,
                    // The end of the attempt records all of it; who cannot be told of that end is
                    // told of the error.
                    Err(error) => debug!(event = "step.output_not_noted", %error, "not stored"),
                }
            } else if self.told.changed().await.is_err() {
                return pending().await;
            } else if self.standing.may_act(boot_now()) {
                self.write = Some(self.begin());
            }
        }
    }

    /// Waits for the write that is under way, unless nothing more will be recorded.
    pub async fn finish(self, abort: &CancellationToken) {
        let Some(write) = self.write else { return };
        tokio::select! {
            biased;
            () = self.standing.lost().cancelled() => {}
            () = abort.cancelled() => {}
            answer = write => drop(answer),
        }
    }

    fn begin(&mut self) -> BoxFuture<'static, Result<bool, StoreError>> {
        let (store, lease) = (self.store.clone(), self.standing.lease.clone());
        let (step, attempt) = (self.step.clone(), self.attempt);
        let text = self.told.borrow_and_update().clone();
        Box::pin(async move { store.note_output(&lease, &step, attempt, &text).await })
    }
}
