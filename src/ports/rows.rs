//! The rows of executions alone, for leases that are kept in another place than the lock table.
//!
//! **Invariant:** fence and nonce on the rows are what guards every write, wherever the lease is kept.

use std::time::Duration;

use async_trait::async_trait;

use super::executions::{Batch, Claimant, ExecutionStore, StoreError};
use crate::domain::{
    id::ExecutionId,
    lease::{Lease, Renewal},
};

/// A store whose executions can be claimed under leases that it does not renew. What it writes into its
/// lock table at a claim keeps the orchestrator's hands off, and stands still after that.
#[async_trait]
pub trait RowStore: ExecutionStore {
    /// What [`ExecutionStore::claim`] would look at, in its order. Nothing is locked or written.
    async fn due(&self, as_who: &Claimant, limit: usize) -> Result<Vec<ExecutionId>, StoreError>;

    /// Claims those of `executions` that still are what [`RowStore::due`] finds; the others are left
    /// alone.
    async fn claim_these(
        &self,
        as_who: &Claimant,
        executions: &[ExecutionId],
    ) -> Result<Batch, StoreError>;

    /// Leaves pending executions alone for a while, longer each time: others hold their leases.
    async fn put_off(&self, executions: &[ExecutionId]) -> Result<(), StoreError>;

    /// How leases stand by the rows of their executions; one answer each, in their order. Waits no longer
    /// than `within`.
    async fn standing(
        &self,
        within: Duration,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError>;
}
