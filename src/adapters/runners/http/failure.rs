//! Why a request has no answer.
//!
//! **Invariant:** each is one sentence that names the phase and the server. None holds a path, a
//! query, a header or a credential: any of them may be a secret.

use std::{error::Error, io, net::IpAddr, time::Duration};

use crate::domain::egress::{Owned, Refusal};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the body has {bytes} bytes, and at most {most} are sent (http.body.sent)")]
    BodyTooLong { bytes: usize, most: usize },
    #[error("cannot look up {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("cannot look up {host}: it has no address")]
    NoAddress { host: String },
    #[error(
        "cannot tell {server} from {what}, which no step may call: looking up {host}: {source}"
    )]
    OwnLookup { server: String, what: Owned, host: String, source: io::Error },
    #[error("may not call {server}: {address} {refusal}")]
    Refused { server: String, address: IpAddr, refusal: Refusal },
    #[error("cannot look up {host} within {within:?} (http.timeout.connect)")]
    LookupTimeout { host: String, within: Duration },
    #[error("cannot connect to {server}: {source}")]
    Connect { server: String, source: io::Error },
    #[error("cannot connect to {server} within {within:?} (http.timeout.connect)")]
    ConnectTimeout { server: String, within: Duration },
    #[error("cannot open TLS to {server}: {source}{}", if *.no_roots { NO_ROOTS } else { "" })]
    Tls { server: String, source: io::Error, no_roots: bool },
    #[error("cannot open TLS to {server} within {within:?} (http.timeout.connect)")]
    TlsTimeout { server: String, within: Duration },
    #[error("cannot send a request to {server}: {problem}")]
    Unsendable { server: String, problem: String },
    #[error("{server} gave no answer: {}", chain(.source))]
    NoAnswer { server: String, source: hyper::Error },
    #[error("the answer of {server} broke off: {}", chain(.source))]
    BrokenOff { server: String, source: hyper::Error },
    #[error("{server} redirects to something that is no http or https URL")]
    Redirect { server: String },
    #[error("redirected more than {most} times, at last by {server}")]
    TooManyRedirects { server: String, most: usize },
    #[error("{failure} (redirected there by {by})")]
    Redirected { failure: Box<Failure>, by: String },
}

const NO_ROOTS: &str = "; this machine has no CA certificates: install ca-certificates, or name a file in SSL_CERT_FILE";

/// An error and what caused it, in one line.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
