//! Requests over TLS: HTTP/2 where the server speaks it, and certificates that do not fit.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{
    server::{Act, Server},
    *,
};

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a certificate");
        Arc::new(roots)
    }

    /// A server of that name, which speaks these protocols.
    fn server(&self, name: &str, protocols: &[&str]) -> ServerConfig {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("they fit");
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// What a server saw: protocol, authority, length of the body.
type SeenByTls = Arc<Mutex<Vec<(Version, String, usize)>>>;

/// Answers with a body as long as the request's, in capitals.
async fn serve(config: ServerConfig) -> (SocketAddr, SeenByTls, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (acceptor, seen) = (TlsAcceptor::from(Arc::new(config)), SeenByTls::default());
    let (mut tasks, all_seen) = (JoinSet::new(), seen.clone());
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), all_seen.clone());
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(move |request| answer(request, seen.clone()));
                let io = TokioIo::new(stream);
                // The client closes as soon as it has its answer.
                if is_http2 {
                    let builder = http2::Builder::new(TokioExecutor::new());
                    drop(builder.serve_connection(io, service).await);
                } else {
                    drop(http1::Builder::new().serve_connection(io, service).await);
                }
            });
        }
    });
    (address, seen, tasks)
}

async fn answer(
    request: http::Request<Incoming>,
    seen: SeenByTls,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let host = request.headers().get("host").map(|host| host.to_str().expect("ASCII").to_owned());
    let authority = request.uri().authority().map(ToString::to_string).or(host);
    let version = request.version();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let entry = (version, authority.unwrap_or_default(), body.len());
    seen.lock().expect("no panic").push(entry);
    Ok(Response::new(Full::new(body.to_ascii_uppercase().into())))
}

#[tokio::test]
async fn a_server_is_spoken_to_in_the_best_protocol_that_it_knows() {
    let authority = Authority::new("ours");
    let names = Names::new(&[("tls.example", &[&["127.0.0.1"]])]);
    let mut case = Case::new().names(&names);
    case.settings.roots = authority.roots();
    let body = "x".repeat(900_000);
    for (protocols, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let (address, seen, _tasks) = serve(authority.server("tls.example", protocols)).await;
        let url = format!("https://tls.example:{}/", address.port());
        let output = output_of(case.run(request("POST", &url, &[], &body)).await);
        assert!(output["body"].as_str().expect("a text").starts_with("XXX"));
        assert_eq!(output["headers"]["content-length"], json!("900000"));
        let authority = format!("tls.example:{}", address.port());
        let own = [("Host", "virtual.example")];
        output_of(case.run(request("GET", &url, &own, "")).await);
        assert_eq!(
            *seen.lock().expect("no panic"),
            [(version, authority, 900_000), (version, "virtual.example".to_owned(), 0)]
        );
    }
}

#[tokio::test]
async fn an_attempt_over_http_2_that_is_stopped_leaves_nothing() {
    let authority = Authority::new("ours");
    let names = Names::new(&[("tls.example", &[&["127.0.0.1"]])]);
    let mut case = Case::new().names(&names);
    case.settings.roots = authority.roots();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://tls.example:{}/", listener.local_addr().expect("it").port());
    let task = case.spawn(request("POST", &url, &[], &"x".repeat(1_000_000)));
    let (stream, _) = listener.accept().await.expect("it connects");
    let acceptor = TlsAcceptor::from(Arc::new(authority.server("tls.example", &["h2"])));
    let stream = acceptor.accept(stream).await.expect("TLS opens");
    let pending = service_fn(|request: http::Request<Incoming>| async move {
        let _held = request;
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), pending);
    tokio::pin!(connection);
    // Until the window is full and both sides wait.
    drop(timeout(Duration::from_millis(200), &mut connection).await);
    case.stop.cancel();
    assert_eq!(ended(task).await, Outcome::Stopped { output: None });
    // The server sees the end, whether it calls it an error or not.
    drop(timeout(CEILING, connection).await.expect("the connection is closed"));
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_refused_before_anything_is_sent() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let names = Names::new(&[("tls.example", &[&["127.0.0.1"]])]);
    let mut case = Case::new().names(&names);
    case.settings.roots = authority.roots();
    let plain = Server::at_once(Act::Say("HTTP/1.1 400 X\r\n\r\n".into())).await;
    let (of_stranger, seen_by_stranger, _a) = serve(stranger.server("tls.example", &[])).await;
    let (of_other, seen_by_other, _b) = serve(authority.server("other.example", &[])).await;
    for (port, problem) in [
        (of_stranger.port(), "invalid peer certificate: UnknownIssuer"),
        (
            of_other.port(),
            "invalid peer certificate: certificate not valid for name \"tls.example\"",
        ),
        (plain.port(), "received corrupt message of type InvalidContentType"),
    ] {
        let url = format!("https://tls.example:{port}/hunter2?hunter2");
        let said = unanswered_of(case.run(get(&url)).await);
        let expected = format!("cannot open TLS to tls.example:{port}: {problem}");
        assert!(said.starts_with(&expected), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert!(seen_by_stranger.lock().expect("no panic").is_empty());
    assert!(seen_by_other.lock().expect("no panic").is_empty());

    case.settings.roots = Arc::new(RootCertStore::empty());
    let url = format!("https://tls.example:{}/", of_other.port());
    let said = unanswered_of(case.run(get(&url)).await);
    assert!(said.ends_with("install ca-certificates, or name a file in SSL_CERT_FILE"), "{said}");
}

#[tokio::test]
async fn an_address_is_checked_against_the_certificate_as_a_name_is() {
    let authority = Authority::new("ours");
    let mut case = Case::new();
    case.settings.roots = authority.roots();
    for (name, fits) in [("127.0.0.1", true), ("127.0.0.2", false)] {
        let (address, _seen, _tasks) = serve(authority.server(name, &["h2"])).await;
        let outcome = case.run(get(&format!("https://{address}/"))).await;
        assert_eq!(matches!(outcome, Outcome::Success { .. }), fits, "{outcome:?}");
    }
}
