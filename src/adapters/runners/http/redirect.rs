//! Where a redirect leads.
//!
//! **Invariant:** what a step says to one origin goes to another only where it is known to be
//! harmless; what was stripped once does not come back.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use url::Url;

use crate::domain::request::parse_url;

/// Redirects followed one after the other.
pub const MOST_REDIRECTS: usize = 10;

/// A request to one server.
#[derive(Clone, Debug)]
pub struct Hop {
    pub method: Method,
    pub url: Url,
    /// The step's own.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// It asks for what the step asks for. Else its effect has happened already, and this only
    /// fetches what a server says about it.
    pub is_the_effect: bool,
}

/// Headers that another origin may see; any other may hold a key.
const HARMLESS: [HeaderName; 9] = [
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::USER_AGENT,
];

/// Headers of a body.
const OF_THE_BODY: [HeaderName; 4] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_TYPE,
];

/// What an answer says about where to go on.
#[derive(Debug)]
pub enum Redirect {
    /// It is the answer.
    None,
    To(Box<Hop>),
    /// To something that cannot be called.
    Nowhere,
}

impl Hop {
    /// The next request, after an answer with this status and `Location`.
    pub fn redirect(&self, status: StatusCode, location: Option<&HeaderValue>) -> Redirect {
        let keeps_method = match status {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
                [Method::GET, Method::HEAD].contains(&self.method)
            }
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            _ => return Redirect::None,
        };
        let Some(location) = location else { return Redirect::None };
        let Some(url) = self.join(location) else { return Redirect::Nowhere };
        let mut next = Self { url, ..self.clone() };
        if !keeps_method {
            next.method = Method::GET;
            next.body = Bytes::new();
            next.is_the_effect = false;
            next.keep_headers(|name| !OF_THE_BODY.contains(name));
        }
        if next.url.origin() != self.url.origin() {
            next.keep_headers(|name| HARMLESS.contains(name));
        }
        Redirect::To(Box::new(next))
    }

    fn join(&self, location: &HeaderValue) -> Option<Url> {
        let location = std::str::from_utf8(location.as_bytes()).ok()?;
        let url = self.url.join(location).ok()?;
        parse_url(url.as_str()).ok()
    }

    fn keep_headers(&mut self, keep: impl Fn(&HeaderName) -> bool) {
        let headers = std::mem::take(&mut self.headers);
        let kept = headers.iter().filter(|(name, _)| keep(name));
        self.headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    }
}
