//! A replicated worker that runs the workflows of an existing `MySQL` orchestrator exactly as
//! recorded.

pub mod adapters;
pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod instruments;
pub mod ports;
pub mod signals;
pub mod telemetry;
pub mod worker;

pub use adapters::runners::shell::guardian::guardian;
