//! Whether spans arrive where they are to be sent.

use super::Finding;

/// What became of a trial connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Export {
    /// Nothing asks for it.
    Off,
    /// The server takes connections.
    Reached(String),
    /// It does not, or there is none: the server's name and the reason.
    Unreached(String, String),
}

/// The server that keeps leases in place of the lock table; without it nothing is claimed.
pub fn leases(provider: &str, answer: &Result<(), String>) -> Finding {
    match answer {
        Ok(()) => Finding::ok("leases", format!("kept in {provider}, which answers")),
        Err(reason) => Finding::problem(
            "leases",
            format!("kept in {provider}, which cannot be used: {reason}"),
            format!("start it, or correct lock.{provider}"),
        ),
    }
}

/// A collector that is away stops no work.
pub fn export(export: &Export) -> Finding {
    match export {
        Export::Off => Finding::ok("otlp", "off: no OTEL_EXPORTER_OTLP_ENDPOINT is set"),
        Export::Reached(server) => Finding::ok("otlp", format!("{server} takes connections")),
        Export::Unreached(server, reason) => Finding::warning(
            "otlp",
            format!("{server} does not take connections ({reason}): spans are lost"),
            "start the collector there, or correct OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    }
}
