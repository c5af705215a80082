//! The ports' implementations. Submodules do not know each other; all may use [`lane`],
//! [`plans`] and [`texts`].

pub mod lane;
pub mod memory;
pub mod mysql;
pub mod plans;
pub mod runners;
pub mod sqlite;
pub mod texts;
