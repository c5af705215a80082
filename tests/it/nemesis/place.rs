//! The database that everything happens to: on a server of the test's own, or somebody's.
//!
//! **Invariant:** of somebody's server nothing is touched but the database that was given, and connections of
//! its user.

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, raw_sql};
use url::Url;

use crate::{instance::Instance, mysql::PASSWORD};

pub const DATABASE: &str = "nemesis";
pub const USER: &str = "worker";

/// Where it all happens.
pub struct Place {
    /// `None` where it is somebody else's.
    pub instance: Option<Instance>,
    /// Of the database, as its administrator.
    pub url: String,
    /// That of the workers.
    pub user: String,
    pub password: String,
}

impl Place {
    /// A database and a user without rights on a server of our own.
    pub async fn ours(instance: Instance) -> Self {
        let mut stranger = MySqlConnection::connect(&instance.url).await.expect("a server");
        let sql =
            format!("CREATE DATABASE {DATABASE}; CREATE USER {USER} IDENTIFIED BY '{PASSWORD}'");
        raw_sql(AssertSqlSafe(sql)).execute(&mut stranger).await.expect("a database");
        let url = format!("{}{DATABASE}", instance.url);
        let (user, password) = (USER.into(), PASSWORD.into());
        Self { instance: Some(instance), url, user, password }
    }

    /// A database that somebody has made for this, and whose user may do everything in it.
    pub fn theirs(url: Url) -> Self {
        let (user, password) = (url.username().to_owned(), url.password().unwrap_or_default());
        let password = password.to_owned();
        Self { instance: None, user, password, url: url.into() }
    }
}

/// A database of somebody's own.
#[expect(clippy::disallowed_methods, reason = "people speak to tests by their environment")]
pub fn given_url() -> Option<Url> {
    let url = std::env::var("ORCHESTRATOR_NEMESIS_URL").ok()?;
    Some(
        Url::parse(&url)
            .expect("ORCHESTRATOR_NEMESIS_URL is mysql://USER:PASSWORD@HOST:PORT/DATABASE"),
    )
}
