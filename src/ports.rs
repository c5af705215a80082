//! What the worker asks of the world, in domain types.
//!
//! **Invariant:** a database row, a Redis reply or a Kubernetes object never appears in here.

pub mod control;
pub mod executions;
pub mod lock;
pub mod rows;
pub mod runner;
pub mod spans;
pub mod traced;
