//! Tests out of stories that are the same for every store.
//!
//! **Invariant:** a test on a server is in a module `on_mysql` or `on_mariadb`.

/// Makes a test of each story of this module, on each store: `async fn story<S: Served>()`.
macro_rules! on_every_store {
    ($($story:ident)*) => {
        crate::stores::tests! { on_sqlite_file, crate::contract::sqlite::File; $($story)* }
        crate::stores::tests! {
            on_mysql, crate::mysql::Database<crate::mysql::MySql>; $($story)*
        }
        crate::stores::tests! {
            on_mariadb, crate::mysql::Database<crate::mysql::MariaDb>; $($story)*
        }
    };
}
pub(crate) use on_every_store;

/// Makes a test of each story of this module, on each server: `async fn story<S: Server>()`.
macro_rules! on_both_servers {
    ($($story:ident)*) => {
        crate::stores::tests! { on_mysql, crate::mysql::MySql; $($story)* }
        crate::stores::tests! { on_mariadb, crate::mysql::MariaDb; $($story)* }
    };
}
pub(crate) use on_both_servers;

macro_rules! tests {
    ($module:ident, $on:ty; $($story:ident)*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                super::$story::<$on>().await;
            })*
        }
    };
}
pub(crate) use tests;
