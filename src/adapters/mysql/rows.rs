//! Values read from rows, and pieces of statements made from lists.
//!
//! **Invariant:** whatever stands in a column, reading it gives a value or a [`Fault`], never a
//! panic; no value ever becomes part of a statement's text.

use sqlx::{Row, mysql::MySqlRow};

use super::errors::Fault;
use crate::{
    domain::{execution::ExecutionState, id::PlanHash},
    ports::control::UnixMillis,
};

/// A text or binary column as text; bytes that are no UTF-8 are replaced.
pub(super) fn text(row: &MySqlRow, column: usize) -> Result<Option<String>, Fault> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    Ok(bytes.map(|bytes| match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }))
}

/// A text that its table never leaves empty.
pub(super) fn name(row: &MySqlRow, column: usize) -> Result<String, Fault> {
    Ok(text(row, column)?.unwrap_or_default())
}

/// A signed whole number.
pub(super) fn number(row: &MySqlRow, column: usize) -> Result<Option<i64>, Fault> {
    Ok(row.try_get(column)?)
}

/// An unsigned whole number; NULL counts as 0.
pub(super) fn count(row: &MySqlRow, column: usize) -> Result<u64, Fault> {
    Ok(row.try_get::<Option<u64>, _>(column)?.unwrap_or(0))
}

/// An expression for the status of an execution, spelled as we do. The server's own comparison
/// decides, as in every condition of a statement: it takes `Cancelled` for `cancelled`.
pub(super) fn status(column: &str) -> String {
    let whens: Vec<String> = ExecutionState::ALL
        .iter()
        .map(|state| format!("WHEN '{0}' THEN '{0}'", state.as_str()))
        .collect();
    format!("CASE {column} {} ELSE {column} END", whens.join(" "))
}

/// An expression for a stored time as milliseconds since 1970, UTC: the session's offset is that of
/// the rows.
pub(super) fn unix(column: &str) -> String {
    format!(
        "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', \
         CONVERT_TZ({column}, @@session.time_zone, '+00:00')) DIV 1000"
    )
}

/// A [`unix`].
pub(super) fn time(row: &MySqlRow, column: usize) -> Result<Option<UnixMillis>, Fault> {
    Ok(number(row, column)?.map(UnixMillis))
}

/// A plan's hash.
pub(super) fn plan(row: &MySqlRow, column: usize) -> Result<Option<PlanHash>, Fault> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(PlanHash))
}

/// A whole number of any sign, held to what `u32` can hold.
pub(super) fn small(value: Option<i64>) -> u32 {
    u32::try_from(value.unwrap_or(0).max(0)).unwrap_or(u32::MAX)
}

/// `?, ?, ?`
pub(super) fn marks(count: usize) -> String {
    joined(count, "?", ", ")
}

/// `item` so many times.
pub(super) fn joined(count: usize, item: &str, between: &str) -> String {
    vec![item; count].join(between)
}

/// A name as an identifier in a statement.
pub(super) fn quoted(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_cannot_end_its_own_quotes() {
        assert_eq!(quoted("a`b"), "`a``b`");
    }
}
