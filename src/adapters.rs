//! The ports' implementations. Submodules do not know each other; all may use [`lane`],
//! [`plans`] and [`texts`].

#[cfg(feature = "etcd")]
pub mod etcd;
pub mod external;
#[cfg(feature = "daemon")]
pub mod kube;
pub mod lane;
pub mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod plans;
#[cfg(feature = "redis")]
pub mod redis;
pub mod runners;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod texts;
