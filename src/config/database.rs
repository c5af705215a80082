//! Which database: from a URL, or from the variables of the Go service.
//!
//! **Invariant:** what leaves this file as a URL is one that a store can open, and no text in here
//! that is shown holds a password.

use std::{fmt, path::PathBuf};

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    ConfigError, Surroundings, check,
    layers::{Layers, Origins},
};
use crate::domain::lock_table::LockTable;

/// Where executions are kept.
#[derive(Clone, Debug)]
pub enum Store {
    Sqlite(Sqlite),
    MySql(MySql),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sqlite {
    File {
        path: PathBuf,
        /// Nobody named it.
        by_default: bool,
    },
    /// Gone with the process.
    Memory,
}

#[derive(Clone, Debug)]
pub struct MySql {
    pub url: SecretString,
    /// Holds the password, which is not in the URL then.
    pub password_file: Option<PathBuf>,
    /// `host:port/name`, for people.
    pub server: String,
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub lease_lanes: usize,
    pub work_lanes: usize,
    pub time_offset: String,
    pub single_writer: bool,
    pub lock_table: LockTable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// The server must show a certificate for its name; a server on this host need not.
    VerifyIdentity,
    /// The user has waived that by name.
    Insecure,
}

impl fmt::Display for Store {
    /// For people: never a user or a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(Sqlite::File { path, .. }) => write!(f, "SQLite file {}", path.display()),
            Self::Sqlite(Sqlite::Memory) => f.write_str("SQLite in memory"),
            Self::MySql(mysql) => write!(f, "MySQL {}", mysql.server),
        }
    }
}

const KEY: &str = "database.url";
const LOCK_TABLE: &str = "lock.table";
const PASSWORD_FILE: &str = "database.password_file";

pub(super) fn store(layers: &Layers, around: &Surroundings) -> Result<Store, ConfigError> {
    let store = any_store(layers, around)?;
    if let Store::Sqlite(_) = store {
        usual_lock_table(layers)?;
    }
    Ok(store)
}

fn any_store(layers: &Layers, around: &Surroundings) -> Result<Store, ConfigError> {
    let Some(text) = layers.settings.database.url.as_deref() else {
        if layers.settings.database.password_file.is_some() {
            let problem = "is the password of a database that nobody names; set database.url too";
            return Err(ConfigError::invalid(&layers.origins, PASSWORD_FILE, problem));
        }
        if around.in_pod() {
            return Err(ConfigError::NoDatabase);
        }
        let path = around.directory.join("orchestrator.db");
        return Ok(Store::Sqlite(Sqlite::File { path, by_default: true }));
    };
    let invalid = |problem: &str| ConfigError::invalid(&layers.origins, KEY, problem);
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "memory" => Ok(Store::Sqlite(Sqlite::Memory)),
        "sqlite" => sqlite(text).map(Store::Sqlite).map_err(invalid),
        "mysql" | "mariadb" => mysql(text, layers).map(Store::MySql),
        "" => Err(invalid(
            "has no scheme; give mysql://USER:PASSWORD@HOST:3306/NAME, sqlite://PATH or memory:",
        )),
        other => Err(invalid(&format!(
            "begins with {other:?}, a kind of store that this version does not know; give \
             mysql://USER:PASSWORD@HOST:3306/NAME, sqlite://PATH or memory:"
        ))),
    }
}

fn sqlite(text: &str) -> Result<Sqlite, &'static str> {
    let rest = text.strip_prefix("sqlite:").unwrap_or(text);
    let path = rest.strip_prefix("//").unwrap_or(rest);
    match path {
        ":memory:" => Ok(Sqlite::Memory),
        "" => Err("names no file; give sqlite://PATH, such as sqlite://orchestrator.db"),
        path if path.contains('?') => {
            Err("has parameters (?), which an SQLite file does not take; give sqlite://PATH alone")
        }
        path => Ok(Sqlite::File { path: path.into(), by_default: false }),
    }
}

fn mysql(text: &str, layers: &Layers) -> Result<MySql, ConfigError> {
    let (database, origins) = (&layers.settings.database, &layers.origins);
    let url = mysql_url(text).map_err(|problem| ConfigError::invalid(origins, KEY, problem))?;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port().unwrap_or(DEFAULT_PORT));
    let name = url.path().trim_start_matches('/');
    Ok(MySql {
        server: format!("{host}:{port}/{name}"),
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        password_file: password_file(&url, layers)?,
        tls: tls(&database.tls, origins)?,
        url: SecretString::from(url.to_string()),
        lease_lanes: check::number(origins, "database.pool.lease", database.pool.lease, 1..=64)?,
        work_lanes: check::number(origins, "database.pool.work", database.pool.work, 1..=64)?,
        time_offset: time_offset(&database.time_offset, origins)?,
        single_writer: database.single_writer,
        lock_table: lock_table(layers)?,
    })
}

const DEFAULT_PORT: u16 = 3306;

fn mysql_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| {
        "is not a URL of the form mysql://USER:PASSWORD@HOST:3306/NAME; write special characters \
         of the password as percent codes (%40 for @, %23 for #, %2F for /)"
    })?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host; give mysql://USER:PASSWORD@HOST:3306/NAME");
    }
    if url.fragment().is_some() {
        return Err("holds a '#'; write it as %23");
    }
    match url.path().trim_start_matches('/') {
        "" => Err("names no database; give mysql://USER:PASSWORD@HOST:3306/NAME"),
        name if name.contains('/') => Err("names a path where one database is expected: .../NAME"),
        _ => Ok(url),
    }
}

/// One password too many is refused: nobody could say which one counts.
fn password_file(url: &Url, layers: &Layers) -> Result<Option<PathBuf>, ConfigError> {
    let Some(path) = &layers.settings.database.password_file else { return Ok(None) };
    let invalid = |problem: String| ConfigError::invalid(&layers.origins, PASSWORD_FILE, problem);
    if path.is_empty() || path.contains('\0') {
        return Err(invalid(format!("is {path:?}; give the path of a file")));
    }
    if url.password().is_some_and(|password| !password.is_empty()) {
        let holder = match layers.origins.name(KEY) {
            Some(variable) if variable.starts_with("DB_") => "DB_PASSWORD".into(),
            _ => format!("{KEY} ({})", layers.origins.of(KEY)),
        };
        return Err(invalid(format!(
            "names a file with the password, and {holder} holds one too; take one of them away"
        )));
    }
    Ok(Some(path.into()))
}

fn lock_table(layers: &Layers) -> Result<LockTable, ConfigError> {
    let name = &layers.settings.lock.table;
    LockTable::try_new(name).map_err(|error| {
        ConfigError::invalid(&layers.origins, LOCK_TABLE, format!("is {name:?}; {error}"))
    })
}

/// Nobody but this program has tables in an SQLite file.
fn usual_lock_table(layers: &Layers) -> Result<(), ConfigError> {
    if lock_table(layers)?.is_usual() {
        return Ok(());
    }
    let problem = "is of MySQL databases, and this is an SQLite one; leave it out";
    Err(ConfigError::invalid(&layers.origins, LOCK_TABLE, problem))
}

fn tls(word: &str, origins: &Origins) -> Result<Tls, ConfigError> {
    match word {
        "verify_identity" => Ok(Tls::VerifyIdentity),
        "insecure" => Ok(Tls::Insecure),
        other => {
            let problem = format!("is {other:?}; give verify_identity or insecure");
            Err(ConfigError::invalid(origins, "database.tls", problem))
        }
    }
}

fn time_offset(text: &str, origins: &Origins) -> Result<String, ConfigError> {
    let valid = || {
        let (hours, minutes) = text.strip_prefix(['+', '-'])?.split_once(':')?;
        let two = |part: &str, most| {
            part.len() == 2 && part.parse::<u8>().is_ok_and(|number| number <= most)
        };
        (two(hours, 13) && two(minutes, 59) || text == "+14:00").then_some(())
    };
    if valid().is_some() {
        return Ok(text.into());
    }
    let problem = format!("is {text:?}; give hours and minutes, such as +08:00");
    Err(ConfigError::invalid(origins, "database.time_offset", problem))
}

/// `DATABASE_URL`, or `DB_*` made into one; with the variable that it came from.
pub(super) fn from_environment(
    around: &Surroundings,
) -> Result<Option<(&'static str, String)>, ConfigError> {
    let parts = Parts::read(around)?;
    match (around.var("DATABASE_URL"), parts.first()) {
        (None, None) => Ok(None),
        (Some(url), None) => Ok(Some(("DATABASE_URL", url.into()))),
        (None, Some(variable)) => parts.to_url(variable).map(|url| Some((variable, url))),
        (Some(url), Some(variable)) => match parts.disagrees_with(url, variable) {
            Some(variable) => Err(ConfigError::Disagreement { variable }),
            None => Ok(Some(("DATABASE_URL", url.into()))),
        },
    }
}

/// The variables of the Go service.
struct Parts<'a> {
    host: Option<&'a str>,
    port: Option<u16>,
    user: Option<&'a str>,
    password: Option<SecretString>,
    name: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn read(around: &'a Surroundings) -> Result<Self, ConfigError> {
        // Kubernetes sets DB_PORT=tcp://... for a service named "db": that is none of these.
        let port = around.var("DB_PORT").filter(|text| !text.contains("://")).map(|text| {
            text.parse().map_err(|_| ConfigError::Invalid {
                key: "DB_PORT".into(),
                origin: "from the environment".into(),
                problem: format!("is {text:?}; give a port such as 3306"),
            })
        });
        Ok(Self {
            host: around.var("DB_HOST"),
            port: port.transpose()?,
            user: around.var("DB_USER"),
            password: around.var("DB_PASSWORD").map(SecretString::from),
            name: around.var("DB_NAME"),
        })
    }

    /// The first of them that is set.
    fn first(&self) -> Option<&'static str> {
        [
            ("DB_HOST", self.host.is_some()),
            ("DB_NAME", self.name.is_some()),
            ("DB_USER", self.user.is_some()),
            ("DB_PASSWORD", self.password.is_some()),
            ("DB_PORT", self.port.is_some()),
        ]
        .into_iter()
        .find_map(|(variable, set)| set.then_some(variable))
    }

    fn to_url(&self, variable: &'static str) -> Result<String, ConfigError> {
        let need = |part: Option<&'a str>, missing| {
            part.ok_or(ConfigError::Incomplete { variable, missing })
        };
        let (host, user) = (need(self.host, "DB_HOST")?, need(self.user, "DB_USER")?);
        let name = need(self.name, "DB_NAME")?;
        let bad_host = || ConfigError::Invalid {
            key: "DB_HOST".into(),
            origin: "from the environment".into(),
            problem: format!("is {host:?}; give a host's name or address, without a port"),
        };
        let mut url = Url::parse("mysql://host/").expect("a constant");
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.into() };
        url.set_host(Some(&bracketed)).map_err(|_| bad_host())?;
        url.set_port(Some(self.port.unwrap_or(DEFAULT_PORT))).map_err(|()| bad_host())?;
        url.set_username(user).map_err(|()| bad_host())?;
        url.set_password(self.password.as_ref().map(ExposeSecret::expose_secret))
            .map_err(|()| bad_host())?;
        url.path_segments_mut().map_err(|()| bad_host())?.clear().push(name);
        Ok(url.into())
    }

    /// The first variable that says something else than the URL.
    fn disagrees_with(&self, url: &str, first: &'static str) -> Option<&'static str> {
        let Ok(url) = mysql_url(url) else { return Some(first) };
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let differs = |part: Option<&str>, there: &str| part.is_some_and(|p| p != plain(there));
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port().unwrap_or(DEFAULT_PORT);
        let password = self.password.as_ref().map(ExposeSecret::expose_secret);
        [
            ("DB_HOST", differs(self.host, host)),
            ("DB_PORT", self.port.is_some_and(|own| own != port)),
            ("DB_USER", differs(self.user, url.username())),
            ("DB_PASSWORD", differs(password, url.password().unwrap_or_default())),
            ("DB_NAME", differs(self.name, url.path().trim_start_matches('/'))),
        ]
        .into_iter()
        .find_map(|(variable, differs)| differs.then_some(variable))
    }
}
