//! What an answer means: the step's output, its error, and when to ask again.
//!
//! **Invariant:** the output is JSON that fits its column, however long the answer is, and holds no
//! cookie and no credential of a header; no clock is read to understand a date.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Serialize;

use super::super::output::{Kept, fit};
use crate::{
    adapters::texts::TEXT_BYTES,
    ports::runner::{Code, Outcome, Reason},
};

/// Most bytes of one header in the output, and of all of them.
const HEADER_BYTES: usize = 1024;
const HEADERS_BYTES: usize = 8 * 1024;
/// Most characters of the body in an error.
const QUOTED_CHARS: usize = 300;
/// Room for the note on what was not read.
const REST_BYTES: usize = 128;
/// A server that asks for more is asked again all the same: an execution waits meanwhile.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Headers that are left out of the output, and words that mark others like them.
const SECRET: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("authentication-info"),
    HeaderName::from_static("proxy-authentication-info"),
];
const SECRET_WORDS: [&str; 8] =
    ["api-key", "apikey", "cookie", "credential", "password", "secret", "session", "token"];

#[derive(Serialize)]
struct Output<'a> {
    status_code: u16,
    headers: &'a BTreeMap<String, String>,
    body: &'a str,
}

/// An answer whose body is being read.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    headers: BTreeMap<String, String>,
    retry_after: Option<Duration>,
    body: Kept,
    /// Bytes of the body that may still be read.
    left: usize,
    most: usize,
}

impl Answer {
    /// At most `most` bytes of the body will be taken.
    pub fn new(status: StatusCode, headers: &HeaderMap, most: usize) -> Self {
        let shown = shown(headers);
        let frame = Output { status_code: status.as_u16(), headers: &shown, body: "" };
        let room = TEXT_BYTES - to_json(&frame).len() - REST_BYTES;
        let retry_after = retry_after(headers);
        let body = Kept::for_json(room);
        Self { status, headers: shown, retry_after, body, left: most, most }
    }

    pub fn is_failure(&self) -> bool {
        self.status.is_client_error() || self.status.is_server_error()
    }

    /// Takes a piece of the body; `false` when no more is wanted.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        let taken = piece.len().min(self.left);
        self.left -= taken;
        self.body.push(&piece[..taken]);
        taken == piece.len()
    }

    /// `is_whole`: its body has come to its end. `is_the_effect`: this is the answer to what the
    /// step asks for.
    pub fn outcome(self, server: &str, is_whole: bool, is_the_effect: bool) -> Outcome {
        let (is_failure, status, retry_after) = (self.is_failure(), self.status, self.retry_after);
        let mut body = self.body.finish();
        let error = Reason { said: format!("{server} answered {status}"), quoted: quoted(&body) };
        let code = Some(Code::Status(status.as_u16()));
        if !is_whole {
            let note = if self.left == 0 {
                format!("\n[… no more than {} bytes of the answer are read …]", self.most)
            } else {
                "\n[… here the answer broke off …]".to_owned()
            };
            body.push_str(&note);
        }
        let headers = &self.headers;
        let output = to_json(&Output { status_code: status.as_u16(), headers, body: &body });
        if !is_failure {
            return Outcome::Success { output, code };
        }
        let output = Some(output);
        if is_the_effect && is_definite(status) {
            Outcome::Failed { error, output, retry_after, code }
        } else {
            Outcome::Unanswered { error, output, retry_after, code }
        }
    }
}

/// Whether a failure's status says that the effect was asked for and refused. A server may say 409
/// while it is still busy with the same key. The others come from a gateway that has no answer, or
/// lost it; those from 520 are Cloudflare's.
fn is_definite(status: StatusCode) -> bool {
    !matches!(status.as_u16(), 409 | 502 | 504 | 520..=524)
}

fn to_json(output: &Output) -> String {
    serde_json::to_string(output).expect("texts and numbers always have a JSON form")
}

/// The beginning of a body, in one line.
fn quoted(body: &str) -> Option<String> {
    let line = body.chars().map(|c| if c.is_control() { ' ' } else { c });
    let beginning: String = line.take(QUOTED_CHARS).collect();
    match beginning.trim() {
        "" => None,
        text if body.chars().nth(QUOTED_CHARS).is_some() => Some(format!("{text} …")),
        text => Some(text.to_owned()),
    }
}

/// Headers for the output, by name; several of one name are joined.
fn shown(headers: &HeaderMap) -> BTreeMap<String, String> {
    let names = headers.keys().filter(|name| !is_secret(name));
    let mut all: Vec<(&str, String)> = names
        .map(|name| {
            let values = headers.get_all(name).iter();
            let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
            (name.as_str(), fit(&texts.collect::<Vec<_>>().join(", "), HEADER_BYTES))
        })
        .collect();
    all.sort();
    let (mut shown, mut taken, mut cut) = (BTreeMap::new(), 0, 0);
    for (name, value) in all {
        let bytes = serde_json::to_string(&(name, &value)).expect("texts have a JSON form").len();
        if taken + bytes > HEADERS_BYTES {
            cut += 1;
            continue;
        }
        taken += bytes;
        shown.insert(name.to_owned(), value);
    }
    if cut > 0 {
        shown.insert("…".to_owned(), format!("{cut} headers were cut here"));
    }
    shown
}

fn is_secret(name: &HeaderName) -> bool {
    SECRET.contains(name) || SECRET_WORDS.iter().any(|word| name.as_str().contains(word))
}

/// What the server asks for: seconds, or a date, which is read against the answer's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text(header::RETRY_AFTER)?;
    let date = |text| httpdate::parse_http_date(text).ok();
    let wait = if asked.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number holds are a long time.
        (!asked.is_empty()).then(|| Duration::from_secs(asked.parse().unwrap_or(u64::MAX)))
    } else {
        let (then, now) = (date(asked)?, date(text(header::DATE)?)?);
        Some(then.duration_since(now).unwrap_or_default())
    };
    wait.map(|wait| wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::{collection::vec, prelude::*};
    use serde_json::Value;

    use super::*;

    /// Bytes that grow in JSON, bytes that are no text, and plain ones; so many that they are cut.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[a-z ]{1,40}".prop_map(String::into_bytes),
            "[\"\\\\\\x01-\\x1f]{1,40}".prop_map(String::into_bytes),
            vec(any::<u8>(), 1..40),
            Just("😀".into()),
        ];
        (piece, 0_usize..20_000).prop_map(|(piece, times)| piece.repeat(times))
    }

    fn headers() -> impl Strategy<Value = HeaderMap> {
        let value =
            (vec(prop_oneof![Just(b'"'), 0x20..0x7f_u8, 0x80..=0xff_u8], 1..60), 0..60_usize)
                .prop_map(|(piece, times)| {
                    HeaderValue::from_bytes(&piece.repeat(times)).expect("a value")
                });
        let name = "[a-z]{1,20}".prop_map(|name| HeaderName::try_from(name).expect("a name"));
        vec((name, value), 0..40).prop_map(|pairs| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value);
            }
            headers
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_output_is_json_that_fits_its_column(
            headers in headers(), body in bytes(), is_whole: bool, most in 0_usize..1_000_000
        ) {
            let mut answer = Answer::new(StatusCode::OK, &headers, most);
            let all = body.chunks(10_000).all(|piece| answer.push(piece));
            prop_assert_eq!(all, body.len() <= most);
            let Outcome::Success { output, .. } = answer.outcome("server", all && is_whole, true) else {
                panic!("200 is a success");
            };
            prop_assert!(output.len() <= TEXT_BYTES, "{} bytes", output.len());
            let output: Value = serde_json::from_str(&output).expect("JSON");
            prop_assert_eq!(output["status_code"].as_u64(), Some(200));
            prop_assert!(output["headers"].is_object());
            let text = output["body"].as_str().expect("a text");
            if all && is_whole && body.len() < 5_000 {
                let whole = String::from_utf8_lossy(&body).replace('\0', "\u{fffd}");
                prop_assert_eq!(text, whole);
            }
        }
    }

    #[test]
    fn what_is_cut_of_headers_is_said() {
        let mut headers = HeaderMap::new();
        for n in 0..20 {
            let name = HeaderName::try_from(format!("x-{n:02}")).expect("a name");
            headers.insert(name, HeaderValue::try_from("y".repeat(5_000)).expect("a value"));
        }
        let shown = shown(&headers);
        assert!(shown["x-00"].contains(" bytes were cut here …]"));
        assert_eq!(shown["…"], format!("{} headers were cut here", 21 - shown.len()));
        assert!((5..10).contains(&shown.len()));
    }
}
