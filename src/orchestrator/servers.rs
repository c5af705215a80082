//! The settings of locks that are kept in a server of their own, as they stand in a file.
//!
//! **Invariant:** no secret stands in a configuration, which may be shown and written: it names the files
//! that have them, which are read when the provider is opened.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::ports::lock::LockError;

#[cfg(feature = "etcd")]
pub(super) mod etcd;
#[cfg(feature = "redis")]
pub(super) mod redis;

/// Files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFiles {
    /// Of those who may have signed the servers' certificates; else the system's own are trusted.
    pub ca_file: Option<PathBuf>,
    /// What is shown to servers that ask for it, with its key.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl TlsFiles {
    fn check(&self, of: &str) -> Result<(), String> {
        if self.certificate_file.is_some() == self.key_file.is_some() {
            return Ok(());
        }
        Err(format!("{of}.tls.certificate_file and {of}.tls.key_file need each other"))
    }

    fn ca(&self) -> Result<Vec<u8>, LockError> {
        self.ca_file.as_deref().map_or(Ok(Vec::new()), |file| Ok(text(file)?.into_bytes()))
    }

    fn identity(&self) -> Result<Option<(Vec<u8>, SecretString)>, LockError> {
        let (Some(certificate), Some(key)) = (&self.certificate_file, &self.key_file) else {
            return Ok(None);
        };
        Ok(Some((text(certificate)?.into_bytes(), text(key)?.into())))
    }
}

fn address(setting: &str, url: &str, schemes: &[&str]) -> Result<(), String> {
    // What is in it is not shown: it may hold a password.
    let url = Url::parse(url).map_err(|why| format!("{setting} is no URL: {why}"))?;
    if !schemes.contains(&url.scheme()) {
        return Err(format!(
            "{setting} begins with {}; give {}",
            url.scheme(),
            schemes.join(" or ")
        ));
    }
    if url.password().is_some() {
        return Err(format!("{setting} has a password in it; name a file that has it instead"));
    }
    Ok(())
}

fn patience(of: &str, timeout: Duration) -> Result<(), String> {
    let fits = Duration::from_millis(100)..=Duration::from_secs(60);
    if fits.contains(&timeout) {
        return Ok(());
    }
    Err(format!("{of}.timeout is {timeout:?}; give between 100ms and 1m"))
}

/// A list, or a text with commas between its items, as a variable has it.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "give a list, or a text with commas between its items")]
    enum Words {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Words::deserialize(from)? {
        Words::List(all) => all,
        Words::Text(text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(str::to_owned).collect()
        }
    })
}

/// Where a URL leads to; nowhere if it cannot be read.
fn place(url: &str, port: u16) -> Option<(String, u16)> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    Some((host.to_owned(), url.port_or_known_default().unwrap_or(port)))
}

fn parsed(url: &str) -> Result<Url, LockError> {
    Url::parse(url).map_err(|error| LockError::NotReady(error.to_string()))
}

/// Without the line's end that editors put there.
fn secret(file: &Path) -> Result<SecretString, LockError> {
    Ok(text(file)?.trim_end_matches(['\r', '\n']).into())
}

fn text(file: &Path) -> Result<String, LockError> {
    fs::read_to_string(file)
        .map_err(|error| LockError::NotReady(format!("{} cannot be read: {error}", file.display())))
}
