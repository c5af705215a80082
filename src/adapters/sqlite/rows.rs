//! Reads the cells of rows that anybody may have written, and lists of values as JSON.
//!
//! **Invariant:** whatever a cell holds, reading it gives a value: bytes that are no text are
//! replaced, numbers that are out of range are cut.

use std::time::Duration;

use serde::Serialize;
use sqlx::{Row, sqlite::SqliteRow};

use crate::ports::control::UnixMillis;

pub(super) trait Cells {
    fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error>;
    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error>;
    fn number(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;

    /// NULL is empty.
    fn word(&self, column: &str) -> Result<String, sqlx::Error> {
        Ok(self.text(column)?.unwrap_or_default())
    }

    /// NULL and everything negative is 0.
    fn count(&self, column: &str) -> Result<u64, sqlx::Error> {
        Ok(u64::try_from(self.number(column)?.unwrap_or(0)).unwrap_or(0))
    }

    /// Like [`Cells::count`], cut at its end.
    fn small(&self, column: &str) -> Result<u32, sqlx::Error> {
        Ok(u32::try_from(self.count(column)?).unwrap_or(u32::MAX))
    }

    /// Milliseconds; NULL and everything negative is none.
    fn millis(&self, column: &str) -> Result<Duration, sqlx::Error> {
        Ok(Duration::from_millis(self.count(column)?))
    }

    fn yes(&self, column: &str) -> Result<bool, sqlx::Error> {
        Ok(self.number(column)?.unwrap_or(0) != 0)
    }

    fn time(&self, column: &str) -> Result<Option<UnixMillis>, sqlx::Error> {
        Ok(self.number(column)?.map(UnixMillis))
    }
}

impl Cells for SqliteRow {
    fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        let lossy = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        };
        Ok(self.bytes(column)?.map(lossy))
    }

    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get_unchecked(column)
    }

    fn number(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get_unchecked(column)
    }
}

/// A list to be bound as one value and opened by `json_each`. For ids and numbers only: free text
/// may hold a NUL, which JSON in SQLite ends at.
pub(super) fn list<T: Serialize>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<T> = items.into_iter().collect();
    serde_json::to_string(&items).expect("ids and numbers always have a JSON form")
}

/// A fence, attempt or beat as SQLite holds it; no row holds one that does not fit.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
