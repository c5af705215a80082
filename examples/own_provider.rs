//! Section "more providers" of the lock guide: implement, check, register, configure.
//!
//! This one writes down who took what, and leaves the locking to another.

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::memory::MemoryLocks,
    conformance,
    domain::lock::PlainKey,
    orchestrator::{Database, LockConfig, Orchestrator, ProviderRegistry},
    ports::lock::{Acquire, Acquired, Inspected, KeyLease, LockError, LockProvider, Renewed},
};

/// Who took which key.
pub type Book = Arc<Mutex<Vec<String>>>;

struct Audited {
    locks: Arc<dyn LockProvider>,
    book: Book,
}

#[async_trait]
impl LockProvider for Audited {
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError> {
        let acquired = self.locks.acquire(request).await?;
        if let Acquired::Ours(KeyLease { key, owner, fence, .. }) = &acquired {
            let line = format!("{owner} took {key} under fence {fence}");
            self.book.lock().expect("nobody panics while writing").push(line);
        }
        Ok(acquired)
    }

    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Result<Renewed, LockError> {
        self.locks.renew(lease, ttl).await
    }

    async fn release(&self, lease: &KeyLease) -> Result<bool, LockError> {
        self.locks.release(lease).await
    }

    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError> {
        self.locks.inspect(key).await
    }

    async fn close(&self) {
        self.locks.close().await;
    }
}

/// What the suite checks it on.
struct Subject(MemoryLocks, Book);

#[async_trait]
impl conformance::Subject for Subject {
    async fn provider(&self) -> Arc<dyn LockProvider> {
        Arc::new(Audited { locks: Arc::new(self.0.beside()), book: self.1.clone() })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In a program of one's own this stands in a test.
    check().await;
    for line in run().await? {
        println!("{line}");
    }
    Ok(())
}

pub async fn check() {
    conformance::check(Subject(MemoryLocks::default(), Book::default())).await;
}

pub async fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let (locks, book) = (MemoryLocks::default(), Book::default());
    let mut providers = ProviderRegistry::default();
    let pages = book.clone();
    providers.register("audited", move |_config| {
        let provider: Arc<dyn LockProvider> =
            Arc::new(Audited { locks: Arc::new(locks.beside()), book: pages.clone() });
        async { Ok(provider) }
    })?;
    let config = LockConfig { provider: "audited".into(), ..LockConfig::default() };
    let orchestrator = Orchestrator::builder(Database::memory())
        .lock_config(config)
        .providers(providers)
        .build()?;
    orchestrator.lock("reports:daily").await?.release().await?;
    let lines = book.lock().expect("nobody panics while writing").clone();
    Ok(lines)
}
