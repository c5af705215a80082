//! What can go wrong with a statement, a transaction or a connection, and what it means here.
//!
//! **Invariant:** every error number of PROTOCOL section 5 has one meaning, decided in this file;
//! no message holds a password.

use sqlx::mysql::MySqlDatabaseError;

use crate::{
    adapters::lane::LaneError,
    ports::{
        control::ControlError,
        executions::{AdvanceError, StoreError},
    },
};

/// Why a piece of work did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The server has rolled the transaction back (1213, 1020): do it again.
    #[error("{0}")]
    RolledBack(String),
    /// A lock was not free in time (1205, 1969), or at once (3572); the transaction is still open.
    #[error("{0}")]
    LockWait(String),
    /// The connection is gone and nothing was committed on it.
    #[error("{0}")]
    Disconnected(String),
    /// The connection is gone, or silent, and what was sent last may have been committed.
    #[error("{0}")]
    Unknown(String),
    /// The server takes no writes: it is no longer the primary.
    #[error("{0}")]
    ReadOnly(String),
    /// The server cannot serve this now.
    #[error("{0}")]
    Busy(String),
    /// It needs a person.
    #[error("{0}")]
    NotReady(String),
    #[error("the tables are not there yet; run `orchestrator-worker migrate` first")]
    NotMigrated,
    #[error("the tables need a worker of schema {needed} or later, this one knows {known}")]
    TooNew { needed: i32, known: i32 },
    /// A value was refused: the fault of one row.
    #[error("{0}")]
    Data(String),
    /// A unique key is taken (1062); only the statement was undone.
    #[error("{0}")]
    Duplicate(String),
    #[error("another database server answers than before")]
    PrimaryChanged,
    #[error("the database server has not been the same for long enough")]
    Unsettled,
    /// Rows were not as a transaction that holds them must find them.
    #[error("{0}")]
    Unexpected(String),
}

impl Fault {
    /// After these the connection is of no use.
    pub fn costs_the_connection(&self) -> bool {
        matches!(self, Self::Disconnected(_) | Self::Unknown(_) | Self::ReadOnly(_))
    }

    /// The whole transaction may simply be done again.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::RolledBack(_) | Self::LockWait(_))
    }

    /// Whether it may come from one row of several, so that the others are worth a try without it.
    /// What the server is or lacks is no row's fault.
    pub fn may_be_a_rows(&self) -> bool {
        match self {
            Self::RolledBack(_)
            | Self::LockWait(_)
            | Self::Disconnected(_)
            | Self::Data(_)
            | Self::Duplicate(_)
            | Self::Unexpected(_) => true,
            Self::Unknown(_)
            | Self::ReadOnly(_)
            | Self::Busy(_)
            | Self::NotReady(_)
            | Self::NotMigrated
            | Self::TooNew { .. }
            | Self::PrimaryChanged
            | Self::Unsettled => false,
        }
    }

    /// The same fault, told with what was being done.
    pub fn during(self, what: &str) -> Self {
        match self {
            Self::RolledBack(text) | Self::LockWait(text) | Self::Busy(text) => {
                Self::Busy(format!("could not {what}: {text}"))
            }
            Self::NotReady(text) | Self::Data(text) | Self::Duplicate(text) => {
                Self::NotReady(format!("could not {what}: {text}"))
            }
            Self::Unexpected(text) => Self::Unexpected(format!("could not {what}: {text}")),
            other => other,
        }
    }

    /// The same fault on a statement that commits: it may have been done.
    pub fn while_committing(self) -> Self {
        match self {
            Self::Disconnected(text) => Self::Unknown(text),
            other => other,
        }
    }
}

/// A statement, or the reading of its answer, failed.
impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(inner) => match inner.try_downcast_ref::<MySqlDatabaseError>() {
                Some(inner) => of_number(inner.number(), inner.message()),
                None => Self::Unexpected(error.to_string()),
            },
            sqlx::Error::Io(inner) => Self::Disconnected(format!("connection lost: {inner}")),
            sqlx::Error::Protocol(text) => Self::Disconnected(format!("connection broken: {text}")),
            sqlx::Error::Encode(inner) => Self::Data(inner.to_string()),
            _ => Self::Unexpected(format!("an answer could not be read: {error}")),
        }
    }
}

/// What an error number means. `2006` and the like are made up by clients and listed for proxies.
fn of_number(number: u16, message: &str) -> Fault {
    let text = format!("{message} (error {number})");
    match number {
        1213 | 1020 => Fault::RolledBack(text),
        1205 | 1969 | 3572 => Fault::LockWait(text),
        1290 | 1792 | 1836 => Fault::ReadOnly(format!("the server takes no writes: {text}")),
        // 1047: a cluster's node that has lost the others; another one may serve.
        1047 | 1053 | 1152 | 1158..=1161 | 1317 | 1927 | 2006 | 2013 | 3169 | 4031 => {
            Fault::Disconnected(text)
        }
        1040 | 1203 | 1226 => Fault::Busy(format!("the server has no room: {text}")),
        1461 => Fault::Busy(format!(
            "the server keeps no more prepared statements for anybody; raise its \
             max_prepared_stmt_count, of which a busy worker needs about 200: {text}"
        )),
        1176 => Fault::Busy(format!("a key is being rebuilt, or `migrate` has not run: {text}")),
        1054 | 1146 => Fault::NotMigrated,
        1419 => Fault::NotReady(format!(
            "with its binary log on this server lets nobody else make triggers; set \
             log_bin_trust_function_creators=1 for the time being, or use a user with SUPER: {text}"
        )),
        1044 | 1045 | 1142 | 1143 | 1227 | 1370 => {
            Fault::NotReady(format!("a right is missing; grant it to this user: {text}"))
        }
        1049 | 1193 | 1449 | 1665 => Fault::NotReady(text),
        1048 | 1153 | 1264 | 1265 | 1292 | 1366 | 1406 | 1452 | 1690 => Fault::Data(text),
        1062 | 1586 => Fault::Duplicate(text),
        _ => Fault::Unexpected(text),
    }
}

impl From<LaneError> for Fault {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::NotConnected(_) => Self::Disconnected(format!(
                "{error}; check that the server runs and that nothing on the way to it swallows \
                 what is sent"
            )),
            LaneError::Closed => Self::Disconnected(error.to_string()),
            LaneError::Overdue(_) | LaneError::Panicked => Self::Unknown(error.to_string()),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::RolledBack(_)
            | Fault::LockWait(_)
            | Fault::Disconnected(_)
            | Fault::ReadOnly(_)
            | Fault::Busy(_)
            | Fault::Unexpected(_) => Self::Unavailable(fault.to_string()),
            Fault::Unknown(text) => Self::Unknown(text),
            Fault::NotReady(_) | Fault::NotMigrated | Fault::TooNew { .. } => {
                Self::NotReady(fault.to_string())
            }
            Fault::Data(text) | Fault::Duplicate(text) => Self::Data(text),
            Fault::PrimaryChanged => Self::PrimaryChanged,
            Fault::Unsettled => Self::Unsettled,
        }
    }
}

impl From<Fault> for AdvanceError {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

impl From<Fault> for ControlError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotMigrated => Self::NotMigrated,
            Fault::TooNew { needed, known } => Self::TooNew { needed, known },
            other => Self::Store(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error table of PROTOCOL section 5.
    #[test]
    fn each_error_number_means_what_the_protocol_says() {
        let means = |numbers: &[u16], is: fn(&Fault) -> bool| {
            for number in numbers {
                let fault = of_number(*number, "text");
                assert!(is(&fault), "{number} became {fault:?}");
            }
        };
        means(&[1213, 1020], |f| matches!(f, Fault::RolledBack(_)) && f.is_passing());
        means(&[1205, 1969, 3572], |f| matches!(f, Fault::LockWait(_)) && f.is_passing());
        means(&[1290, 1836], |f| matches!(f, Fault::ReadOnly(_)) && f.costs_the_connection());
        means(&[2006, 2013, 1047, 1053, 1317, 4031], |f| {
            f.costs_the_connection() && matches!(f.clone().while_committing(), Fault::Unknown(_))
        });
        means(&[1040, 1203, 1226, 1461], |f| {
            matches!(StoreError::from(f.clone()), StoreError::Unavailable(_))
        });
        means(&[1142, 1143, 1045, 1054, 1146, 1449, 1665], |f| {
            matches!(StoreError::from(f.clone()), StoreError::NotReady(_))
        });
        means(&[1264, 1292, 1366, 1406, 1452, 1690, 1153], |f| matches!(f, Fault::Data(_)));
    }

    #[test]
    fn a_job_that_was_not_answered_may_have_been_done_and_one_not_begun_was_not() {
        let limit = std::time::Duration::from_secs(1);
        let overdue = Fault::from(LaneError::Overdue(limit));
        assert!(matches!(StoreError::from(overdue), StoreError::Unknown(_)));
        let unconnected = Fault::from(LaneError::NotConnected(limit));
        assert!(matches!(StoreError::from(unconnected), StoreError::Unavailable(_)));
    }
}
