//! What an operator asks of the store: put templates in, submit, look.
//!
//! **Invariant:** nothing in here writes a row that a worker holds.

mod apply;
mod look;
mod submit;

pub(super) use apply::apply;
pub(super) use look::{list, show};
pub(super) use submit::submit;
