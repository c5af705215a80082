//! What an HTTP step asks for.
//!
//! **Invariant:** a [`Request`] was read from a hostile row and can be sent as it stands: its URL
//! names a host over http or https, and neither its method, its URL nor its headers can end the
//! line that they stand in. What may be a secret is not shown by `Debug` or in an error.

use std::{fmt, str::FromStr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::Authority};
use url::Url;

/// Most bytes of a URL in its written form, percent codes included.
pub const LONGEST_URL: usize = 16 * 1024;
/// Most headers of a step.
pub const MOST_HEADERS: usize = 100;

/// Headers that belong to a connection and not to what is asked for. The worker writes them itself;
/// those of a step are left out, as the orchestrator leaves them out.
const OF_THE_CONNECTION: [HeaderName; 10] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A checked request.
#[derive(Clone, PartialEq)]
pub struct Request {
    pub method: Method,
    /// Without a fragment. A user and a password in it are credentials for its host.
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<String>,
}

/// Why what is recorded is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("its http_url is empty")]
    NoUrl,
    #[error("its http_url is of the kind {0:?}; only http:// and https:// can be called")]
    Scheme(String),
    #[error("its http_url is not a URL: {0}")]
    Url(String),
    #[error("its http_method is {0:?}; give one such as GET or POST")]
    Method(String),
    #[error("its http_headers name {0:?}, which cannot name a header")]
    HeaderName(String),
    #[error("its http_headers give {0:?} a value that this header may not have")]
    HeaderValue(String),
    #[error("its http_headers name {0:?} twice")]
    HeaderTwice(String),
    #[error("its http_headers are {0}; at most {MOST_HEADERS} can be sent")]
    TooManyHeaders(usize),
}

impl Request {
    /// From the columns of a row. '' and null stand for none.
    pub fn try_new(
        method: Option<&str>,
        url: Option<&str>,
        headers: &[(String, String)],
        body: Option<&str>,
    ) -> Result<Self, RequestError> {
        Ok(Self {
            method: parse_method(method.unwrap_or_default())?,
            url: parse_url(url.unwrap_or_default())?,
            headers: parse_headers(headers)?,
            body: body.filter(|text| !text.is_empty()).map(str::to_owned),
        })
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("server", &self.url.origin().ascii_serialization())
            .field("headers", &self.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>())
            .field("body_bytes", &self.body.as_ref().map(String::len))
            .finish_non_exhaustive()
    }
}

/// The usual methods in any case; others as they are written.
fn parse_method(text: &str) -> Result<Method, RequestError> {
    if text.is_empty() {
        return Ok(Method::GET);
    }
    let upper = text.to_ascii_uppercase();
    let usual = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    let text = if usual.contains(&upper.as_str()) { &upper } else { text };
    // CONNECT asks a proxy for a tunnel.
    Method::from_str(text)
        .ok()
        .filter(|method| *method != Method::CONNECT)
        .ok_or_else(|| RequestError::Method(text.to_owned()))
}

/// A URL that can be called, without its fragment.
pub fn parse_url(text: &str) -> Result<Url, RequestError> {
    if text.trim().is_empty() {
        return Err(RequestError::NoUrl);
    }
    // The parser would leave these out or read another, and call what nobody wrote.
    if text.contains(|c: char| c.is_control() || c == '\\') {
        return Err(bad_url("it holds a control character or a backslash"));
    }
    let Some((scheme, _)) = text.split_once("://") else {
        return Err(bad_url("it does not begin with http:// or https://"));
    };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(RequestError::Scheme(scheme.chars().take(20).collect()));
    }
    let mut url = Url::parse(text).map_err(|error| bad_url(error.to_string()))?;
    url.set_fragment(None);
    if url.as_str().len() > LONGEST_URL {
        return Err(bad_url(format!("it is longer than {LONGEST_URL} bytes")));
    }
    Uri::from_str(url.as_str()).map_err(|error| bad_url(error.to_string()))?;
    Ok(url)
}

fn bad_url(problem: impl Into<String>) -> RequestError {
    RequestError::Url(problem.into())
}

fn parse_headers(headers: &[(String, String)]) -> Result<HeaderMap, RequestError> {
    if headers.len() > MOST_HEADERS {
        return Err(RequestError::TooManyHeaders(headers.len()));
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let header =
            HeaderName::from_str(name).map_err(|_| RequestError::HeaderName(name.clone()))?;
        let mut value = HeaderValue::from_bytes(value.trim_matches([' ', '\t']).as_bytes())
            .map_err(|_| RequestError::HeaderValue(name.clone()))?;
        // Whatever its name, it may be somebody's key.
        value.set_sensitive(true);
        if OF_THE_CONNECTION.contains(&header) {
            continue;
        }
        if header == header::HOST && !is_host(&value) {
            return Err(RequestError::HeaderValue(name.clone()));
        }
        if map.insert(header, value).is_some() {
            return Err(RequestError::HeaderTwice(name.clone()));
        }
    }
    Ok(map)
}

/// HTTP/2 has a host where HTTP/1 has this header.
fn is_host(value: &HeaderValue) -> bool {
    !value.as_bytes().contains(&b'@') && Authority::try_from(value.as_bytes()).is_ok()
}
