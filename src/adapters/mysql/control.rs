//! What an operator asks of the store: put templates in, submit, look, steer.
//!
//! **Invariant:** of a row that a worker holds nothing is written but its cancellation.

mod apply;
mod backlog;
mod doctor;
mod draw;
mod facts;
mod find;
mod locks;
mod look;
mod pause;
mod steer;
mod submit;

pub(super) use apply::apply;
pub(super) use backlog::{backlog, release_backlog};
pub(super) use doctor::{circumstances, examine, templates};
pub(super) use draw::draw;
pub(super) use facts::facts;
pub(super) use locks::{CLEAN, count_old, locks, workers};
pub(super) use look::{list, show};
pub(super) use pause::{pause, paused};
pub(super) use steer::{cancel, retry};
pub(super) use submit::submit;
