//! Where a request can break, and the sentence for each place. None is a definite answer.

use tokio::net::{TcpSocket, TcpStream};

use super::{
    server::{Act, Server},
    *,
};

/// A resolver that never answers.
#[derive(Debug)]
struct Silence;

#[async_trait]
impl Resolve for Silence {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        std::future::pending().await
    }
}

const SHORT: Duration = Duration::from_millis(300);

/// Path, query, user and password that may be secrets.
fn secret_url(port: u16) -> String {
    format!("http://hunter2:hunter2@server.example:{port}/hunter2?hunter2")
}

#[tokio::test]
async fn an_error_names_phase_and_server_and_no_secret() {
    let names = Names::new(&[("server.example", &[&["127.0.0.1"]]), ("none.example", &[&[]])]);
    let (closed, _held) = closed_port();
    let silent = Server::always(Act::Reset(String::new())).await;
    let garbled = Server::always(Act::Say("SSH-2.0-x\r\n".into())).await;
    let cut =
        Server::always(Act::Say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".into())).await;
    let no_answer = "connection closed before message completed";
    for (url, sentence) in [
        (
            secret_url(closed),
            format!("cannot connect to server.example:{closed}: Connection refused (os error 111)"),
        ),
        (
            secret_url(silent.port()),
            format!("server.example:{} gave no answer: {no_answer}", silent.port()),
        ),
        (
            secret_url(garbled.port()),
            format!(
                "server.example:{} gave no answer: invalid HTTP version parsed",
                garbled.port()
            ),
        ),
        (
            secret_url(cut.port()),
            format!(
                "the answer of server.example:{} broke off: error reading a body from connection: \
                 end of file before message length reached",
                cut.port()
            ),
        ),
        (
            secret_url(1).replace("server.", "none."),
            "cannot look up none.example: it has no address".to_owned(),
        ),
        (
            secret_url(1).replace("server.", "unknown."),
            "cannot look up unknown.example: no such name".to_owned(),
        ),
    ] {
        let said = unanswered_of(Case::new().names(&names).run(get(&url)).await);
        // A reset may be seen before or after the end of what was sent.
        let said =
            said.replace("connection error: Connection reset by peer (os error 104)", no_answer);
        assert_eq!(said, sentence);
        assert!(!said.contains("hunter2"));
    }
}

#[tokio::test]
async fn a_reset_at_any_moment_is_no_definite_answer() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
    let body = "x".repeat(1 << 20);
    for server in [
        Server::at_once(Act::Reset(String::new())).await,
        Server::always(Act::Reset(String::new())).await,
        Server::always(Act::Reset("HTTP/1.1 200".into())).await,
        Server::always(Act::Reset(head.into())).await,
    ] {
        for request in [get(&server.url("/")), request("POST", &server.url("/"), &[], &body)] {
            unanswered_of(Case::new().run(request).await);
        }
        assert_eq!(server.connections(), 2, "nothing is tried twice unasked");
    }
}

#[tokio::test]
async fn a_failure_whose_explanation_breaks_off_is_definite_all_the_same() {
    let answer = "HTTP/1.1 500 X\r\nContent-Length: 10\r\n\r\nabc".to_owned();
    let server = Server::always(Act::Say(answer)).await;
    let (error, output) = failure_of(Case::new().run(get(&server.url("/"))).await);
    assert!(error.ends_with("answered 500 Internal Server Error: abc"), "{error}");
    assert_eq!(output["body"], "abc\n[… here the answer broke off …]");
}

#[tokio::test]
async fn looking_up_connecting_and_opening_tls_have_a_limit_of_their_own() {
    let names = Names::new(&[("server.example", &[&["127.0.0.1", "127.0.0.1"]])]);
    let full = TcpSocket::new_v4().expect("a socket");
    full.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let full = full.listen(1).expect("it listens");
    let port = full.local_addr().expect("an address").port();
    // Until no more of them fit: the system then leaves further ones without an answer.
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(SHORT, TcpStream::connect(("127.0.0.1", port))).await {
        waiting.push(stream.expect("it is queued"));
    }
    let case = || Case::new().names(&names).connect_timeout(SHORT);
    let said = unanswered_of(case().run(get(&secret_url(port))).await);
    let within = "within 300ms (http.timeout.connect)";
    assert_eq!(said, format!("cannot connect to server.example:{port} {within}"));

    let mute = Server::at_once(Act::Hang).await;
    let url = secret_url(mute.port()).replace("http:", "https:");
    let said = unanswered_of(case().run(get(&url)).await);
    assert_eq!(said, format!("cannot open TLS to server.example:{} {within}", mute.port()));
    mute.was_left(1).await;

    let mut case = case();
    case.settings.resolver = Arc::new(Silence);
    let said = unanswered_of(case.run(get(&secret_url(port))).await);
    assert_eq!(said, format!("cannot look up server.example {within}"));
}

#[tokio::test]
async fn each_address_of_a_name_is_tried_until_one_answers() {
    let server = Server::always(Act::ok("here")).await;
    // Nobody listens on the first at this port.
    let names = Names::new(&[("server.example", &[&["127.0.0.2", "127.0.0.1"]])]);
    let url = format!("http://server.example:{}/", server.port());
    assert_eq!(output_of(Case::new().names(&names).run(get(&url)).await)["body"], "here");
    assert_eq!(names.asked(), ["server.example"], "one question, one answer");
    let host = format!("server.example:{}", server.port());
    assert_eq!(server.seen()[0].header("host"), Some(&*host));
}

#[tokio::test]
async fn what_no_server_should_say_is_an_error_and_no_panic() {
    let many = "X: y\r\n".repeat(10_000);
    let long = format!("X: {}\r\n", "y".repeat(1 << 20));
    for answer in [
        "",
        "\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 999999 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nA B: c\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
        &format!("HTTP/1.1 200 OK\r\n{long}\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let server = Server::always(Act::Say(answer.to_owned())).await;
        let said = unanswered_of(Case::new().run(get(&server.url("/"))).await);
        assert!(said.contains(&server.address.to_string()), "{said}");
    }
}
