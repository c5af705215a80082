//! The lock library: every provider keeps every promise of the conformance suite.

use std::sync::Arc;

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::memory::MemoryLocks,
    conformance::{self, Subject},
    ports::lock::LockProvider,
};

struct Memory(MemoryLocks);

#[async_trait]
impl Subject for Memory {
    async fn provider(&self) -> Arc<dyn LockProvider> {
        Arc::new(self.0.beside())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_every_promise() {
    conformance::check(Memory(MemoryLocks::default())).await;
}
