//! The library of the lock guide: an orchestrator for programs of one's own, and its locks.
//!
//! ```
//! use orchestrator_worker::orchestrator::Orchestrator;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let orchestrator = Orchestrator::in_memory();
//! let handle = orchestrator.lock("reports:daily").await?;
//! assert!(handle.is_held());
//! handle.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! **Invariant:** an orchestrator is one incarnation: what it holds is held by all its clones and by
//! nobody else.

mod config;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod database;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod execute;
mod handle;
mod hold;
mod locks;
mod registry;
#[cfg(any(feature = "etcd", feature = "redis"))]
mod servers;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod service;
mod slots;

pub use config::{LockConfig, LockConfigError, MySqlLockConfig};
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub use database::Database;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub use execute::{ExecuteError, Executed};
pub use handle::LeaseHandle;
pub use locks::{LockOptions, Locks};
pub use registry::{NameTaken, ProviderRegistry};
#[cfg(any(feature = "etcd", feature = "redis"))]
pub use servers::TlsFiles;
#[cfg(feature = "etcd")]
pub use servers::etcd::EtcdLockConfig;
#[cfg(feature = "redis")]
pub use servers::redis::RedisLockConfig;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub use service::{Orchestrator, OrchestratorBuilder};
