//! The admin port: `/startupz`, `/livez`, `/readyz` and `/metrics`; read-only.
//!
//! **Invariant:** nothing that is asked here touches the database or waits for the worker, so that
//! a probe says how this process is and not how its neighbours are.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{instruments::Instruments, worker::health::Health};

const NOTHING_HERE: &str = "there are /startupz, /livez, /readyz and /metrics here\n";

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How this process is.
#[derive(Debug)]
pub struct Probes {
    health: Arc<Health>,
    /// What the process waits for before its worker can begin.
    waiting: Mutex<Option<String>>,
}

impl Probes {
    /// Waits for its store.
    pub fn new(health: Arc<Health>) -> Arc<Self> {
        Arc::new(Self { health, waiting: Mutex::new(Some("the store is not open yet".into())) })
    }

    /// What has to happen before the worker can begin, in a sentence.
    pub fn wait_for(&self, what: String) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    /// The worker begins: from now on its own health counts.
    pub fn begin(&self) {
        self.health.beat();
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn waiting(&self) -> Option<String> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn started(&self) -> Result<(), Vec<String>> {
        let not_yet = || vec!["the process has not started yet".into()];
        if self.health.started() { Ok(()) } else { Err(not_yet()) }
    }

    /// A process that waits is alive: nobody is helped by starting it again.
    fn alive(&self) -> Result<(), Vec<String>> {
        if self.waiting().is_some() || self.health.alive() {
            return Ok(());
        }
        Err(vec!["a loop of the worker stands still".into()])
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        self.waiting().map_or_else(|| self.health.ready(), |what| Err(vec![what]))
    }
}

/// Why the port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "cannot listen on {address} (admin.listen): the port is in use, perhaps by another worker; \
         choose another with --admin-listen, such as --admin-listen 127.0.0.1:0 for any free one"
    )]
    InUse { address: SocketAddr },
    #[error(
        "cannot listen on {address} (admin.listen): {source}; choose another with --admin-listen"
    )]
    Listen { address: SocketAddr, source: io::Error },
}

/// A port that is bound and not served yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => AdminError::InUse { address },
            _ => AdminError::Listen { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then lets answers that have begun end.
    pub async fn serve(
        self,
        probes: Arc<Probes>,
        instruments: Arc<Instruments>,
        stop: CancellationToken,
    ) {
        let app = routes(probes, instruments);
        let served = axum::serve(self.listener, app)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = served.await {
            tracing::error!(event = "admin.failed", %error, "the admin port is not served any more");
        }
    }
}

fn routes(probes: Arc<Probes>, instruments: Arc<Instruments>) -> Router {
    let probe = |question: fn(&Probes) -> Result<(), Vec<String>>| {
        get(move |State(probes): State<Arc<Probes>>| async move { answer(question(&probes)) })
    };
    Router::new()
        .route("/startupz", probe(Probes::started))
        .route("/livez", probe(Probes::alive))
        .route("/readyz", probe(Probes::ready))
        .with_state(probes)
        .route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, OPENMETRICS)], instruments.encode())),
        )
        .fallback(async || (StatusCode::NOT_FOUND, NOTHING_HERE))
}

/// 200, or 503 with the reasons, one a line.
fn answer(probe: Result<(), Vec<String>>) -> Response {
    match probe {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reasons) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
        }
    }
}
