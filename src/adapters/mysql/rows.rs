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

/// `CASE column WHEN ? THEN ? … ELSE other END`, or just `other`.
pub(super) fn case(column: &str, count: usize, other: &str) -> String {
    if count == 0 {
        return other.into();
    }
    format!("CASE {column} {} ELSE {other} END", joined(count, "WHEN ? THEN ?", " "))
}

/// The items of a list, and the last one again until the list has one of a few lengths: so the server
/// keeps few statements prepared, whatever the lengths of the lists. For lists in which an item may
/// stand twice.
pub(super) fn filled<T: Clone>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    if let Some(last) = items.last().cloned() {
        items.resize(filled_len(items.len()), last);
    }
    items
}

/// 1, 2, 4, 16, 64, 256 …
const fn filled_len(count: usize) -> usize {
    let two_to = count.next_power_of_two();
    if two_to > 2 && two_to.trailing_zeros() % 2 == 1 { two_to * 2 } else { two_to }
}

/// A name as an identifier in a statement.
pub(super) fn quoted(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_all_lengths_have_few_lengths_once_they_are_filled() {
        let filled: Vec<usize> =
            [0, 1, 2, 3, 4, 5, 16, 17, 65, 256, 257].map(|count| filled(0..count).len()).to_vec();
        assert_eq!(filled, [0, 1, 2, 4, 4, 16, 16, 64, 256, 256, 1024]);
        assert_eq!(super::filled(["a", "b", "c"]), ["a", "b", "c", "c"]);
    }

    #[test]
    fn an_identifier_cannot_end_its_own_quotes() {
        assert_eq!(quoted("a`b"), "`a``b`");
    }
}
