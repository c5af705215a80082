//! What the lock table is called.
//!
//! Statements are written with its usual name. Where an orchestrator calls it otherwise, whoever sends
//! a statement or shows a sentence puts the name in, as a whole word and quoted.
//!
//! **Invariant:** a name in here ends no quotes and no statement, and is no other table's.

use std::{borrow::Cow, sync::Arc};

use super::doctor;

/// The name of a lock table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockTable {
    /// `None`: the usual one.
    other: Option<Arc<str>>,
}

/// Goes on with the sentence that the name begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockTableError {
    #[error("it may have 1 to 64 letters of ASCII, digits and underscores, and not begin with ow_")]
    NoName,
    #[error("another table of the orchestrator is called so")]
    Taken,
}

impl LockTable {
    pub const USUAL: &'static str = "distributed_locks";
    /// Of an identifier in a database.
    const LONGEST: usize = 64;

    pub fn try_new(name: &str) -> Result<Self, LockTableError> {
        let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if name == Self::USUAL {
            return Ok(Self::default());
        }
        // Some servers tell names in other letters apart, and some do not.
        let lower = name.to_ascii_lowercase();
        if name.is_empty() || name.len() > Self::LONGEST || !is_plain || lower.starts_with("ow_") {
            return Err(LockTableError::NoName);
        }
        if doctor::names().any(|table| table == lower && table != Self::USUAL) {
            return Err(LockTableError::Taken);
        }
        Ok(Self { other: Some(name.into()) })
    }

    pub fn as_str(&self) -> &str {
        self.other.as_deref().unwrap_or(Self::USUAL)
    }

    pub const fn is_usual(&self) -> bool {
        self.other.is_none()
    }

    /// This name in place of the usual one: as it is where that stands in a string, quoted else.
    pub fn named<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(name) = &self.other else { return text.into() };
        let mut named = String::with_capacity(text.len() + Self::LONGEST);
        let mut rest = text;
        while let Some(place) = rest.find(Self::USUAL) {
            let (before, found) = rest.split_at(place);
            let after = &found[Self::USUAL.len()..];
            named.push_str(before);
            let is_within = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            if is_within(named.chars().next_back()) || is_within(after.chars().next()) {
                named.push_str(Self::USUAL);
            } else if named.ends_with('\'') && after.starts_with('\'') {
                named.push_str(name);
            } else {
                named.extend(["`", name, "`"]);
            }
            rest = after;
        }
        named.push_str(rest);
        named.into()
    }

    /// What a table, or a thing `table.column`, would be called if this were the usual name; `None`
    /// for what has only the usual name and is another table here.
    pub fn as_usual(&self, thing: &str) -> Option<String> {
        let Some(name) = &self.other else { return Some(thing.to_owned()) };
        let (table, rest) = match thing.split_once('.') {
            Some((table, rest)) => (table, Some(rest)),
            None => (thing, None),
        };
        let table = match table {
            table if table == &**name => Self::USUAL,
            Self::USUAL => return None,
            table => table,
        };
        Some(rest.map_or_else(|| table.to_owned(), |rest| format!("{table}.{rest}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_no_statement_can_be_ended_with() {
        for good in ["locks", "Order", "l", "1st", &"x".repeat(64), "distributed_locks"] {
            assert_eq!(LockTable::try_new(good).expect("a name").as_str(), good);
        }
        assert_eq!(LockTable::try_new("distributed_locks"), Ok(LockTable::default()));
        for bad in ["", "a b", "a`", "a'", "a.b", "a-b", "ö", &"x".repeat(65), "OW_meta"] {
            assert_eq!(LockTable::try_new(bad), Err(LockTableError::NoName), "{bad}");
        }
        for taken in ["steps", "Workflow_Executions"] {
            assert_eq!(LockTable::try_new(taken), Err(LockTableError::Taken), "{taken}");
        }
    }

    #[test]
    fn a_name_stands_wherever_the_usual_one_did_and_nowhere_else() {
        let order = LockTable::try_new("order").expect("a name");
        for (usual, named) in [
            ("SELECT 1", "SELECT 1"),
            ("DELETE l FROM distributed_locks l", "DELETE l FROM `order` l"),
            ("INSERT INTO distributed_locks(id)", "INSERT INTO `order`(id)"),
            ("a=distributed_locks.b", "a=`order`.b"),
            ("TABLE_NAME='distributed_locks'", "TABLE_NAME='order'"),
            ("distributed_locks, distributed_locks", "`order`, `order`"),
            ("KEY idx_distributed_locks_lock_key", "KEY idx_distributed_locks_lock_key"),
            ("distributed_locks2 is distributed_locks", "distributed_locks2 is `order`"),
        ] {
            assert_eq!(order.named(usual), named);
            let default = LockTable::default();
            assert!(matches!(default.named(usual), Cow::Borrowed(text) if text == usual));
        }
    }

    #[test]
    fn things_of_the_table_are_recognised_and_those_of_its_namesake_are_not() {
        let locks = LockTable::try_new("locks").expect("a name");
        for (thing, usual) in [
            ("locks", Some("distributed_locks")),
            ("locks.owner", Some("distributed_locks.owner")),
            ("steps.locks", Some("steps.locks")),
            ("distributed_locks.owner", None),
        ] {
            assert_eq!(locks.as_usual(thing).as_deref(), usual, "{thing}");
        }
        let usual = LockTable::default().as_usual("distributed_locks.owner");
        assert_eq!(usual.as_deref(), Some("distributed_locks.owner"));
    }
}
