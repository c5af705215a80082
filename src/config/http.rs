//! Settings of HTTP steps: how long, how much, and which servers.
//!
//! **Invariant:** a rule that leaves this file means what its text says; one that cannot be
//! understood is refused, and never left out.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    ConfigError, Surroundings, check,
    layers::Origins,
    settings::{Names, Settings},
};
use crate::domain::egress::{Policy, Rule};

/// Settings of HTTP steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    pub connect_timeout: Duration,
    /// Bytes of a body that may be sent.
    pub most_sent: usize,
    /// Bytes of an answer's body that are read.
    pub most_read: usize,
    pub policy: Policy,
    /// Name or address and port of the Kubernetes API server, where this is a pod.
    pub api_server: Option<(String, u16)>,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const HTTPS: u16 = 443;

pub(super) fn http(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Http, ConfigError> {
    let http = &settings.http;
    Ok(Http {
        connect_timeout: check::duration(
            origins,
            "http.timeout.connect",
            &http.timeout.connect,
            Duration::from_millis(1)..=Duration::from_secs(60),
        )?,
        most_sent: size(origins, "http.body.sent", &http.body.sent, KIB..=64 * MIB)?,
        most_read: size(origins, "http.body.read", &http.body.read, KIB..=1024 * MIB)?,
        policy: Policy {
            allow: rules(origins, "http.allow", http.allow.as_ref())?,
            deny: rules(origins, "http.deny", http.deny.as_ref())?,
            deny_private: http.deny_private,
            in_pod: around.in_pod(),
        },
        api_server: around.var("KUBERNETES_SERVICE_HOST").map(|host| {
            let port = around.var("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok());
            (host.to_owned(), port.unwrap_or(HTTPS))
        }),
    })
}

fn rules(origins: &Origins, key: &str, texts: Option<&Names>) -> Result<Vec<Rule>, ConfigError> {
    let parse = |text: String| {
        text.parse().map_err(|error| {
            ConfigError::invalid(origins, key, format!("holds {text:?}, which {error}"))
        })
    };
    texts.map(Names::to_list).unwrap_or_default().into_iter().map(parse).collect()
}

fn size(
    origins: &Origins,
    key: &str,
    text: &str,
    range: RangeInclusive<usize>,
) -> Result<usize, ConfigError> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim_start() {
        "" | "B" => Some(1),
        "KiB" => Some(KIB),
        "MiB" => Some(MIB),
        _ => None,
    };
    let bytes = digits.parse().ok().zip(unit).and_then(|(n, unit): (usize, _)| n.checked_mul(unit));
    let Some(bytes) = bytes else {
        let problem = format!("is {text:?}; give a number of bytes, such as 65536, 512KiB or 8MiB");
        return Err(ConfigError::invalid(origins, key, problem));
    };
    if range.contains(&bytes) {
        return Ok(bytes);
    }
    let problem = format!(
        "is {text}; it must be between {}KiB and {}MiB",
        range.start() / KIB,
        range.end() / MIB
    );
    Err(ConfigError::invalid(origins, key, problem))
}
