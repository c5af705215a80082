//! Why a configuration is refused.
//!
//! **Invariant:** each is one sentence: the key, where its value came from, what to do. None holds
//! a secret.

use super::layers::Origins;
use crate::domain::{id::OwnerError, lease::LeaseTermsError, pod::PodUidError};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {problem}; give another with --config")]
    File { path: String, problem: String },
    #[error(
        "the configuration file {path} is not YAML with settings in it: {problem}; correct it there"
    )]
    Syntax { path: String, problem: String },
    #[error("there is no setting {key:?} ({origin}); did you mean {nearest:?}?")]
    Unknown { key: String, origin: String, nearest: String },
    #[error("{key} ({origin}) is a group of settings: give a value to one of {members}")]
    Group { key: String, origin: String, members: String },
    /// `problem` goes on with the sentence that the key begins.
    #[error("{key} ({origin}) {problem}")]
    Invalid { key: String, origin: String, problem: String },
    #[error("{error} (lock.ttl is {ttl}, lock.renew_every is {renew_every})")]
    Terms { error: LeaseTermsError, ttl: String, renew_every: String },
    #[error(
        "POD_UID is {uid:?}, which is no pod's UID: {error}; set it from the field metadata.uid, \
         or unset it"
    )]
    PodUid { uid: String, error: PodUidError },
    #[error("{error} (the name comes from {origin})")]
    Owner { error: OwnerError, origin: String },
    #[error(
        "DATABASE_URL and {variable} name different databases: unset one of them, or say which \
         with --database-url"
    )]
    Disagreement { variable: &'static str },
    #[error(
        "{variable} is set but {missing} is not: a MySQL database needs DB_HOST, DB_USER and \
         DB_NAME (DB_PORT is 3306 and DB_PASSWORD empty if not set), or one DATABASE_URL"
    )]
    Incomplete { variable: &'static str, missing: &'static str },
    #[error(
        "no database is configured, and in a pod there is no default: set DATABASE_URL (or \
         DB_HOST, DB_USER, DB_PASSWORD and DB_NAME) from a Secret"
    )]
    NoDatabase,
}

impl ConfigError {
    /// `problem` goes on with the sentence that the key begins: `is 7s; it must be ...`.
    pub(super) fn invalid(origins: &Origins, key: &str, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), origin: origins.of(key), problem: problem.into() }
    }
}
