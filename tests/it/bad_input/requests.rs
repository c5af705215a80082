//! URLs, methods and headers that cannot be sent, and one that can but reaches nobody.

use orchestrator_worker::domain::{
    definition::RecordedStep,
    request::{LONGEST_URL, MOST_HEADERS},
};

use super::{Becomes, Entry, failed, step};

pub fn entries() -> Vec<Entry> {
    let mut entries = urls();
    entries.extend(methods());
    entries.extend(header_names());
    entries.extend(header_values());
    entries
}

fn http(url: &str) -> RecordedStep {
    RecordedStep { executor_type: Some("http".into()), http_url: Some(url.into()), ..step("s") }
}

fn urls() -> Vec<Entry> {
    let problem = |text: &str| failed(&format!("its http_url is not a URL: {text}"));
    let control = || problem("it holds a control character or a backslash");
    let beginning = || problem("it does not begin with http:// or https://");
    let scheme = |scheme: &str| failed(&format!("its http_url is of the kind {scheme:?}; only"));
    let empty = || failed("its http_url is empty");
    let long = format!("http://h/{}", "x".repeat(LONGEST_URL));
    let rows = [
        ("", empty()),
        (" ", empty()),
        ("h", beginning()),
        ("http:/h/", beginning()),
        ("http:h", beginning()),
        ("//h/", beginning()),
        ("ftp://h/", scheme("ftp")),
        ("file:///etc/passwd", scheme("file")),
        (" http://h/", scheme(" http")),
        ("gopher+much+longer+than+that://h/", scheme("gopher+much+longer+t")),
        ("http://", problem("empty host")),
        ("http://:80/", problem("empty host")),
        ("http://h:65536/", problem("invalid port number")),
        ("http://h:x/", problem("invalid port number")),
        ("http://[::1/", problem("invalid IPv6 address")),
        ("http://[v1.x]/", problem("invalid IPv6 address")),
        ("http://1.2.3.256/", problem("invalid IPv4 address")),
        ("http://a b/", problem("invalid international domain name")),
        ("http://h/\r\nHost: other", control()),
        ("http://h/\n", control()),
        ("http://h/\t", control()),
        ("http://h/\0", control()),
        ("http://h/\u{85}", control()),
        ("http://h\\@other/", control()),
        (&long, problem(&format!("it is longer than {LONGEST_URL} bytes"))),
        // Nobody listens there.
        ("http://127.0.0.1:1/", failed("step s failed: ")),
    ];
    let none = RecordedStep { http_url: None, ..http("") };
    let named = |url: &str| format!("the URL {:?}", url.chars().take(40).collect::<String>());
    let mut entries = vec![Entry::steps("no URL", vec![none], empty())];
    entries.extend(
        rows.into_iter().map(|(url, becomes)| Entry::steps(&named(url), vec![http(url)], becomes)),
    );
    entries
}

fn methods() -> Vec<Entry> {
    let entry = |word: &str| {
        let row = RecordedStep { http_method: Some(word.into()), ..http("http://h/") };
        let becomes = failed(&format!("its http_method is {word:?}; give one such as GET or POST"));
        Entry::steps(&format!("the method {word:?}"), vec![row], becomes)
    };
    ["GET /", "GET\r\nX: y", " ", "GÉT", "CONNECT"].into_iter().map(entry).collect()
}

fn headers(text: &str, becomes: Becomes) -> Entry {
    let row = RecordedStep { http_headers: Some(text.into()), ..http("http://h/") };
    let shown: String = text.chars().take(40).collect();
    Entry::steps(&format!("the headers {shown}"), vec![row], becomes)
}

fn header_names() -> Vec<Entry> {
    let name = |name: &str| failed(&format!("its http_headers name {name:?}, which cannot name"));
    let many: Vec<String> = (0..=MOST_HEADERS).map(|n| format!("\"h{n}\":\"\"")).collect();
    let many = format!("{{{}}}", many.join(","));
    vec![
        headers(r#"{"":"x"}"#, name("")),
        headers(r#"{"A B":"x"}"#, name("A B")),
        headers(r#"{"A:":"x"}"#, name("A:")),
        headers(r#"{"A\r\nB":"x"}"#, name("A\r\nB")),
        headers(r#"{"Ä":"x"}"#, name("Ä")),
        headers(r#"{"a":"x","A":"y"}"#, failed("its http_headers name \"a\" twice")),
        headers(&many, failed(&format!("its http_headers are {}; at most", MOST_HEADERS + 1))),
    ]
}

fn header_values() -> Vec<Entry> {
    let value = |name: &str| failed(&format!("its http_headers give {name:?} a value that"));
    let not_texts = "the column http_headers is not a JSON object of texts: the value of \"A\"";
    vec![
        headers(r#"{"A":"x\r\nB: y"}"#, value("A")),
        headers(r#"{"A":"x\n"}"#, value("A")),
        headers(r#"{"A":"x\u0000"}"#, value("A")),
        headers(r#"{"Host":""}"#, value("Host")),
        headers(r#"{"Host":"a b"}"#, value("Host")),
        headers(r#"{"Host":"a/b"}"#, value("Host")),
        headers(r#"{"Host":"u@h"}"#, value("Host")),
        headers("[1]", failed("the column http_headers is not a JSON object: it is another value")),
        headers("X: y", failed("the column http_headers is not a JSON object: ")),
        headers(r#"{"A":[1]}"#, failed(not_texts)),
    ]
}
