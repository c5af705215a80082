//! Settings of HTTP steps: how long, how much, and which servers.
//!
//! **Invariant:** a rule that leaves this file means what its text says; one that cannot be
//! understood is refused, and never left out.

use std::time::Duration;

use super::{
    ConfigError, Surroundings,
    check::{self, GIB, KIB, MIB},
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

const HTTPS: u16 = 443;

pub(super) fn http(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Http, ConfigError> {
    let http = &settings.http;
    let body = |key, text: &str, range| {
        let bytes = check::size(origins, key, text, range)?;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    };
    Ok(Http {
        connect_timeout: check::duration(
            origins,
            "http.timeout.connect",
            &http.timeout.connect,
            Duration::from_millis(1)..=Duration::from_secs(60),
        )?,
        most_sent: body("http.body.sent", &http.body.sent, KIB..=64 * MIB)?,
        most_read: body("http.body.read", &http.body.read, KIB..=GIB)?,
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
