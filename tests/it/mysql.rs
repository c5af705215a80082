//! The MySQL store on real servers: MySQL and MariaDB.
//!
//! **Invariant:** each test has a database of its own and drops it; a server that is not named is a
//! failure, never a skip.

use std::{collections::BTreeSet, marker::PhantomData, path::PathBuf};

use async_trait::async_trait;
use orchestrator_worker::adapters::mysql::{MySqlStore, Settings};
use secrecy::SecretString;
use sqlx::{
    AssertSqlSafe, Column, Connection, MySqlConnection, Row as _, mysql::MySqlRow, raw_sql,
};
use tokio::sync::Mutex;

use crate::contract::{Row, Subject};

mod backlog;
mod costs;
mod doctor;
mod guard;
pub mod least;
mod locked;
mod migration;
mod network;
mod odd;
mod prepared;
mod races;
pub mod renamed;
mod renewal;
mod restored;
mod takeover;

/// One of the servers.
pub trait Server: Send + Sync + 'static {
    const NAME: &str;
    /// Its program.
    const DAEMON: &'static str;
    /// What makes an empty data folder; its path goes behind the last word.
    const INITIALIZE: &'static [&'static str];
    /// What it needs to run from that Debian, beside whatever a test wants.
    const SETTINGS: &'static [&'static str];
    /// What has it read its certificate again.
    const RELOAD_TLS: &'static str;

    /// Its URL, without a database: `mysql://root@127.0.0.1:3306/`.
    fn url() -> String;

    /// The Debian that it is installed in.
    fn root() -> PathBuf;
}

pub struct MySql;

impl Server for MySql {
    const NAME: &str = "MySQL";
    const DAEMON: &'static str = "mysqld";
    const INITIALIZE: &'static [&'static str] =
        &["mysqld", "--no-defaults", "--initialize-insecure", "--user=root", "--datadir"];
    const SETTINGS: &'static [&'static str] = &["--mysqlx=OFF", "--secure-file-priv=NULL"];
    const RELOAD_TLS: &'static str = "ALTER INSTANCE RELOAD TLS";

    fn url() -> String {
        crate::servers::mysql_url()
    }

    fn root() -> PathBuf {
        crate::servers::mysql_root()
    }
}

pub struct MariaDb;

impl Server for MariaDb {
    const NAME: &str = "MariaDB";
    const DAEMON: &'static str = "mariadbd";
    const INITIALIZE: &'static [&'static str] = &[
        "mariadb-install-db",
        "--no-defaults",
        "--user=root",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--datadir",
    ];
    const SETTINGS: &'static [&'static str] = &[];
    const RELOAD_TLS: &'static str = "FLUSH SSL";

    fn url() -> String {
        crate::servers::mariadb_url()
    }

    fn root() -> PathBuf {
        crate::servers::mariadb_root()
    }
}

/// Of the users that tests make.
pub const PASSWORD: &str = "correct-horse-battery";

/// The ids of a user's connections.
async fn connections(stranger: &mut MySqlConnection, user: &str) -> BTreeSet<String> {
    let all = raw_sql("SHOW PROCESSLIST").fetch_all(stranger).await.expect("a list");
    let own = all.iter().filter(|row| row.get_unchecked::<String, _>("User") == user);
    own.map(|row| row.get_unchecked::<String, _>("Id")).collect()
}

/// Ends a user's connections; returns which.
pub async fn kill(stranger: &mut MySqlConnection, user: &str) -> BTreeSet<String> {
    let all = connections(stranger, user).await;
    for id in &all {
        // One may have ended by itself meanwhile (1094).
        raw_sql(AssertSqlSafe(format!("KILL {id}"))).execute(&mut *stranger).await.ok();
    }
    all
}

/// A database of its own on a server.
pub struct Database<S: Server> {
    name: String,
    stranger: Mutex<MySqlConnection>,
    server: PhantomData<S>,
}

impl<S: Server> Database<S> {
    pub async fn make() -> Self {
        let name = format!("ow_{}", uuid::Uuid::new_v4().simple());
        let mut stranger = MySqlConnection::connect(&S::url()).await.expect("a server");
        let sql = format!(
            "CREATE DATABASE {name}; USE {name}; SET SESSION foreign_key_checks=0, \
             lock_wait_timeout=30"
        );
        raw_sql(AssertSqlSafe(sql)).execute(&mut stranger).await.expect("a database");
        Self { name, stranger: Mutex::new(stranger), server: PhantomData }
    }

    /// The URL of this database, at another address if one is given.
    pub fn url(&self, address: Option<std::net::SocketAddr>) -> String {
        let url = S::url();
        let url = url.trim_end_matches('/');
        match (address, url.rsplit_once('@')) {
            (Some(address), Some((user, _))) => format!("{user}@{address}/{}", self.name),
            _ => format!("{url}/{}", self.name),
        }
    }

    /// Where its server listens.
    pub fn address() -> std::net::SocketAddr {
        let url = S::url();
        let host = url.rsplit('@').next().and_then(|rest| rest.split('/').next());
        host.and_then(|host| host.parse().ok()).expect("a URL with an address and a port")
    }

    /// Makes a user of this database with these rights on it; returns its URL.
    pub async fn user(&self, rights: &str) -> String {
        let (name, user) = (&self.name, self.user_name());
        let rights = if rights.is_empty() {
            String::new()
        } else {
            format!("GRANT {rights} ON {name}.* TO {user}")
        };
        self.exec(&format!("CREATE USER {user} IDENTIFIED BY '{PASSWORD}'; {rights}")).await;
        format!("mysql://{user}:{PASSWORD}@{}/{name}", Self::address())
    }

    /// Of the user that [`Self::user`] makes; a name may have 32 characters.
    pub fn user_name(&self) -> &str {
        &self.name[..32]
    }

    /// The ids of the connections of the user that [`Self::user`] makes.
    pub async fn users_connections(&self) -> BTreeSet<String> {
        connections(&mut *self.stranger.lock().await, self.user_name()).await
    }

    /// Ends them; returns which.
    pub async fn kill_users_connections(&self) -> BTreeSet<String> {
        kill(&mut *self.stranger.lock().await, self.user_name()).await
    }

    pub async fn open(&self, address: Option<std::net::SocketAddr>) -> MySqlStore {
        let settings = Settings::new(SecretString::from(self.url(address)));
        MySqlStore::open(settings).await.expect("a store")
    }

    /// A client that has run these statements in a transaction and leaves it open, as people with
    /// autocommit off do. Whoever drops it lets its locks go.
    pub async fn open_transaction(&self, statements: &[String]) -> MySqlConnection {
        let mut client = MySqlConnection::connect(&self.url(None)).await.expect("a connection");
        raw_sql("SET autocommit=0").execute(&mut client).await.expect("a transaction");
        for sql in statements {
            let done = raw_sql(AssertSqlSafe(sql.clone())).execute(&mut client).await;
            let matched = done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected();
            assert!(matched > 0, "{sql} met no row");
        }
        client
    }
}

#[async_trait]
impl<S: Server> Subject for Database<S> {
    type Store = MySqlStore;

    async fn create() -> Self {
        Self::make().await
    }

    async fn store(&self) -> MySqlStore {
        self.open(None).await
    }

    async fn exec(&self, sql: &str) -> u64 {
        let mut stranger = self.stranger.lock().await;
        let done = raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *stranger).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    async fn rows(&self, sql: &str) -> Vec<Row> {
        let mut stranger = self.stranger.lock().await;
        let rows = raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut *stranger).await;
        let text = |row: &MySqlRow, column| {
            let bytes: Option<Vec<u8>> = row.try_get_unchecked(column).expect("bytes");
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let named = |row: &MySqlRow| {
            let columns = row.columns().iter();
            columns.map(|c| (c.name().to_owned(), text(row, c.ordinal()))).collect()
        };
        rows.unwrap_or_else(|error| panic!("{sql}: {error}")).iter().map(named).collect()
    }

    fn now() -> &'static str {
        "UTC_TIMESTAMP(3)"
    }

    fn moved(time: &str, milliseconds: i64) -> String {
        format!("({time} + INTERVAL {} MICROSECOND)", milliseconds * 1000)
    }
}

impl<S: Server> Drop for Database<S> {
    /// On a thread of its own, because dropping cannot wait.
    fn drop(&mut self) {
        let (url, name, user) = (S::url(), self.name.clone(), self.user_name().to_owned());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let mut connection = MySqlConnection::connect(&url).await.expect("a server");
                let sql = format!("DROP DATABASE {name}; DROP USER IF EXISTS {user}");
                raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await
            })
        })
        .join();
        // A test that has failed already must not fail twice, which would abort all others.
        if !std::thread::panicking() {
            dropped.expect("no panic").expect("the database is dropped");
        }
    }
}

/// Makes a test of each story, on each server.
macro_rules! on_both {
    ($($file:ident { $($story:ident)* })*) => {
        on_both!(@ on_mysql, crate::mysql::MySql; $($file { $($story)* })*);
        on_both!(@ on_mariadb, crate::mysql::MariaDb; $($file { $($story)* })*);
    };
    (@ $module:ident, $server:ty; $($file:ident { $($story:ident)* })*) => {
        mod $module {
            $(mod $file {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() {
                    crate::mysql::$file::$story::<$server>().await;
                })*
            })*
        }
    };
}

on_both! {
    backlog {
        a_claim_reads_no_row_of_a_held_backlog
    }
    costs {
        a_batch_of_50_takes_15_statements_to_claim_and_6_to_end
        a_chain_of_five_steps_takes_six_commits
    }
    doctor {
        the_grants_that_are_named_are_what_a_worker_needs_and_no_more_is_asked
        tables_that_a_user_may_not_see_are_not_made_but_granted
        a_key_that_is_gone_is_made_by_the_statement_that_is_named
        a_table_without_transactions_is_named_with_the_statement_that_changes_it
        the_server_is_named_with_its_settings
        rows_in_a_zone_that_is_configured_are_of_now
    }
    guard {
        what_an_orchestrator_does_to_its_own_executions_is_let_through
        what_comes_too_late_is_refused_by_number
        what_is_handed_back_or_retried_is_not_the_orchestrators
        workers_and_operators_go_on_as_without_it
        the_grants_that_are_printed_are_all_that_a_worker_needs
    }
    least {
        the_printed_grants_are_those_that_this_contract_runs_under
        what_a_worker_does_not_do_is_forbidden_to_its_user
        a_retention_lets_a_worker_delete_history_and_nothing_else
    }
    migration {
        what_an_orchestrator_has_made_is_added_to_and_it_goes_on
        two_migrations_beside_an_orchestrator_do_each_step_once
        the_way_back_leaves_an_orchestrators_tables_as_they_were
        an_orchestrator_is_not_kept_waiting_while_its_tables_are_migrated
    }
    locked {
        one_locked_step_row_keeps_no_other_execution_from_being_claimed
        a_locked_template_row_keeps_no_other_template_from_being_claimed_or_taken_over
        a_short_lease_is_not_used_up_by_waiting_for_locks
        one_locked_step_row_keeps_no_other_execution_from_being_taken_over
        many_locked_executions_are_put_off_without_a_wait_for_each
        a_half_made_execution_is_completed_in_pieces
        one_locked_step_row_keeps_no_other_advance_from_being_recorded
        an_abort_of_many_steps_is_recorded_in_pieces_and_its_end_last
    }
    network {
        a_black_holed_server_costs_an_error_and_a_connection_and_no_more
        a_refused_connection_is_an_error_at_once_and_the_next_call_works
        a_claim_whose_commit_went_unanswered_is_adopted
        a_claim_whose_commit_never_arrived_is_abandoned_and_free
        a_claim_that_nobody_could_ask_about_is_taken_over_and_driven_once
        an_advance_that_went_unanswered_is_sent_again
        what_was_noted_of_an_end_without_an_answer_is_noted_again_or_comes_up_again
        the_locks_of_a_silent_connection_stand_in_nobodys_way
        a_silent_connection_is_ended_though_the_first_that_tries_falls_silent_too
        no_acknowledged_write_is_lost_over_callers_that_stop_waiting
        a_plan_that_a_server_lost_is_stored_again
        a_renewal_that_falls_silent_is_given_up_while_there_is_time_for_another
    }
    odd {
        the_reaper_spares_living_leases_under_every_sql_mode
        a_status_in_other_letters_is_met_like_any_other
        a_worker_at_work_takes_nothing_more_from_tables_that_need_a_newer_one
    }
    races {
        an_advance_that_a_deadlock_undid_is_sent_again
        a_success_that_is_committed_during_a_takeover_is_not_run_again
        a_write_that_waited_behind_a_takeover_is_refused
        an_end_that_waited_behind_a_cancellation_is_recorded_as_cancelled
    }
    renewal {
        one_locked_lock_row_costs_no_other_lease
        a_gone_lock_row_whose_execution_is_locked_costs_no_other_lease
        a_gone_lock_row_that_cannot_be_put_back_costs_no_other_lease
    }
    renamed {
        doctor_and_grants_name_the_lock_table_as_it_is_called
        a_table_of_the_usual_name_beside_it_is_left_alone
    }
    restored {
        a_restored_backup_is_waited_out_and_goes_on_as_it_was_but_for_what_was_cancelled
    }
    takeover {
        an_execution_that_cannot_be_taken_over_is_failed_with_all_that_is_open_of_it
        an_execution_that_can_neither_be_taken_over_nor_failed_is_left_alone
    }
}

impl<S: Server> crate::crash::Served for Database<S> {
    fn url(&self) -> String {
        Database::url(self, None)
    }
}
