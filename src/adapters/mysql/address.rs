//! Where the database is and how it is spoken to: the URL, TLS, and what to say when nobody
//! answers there.
//!
//! **Invariant:** the password goes into the driver's options and nowhere else; no sentence made
//! here holds it.

use std::{fmt, str::FromStr, time::Duration};

use log::LevelFilter;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions,
    mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlSslMode},
};

use super::{errors::Fault, password::PasswordFile};

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// TLS with a certificate that names the host. A server on the loopback interface is spoken
    /// to without TLS.
    #[default]
    VerifyIdentity,
    /// TLS where the server offers it, unverified; else none.
    Insecure,
}

/// Prepared statements kept a connection. A busy lane of 10 slots uses about 60; the server has room
/// for 16,382 of everybody (`max_prepared_stmt_count`).
const STATEMENTS: usize = 128;

const EXAMPLE: &str = "mysql://user:password@host:3306/database";

/// How a pool of the program that uses this library connects.
#[derive(Clone)]
pub struct Given(Box<MySqlConnectOptions>);

impl Given {
    pub fn new(options: &MySqlConnectOptions) -> Self {
        Self(Box::new(options.clone()))
    }
}

impl Given {
    pub(super) fn of_url(url: &SecretString) -> Option<Self> {
        MySqlConnectOptions::from_str(url.expose_secret()).ok().map(|it| Self(Box::new(it)))
    }

    /// Host, without brackets, and port.
    pub(super) fn server(&self) -> (String, u16) {
        (self.0.get_host().trim_matches(['[', ']']).to_owned(), self.0.get_port())
    }
}

impl fmt::Debug for Given {
    /// They may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given(..)")
    }
}

/// A checked database URL.
#[derive(Clone)]
pub(super) struct Address {
    options: MySqlConnectOptions,
    password_file: Option<PasswordFile>,
    /// `host:port`, or the socket's path.
    server: String,
    user: String,
    database: String,
}

impl Address {
    pub fn try_new(
        url: &SecretString,
        password_file: Option<PasswordFile>,
        tls: Tls,
    ) -> Result<Self, Fault> {
        let url = url.expose_secret();
        let bad = |what: &str| {
            Fault::NotReady(format!("the database URL {what}; it should look like {EXAMPLE}"))
        };
        if !["mysql://", "mariadb://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(bad("does not begin with mysql://"));
        }
        let options = MySqlConnectOptions::from_str(url).map_err(|error| {
            bad(&format!(
                "cannot be read ({error}); write characters such as @ : / # ? % in a password as \
                 %40 %3A %2F %23 %3F %25"
            ))
        })?;
        Self::of_options(options, password_file, Some(tls)).ok_or_else(|| bad("names no database"))
    }

    /// With the TLS mode that it has already.
    pub fn of_given(given: &Given) -> Result<Self, Fault> {
        Self::of_options((*given.0).clone(), None, None)
            .ok_or_else(|| Fault::NotReady("the options of the pool name no database".into()))
    }

    /// `None`: they name no database.
    fn of_options(
        options: MySqlConnectOptions,
        password_file: Option<PasswordFile>,
        tls: Option<Tls>,
    ) -> Option<Self> {
        let database = options.get_database()?.to_owned();
        let host = options.get_host().trim_matches(['[', ']']).to_owned();
        let server = options.get_socket().map_or_else(
            || format!("{host}:{}", options.get_port()),
            |socket| socket.display().to_string(),
        );
        let is_local = options.get_socket().is_some() || is_loopback(&host);
        let user = options.get_username().to_owned();
        let options = match tls {
            Some(tls) => options.ssl_mode(ssl_mode(tls, is_local)),
            None => options,
        };
        let options = options
            .host(&host)
            .statement_cache_capacity(STATEMENTS)
            // The session is prepared by `session.rs` alone.
            .timezone(None)
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            // Without their values, and no statement is told from the others for being slow.
            .log_statements(LevelFilter::Trace)
            .log_slow_statements(LevelFilter::Off, Duration::MAX);
        Some(Self { options, password_file, server, user, database })
    }

    pub async fn connect(&self) -> Result<MySqlConnection, Fault> {
        let mut options = self.options.clone();
        if let Some(file) = &self.password_file {
            let password = file.read().await.map_err(|error| Fault::NotReady(error.to_string()))?;
            options = options.password(password.expose_secret());
        }
        options.connect().await.map_err(|error| self.why(error))
    }

    /// Why no connection came about, and what to do next.
    fn why(&self, error: sqlx::Error) -> Fault {
        let Self { server, user, database, .. } = self;
        let number = match &error {
            sqlx::Error::Database(inner) => {
                inner.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
            }
            _ => None,
        };
        match (number, &error) {
            (Some(1045 | 1698), _) => Fault::NotReady(format!(
                "the server at {server} refused user {user:?} or its password; {}",
                self.where_to_correct()
            )),
            (Some(1044), _) => Fault::NotReady(format!(
                "user {user:?} has no rights on database {database:?} at {server}; grant them"
            )),
            (Some(1049), _) => Fault::NotReady(format!(
                "there is no database {database:?} on the server at {server}; create it (CREATE \
                 DATABASE {database}) or name another in the database URL"
            )),
            (None, sqlx::Error::Io(inner)) if is_about_tls(inner) => self.no_tls(&inner),
            (None, sqlx::Error::Tls(inner)) => self.no_tls(inner),
            (None, sqlx::Error::Io(inner)) => Fault::Disconnected(format!(
                "{server} does not answer ({inner}); check that the server runs and that the \
                 database URL names it"
            )),
            _ => Fault::from(error),
        }
    }

    fn where_to_correct(&self) -> String {
        self.password_file.as_ref().map_or_else(
            || "correct them in the database URL".into(),
            |file| {
                let path = file.path().display();
                format!("correct the user in the database URL, or the password in {path}")
            },
        )
    }

    fn no_tls(&self, error: &impl std::fmt::Display) -> Fault {
        Fault::NotReady(format!(
            "no TLS with {}: {error}; name the authority's certificate with ?ssl-ca=FILE in the \
             database URL, or set database.tls to insecure",
            self.server
        ))
    }
}

/// rustls reports a bad certificate as invalid data on the socket.
fn is_about_tls(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

const fn ssl_mode(tls: Tls, is_local: bool) -> MySqlSslMode {
    match (tls, is_local) {
        (Tls::VerifyIdentity, true) => MySqlSslMode::Disabled,
        (Tls::VerifyIdentity, false) => MySqlSslMode::VerifyIdentity,
        (Tls::Insecure, _) => MySqlSslMode::Preferred,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, Fault> {
        Address::try_new(&SecretString::from(url), None, Tls::VerifyIdentity)
    }

    #[test]
    fn a_url_that_cannot_be_used_is_told_so_without_its_password() {
        for (url, says) in [
            ("postgres://u:hush@h/d", "does not begin with mysql://"),
            ("mysql://u:hush@h", "names no database"),
            ("mysql://u:hush@h:port/d", "cannot be read"),
            ("mysql://u:hu#sh@h/d", "%23"),
            ("", "does not begin with mysql://"),
        ] {
            let Err(Fault::NotReady(text)) = address(url) else { panic!("{url} was taken") };
            assert!(text.contains(says) && text.contains(EXAMPLE), "{text}");
            assert!(!text.contains("hu"), "{text}");
        }
    }

    #[test]
    fn identity_is_verified_but_on_loopback() {
        for (host, mode) in [
            ("db.example.org", "VerifyIdentity"),
            ("10.0.0.1", "VerifyIdentity"),
            ("127.0.0.1", "Disabled"),
            ("[::1]", "Disabled"),
            ("localhost:3307", "Disabled"),
        ] {
            let address = address(&format!("mysql://u@{host}/d")).expect("a good address");
            assert_eq!(format!("{:?}", address.options.get_ssl_mode()), mode, "{host}");
        }
        assert!(matches!(ssl_mode(Tls::Insecure, false), MySqlSslMode::Preferred));
    }

    #[test]
    fn a_url_cannot_weaken_what_the_setting_says() {
        let address = address("mysql://u@db.example.org/d?ssl-mode=DISABLED").expect("an address");
        assert!(matches!(address.options.get_ssl_mode(), MySqlSslMode::VerifyIdentity));
    }
}
