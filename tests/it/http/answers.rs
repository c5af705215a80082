//! What is sent, and what becomes of each answer.

use serde_json::json;

use super::{
    server::{Act, Seen, Server},
    *,
};

async fn seen_of(case: &Case, make: impl FnOnce(&str) -> Request) -> Seen {
    let server = Server::always(Act::ok("")).await;
    output_of(case.run(make(&server.url("/a/b?c=d%20e#f"))).await);
    server.seen().remove(0)
}

#[tokio::test]
async fn a_request_says_who_asks_and_under_which_key() {
    let mut case = Case::new();
    case.trace = [("TRACEPARENT", "00-1-2-01"), ("TRACESTATE", "a\nb"), ("BAGGAGE", "a=b")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let seen = seen_of(&case, get).await;
    assert_eq!(seen.line, "GET /a/b?c=d%20e HTTP/1.1");
    assert!(seen.header("host").expect("a host").starts_with("127.0.0.1:"));
    let mut headers = seen.all();
    headers.remove("host");
    let version = format!("orchestrator-worker/{}", env!("CARGO_PKG_VERSION"));
    let expected = [
        ("accept", "*/*"),
        ("connection", "close"),
        ("idempotency-key", "the-key"),
        ("orchestrator-attempt", "3"),
        ("orchestrator-fence", "1700000000000001"),
        ("traceparent", "00-1-2-01"),
        ("user-agent", &version),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value)).into());
}

#[tokio::test]
async fn a_header_of_the_step_is_never_overwritten() {
    let mut case = Case::new();
    case.trace.insert("TRACEPARENT".into(), "ours".into());
    let own = [
        ("accept", "text/plain"),
        ("authorization", "Bearer x"),
        ("content-type", "text/csv"),
        ("host", "virtual.example"),
        ("idempotency-key", "mine"),
        ("orchestrator-attempt", "mine"),
        ("orchestrator-fence", "mine"),
        ("traceparent", "mine"),
        ("user-agent", "mine"),
    ];
    let seen = seen_of(&case, |url| {
        let url = url.replace("http://", "http://user:password@");
        request("POST", &url, &own, "a,b")
    })
    .await;
    for (name, value) in own {
        assert_eq!(seen.header(name), Some(value));
    }
    assert_eq!(seen.body, b"a,b");
}

#[tokio::test]
async fn a_body_is_json_unless_the_step_says_otherwise() {
    let case = Case::new();
    for (method, body, expected_type, expected_length) in [
        ("POST", "{}", Some("application/json"), Some("2")),
        ("DELETE", "{\"é\":1}", Some("application/json"), Some("8")),
        ("GET", "x", Some("application/json"), Some("1")),
        ("POST", "", None, Some("0")),
        ("PUT", "", None, Some("0")),
        ("GET", "", None, None),
        ("DELETE", "", None, None),
    ] {
        let seen = seen_of(&case, |url| request(method, url, &[], body)).await;
        assert_eq!(seen.header("content-type"), expected_type, "{method} {body:?}");
        assert_eq!(seen.header("content-length"), expected_length, "{method} {body:?}");
        assert_eq!(seen.body, body.as_bytes());
    }
}

#[tokio::test]
async fn a_user_and_a_password_in_the_url_are_sent_as_credentials_and_nowhere_else() {
    let case = Case::new();
    let seen = seen_of(&case, |url| get(&url.replace("http://", "http://us%65r:p%40ss@"))).await;
    assert_eq!(seen.header("authorization"), Some("Basic dXNlcjpwQHNz"));
    assert!(!format!("{seen:?}").contains("p%40ss"));
}

#[tokio::test]
async fn an_answer_below_400_succeeds_and_any_other_fails_with_its_status_and_beginning() {
    for (status, body, error) in [
        ("200 OK", "fine", None),
        ("204 No Content", "", None),
        ("299 Whatever", "", None),
        ("300 Multiple Choices", "choose", None),
        ("304 Not Modified", "", None),
        ("400 Bad Request", "no", Some("400 Bad Request: no")),
        ("404 Not Found", "", Some("404 Not Found")),
        ("422 X", "\r\n a\tb\r\n", Some("422 Unprocessable Entity: a b")),
        ("500 X", "{\"why\":\"so\"}", Some("500 Internal Server Error: {\"why\":\"so\"}")),
        ("503 X", "closed", Some("503 Service Unavailable: closed")),
    ] {
        let server = Server::always(Act::answer(status, "X-A: b\r\n", body)).await;
        let outcome = Case::new().run(get(&server.url("/?secret"))).await;
        let code: u16 = status[..3].parse().expect("a number");
        let output = match error {
            None => output_of(outcome),
            Some(error) => {
                let (said, output) = failure_of(outcome);
                assert_eq!(said, format!("{} answered {error}", server.address));
                output
            }
        };
        let body = if code == 304 { "" } else { body };
        let length = body.len().to_string();
        let mut headers = json!({"content-length": length, "x-a": "b"});
        if [204, 304].contains(&code) {
            headers["content-length"] = json!("0");
        }
        assert_eq!(output, json!({"status_code": code, "headers": headers, "body": body}));
    }
    let long = "x".repeat(400);
    let server = Server::always(Act::answer("500 X", "", &long)).await;
    let (error, output) = failure_of(Case::new().run(get(&server.url("/"))).await);
    assert!(error.ends_with(&format!(": {} …", &long[..300])), "{error}");
    assert_eq!(output["body"], long);
}

#[tokio::test]
async fn an_answer_that_does_not_know_what_happened_is_no_definite_one() {
    let unknown = [409, 502, 504, 520, 522, 524];
    for status in [400, 401, 404, 408, 409, 425, 429, 500, 502, 503, 504, 507, 520, 522, 524, 599] {
        let server = Server::always(Act::answer(&format!("{status} X"), "", "why")).await;
        let outcome = Case::new().run(get(&server.url("/"))).await;
        let is_definite = match &outcome {
            Outcome::Failed { .. } => true,
            Outcome::Unanswered { output: Some(_), .. } => false,
            other => panic!("{other:?}"),
        };
        assert_eq!(is_definite, !unknown.contains(&status), "{status}");
    }
}

#[tokio::test]
async fn cookies_and_credentials_are_not_in_the_output() {
    let secret = [
        "Set-Cookie",
        "WWW-Authenticate",
        "Proxy-Authenticate",
        "Authorization",
        "Proxy-Authorization",
        "Authentication-Info",
        "Cookie",
        "X-Auth-Token",
        "X-Api-Key",
        "X-Session-Id",
        "X-Client-Secret",
        "X-Amz-Security-Token",
    ];
    let mut headers: String = secret.map(|name| format!("{name}: hunter2\r\n")).concat();
    headers.push_str("X-Plain: a\r\nX-Plain: b\r\nX-Bytes: \u{e9}\r\n");
    let server = Server::always(Act::answer("200 OK", &headers, "")).await;
    let outcome = Case::new()
        .run(request("GET", &server.url("/"), &[("Authorization", "hunter2")], ""))
        .await;
    let output = output_of(outcome);
    assert!(!output.to_string().contains("hunter2"), "{output}");
    let expected = json!({"content-length": "0", "x-plain": "a, b", "x-bytes": "é"});
    assert_eq!(output["headers"], expected);
}

#[tokio::test]
async fn a_body_in_pieces_or_without_a_length_is_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nabcdefg",
        "HTTP/1.0 200 OK\r\n\r\nabcdefg",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nabcdefg",
    ] {
        let server = Server::always(Act::Say(answer.into())).await;
        let output = output_of(Case::new().run(get(&server.url("/"))).await);
        assert_eq!((&output["body"], &output["status_code"]), (&json!("abcdefg"), &json!(200)));
    }
}

#[tokio::test]
async fn a_long_answer_is_cut_to_its_column_and_stays_json() {
    let body = format!("begin{}end", "\"".repeat(3_000_000));
    let server = Server::always(Act::ok(&body)).await;
    let Outcome::Success { output, .. } = Case::new().run(get(&server.url("/"))).await else {
        panic!("not a success");
    };
    assert!(output.len() <= 65_535 && output.len() > 65_000, "{} bytes", output.len());
    let output: Value = serde_json::from_str(&output).expect("JSON");
    let text = output["body"].as_str().expect("a text");
    assert!(text.starts_with("begin\"") && text.ends_with("\"end"), "both ends are kept");
    assert!(text.contains(" bytes were cut here …]"));
}

#[tokio::test]
async fn what_is_beyond_the_cap_is_not_read() {
    let mut case = Case::new();
    case.settings.most_read = 10_000;
    let endless = Act::Repeat {
        head: "HTTP/1.1 200 OK\r\n\r\n".into(),
        piece: "0123456789".repeat(400),
        every: Duration::ZERO,
    };
    let server = Server::always(endless).await;
    let output = output_of(case.run(get(&server.url("/"))).await);
    let note = "\n[… no more than 10000 bytes of the answer are read …]";
    assert_eq!(output["body"], format!("{}{note}", "0123456789".repeat(1000)));
    server.was_left(1).await;

    let exact = Server::always(Act::ok(&"x".repeat(10_000))).await;
    let output = output_of(case.run(get(&exact.url("/"))).await);
    assert_eq!(output["body"], "x".repeat(10_000), "what fits is whole");
}

#[tokio::test]
async fn a_big_body_is_sent_and_a_bigger_one_refused() {
    let mut case = Case::new();
    case.settings.most_sent = 1_000_000;
    let server = Server::always(Act::ok("")).await;
    let body = "x".repeat(1_000_000);
    output_of(case.run(request("POST", &server.url("/"), &[], &body)).await);
    assert_eq!(server.seen()[0].body.len(), 1_000_000);
    let outcome = case.run(request("POST", &server.url("/"), &[], &format!("{body}x"))).await;
    assert_eq!(
        unanswered_of(outcome),
        "the body has 1000001 bytes, and at most 1000000 are sent (http.body.sent)"
    );
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_server_says_when_it_wants_to_be_asked_again() {
    let date = "Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n";
    for (headers, expected) in [
        (String::new(), None),
        ("Retry-After: 7\r\n".into(), Some(7)),
        ("Retry-After: 0\r\n".into(), Some(0)),
        ("Retry-After: 3601\r\n".into(), Some(3600)),
        ("Retry-After: 99999999999999999999\r\n".into(), Some(3600)),
        ("Retry-After: -1\r\n".into(), None),
        ("Retry-After: 1.5\r\n".into(), None),
        ("Retry-After: soon\r\n".into(), None),
        ("Retry-After:\r\n".into(), None),
        (format!("{date}Retry-After: Tue, 15 Nov 1994 08:13:01 GMT\r\n"), Some(30)),
        (format!("{date}Retry-After: Tue, 15 Nov 1994 08:12:01 GMT\r\n"), Some(0)),
        (format!("{date}Retry-After: Mon, 15 Nov 2094 08:12:01 GMT\r\n"), Some(3600)),
        // Without the server's own clock a date says nothing.
        ("Retry-After: Tue, 15 Nov 1994 08:13:01 GMT\r\n".into(), None),
    ] {
        for status in ["503 X", "429 X", "502 X"] {
            let server = Server::always(Act::answer(status, &headers, "")).await;
            let outcome = Case::new().run(get(&server.url("/"))).await;
            let (Outcome::Failed { retry_after, .. } | Outcome::Unanswered { retry_after, .. }) =
                outcome
            else {
                panic!("a failure");
            };
            assert_eq!(retry_after, expected.map(Duration::from_secs), "{headers}");
        }
    }
}

#[tokio::test]
async fn the_answer_to_head_has_no_body() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_owned();
    let server = Server::always(Act::Say(answer)).await;
    let output = output_of(Case::new().run(request("HEAD", &server.url("/"), &[], "")).await);
    assert_eq!((&output["body"], &output["headers"]["content-length"]), (&json!(""), &json!("10")));
}
