//! A server on loopback that reads requests plainly and answers them as badly as it is told.
//!
//! **Invariant:** every connection's task ends with the server.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::CEILING;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// `GET /path HTTP/1.1`
    pub line: String,
    /// Names as they were written.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    /// By name in lower case; none stands twice.
    pub fn all(&self) -> BTreeMap<String, &str> {
        let mut all = BTreeMap::new();
        for (name, value) in &self.headers {
            let before = all.insert(name.to_ascii_lowercase(), value.as_str());
            assert!(before.is_none(), "{name} stands twice");
        }
        all
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all().get(name).copied()
    }
}

/// What is done about a request, or about a connection.
#[derive(Clone, Debug)]
pub enum Act {
    /// Say this and close.
    Say(String),
    /// Say the head, and the piece again and again until the other side goes.
    Repeat { head: String, piece: String, every: Duration },
    /// Say nothing until the other side goes.
    Hang,
    /// Say this, then reset the connection.
    Reset(String),
}

impl Act {
    /// A plain answer.
    pub fn answer(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Say(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
    }

    pub fn ok(body: &str) -> Self {
        Self::answer("200 OK", "", body)
    }

    pub fn redirect(status: &str, to: &str) -> Self {
        Self::answer(status, &format!("Location: {to}\r\n"), "")
    }
}

#[derive(Default)]
struct Counts {
    seen: Vec<Seen>,
    /// Connections that the other side closed first.
    left: usize,
    connections: usize,
}

pub struct Server {
    pub address: SocketAddr,
    counts: watch::Receiver<()>,
    state: Arc<Mutex<Counts>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers each request as the function says.
    pub async fn start(answer: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::serve(listener, true, answer)
    }

    /// Does the same to every request.
    pub async fn always(act: Act) -> Self {
        Self::start(move |_| act.clone()).await
    }

    /// Acts on a connection before anything was read from it.
    pub async fn at_once(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::serve(listener, false, move |_| act.clone())
    }

    fn serve(
        listener: TcpListener,
        reads: bool,
        answer: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(Counts::default()));
        let (changed, counts) = watch::channel(());
        let (mut tasks, answer) = (JoinSet::new(), Arc::new(answer));
        let shared = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, state, changed) = (answer.clone(), shared.clone(), changed.clone());
                state.lock().expect("no panic").connections += 1;
                connections.spawn(async move {
                    let left = serve_one(stream, reads, &*answer, &state, &changed).await;
                    state.lock().expect("no panic").left += usize::from(left);
                    changed.send_replace(());
                });
            }
        });
        Self { address, counts, state, _tasks: tasks }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().expect("no panic").seen.clone()
    }

    pub fn connections(&self) -> usize {
        self.state.lock().expect("no panic").connections
    }

    /// Waits until so many requests have come.
    pub async fn has_seen(&self, count: usize) {
        self.until(|counts| counts.seen.len() >= count).await;
    }

    /// Waits until the other side has gone from so many connections.
    pub async fn was_left(&self, count: usize) {
        self.until(|counts| counts.left >= count).await;
    }

    async fn until(&self, event: impl Fn(&Counts) -> bool) {
        let mut changes = self.counts.clone();
        let state = self.state.clone();
        let waiting = changes.wait_for(|()| event(&state.lock().expect("no panic")));
        timeout(CEILING, waiting).await.expect("it happens").expect("the server runs");
    }
}

/// Says whether the other side went first.
async fn serve_one(
    mut stream: TcpStream,
    reads: bool,
    answer: &(impl Fn(&Seen) -> Act + Sync),
    state: &Mutex<Counts>,
    changed: &watch::Sender<()>,
) -> bool {
    let mut seen = Seen::default();
    if reads {
        let Some(read) = read(&mut stream).await else { return true };
        seen = read;
        state.lock().expect("no panic").seen.push(seen.clone());
        changed.send_replace(());
    }
    match answer(&seen) {
        Act::Say(text) => {
            let sent = stream.write_all(text.as_bytes()).await;
            sent.is_err() || stream.shutdown().await.is_err()
        }
        Act::Reset(text) => {
            drop(stream.write_all(text.as_bytes()).await);
            stream.set_zero_linger().expect("a socket");
            false
        }
        Act::Hang => gone(&mut stream).await,
        Act::Repeat { head, piece, every } => {
            let mut sent = stream.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                tokio::select! {
                    _ = gone(&mut stream) => return true,
                    () = sleep(every) => {}
                }
                sent = stream.write_all(piece.as_bytes()).await;
            }
            true
        }
    }
}

async fn gone(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    true
}

/// `None` if the other side goes before the request is whole.
async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("a head in ASCII");
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ").expect("a header");
        (name.to_owned(), value.to_owned())
    };
    let mut seen =
        Seen { line, headers: lines.map(pair).collect(), body: bytes.split_off(end + 4) };
    let length = seen.header("content-length").map_or(0, |text| text.parse().expect("a number"));
    while seen.body.len() < length {
        if stream.read_buf(&mut seen.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(seen)
}
