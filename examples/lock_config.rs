//! Section "custom lock configuration" of the lock guide: its settings, in code and from a file.

use std::{error::Error, time::Duration};

use orchestrator_worker::{
    orchestrator::{Database, LockConfig, LockOptions, Orchestrator},
    ports::lock::{LockError, LockErrorKind},
};

const FILE: &str = r#"{
    "provider": "memory",
    "default_ttl": "10m",
    "default_retry_count": 5,
    "default_retry_delay": "2s"
}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub async fn run() -> Result<(), Box<dyn Error>> {
    let config = LockConfig {
        provider: LockConfig::MEMORY.into(),
        default_ttl: Duration::from_secs(10 * 60),
        default_retry_count: 5,
        default_retry_delay: Duration::from_secs(2),
        // `mysql: MySqlLockConfig { table_name }` names the lock table of a MySQL database.
        ..LockConfig::default()
    };
    assert_eq!(serde_json::from_str::<LockConfig>(FILE)?, config);
    let orchestrator = Orchestrator::with_lock_config(Database::memory(), config)?;

    let handle = orchestrator.lock("reports:daily").await?;
    assert!(handle.remaining() > Duration::from_secs(9 * 60));
    handle.release().await?;

    // One lock on terms of its own: a minute, one try.
    let locks = orchestrator.locks().await?;
    let options = LockOptions { ttl: Duration::from_secs(60), retry_count: 0, ..locks.options() };
    let handle = locks.lock_with("reports:daily", options).await?;
    assert!(handle.remaining() <= Duration::from_secs(60));
    handle.release().await?;

    // What cannot be kept is refused at once.
    let options = LockOptions { ttl: Duration::ZERO, ..options };
    let refused = locks.lock_with("reports:daily", options).await;
    assert!(refused.is_err_and(|error| LockError::is(&error, LockErrorKind::Invalid)));
    Ok(())
}
