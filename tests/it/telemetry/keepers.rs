//! Who keeps spans: the tests' own collector, or a real Jaeger.
//!
//! **Invariant:** a Jaeger is the test's own, on ports of its own, and ends with it.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use async_trait::async_trait;
use axum::http::StatusCode;
use orchestrator_worker::telemetry;
use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use super::{
    collector::Collector,
    tree::{Kept, all_of_collector, all_of_jaeger},
};

#[async_trait]
pub trait Keeper: Sized + Send + Sync + 'static {
    async fn start() -> Self;

    /// As `OTEL_EXPORTER_OTLP_ENDPOINT` takes it.
    fn endpoint(&self) -> String;

    /// All that it has.
    async fn all(&self) -> Vec<Kept>;

    async fn trace(&self, trace: &str) -> Vec<Kept> {
        self.all().await.into_iter().filter(|span| span.trace == trace).collect()
    }
}

#[async_trait]
impl Keeper for Collector {
    async fn start() -> Self {
        Self::start(StatusCode::OK)
    }

    fn endpoint(&self) -> String {
        self.endpoint()
    }

    async fn all(&self) -> Vec<Kept> {
        all_of_collector(self)
    }
}

/// A running Jaeger that keeps traces in memory.
pub struct Jaeger {
    child: Child,
    otlp: u16,
    api: u16,
    _folder: TempDir,
}

/// Until it answers.
const COMES_UP: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "tests/run speaks to tests by its environment")]
pub fn jaeger() -> PathBuf {
    let path = std::env::var("ORCHESTRATOR_TEST_JAEGER").unwrap_or_else(|_| {
        panic!(
            "ORCHESTRATOR_TEST_JAEGER is not set: `tests/run` sets it to a Jaeger that it has built, \
             and `tests/run fast` leaves the tests that need one out"
        )
    });
    path.into()
}

/// Ports that were free a moment ago.
fn ports<const N: usize>() -> [u16; N] {
    let bound = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    bound.map(|listener| listener.local_addr().expect("an address").port())
}

impl Jaeger {
    async fn answer(&self, path: &str) -> Option<Value> {
        let client = Client::builder().no_proxy().build().expect("a client");
        let url = format!("http://127.0.0.1:{}{path}", self.api);
        let response = client.get(url).send().await.ok()?;
        serde_json::from_str(&response.text().await.ok()?).ok()
    }
}

#[async_trait]
impl Keeper for Jaeger {
    async fn start() -> Self {
        telemetry::install_tls();
        let folder = tempfile::tempdir().expect("a folder");
        let [otlp, api, grpc] = ports();
        let config = format!(
            "
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}
extensions:
  jaeger_storage: {{backends: {{here: {{memory: {{max_traces: 100000}}}}}}}}
  jaeger_query:
    storage: {{traces: here}}
    http: {{endpoint: '127.0.0.1:{api}'}}
    grpc: {{endpoint: '127.0.0.1:{grpc}'}}
receivers:
  otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{otlp}'}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: here}}
"
        );
        let file = folder.path().join("jaeger.yaml");
        fs::write(&file, config).expect("it can be written");
        let child = Command::new(jaeger())
            .arg("--config")
            .arg(format!("file:{}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Jaeger starts");
        let jaeger = Self { child, otlp, api, _folder: folder };
        let began = Instant::now();
        while jaeger.answer("/api/services").await.is_none() {
            assert!(began.elapsed() < COMES_UP, "Jaeger does not answer");
            sleep(Duration::from_millis(50)).await;
        }
        jaeger
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.otlp)
    }

    async fn all(&self) -> Vec<Kept> {
        let path =
            "/api/traces?service=orchestrator-worker&limit=1500&start=1&end=9000000000000000";
        self.answer(path).await.map(|answer| all_of_jaeger(&answer)).unwrap_or_default()
    }

    async fn trace(&self, trace: &str) -> Vec<Kept> {
        let answer = self.answer(&format!("/api/traces/{trace}")).await;
        answer.map(|answer| all_of_jaeger(&answer)).unwrap_or_default()
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
