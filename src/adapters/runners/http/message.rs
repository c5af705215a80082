//! The request as it is sent.
//!
//! **Invariant:** a header that the step sets is sent as it is; the worker adds only what is
//! missing, and what belongs to the connection.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header, uri};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use url::Url;

use super::redirect::Hop;
use crate::{domain::request, ports::runner::Attempt};

/// Of the trace, what a server is told; the rest is nobody's business out there.
const TRACE: [&str; 2] = ["TRACEPARENT", "TRACESTATE"];
const USER_AGENT: &str = concat!("orchestrator-worker/", env!("CARGO_PKG_VERSION"));
/// Of a body without a type.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the step asks for. A user and a password in its URL become a header.
pub fn first_hop(request: &request::Request) -> Hop {
    let (mut url, mut headers) = (request.url.clone(), request.headers.clone());
    let credentials = take_credentials(&mut url);
    let body = request.body.clone().map(Bytes::from).unwrap_or_default();
    if let Some(credentials) = credentials {
        headers.entry(header::AUTHORIZATION).or_insert(credentials);
    }
    if !body.is_empty() {
        headers.entry(header::CONTENT_TYPE).or_insert(JSON);
    }
    Hop { method: request.method.clone(), url, headers, body, is_the_effect: true }
}

/// Takes the user and the password out of a URL.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let (user, password) = (plain(url.username()), plain(url.password().unwrap_or_default()));
    if user.is_empty() && password.is_empty() {
        return None;
    }
    url.set_username("").and_then(|()| url.set_password(None)).expect("its URL has a host");
    let basic = BASE64_STANDARD.encode([&user, &b":"[..], &password].concat());
    let mut value = HeaderValue::try_from(format!("Basic {basic}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The message for one server.
///
/// # Errors
///
/// Says what cannot be written as a message; of a checked request nothing.
pub fn message(
    attempt: &Attempt,
    hop: &Hop,
    is_http2: bool,
) -> Result<Request<Full<Bytes>>, String> {
    let mut headers = hop.headers.clone();
    add_missing(&mut headers, attempt);
    let host = headers.remove(header::HOST);
    let host = host.map_or_else(|| authority(&hop.url), |own| own.as_bytes().to_owned());
    let has_meaning = [Method::POST, Method::PUT, Method::PATCH].contains(&hop.method);
    if has_meaning || !hop.body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, hop.body.len().into());
    }
    let mut uri = uri::Builder::new().path_and_query(path_and_query(&hop.url));
    if is_http2 {
        uri = uri.scheme(hop.url.scheme()).authority(&*host);
    } else {
        let host = HeaderValue::from_bytes(&host).map_err(|error| error.to_string())?;
        headers.insert(header::HOST, host);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let uri = uri.build().map_err(|error| error.to_string())?;
    let mut message = Request::new(Full::new(hop.body.clone()));
    *message.method_mut() = hop.method.clone();
    *message.uri_mut() = uri;
    *message.headers_mut() = headers;
    Ok(message)
}

/// Who asks, under which key, fence and attempt, and the trace.
fn add_missing(headers: &mut HeaderMap, attempt: &Attempt) {
    let own = [
        ("accept", "*/*".to_owned()),
        ("user-agent", USER_AGENT.to_owned()),
        ("idempotency-key", attempt.idempotency_key.clone()),
        ("orchestrator-fence", attempt.fence.to_string()),
        ("orchestrator-attempt", attempt.number.to_string()),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    let trace = attempt.trace.clone().into_iter().filter(|(name, _)| TRACE.contains(&&**name));
    for (name, value) in own.into_iter().chain(trace) {
        let name = HeaderName::try_from(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.entry(name).or_insert(value);
        }
    }
}

/// Host, and the port unless it is the scheme's own.
fn authority(url: &Url) -> Vec<u8> {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")).into_bytes()
}

fn path_and_query(url: &Url) -> String {
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}
