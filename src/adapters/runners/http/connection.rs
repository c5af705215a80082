//! One connection for one request.
//!
//! **Invariant:** everything that moves a connection is polled by whoever waits for its answer, and
//! dropped with it: no task and no socket outlives the request. (`reqwest` moves its connections on
//! tasks of its own, which nobody can wait for.)

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::{Host, Url};

use super::{
    egress::{Egress, server},
    failure::Failure,
};
use crate::domain::egress::plain_name;

/// How connections are made.
#[derive(Clone)]
pub struct Connector {
    pub egress: Egress,
    pub tls: Arc<rustls::ClientConfig>,
    /// Looking up, connecting and opening TLS take no longer together.
    pub within: Duration,
    /// There is no certificate to check servers against.
    pub no_roots: bool,
}

/// A connection that stands.
pub struct Connection {
    sender: Sender,
    work: Work,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connector {
    pub async fn connect(&self, url: &Url) -> Result<Connection, Failure> {
        let (server, until) = (server(url), Instant::now() + self.within);
        let addresses = timeout_at(until, self.egress.addresses(url)).await.map_err(|_| {
            let host = url.host_str().unwrap_or_default().to_owned();
            Failure::LookupTimeout { host, within: self.within }
        })??;
        let tcp = self.tcp(&server, &addresses, until).await?;
        if url.scheme() == "http" {
            return Connection::new(Stream::Plain(tcp), &server).await;
        }
        let opened = timeout_at(until, async {
            let tls = self.tls(url, &server, tcp).await?;
            Connection::new(Stream::Tls(Box::new(tls)), &server).await
        });
        opened.await.map_err(|_| Failure::TlsTimeout { server, within: self.within })?
    }

    /// Tries each address for its share of the time.
    async fn tcp(
        &self,
        server: &str,
        addresses: &[std::net::SocketAddr],
        until: Instant,
    ) -> Result<TcpStream, Failure> {
        let server = || server.to_owned();
        let mut last = Failure::ConnectTimeout { server: server(), within: self.within };
        for (place, address) in addresses.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - place).expect("a few addresses");
            let tried = timeout_at(Instant::now() + share, TcpStream::connect(address)).await;
            last = match tried {
                Ok(Ok(stream)) => {
                    // It only delays small requests less; without it all works too.
                    drop(stream.set_nodelay(true));
                    return Ok(stream);
                }
                Ok(Err(source)) => Failure::Connect { server: server(), source },
                Err(_) => Failure::ConnectTimeout { server: server(), within: self.within },
            };
        }
        Err(last)
    }

    async fn tls(
        &self,
        url: &Url,
        server: &str,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let tls =
            |source| Failure::Tls { server: server.to_owned(), source, no_roots: self.no_roots };
        let name = match url.host() {
            Some(Host::Ipv4(address)) => ServerName::from(std::net::IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => ServerName::from(std::net::IpAddr::V6(address)),
            Some(Host::Domain(name)) => ServerName::try_from(plain_name(name).to_owned())
                .map_err(|error| tls(std::io::Error::other(error)))?,
            None => return Err(tls(std::io::Error::other("the URL names no host"))),
        };
        TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(tls)
    }
}

impl Connection {
    /// HTTP/2 where the server has chosen it while TLS was opened, else HTTP/1.1.
    async fn new(stream: Stream, server: &str) -> Result<Self, Failure> {
        let no_answer = |source| Failure::NoAnswer { server: server.to_owned(), source };
        let (is_http2, io, mut work) = (stream.is_http2(), TokioIo::new(stream), Work::new());
        let sender = if is_http2 {
            let built = http2::Builder::new(work.executor()).handshake(io).await;
            let (sender, connection) = built.map_err(no_answer)?;
            work.add(connection);
            Sender::Http2(sender)
        } else {
            let mut builder = http1::Builder::new();
            // Servers that are older than the rule that case does not matter.
            builder.title_case_headers(true);
            let (sender, connection) = builder.handshake(io).await.map_err(no_answer)?;
            work.add(connection);
            Sender::Http1(sender)
        };
        Ok(Self { sender, work })
    }

    pub const fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Sends the request; the answer's body is read beside [`Connection::work`] too.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let Self { sender, work } = self;
        match sender {
            Sender::Http1(sender) => work.beside(sender.send_request(request)).await,
            Sender::Http2(sender) => work.beside(sender.send_request(request)).await,
        }
    }

    /// What moves the connection.
    pub const fn work(&mut self) -> &mut Work {
        &mut self.work
    }
}

/// The futures that move a connection, in place of tasks.
pub struct Work {
    running: FuturesUnordered<BoxFuture<'static, ()>>,
    added: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>,
    adder: Executor,
}

/// Adds to a connection's [`Work`].
#[derive(Clone)]
pub struct Executor(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        // It fails only when all the work was dropped, and this with it.
        drop(self.0.send(Box::pin(future)));
    }
}

impl Work {
    fn new() -> Self {
        let (adder, added) = mpsc::unbounded_channel();
        Self { running: FuturesUnordered::new(), added, adder: Executor(adder) }
    }

    fn executor(&self) -> Executor {
        self.adder.clone()
    }

    /// Whoever waits for an answer on a connection is told why there is none; so its own end says
    /// nothing new.
    fn add(&mut self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        self.running.push(Box::pin(async move { drop(connection.await) }));
    }

    /// Waits for `awaited` and does the work meanwhile.
    pub async fn beside<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        tokio::pin!(awaited);
        loop {
            tokio::select! {
                biased;
                result = &mut awaited => return result,
                Some(future) = self.added.recv() => self.running.push(future),
                Some(()) = self.running.next(), if !self.running.is_empty() => {}
            }
        }
    }
}

/// What a connection is made on.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn is_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
