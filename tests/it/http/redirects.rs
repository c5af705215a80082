//! Redirects: how they are followed, what they may not carry along, and where they end.

use super::{
    server::{Act, Seen, Server},
    *,
};

const OWN: [(&str, &str); 7] = [
    ("Accept", "text/plain"),
    ("Authorization", "Bearer hunter2"),
    ("Content-Type", "text/csv"),
    ("Cookie", "hunter2"),
    ("Host", "hunter2.example"),
    ("Idempotency-Key", "mine"),
    ("X-Api-Key", "hunter2"),
];

/// A server that redirects to `to` once, and answers every other path.
async fn redirecting(status: &str, to: &str) -> Server {
    let (status, to) = (status.to_owned(), to.to_owned());
    Server::start(move |seen| {
        if seen.line.contains(" /from ") { Act::redirect(&status, &to) } else { Act::ok("there") }
    })
    .await
}

/// What a request to `/from` becomes.
async fn redirected(method: &str, status: &str) -> Seen {
    let server = redirecting(status, "to?q#fragment").await;
    let request = request(method, &server.url("/from"), &OWN, "a,b");
    output_of(Case::new().run(request).await);
    let seen = server.seen();
    assert_eq!(seen.len(), 2, "{method} {status}");
    seen[1].clone()
}

#[tokio::test]
async fn method_and_body_stay_or_become_a_get_as_the_status_says() {
    for (status, method, becomes) in [
        ("301 X", "GET", "GET"),
        ("301 X", "HEAD", "HEAD"),
        ("301 X", "POST", "GET"),
        ("302 X", "PUT", "GET"),
        ("302 X", "DELETE", "GET"),
        ("303 X", "POST", "GET"),
        ("307 X", "POST", "POST"),
        ("307 X", "GET", "GET"),
        ("308 X", "PUT", "PUT"),
        ("308 X", "DELETE", "DELETE"),
    ] {
        let seen = redirected(method, status).await;
        assert_eq!(seen.line, format!("{becomes} /to?q HTTP/1.1"), "{method} {status}");
        let keeps_body = method == becomes;
        assert_eq!(seen.body, if keeps_body { &b"a,b"[..] } else { b"" }, "{method} {status}");
        assert_eq!(seen.header("content-type"), keeps_body.then_some("text/csv"));
        assert_eq!(seen.header("authorization"), Some("Bearer hunter2"), "the same origin");
        assert_eq!(seen.header("x-api-key"), Some("hunter2"));
    }
}

#[tokio::test]
async fn other_statuses_and_redirects_to_nowhere_are_the_answer() {
    for answer in [
        Act::redirect("300 X", "/to"),
        Act::redirect("304 X", "/to"),
        Act::redirect("305 X", "/to"),
        Act::redirect("201 X", "/to"),
        Act::answer("302 X", "", ""),
    ] {
        let server = Server::always(answer).await;
        output_of(Case::new().run(get(&server.url("/"))).await);
        assert_eq!(server.connections(), 1);
    }
    for to in ["ftp://other/", "file:///etc/passwd", "http://", "http://[", "data:x", "//:1/"] {
        let server = Server::always(Act::redirect("302 X", to)).await;
        let said = unanswered_of(Case::new().run(get(&server.url("/"))).await);
        let nowhere = "redirects to something that is no http or https URL";
        assert_eq!(said, format!("{} {nowhere}", server.address), "{to}");
    }
}

#[tokio::test]
async fn another_origin_is_told_no_secret_and_none_comes_back() {
    let home = Server::always(Act::ok("home")).await;
    let back = home.url("/");
    let other = Server::start(move |_| Act::redirect("307 X", &back)).await;
    let away = other.url("/to");
    let first = Server::start(move |_| Act::redirect("307 X", &away)).await;
    // The way leads home again by way of another port.
    let url = first.url("/from").replace("http://", "http://user:hunter2@");
    for own in [&OWN[..], &[]] {
        let request = request("POST", &url, own, "a,b");
        assert_eq!(output_of(Case::new().run(request).await)["body"], "home");
    }
    assert_eq!(first.seen()[0].header("authorization"), Some("Bearer hunter2"));
    assert_eq!(first.seen()[1].header("authorization"), Some("Basic dXNlcjpodW50ZXIy"));
    for server in [&other, &home] {
        for seen in server.seen() {
            assert!(!format!("{seen:?}").contains("hunter2"), "{seen:?}");
            assert_eq!(seen.header("authorization"), None);
            assert_eq!(seen.header("host"), Some(&*server.address.to_string()));
            assert_eq!(seen.header("idempotency-key"), Some("the-key"));
            assert_eq!(seen.body, b"a,b");
        }
        assert_eq!(server.seen()[0].header("accept"), Some("text/plain"));
        assert_eq!(server.seen()[0].header("content-type"), Some("text/csv"));
    }
}

#[tokio::test]
async fn a_loop_ends_after_ten_redirects_with_a_sentence() {
    let server = Server::always(Act::redirect("302 X", "/again?hunter2")).await;
    let said = unanswered_of(Case::new().run(get(&server.url("/"))).await);
    let address = server.address;
    assert_eq!(said, format!("redirected more than 10 times, at last by {address}"));
    assert_eq!(server.connections(), 11);

    let ten = Server::start(|seen| {
        let hop: u32 = seen.line[5..].split(' ').next().expect("a path").parse().expect("a number");
        if hop == 10 {
            Act::ok("arrived")
        } else {
            Act::redirect("302 X", &format!("/{}", hop + 1))
        }
    })
    .await;
    assert_eq!(output_of(Case::new().run(get(&ten.url("/0"))).await)["body"], "arrived");
}

#[tokio::test]
async fn what_fails_behind_a_redirect_says_who_led_there() {
    let (port, _held) = closed_port();
    let to = format!("http://127.0.0.1:{port}/hunter2");
    let server = Server::always(Act::redirect("302 X", &to)).await;
    let said = unanswered_of(Case::new().run(get(&server.url("/"))).await);
    let refused = format!("cannot connect to 127.0.0.1:{port}: Connection refused (os error 111)");
    assert_eq!(said, format!("{refused} (redirected there by {})", server.address));
}

#[tokio::test]
async fn a_failure_of_the_page_after_the_effect_does_not_deny_the_effect() {
    for (method, status, is_definite) in
        [("POST", "303 X", false), ("GET", "303 X", true), ("POST", "307 X", true)]
    {
        let server = Server::start(move |seen| {
            if seen.line.contains(" /from ") {
                Act::redirect(status, "/to")
            } else {
                Act::answer("500 X", "", "")
            }
        })
        .await;
        let outcome = Case::new().run(request(method, &server.url("/from"), &[], "")).await;
        assert_eq!(matches!(outcome, Outcome::Failed { .. }), is_definite, "{method} {status}");
        assert!(is_definite || matches!(outcome, Outcome::Unanswered { output: Some(_), .. }));
    }
}
