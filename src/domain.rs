//! What the worker decides, as functions of values: which row may run, what an execution does next,
//! when a lease ends, whose execution is taken over.
//!
//! **Invariant:** nothing in here does I/O, reads a clock, an environment variable or a file; time
//! and randomness arrive as arguments. `tests/it/architecture.rs` holds it to that.

pub mod bucket;
pub mod cut;
pub mod death;
pub mod deferral;
pub mod definition;
pub mod doctor;
pub mod drain_contract;
pub mod egress;
pub mod eligibility;
pub mod execution;
pub mod explain;
pub mod id;
pub mod intake;
pub mod key;
pub mod lease;
pub mod lock;
pub mod lock_table;
pub mod marks;
pub mod notice;
pub mod plan;
pub mod pod;
pub mod recovery;
pub mod request;
pub mod retention;
pub mod retry;
pub mod standby;
pub mod step;
pub mod trace;
pub mod workflow;
