//! The store, with every call counted and timed.
//!
//! **Invariant:** it passes each call and each answer on unchanged.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use super::health::Health;
use crate::{
    domain::{
        eligibility::Eligibility,
        execution::ExecutionState,
        id::{Beat, ExecutionId, Owner, StepExecutionId},
        lease::{Lease, Renewal},
        recovery::{Held, TakeOver},
    },
    instruments::{ByKind, ByOperation, Instruments, as_seconds},
    ports::{
        executions::{
            Advance, AdvanceError, Advanced, Batch, Claimant, ExecutionStore, HandBack, Named,
            Queue, StoreError,
        },
        traced::{Former, Remains, Telling, TracedEnd, Untold},
    },
};

/// A store behind `db_client_operation_duration_seconds` and `db_errors_total`; whatever it answers
/// makes the worker ready.
pub struct Metered {
    pub store: Arc<dyn ExecutionStore>,
    pub instruments: Arc<Instruments>,
    pub health: Arc<Health>,
}

impl Metered {
    async fn timed<T>(&self, operation: &'static str, call: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let answer = call.await;
        let by = ByOperation { operation };
        let took = as_seconds(began.elapsed());
        self.instruments.db_operation_duration.get_or_create(&by).observe(took);
        answer
    }

    fn count<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        answer.inspect(|_| self.health.database_answered()).inspect_err(|error| {
            self.instruments.db_errors.get_or_create(&ByKind { kind: kind_of(error) }).inc();
        })
    }

    fn count_each<T>(&self, answers: Vec<Result<T, AdvanceError>>) -> Vec<Result<T, AdvanceError>> {
        for answer in &answers {
            if matches!(answer, Ok(_) | Err(AdvanceError::Fenced)) {
                self.health.database_answered();
            }
            if let Err(AdvanceError::Store(error)) = answer {
                self.instruments.db_errors.get_or_create(&ByKind { kind: kind_of(error) }).inc();
            }
        }
        answers
    }
}

fn kind_of(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "unavailable",
        StoreError::Unknown(_) => "unknown_outcome",
        StoreError::PrimaryChanged => "primary_changed",
        StoreError::Unsettled => "unsettled",
        StoreError::NotReady(_) => "not_ready",
        StoreError::Data(_) => "data",
        StoreError::Leases(_) => "leases",
    }
}

#[async_trait]
impl ExecutionStore for Metered {
    async fn claim(&self, as_who: &Claimant, limit: usize) -> Result<Batch, StoreError> {
        self.count(self.timed("claim", self.store.claim(as_who, limit)).await)
    }

    async fn claim_named(
        &self,
        as_who: &Claimant,
        execution: &ExecutionId,
    ) -> Result<Named, StoreError> {
        self.count(self.timed("claim_named", self.store.claim_named(as_who, execution)).await)
    }

    async fn renew(
        &self,
        ttl: Duration,
        beat: Beat,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        self.count(self.timed("renew", self.store.renew(ttl, beat, leases)).await)
    }

    async fn advance(&self, advances: &[Advance]) -> Vec<Result<Advanced, AdvanceError>> {
        self.count_each(self.timed("advance", self.store.advance(advances)).await)
    }

    async fn note_output(
        &self,
        lease: &Lease,
        step: &StepExecutionId,
        attempt: u32,
        text: &str,
    ) -> Result<bool, StoreError> {
        let noted = self.store.note_output(lease, step, attempt, text);
        self.count(self.timed("note_output", noted).await)
    }

    async fn hand_back(&self, returns: &[HandBack]) -> Vec<Result<Advanced, AdvanceError>> {
        self.count_each(self.timed("hand_back", self.store.hand_back(returns)).await)
    }

    async fn survey(&self) -> Result<Vec<Held>, StoreError> {
        self.count(self.timed("survey", self.store.survey()).await)
    }

    async fn take_over(&self, as_who: &Claimant, due: &[TakeOver]) -> Result<Batch, StoreError> {
        self.count(self.timed("take_over", self.store.take_over(as_who, due)).await)
    }

    async fn remains(&self, of: &[Former]) -> Result<Vec<Remains>, StoreError> {
        self.count(self.timed("remains", self.store.remains(of)).await)
    }

    async fn note_told(
        &self,
        owner: &Owner,
        ends: &[TracedEnd],
        telling: Telling,
    ) -> Result<(), StoreError> {
        self.count(self.timed("note_told", self.store.note_told(owner, ends, telling)).await)
    }

    async fn take_untold(&self, owner: &Owner, limit: u32) -> Result<Vec<Untold>, StoreError> {
        self.count(self.timed("take_untold", self.store.take_untold(owner, limit)).await)
    }

    async fn reap(&self, limit: u32) -> Result<u64, StoreError> {
        self.count(self.timed("reap", self.store.reap(limit)).await)
    }

    async fn orphans(&self) -> Result<Vec<Held>, StoreError> {
        self.count(self.timed("orphans", self.store.orphans()).await)
    }

    async fn fail_unknown(
        &self,
        after: Duration,
    ) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.count(self.timed("fail_unknown", self.store.fail_unknown(after)).await)
    }

    async fn expire(
        &self,
        state: ExecutionState,
        kept: Duration,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.count(self.timed("expire", self.store.expire(state, kept, limit)).await)
    }

    async fn queue(&self, eligibility: &Eligibility) -> Result<Queue, StoreError> {
        self.count(self.timed("queue", self.store.queue(eligibility)).await)
    }
}
