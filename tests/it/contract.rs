//! The contract of a store: every promise that the worker and the commands build on, as a story,
//! run unchanged against every store.
//!
//! A new store writes a [`Subject`] and adds one line `contract!(on_its_name, its::Subject);`. A new
//! story is a function `async fn name<S: Subject>()` and its name in the list of [`contract!`].
//!
//! **Invariant:** a story speaks to a store through the ports and to its database as a stranger
//! would, in SQL that every server understands; it knows no adapter.

use async_trait::async_trait;
use orchestrator_worker::ports::{control::Control, executions::ExecutionStore};

mod claim;
mod eligible;
mod explain;
mod hostile;
mod oddities;
mod retention;
pub mod sqlite;
mod steer;
pub mod world;

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

    /// The one value of a `SELECT` as text (`SELECT CAST((sql) AS CHAR)`); `None` for NULL and for
    /// no row.
    async fn one(&self, sql: &str) -> Option<String>;

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
                eligible {
                    only_templates_that_are_let_in_are_claimed
                    a_paused_template_waits_and_goes_on_when_it_is_resumed
                    a_pause_of_all_stops_every_claim_and_no_takeover
                    the_backlog_is_held_until_it_is_released
                    the_backlog_of_one_template_is_released_alone
                    a_worker_that_is_told_to_runs_the_backlog
                    a_scheduled_execution_waits_for_its_moment
                }
                explain {
                    a_pending_execution_is_explained
                    what_cannot_be_claimed_is_explained
                    a_running_execution_is_explained
                    an_execution_that_has_ended_is_explained
                    workers_and_locks_are_told_from_each_other
                }
                oddities {
                    what_the_orchestrator_left_running_is_adopted_when_its_lock_has_expired
                    a_status_that_there_is_not_is_failed_when_nobody_has_touched_it
                }
                retention {
                    what_ended_long_ago_is_deleted_with_all_that_belongs_to_it
                    what_has_not_ended_or_not_long_ago_is_kept
                }
                hostile {
                    what_we_let_go_of_ourselves_is_never_reported_as_lost
                    only_what_workers_hold_or_have_handed_back_counts_as_running
                }
                steer {
                    a_pending_execution_is_cancelled_with_its_steps
                    a_running_execution_is_cancelled_by_its_holder_at_its_renewal
                    a_released_execution_that_is_cancelled_is_tidied
                    what_has_ended_is_not_cancelled
                    a_failed_execution_is_retried_from_its_first_unfinished_step
                    a_retry_shuts_out_the_former_claim
                    a_retry_gives_a_new_key_only_after_a_definite_failure
                    what_is_still_held_or_has_succeeded_is_not_retried
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
contract!(on_mysql, crate::mysql::Database<crate::mysql::MySql>);
contract!(on_mariadb, crate::mysql::Database<crate::mysql::MariaDb>);
