//! A small TCP proxy that a network's faults are made with.
//!
//! **Invariant:** what it is told takes effect on connections that are open already; it never makes
//! up a byte, it only withholds them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// What the proxy does with what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Nothing goes through any more, in either direction; the sockets stay open, new ones too.
    BlackHole,
    /// Requests go through, and no answer ever comes back; the sockets stay open.
    NoAnswers,
    /// Connections are closed, new ones at once.
    Refuse,
    /// Of this many requests from now on, the last one goes through, and its connection never hears an
    /// answer again.
    HoldAnswerOf(u32),
    /// The first request that holds this text goes through; its connection never hears an answer
    /// again. Other connections pass.
    HoldAnswer(&'static str),
    /// The first request that holds this text is lost, and its connection falls silent.
    LoseRequest(&'static str),
}

/// The request that is a commit and nothing else: the byte that says "query", then its text.
pub const COMMIT: &str = "\u{3}COMMIT";

/// A part of a statement's text, and what a worker with a missing guard would say in its place. Both
/// have as many parameters.
#[derive(Clone, Copy, Debug)]
pub struct Spoil(pub &'static str, pub &'static str);

const QUERY: u8 = 0x03;
const PREPARE: u8 = 0x16;
const EXECUTE: u8 = 0x17;

impl Spoil {
    /// The request with the guard taken out, if it is one that holds it: a whole packet of MySQL's
    /// protocol (three bytes of length, a number, the command), a query or one to prepare.
    fn of(self, request: &[u8]) -> Option<Vec<u8>> {
        let [a, b, c, number, command @ (QUERY | PREPARE), text @ ..] = request else {
            return None;
        };
        if u32::from_le_bytes([*a, *b, *c, 0]) as usize != text.len() + 1 {
            return None;
        }
        let text = str::from_utf8(text).ok().filter(|text| text.contains(self.0))?;
        let text = text.replace(self.0, self.1);
        let length = u32::try_from(text.len() + 1).ok()?.to_le_bytes();
        let mut spoilt = vec![length[0], length[1], length[2], *number, *command];
        spoilt.extend(text.into_bytes());
        Some(spoilt)
    }
}

/// How long a test waits for something that must happen.
pub const CEILING: Duration = Duration::from_secs(60);

/// A running proxy; dropping it closes everything.
pub struct Proxy {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    silenced: watch::Receiver<usize>,
    open: watch::Receiver<usize>,
    made: Arc<AtomicUsize>,
    spoilt: Arc<AtomicUsize>,
    asked: Arc<Asked>,
    upstream: watch::Sender<SocketAddr>,
    _accepting: JoinSet<()>,
}

struct Shared {
    mode: Arc<watch::Sender<Mode>>,
    silenced: watch::Sender<usize>,
    open: watch::Sender<usize>,
    spoils: Vec<Spoil>,
    spoilt: Arc<AtomicUsize>,
    asked: Arc<Asked>,
}

/// What came by in MySQL's protocol.
#[derive(Default)]
struct Asked {
    statements: AtomicUsize,
    commits: AtomicUsize,
}

impl Asked {
    /// What was read at one time: whole packets, but for the end of a last one that is long.
    fn count(&self, mut packets: &[u8]) {
        while let [a, b, c, number, packet @ ..] = packets {
            let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
            let (packet, rest) = packet.split_at(length.min(packet.len()));
            if *number == 0 && matches!(packet, [QUERY | EXECUTE, ..]) {
                self.statements.fetch_add(1, Ordering::SeqCst);
            }
            if packet == COMMIT.as_bytes() {
                self.commits.fetch_add(1, Ordering::SeqCst);
            }
            packets = rest;
        }
    }
}

impl Shared {
    fn spoil(&self, request: &[u8]) -> Option<Vec<u8>> {
        let spoilt = self.spoils.iter().find_map(|spoil| spoil.of(request))?;
        self.spoilt.fetch_add(1, Ordering::SeqCst);
        Some(spoilt)
    }

    /// Whether this request is the one whose answer is to be held.
    fn is_last(&self) -> bool {
        let mut is_last = false;
        self.mode.send_if_modified(|mode| match mode {
            Mode::HoldAnswerOf(left) => {
                *left = left.saturating_sub(1);
                is_last = *left == 0;
                true
            }
            _ => false,
        });
        is_last
    }
}

impl Proxy {
    pub async fn start(upstream: SocketAddr) -> Self {
        Self::start_spoiling(upstream, Vec::new()).await
    }

    /// Where others than this machine's own reach it.
    pub async fn start_on(address: IpAddr, upstream: SocketAddr) -> Self {
        Self::listen((address, 0).into(), upstream, Vec::new()).await
    }

    /// Through which a worker's statements lose these guards.
    pub async fn start_spoiling(upstream: SocketAddr, spoils: Vec<Spoil>) -> Self {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), upstream, spoils).await
    }

    async fn listen(own: SocketAddr, upstream: SocketAddr, spoils: Vec<Spoil>) -> Self {
        let listener = TcpListener::bind(own).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let (silenced, is_silenced) = watch::channel(0);
        let (open, is_open) = watch::channel(0);
        let made = Arc::new(AtomicUsize::new(0));
        let spoilt = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(Asked::default());
        let shared = Arc::new(Shared {
            mode: mode.clone(),
            silenced,
            open,
            spoils,
            spoilt: spoilt.clone(),
            asked: asked.clone(),
        });
        let mut accepting = JoinSet::new();
        let (upstream, leads_to) = watch::channel(upstream);
        accepting.spawn(accept(listener, leads_to, shared, made.clone()));
        Self {
            address,
            mode,
            silenced: is_silenced,
            open: is_open,
            made,
            spoilt,
            asked,
            upstream,
            _accepting: accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Leads connections that are made from now on to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
    }

    /// Statements that have lost a guard so far.
    pub fn spoilt(&self) -> usize {
        self.spoilt.load(Ordering::SeqCst)
    }

    /// Statements that came by so far, those that end a transaction among them.
    pub fn statements(&self) -> usize {
        self.asked.statements.load(Ordering::SeqCst)
    }

    /// Commits of transactions that came by so far.
    pub fn commits(&self) -> usize {
        self.asked.commits.load(Ordering::SeqCst)
    }

    /// Whether it passes everything, but for connections that are silent for good.
    pub fn passes(&self) -> bool {
        *self.mode.borrow() == Mode::Pass
    }

    /// Connections made through it so far.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    /// Waits until a connection has fallen silent by `HoldAnswer` or `LoseRequest`.
    pub async fn has_silenced(&self) {
        wait(self.silenced.clone(), |count| count > 0).await;
    }

    /// Waits until the client side has closed all but so many connections.
    pub async fn has_at_most(&self, connections: usize) {
        wait(self.open.clone(), |count| count <= connections).await;
    }
}

async fn wait(mut counter: watch::Receiver<usize>, until: impl Fn(usize) -> bool) {
    let waited = timeout(CEILING, counter.wait_for(|count| until(*count))).await;
    waited.expect("it happens within the ceiling").expect("the proxy runs");
}

async fn accept(
    listener: TcpListener,
    upstream: watch::Receiver<SocketAddr>,
    shared: Arc<Shared>,
    made: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if *shared.mode.borrow() == Mode::Refuse {
            continue;
        }
        made.fetch_add(1, Ordering::SeqCst);
        let leads_to = *upstream.borrow();
        let Ok(server) = TcpStream::connect(leads_to).await else { continue };
        connections.spawn(connect(client, server, shared.clone()));
    }
}

/// One connection, until its client has closed it or the proxy refuses.
async fn connect(client: TcpStream, server: TcpStream, shared: Arc<Shared>) {
    shared.open.send_modify(|open| *open += 1);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (silence, is_silent) = watch::channel(false);
    let mut mode = shared.mode.subscribe();
    tokio::select! {
        () = upwards(from_client, to_server, &shared, &silence) => {}
        () = downwards(from_server, to_client, &shared, is_silent) => {}
        _ = mode.wait_for(|mode| *mode == Mode::Refuse) => {}
    }
    shared.open.send_modify(|open| *open -= 1);
}

/// Requests. What is withheld is still read, so that a client's close is seen.
async fn upwards(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    silence: &watch::Sender<bool>,
) {
    let mut buffer = vec![0; 1 << 16];
    let mut is_lost = false;
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let request = &buffer[..length];
        shared.asked.count(request);
        let mode = shared.mode.borrow().clone();
        let holds = |text: &str| request.windows(text.len()).any(|part| part == text.as_bytes());
        let strikes = match &mode {
            Mode::HoldAnswer(text) | Mode::LoseRequest(text) => holds(text),
            Mode::HoldAnswerOf(_) => shared.is_last(),
            Mode::Pass | Mode::BlackHole | Mode::NoAnswers | Mode::Refuse => false,
        };
        if strikes {
            // Only one connection is struck.
            shared.mode.send_replace(Mode::Pass);
            silence.send_replace(true);
            is_lost = matches!(mode, Mode::LoseRequest(_));
        }
        let is_withheld = is_lost || mode == Mode::BlackHole;
        let spoilt = shared.spoil(request);
        if !is_withheld && to.write_all(spoilt.as_deref().unwrap_or(request)).await.is_err() {
            return;
        }
        if strikes {
            shared.silenced.send_modify(|count| *count += 1);
        }
    }
}

/// Answers.
async fn downwards(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    is_silent: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer).await {
            Ok(length @ 1..) => {
                let mutes = [Mode::BlackHole, Mode::NoAnswers];
                let is_withheld = *is_silent.borrow() || mutes.contains(&shared.mode.borrow());
                if !is_withheld && to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            // A server's close is withheld as well.
            Ok(0) | Err(_) if *is_silent.borrow() => std::future::pending().await,
            Ok(_) | Err(_) => return,
        }
    }
}

#[tokio::test]
async fn the_proxy_passes_withholds_and_refuses() {
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let upstream = echo.local_addr().expect("an address");
    let mut echoing = JoinSet::new();
    echoing.spawn(async move {
        let mut clients = JoinSet::new();
        while let Ok((mut client, _)) = echo.accept().await {
            clients.spawn(async move {
                let (mut from, mut to) = client.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    let proxy = Proxy::start(upstream).await;
    let mut buffer = [0; 4];
    let soon = Duration::from_millis(100);

    let mut client = TcpStream::connect(proxy.address()).await.expect("a connection");
    client.write_all(b"ping").await.expect("it is sent");
    client.read_exact(&mut buffer).await.expect("an echo");
    assert_eq!(&buffer, b"ping");

    proxy.set(Mode::HoldAnswer("hold"));
    client.write_all(b"hold").await.expect("it is sent");
    proxy.has_silenced().await;
    assert!(timeout(soon, client.read(&mut buffer)).await.is_err(), "silence, not an end");
    let mut other = TcpStream::connect(proxy.address()).await.expect("a connection");
    other.write_all(b"hold").await.expect("it is sent");
    other.read_exact(&mut buffer).await.expect("only one connection is struck");
    drop(client);
    proxy.has_at_most(1).await;

    proxy.set(Mode::BlackHole);
    other.write_all(b"ping").await.expect("it is sent");
    assert!(timeout(soon, other.read(&mut buffer)).await.is_err(), "silence, not an end");

    proxy.set(Mode::Refuse);
    assert_eq!(other.read(&mut buffer).await.unwrap_or(0), 0, "closed");
    proxy.has_at_most(0).await;
    let mut refused = TcpStream::connect(proxy.address()).await.expect("the port is there");
    assert_eq!(refused.read(&mut buffer).await.unwrap_or(0), 0, "closed at once");
    assert_eq!(proxy.made(), 2);
}
