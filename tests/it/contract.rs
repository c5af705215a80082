//! The contract of a store: every promise that the worker and the commands build on, as a story,
//! run unchanged against every store.
//!
//! A new store writes a [`Subject`] and adds one line `contract!(on_its_name, its::Subject);`. A new
//! story is a function `async fn name<S: Subject>()` and its name in the list of [`contract!`].
//!
//! **Invariant:** a story speaks to a store through the ports and to its database as a stranger
//! would, in SQL that every server understands; it knows no adapter.

use std::collections::BTreeMap;

use async_trait::async_trait;
use orchestrator_worker::ports::{control::Control, executions::ExecutionStore};

mod claim;
pub mod sqlite;
pub mod world;

/// A row by the names of its columns, each value as text.
pub type Row = BTreeMap<String, Option<String>>;

/// A database of its own, and stores on it.
#[async_trait]
pub trait Subject: Sized + Send + Sync + 'static {
    type Store: ExecutionStore + Control;

    /// Makes an empty database; nothing is migrated.
    async fn create() -> Self;

    /// Opens a store on it that shares nothing with the others but the database, as another
    /// worker's process has it. Does not migrate.
    async fn store(&self) -> Self::Store;

    /// Runs one statement as somebody else, one who checks no foreign keys (a later branch of the
    /// Go service has none); returns how many rows it matched.
    async fn exec(&self, sql: &str) -> u64;

    /// The rows of a `SELECT`, as somebody else sees them.
    async fn rows(&self, sql: &str) -> Vec<Row>;

    /// The one value of a `SELECT` as text; `None` for NULL and for no row.
    async fn one(&self, sql: &str) -> Option<String> {
        let row = self.rows(sql).await.into_iter().next()?;
        row.into_values().next().flatten()
    }

    /// An expression for the database's clock, with milliseconds.
    fn now() -> &'static str;

    /// An expression for `time` (a column, or any expression of a time) moved by so many
    /// milliseconds, back if they are negative.
    fn moved(time: &str, milliseconds: i64) -> String;
}

/// Makes a module of tests, one a story, for a subject.
macro_rules! contract {
    ($module:ident, $subject:ty) => {
        mod $module {
            crate::contract::stories! { $subject;
                claim {
                    the_oldest_due_comes_first_and_no_more_than_asked
                    two_claimers_never_share_an_execution
                    the_first_starts_are_committed_with_the_claim
                    an_execution_without_steps_is_claimed_with_its_end
                    the_fence_grows_with_every_claim
                    what_is_not_due_or_not_pending_is_left_alone
                    a_row_without_times_is_due
                    a_live_foreign_lock_defers_and_does_not_block_the_head
                    an_expired_foreign_lock_and_a_tombstone_hinder_nobody
                    a_young_half_made_execution_waits_and_an_old_one_is_completed
                    an_unknown_function_waits_for_newer_workers_and_fails_in_the_end
                    of_duplicate_step_rows_the_first_id_counts
                    the_plan_of_the_first_claim_is_kept_though_the_template_is_edited
                }
            }
        }
    };
}

macro_rules! stories {
    ($subject:ty; $($file:ident { $($story:ident)* })*) => {
        $(mod $file {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                crate::contract::$file::$story::<$subject>().await;
            })*
        })*
    };
}
use stories;

contract!(on_sqlite_file, crate::contract::sqlite::File);
contract!(on_sqlite_memory, crate::contract::sqlite::Memory);
contract!(on_mysql, crate::mysql::Database<crate::mysql::MySql>);
contract!(on_mariadb, crate::mysql::Database<crate::mysql::MariaDb>);
