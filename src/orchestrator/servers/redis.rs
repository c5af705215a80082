//! Redis.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{TlsFiles, address, parsed, patience, place, secret, words};
use crate::{adapters::redis, ports::lock::LockError};

/// `provider: redis`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisLockConfig {
    /// `redis://user@host:port/database`, or `rediss://` for TLS. Its host is not used where there are
    /// sentinels.
    pub url: String,
    pub password_file: Option<PathBuf>,
    /// Who is asked for the master, as [`Self::url`] without a database; any number.
    #[serde(deserialize_with = "words")]
    pub sentinels: Vec<String>,
    pub sentinel_password_file: Option<PathBuf>,
    /// What the sentinels call the master.
    pub master: String,
    pub tls: TlsFiles,
    /// Stands before every key.
    pub key_prefix: String,
    /// For a connection, and for each answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for RedisLockConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379/".into(),
            password_file: None,
            sentinels: Vec::new(),
            sentinel_password_file: None,
            master: "mymaster".into(),
            tls: TlsFiles::default(),
            key_prefix: redis::Settings::PREFIX.into(),
            timeout: redis::Settings::TIMEOUT,
        }
    }
}

impl RedisLockConfig {
    /// Which setting does not fit, and why.
    pub fn check(&self) -> Result<(), String> {
        let schemes = ["redis", "rediss"];
        address("redis.url", &self.url, &schemes)?;
        for sentinel in &self.sentinels {
            address("redis.sentinels", sentinel, &schemes)?;
        }
        self.tls.check("redis")?;
        patience("redis", self.timeout)
    }

    pub(in crate::orchestrator) fn servers(&self) -> Vec<(String, u16)> {
        let sentinels = self.sentinels.iter().filter_map(|url| place(url, 26_379));
        place(&self.url, 6_379).into_iter().chain(sentinels).collect()
    }

    /// What the provider is opened with. Reads the files.
    pub fn settings(&self) -> Result<redis::Settings, LockError> {
        let url = with_password(&self.url, self.password_file.as_deref())?;
        let sentinels = (self.sentinels.iter())
            .map(|url| with_password(url, self.sentinel_password_file.as_deref()))
            .collect::<Result<Vec<_>, _>>()?;
        let sentinels = redis::Sentinels { urls: sentinels, master: self.master.clone() };
        Ok(redis::Settings {
            url,
            sentinels: Some(sentinels).filter(|sentinels| !sentinels.urls.is_empty()),
            ca: self.tls.ca()?,
            identity: self.tls.identity()?,
            prefix: self.key_prefix.clone(),
            timeout: self.timeout,
        })
    }
}

fn with_password(url: &str, file: Option<&Path>) -> Result<SecretString, LockError> {
    let Some(file) = file else { return Ok(url.into()) };
    let mut url = parsed(url)?;
    let set = url.set_password(Some(secret(file)?.expose_secret()));
    set.map_err(|()| LockError::NotReady("its address takes no password".into()))?;
    Ok(String::from(url).into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn secrets_come_from_files_and_are_shown_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        fs::write(&file, "p@ss word\n").expect("it can be written");
        let config = RedisLockConfig {
            url: "redis://worker@db:6379/2".into(),
            password_file: Some(file),
            ..RedisLockConfig::default()
        };
        config.check().expect("it fits");
        let settings = config.settings().expect("the file is there");
        assert_eq!(settings.url.expose_secret(), "redis://worker:p%40ss%20word@db:6379/2");
        assert!(settings.sentinels.is_none());
        assert_eq!(config.servers(), [("db".to_owned(), 6_379)]);
        let shown = format!("{config:?} {settings:?}");
        assert!(!shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_name() {
        let tls = TlsFiles { key_file: Some("k".into()), ..TlsFiles::default() };
        let base = RedisLockConfig::default;
        for (refused, says) in [
            (RedisLockConfig { url: "redis://:secret@h/".into(), ..base() }, "redis.url"),
            (RedisLockConfig { url: "h:6379".into(), ..base() }, "redis.url"),
            (RedisLockConfig { sentinels: vec!["http://h".into()], ..base() }, "redis.sentinels"),
            (RedisLockConfig { tls, ..base() }, "redis.tls"),
            (RedisLockConfig { timeout: Duration::ZERO, ..base() }, "redis.timeout"),
        ] {
            let why = refused.check().expect_err(says);
            assert!(why.starts_with(says) && !why.contains("secret"), "{why}");
        }
    }
}
