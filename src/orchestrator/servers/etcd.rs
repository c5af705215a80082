//! etcd.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{TlsFiles, address, parsed, patience, place, secret, words};
use crate::{adapters::etcd, ports::lock::LockError};

/// `provider: etcd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdLockConfig {
    /// `http://host:2379` or `https://`, of any members.
    #[serde(deserialize_with = "words")]
    pub endpoints: Vec<String>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub tls: TlsFiles,
    /// Stands before every key.
    pub key_prefix: String,
    /// For each answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for EtcdLockConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            user: None,
            password_file: None,
            tls: TlsFiles::default(),
            key_prefix: etcd::Settings::PREFIX.into(),
            timeout: etcd::Settings::TIMEOUT,
        }
    }
}

impl EtcdLockConfig {
    /// Which setting does not fit, and why.
    pub fn check(&self) -> Result<(), String> {
        if self.endpoints.is_empty() {
            return Err("etcd.endpoints names nobody".into());
        }
        for endpoint in &self.endpoints {
            address("etcd.endpoints", endpoint, &["http", "https"])?;
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err("etcd.user and etcd.password_file need each other".into());
        }
        self.tls.check("etcd")?;
        patience("etcd", self.timeout)
    }

    pub(in crate::orchestrator) fn servers(&self) -> Vec<(String, u16)> {
        self.endpoints.iter().filter_map(|url| place(url, 2_379)).collect()
    }

    /// What the provider is opened with. Reads the files.
    pub fn settings(&self) -> Result<etcd::Settings, LockError> {
        let endpoints = self.endpoints.iter().map(|endpoint| parsed(endpoint));
        let user = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => Some((user.clone(), secret(file)?)),
            _ => None,
        };
        Ok(etcd::Settings {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            user,
            ca: self.tls.ca()?,
            identity: self.tls.identity()?,
            prefix: self.key_prefix.clone(),
            timeout: self.timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let tls = TlsFiles { ca_file: Some("/nowhere/ca.pem".into()), ..TlsFiles::default() };
        let config = EtcdLockConfig { tls, ..EtcdLockConfig::default() };
        config.check().expect("it fits");
        let error = config.settings().expect_err("it is not there").to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_name() {
        let base = EtcdLockConfig::default;
        for (refused, says) in [
            (EtcdLockConfig { endpoints: Vec::new(), ..base() }, "etcd.endpoints"),
            (EtcdLockConfig { endpoints: vec!["db:2379".into()], ..base() }, "etcd.endpoints"),
            (EtcdLockConfig { user: Some("u".into()), ..base() }, "etcd.user"),
        ] {
            let why = refused.check().expect_err(says);
            assert!(why.starts_with(says), "{why}");
        }
    }
}
