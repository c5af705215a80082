//! Ids and names as types, so that no two of them can be exchanged by mistake.
//!
//! **Invariant:** an [`Owner`] can never be taken for one of the marks (`~released`, `~finished`, `~untold:…`)
//! that stand in the same column.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn to_shared(&self) -> Arc<str> {
                self.0.clone()
            }
        }

        impl<T: Into<Arc<str>>> From<T> for $name {
            fn from(text: T) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// `workflow_executions.id`.
    ExecutionId
);
text_id!(
    /// `workflow_step_executions.id`: one step of one execution.
    StepExecutionId
);
text_id!(
    /// `steps.id`.
    StepId
);
text_id!(
    /// `workflow_templates.id`.
    TemplateId
);
text_id!(
    /// Marks the transaction that made a claim (`ow_claim`), so that a claim whose commit went
    /// unanswered can be recognised. At most 32 ASCII characters.
    Nonce
);
text_id!(
    /// `distributed_locks.lock_key`.
    LockKey
);

impl LockKey {
    /// The key that the orchestrator uses for an execution: `workflow_execution:{id}`.
    pub fn of_execution(id: &ExecutionId) -> Self {
        Self(format!("workflow_execution:{id}").into())
    }

    /// The key that the orchestrator uses for a template: `workflow_template:{id}`.
    pub fn of_template(id: &TemplateId) -> Self {
        Self(format!("workflow_template:{id}").into())
    }
}

/// Owner written on what was handed back: anyone may take it at once.
pub const RELEASED: &str = "~released";
/// Owner written on the lock row of an execution that has ended (a tombstone).
pub const FINISHED: &str = "~finished";
/// The same, before the name of whoever has yet to tell its trace of that.
pub const UNTOLD: &str = "~untold:";

/// Who holds a lease: the pod's name, else `--name`, else hostname-xxxxxx.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Owner(Arc<str>);

/// Why a text cannot name an owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    #[error("a worker's name must not be empty; give one with --name")]
    Empty,
    #[error("a worker's name may have at most 245 bytes, this one has {0}; give a shorter --name")]
    TooLong(usize),
    #[error(
        "a worker's name may hold printable ASCII only and not begin with '~'; change --name {0:?}"
    )]
    Characters(String),
}

impl Owner {
    /// Longest owner in bytes: the column holds 255.
    pub const MAX_BYTES: usize = 245;

    pub fn try_new(name: &str) -> Result<Self, OwnerError> {
        if name.is_empty() {
            return Err(OwnerError::Empty);
        }
        if name.len() > Self::MAX_BYTES {
            return Err(OwnerError::TooLong(name.len()));
        }
        if name.starts_with('~') || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(OwnerError::Characters(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it leaves on a lock row while it has yet to tell of the end: see [`UNTOLD`].
    pub fn untold(&self) -> String {
        format!("{UNTOLD}{self}")
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which acquisition of an execution: grows with every claim and is never reset.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl Fence {
    /// Rows at or above this fence are not claimed: no honest clock produces it.
    pub const CEILING: u64 = 9_000_000_000_000_000_000;
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A process's renewals, counted, not timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Beat(pub u64);

/// SHA-256 of a stored plan (`ow_plans.sha256`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanHash(pub [u8; 32]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_never_a_mark() {
        assert_eq!(Owner::try_new("pod-1").map(|o| o.to_string()), Ok("pod-1".into()));
        assert_eq!(Owner::try_new(""), Err(OwnerError::Empty));
        assert_eq!(Owner::try_new(&"x".repeat(246)), Err(OwnerError::TooLong(246)));
        for bad in [RELEASED, FINISHED, UNTOLD, "a b", "ü"] {
            assert_eq!(Owner::try_new(bad), Err(OwnerError::Characters(bad.into())), "{bad}");
        }
    }
}
