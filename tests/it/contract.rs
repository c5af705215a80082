//! The contract of a store: every promise that the worker and the commands build on, as a story,
//! run unchanged against every store.
//!
//! A new store writes a [`Subject`] and adds one line `contract!(on_its_name, its::Subject);`. A new
//! story is a function `async fn name<S: Subject>()` and its name in one of the lists below.
//!
//! **Invariant:** a story speaks to a store through the ports and to its database as a stranger
//! would, in SQL that every server understands; it knows no adapter.

use std::collections::BTreeMap;

use async_trait::async_trait;
use orchestrator_worker::ports::{control::Control, rows::RowStore};

mod advance;
mod cancelled;
mod claim;
mod control;
pub mod doctor;
mod eligible;
mod elsewhere;
mod explain;
mod fenced;
mod hostile;
mod limits;
mod live;
mod look;
mod many;
mod oddities;
mod one_per_template;
mod poison;
mod release;
mod renew;
mod retention;
pub mod sqlite;
mod steer;
mod survey;
mod takeover;
mod unadmitted;
mod untold;
pub mod world;
pub mod writes;

/// A row by the names of its columns, each value as text.
pub type Row = BTreeMap<String, Option<String>>;

/// A database of its own, and stores on it.
#[async_trait]
pub trait Subject: Sized + Send + Sync + 'static {
    type Store: RowStore + Control;

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
            crate::contract::of_operators! { $subject }
            crate::contract::of_workers! { $subject }
            crate::contract::of_retention! { $subject }
        }
    };
}

/// The same for subjects whose stores may do as little as a worker must: the second may also delete
/// what has ended.
macro_rules! contract_of_workers {
    ($module:ident, $subject:ty, $retaining:ty) => {
        mod $module {
            crate::contract::of_workers! { $subject }
            crate::contract::of_retention! { $retaining }
        }
    };
}

/// Of what an operator asks for.
macro_rules! of_operators {
    ($subject:ty) => {
        crate::contract::stories! { $subject;
            control {
                an_empty_database_is_migrated_once_and_a_dry_run_changes_nothing
                two_migrations_at_one_moment_do_each_step_once
                tables_that_need_a_newer_worker_are_left_alone
                what_is_applied_twice_is_put_in_once
                every_change_is_put_in_and_called_one
                what_is_submitted_is_pending_with_all_its_steps
                nothing_is_submitted_for_what_is_unknown_inactive_or_ambiguous
                a_submission_that_is_refused_leaves_nothing
            }
            look {
                a_list_has_the_newest_first_and_no_more_than_asked
                a_list_holds_what_its_filter_says
                a_line_of_a_list_says_whose_it_is_and_how_it_stands
                an_execution_is_shown_with_its_steps_and_every_attempt
                steps_are_shown_as_they_are_taken_though_the_template_is_edited
                times_are_told_to_the_millisecond
                what_nobody_should_have_written_is_shown_all_the_same
                an_execution_is_found_by_its_very_id
            }
            explain {
                a_pending_execution_is_explained
                what_cannot_be_claimed_is_explained
                a_running_execution_is_explained
                an_execution_that_has_ended_is_explained
                workers_and_locks_are_told_from_each_other
            }
            doctor {
                an_empty_database_is_told_to_be_migrated_and_is_well_after_it
                a_trial_lock_leaves_everything_as_it_was
                what_waits_and_what_no_version_knows_is_counted
                a_lock_row_in_another_zone_names_the_offset_to_set
                the_step_that_may_run_for_longest_is_found
                what_doctor_cleans_is_what_locks_clean_cleans
                a_column_that_somebody_has_dropped_is_named
                a_template_that_is_called_runnable_is_claimed_and_one_refused_is_not
            }
        }
    };
}
use of_operators;

/// Of what a worker does, alone or beside an operator.
macro_rules! of_workers {
    ($subject:ty) => {
        crate::contract::stories! { $subject;
            advance {
                what_ended_and_what_starts_next_are_recorded_together
                a_retry_keeps_the_step_running_and_tells_the_next_key
                an_end_leaves_a_tombstone_and_nobody_who_holds_it
                what_is_sent_twice_is_recorded_once
                a_retry_that_comes_late_does_not_turn_a_key_back
                nothing_to_record_is_recorded
                one_that_is_fenced_or_refused_does_not_hurt_the_others
                two_advances_of_one_execution_are_recorded_in_their_order
                an_end_that_meets_a_cancellation_is_recorded_as_cancelled
                what_ends_in_a_cancelled_execution_is_recorded_before_its_end
                a_step_that_no_worker_started_ends_without_an_attempt
            }
            cancelled {
                a_dead_owners_cancelled_execution_is_ended_and_goes_to_nobody
                a_cancelled_execution_is_left_to_an_owner_who_lives
                a_cancellation_after_the_survey_is_not_overrun
                an_end_and_a_cancellation_at_one_moment_agree
                a_former_owner_adds_no_success_to_what_was_tidied
            }
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
                numbers_at_their_end_stop_no_claim
                what_names_nothing_that_can_be_run_is_failed_with_the_reason
                an_execution_has_one_origin_for_whoever_looks_at_it_or_claims_it
            }
            elsewhere {
                what_is_due_is_named_oldest_first_and_left_alone
                those_that_are_named_are_claimed_if_they_still_are_due_and_no_others
                what_others_hold_is_put_off_for_longer_each_time_while_it_is_pending
                a_lease_stands_by_its_row_alone_and_nothing_is_renewed
            }
            fenced {
                nothing_is_written_under_another_fence
                an_execution_is_not_ended_under_another_nonce
                one_row_that_has_moved_on_keeps_all_the_rest_from_being_written
                a_recorded_success_is_never_overwritten
                attempts_follow_one_another_and_none_is_left_out
                an_ended_execution_does_not_end_otherwise
                an_operators_retry_shuts_the_former_claim_out
            }
            limits {
                an_output_is_kept_whole_up_to_its_limit_and_refused_beyond
                an_error_is_cut_between_characters_where_its_column_ends
                the_cause_of_an_attempt_is_its_beginning_with_a_sign_of_what_is_missing
            }
            many {
                many_ends_in_one_call_are_answered_in_their_order
                many_ends_in_one_call_are_recorded_each_with_its_own_words
                ends_under_each_others_fences_are_refused
                many_are_handed_back_and_taken_over_in_one_call
                ends_of_one_execution_at_one_moment_are_all_recorded
            }
            poison {
                what_kills_its_workers_is_failed_and_they_are_named
                progress_begins_the_count_anew
                a_retry_is_no_progress
                hand_backs_count_nothing
                an_operators_retry_begins_the_count_anew
            }
            release {
                a_handed_back_execution_is_free_for_any_worker_at_once
                a_hand_back_may_be_sent_twice
                only_the_holder_hands_back
                many_are_handed_back_each_for_itself
                a_hand_back_that_meets_a_cancellation_ends_the_execution
                a_hand_back_changes_no_lock_row_but_its_own
                marks_and_plain_keys_are_reaped_a_minute_past_their_expiry
                no_more_is_reaped_than_asked_and_the_oldest_first
                a_long_name_is_held_and_handed_back_whole
            }
            renew {
                a_held_lease_has_its_beat_and_its_expiry_moved
                many_leases_are_answered_in_their_order
                no_lease_gets_no_answer_and_an_unknown_one_is_lost
                a_lease_is_lost_when_its_execution_is_not_held_under_it
                a_lock_row_of_another_is_left_alone_and_the_lease_is_lost
                a_cancellation_is_told_and_its_lease_goes_on
                a_missing_lock_row_is_put_back_with_the_current_beat
                a_lock_row_is_not_put_back_for_an_execution_that_another_took
                an_expiry_in_the_past_loses_no_lease
                a_renewal_touches_no_strangers_row
                of_two_leases_of_one_name_on_one_execution_the_newer_is_held
                a_lease_of_a_claim_that_was_never_committed_is_lost
                of_a_renewal_and_a_takeover_at_one_moment_exactly_one_succeeds
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
            oddities {
                what_the_orchestrator_left_running_is_adopted_when_its_lock_has_expired
                a_status_that_there_is_not_is_failed_when_nobody_has_touched_it
            }
            one_per_template {
                of_one_template_one_execution_is_claimed_and_the_next_when_it_has_ended
                many_of_a_template_keep_no_other_from_being_claimed
                what_is_asked_for_again_beside_a_template_is_claimed_once
                the_next_of_a_template_is_due_as_soon_as_that_is_free_and_the_oldest_is_next
                whoever_waits_for_a_template_never_takes_it_from_its_holder
                a_template_that_the_orchestrator_has_locked_waits_for_it
                a_lock_that_is_named_like_all_templates_pauses_none
                an_execution_that_another_has_locked_keeps_no_template_locked
                what_is_refused_or_deferred_keeps_no_template_locked
                the_lock_of_a_template_is_renewed_and_put_back_with_its_executions
                a_template_is_handed_back_and_taken_over_with_its_execution
                a_dead_owners_template_waits_for_the_takeover_however_long
                the_lock_of_a_template_whose_execution_is_gone_is_reaped
                whoever_is_not_set_to_lock_templates_frees_those_of_the_dead
                a_cancelled_execution_frees_its_template_whoever_ends_it
            }
            live {
                what_a_step_has_printed_is_seen_while_it_runs_and_its_end_has_the_last_word
                nobody_but_the_running_attempt_writes_its_output
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
            survey {
                all_that_is_held_is_seen_as_it_is_held
                what_nobody_holds_is_not_seen
            }
            takeover {
                a_dead_owners_execution_goes_on_where_it_stood
                a_step_that_must_not_run_twice_is_failed_instead
                nothing_is_taken_that_has_moved_on
                a_lock_row_that_came_back_keeps_its_owner
                a_missing_lock_row_is_no_obstacle
                what_stands_in_the_place_of_the_lock_decides
                a_former_owner_is_refused_by_every_verb
                of_many_watchers_each_execution_goes_to_one
                a_success_at_the_moment_of_a_takeover_counts_or_is_refused
                an_end_at_the_moment_of_a_takeover_is_one_of_both
                a_hand_back_at_the_moment_of_a_takeover_leaves_one_holder
                what_fell_when_every_worker_was_away_is_taken_after_a_day
                what_a_dead_owner_has_left_is_told_to_whoever_asks
            }
            unadmitted {
                what_a_watcher_cannot_run_is_left_released_for_the_next
                what_a_watcher_could_not_run_it_leaves_alone_for_a_moment
                what_no_worker_learns_to_run_is_failed
                what_cannot_be_read_any_more_is_failed_with_the_reason
                one_that_is_not_admitted_does_not_hurt_the_others
            }
            untold {
                an_end_that_is_told_has_a_tombstone_like_any_other
                an_end_that_nobody_tells_of_goes_to_one_other_and_to_the_next
                an_end_that_is_being_told_is_left_to_whoever_tells_it
                what_is_run_again_is_not_hindered_by_an_untold_end
            }
        }
    };
}
use of_workers;

/// Of what a worker deletes.
macro_rules! of_retention {
    ($subject:ty) => {
        crate::contract::stories! { $subject;
            retention {
                what_ended_long_ago_is_deleted_with_all_that_belongs_to_it
                what_has_not_ended_or_not_long_ago_is_kept
            }
        }
    };
}
use of_retention;

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
contract_of_workers!(
    on_mysql_with_least_rights,
    crate::mysql::least::Least<crate::mysql::MySql, false>,
    crate::mysql::least::Least<crate::mysql::MySql, true>
);
contract_of_workers!(
    on_mariadb_with_least_rights,
    crate::mysql::least::Least<crate::mysql::MariaDb, false>,
    crate::mysql::least::Least<crate::mysql::MariaDb, true>
);
contract!(on_mysql_renamed, crate::mysql::renamed::Renamed<crate::mysql::MySql>);
contract!(on_mariadb_renamed, crate::mysql::renamed::Renamed<crate::mysql::MariaDb>);
