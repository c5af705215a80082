//! Section "errors" of the lock guide: kinds, told from each other through whatever wraps them.

use std::{error::Error, time::Duration};

use orchestrator_worker::{
    domain::id::Owner,
    orchestrator::{Database, LockConfig, Orchestrator, ProviderRegistry},
    ports::lock::{LockError, LockErrorKind},
};

/// An error of one's own around one of a lock.
#[derive(Debug, thiserror::Error)]
#[error("the nightly report was not made")]
struct NoReport(#[from] LockError);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub async fn run() -> Result<(), Box<dyn Error>> {
    // Two orchestrators on one table in memory.
    let providers = ProviderRegistry::default();
    let config = LockConfig {
        provider: LockConfig::MEMORY.into(),
        default_retry_count: 2,
        default_retry_delay: Duration::from_millis(10),
        ..LockConfig::default()
    };
    let of = |name: &str| -> Result<Orchestrator, Box<dyn Error>> {
        let described = Orchestrator::builder(Database::memory()).lock_config(config.clone());
        Ok(described.providers(providers.clone()).owner(Owner::try_new(name)?).build()?)
    };
    let (a, b) = (of("a")?, of("b")?);
    let handle = a.lock_workflow_execution("42").await?;

    let error = make_report(&b).await.expect_err("a has it");
    let error: Box<dyn Error> = error.into();
    assert!(LockError::is(&*error, LockErrorKind::WorkflowAlreadyRunning));
    assert!(LockError::is(&*error, LockErrorKind::Timeout), "after two retries");
    assert!(LockError::is(&*error, LockErrorKind::AlreadyExists), "because it was held");
    assert!(!LockError::is(&*error, LockErrorKind::Expired));

    // Where the error is at hand as it is, a pattern does.
    match b.lock_workflow_execution("42").await {
        Err(LockError::WorkflowAlreadyRunning { execution, .. }) => assert_eq!(execution, "42"),
        other => panic!("{other:?}"),
    }

    // Who has it, and until when.
    let held = b.inspect("workflow_execution:42").await?.expect("a has it");
    println!("{} has it under fence {} for {:?}", held.owner, held.fence, held.expires_in);
    handle.release().await?;
    assert_eq!(b.is_locked("workflow_execution:42").await?, None);
    Ok(())
}

async fn make_report(orchestrator: &Orchestrator) -> Result<(), NoReport> {
    orchestrator.lock_workflow_execution("42").await?.release().await?;
    Ok(())
}
