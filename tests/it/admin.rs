//! The admin port as probes, scrapers and people with a browser see it.
//!
//! **Invariant:** every story asks a real worker over HTTP.

mod later;
pub mod metrics;
mod password;
mod terms;
mod versions;
mod waiting;
mod warnings;

use std::{fs, path::PathBuf};

use orchestrator_worker::telemetry;
use reqwest::{Client, Method, StatusCode, header::CONTENT_TYPE};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    contract::world::World,
    crash::Served,
    process::{CEILING, Worker, json, run},
    stores::on_every_store,
};

on_every_store! {
    a_worker_answers_its_probes_and_nothing_else
    a_draining_worker_is_not_ready_and_still_alive
}

/// What the port says to a GET.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    status: StatusCode,
    kind: String,
    text: String,
}

async fn ask(worker: &Worker, method: Method, path: &str) -> Said {
    telemetry::install_tls();
    let client = Client::builder().no_proxy().timeout(CEILING).build().expect("a client");
    let url = format!("http://{}{path}", worker.admin());
    let response = client.request(method, url).send().await.expect("the port answers");
    let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().expect("ASCII"));
    let (status, kind) = (response.status(), kind.unwrap_or_default().to_owned());
    Said { status, kind, text: response.text().await.expect("a text") }
}

async fn get(worker: &Worker, path: &str) -> Said {
    ask(worker, Method::GET, path).await
}

fn said(status: StatusCode, text: &str) -> Said {
    Said { status, kind: "text/plain; charset=utf-8".into(), text: text.into() }
}

fn ok() -> Said {
    said(StatusCode::OK, "ok\n")
}

/// Asks `/readyz` until the answer is one that is waited for.
async fn ready_until(worker: &Worker, is: impl Fn(&Said) -> bool) -> Said {
    let began = Instant::now();
    loop {
        let now = get(worker, "/readyz").await;
        if is(&now) {
            return now;
        }
        assert!(began.elapsed() < CEILING, "not in time: {now:?}");
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A workflow whose first step waits for a gate.
struct Gated {
    folder: TempDir,
    name: &'static str,
}

impl Gated {
    fn apply(url: &str, name: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!(
            r#"
name: '{name}'
steps:
  - name: gate
    env: {{ DIR: "{dir}" }}
    timeout: 1000s
    shell: touch "$DIR/begun"; until [ -e "$DIR/gate" ]; do sleep 0.05; done
  - name: second try
    depends_on: [gate]
    env: {{ DIR: "{dir}" }}
    retries: 1
    shell: mkdir "$DIR/tried" || exit 0; exit 1
  - name: nothing
    depends_on: [second try]
    func: noop
"#,
            dir = folder.path().display()
        );
        fs::write(folder.path().join("gated.yaml"), text).expect("it can be written");
        let file = folder.path().join("gated.yaml");
        json(url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
        Self { folder, name }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn submit(&self, url: &str) {
        assert!(run(url, ["submit", self.name]).status.success());
    }

    fn open(&self) {
        fs::write(self.path("gate"), "").expect("it can be written");
    }

    /// Its first step runs.
    fn wait_until_begun(&self) {
        crate::process::wait_until("the first step runs", || {
            self.path("begun").exists().then_some(())
        });
    }
}

async fn a_worker_answers_its_probes_and_nothing_else<S: Served>() {
    let world = World::<S>::new().await;
    let mut worker = Worker::start(&world.subject.url(), "a", &[]);
    ready_until(&worker, |said| *said == ok()).await;
    for path in ["/startupz", "/livez", "/readyz"] {
        assert_eq!(get(&worker, path).await, ok(), "{path}");
    }
    let elsewhere = "there are /startupz, /livez, /readyz and /metrics here\n";
    for path in ["/", "/healthz", "/readyz/", "/metrics/x", "/../etc/passwd"] {
        assert_eq!(get(&worker, path).await, said(StatusCode::NOT_FOUND, elsewhere), "{path}");
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for path in ["/startupz", "/livez", "/readyz", "/metrics"] {
            let answer = ask(&worker, method.clone(), path).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}

async fn a_draining_worker_is_not_ready_and_still_alive<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let gated = Gated::apply(&url, "gated");
    gated.submit(&url);
    let mut worker = Worker::start(&url, "a", &[]);
    gated.wait_until_begun();
    assert_eq!(ready_until(&worker, |said| *said == ok()).await, ok(), "a busy worker is ready");

    worker.signal(Signal::TERM);
    let draining = ready_until(&worker, |said| *said != ok()).await;
    assert_eq!(
        draining,
        said(StatusCode::SERVICE_UNAVAILABLE, "draining: nothing new is claimed\n")
    );
    assert_eq!(get(&worker, "/livez").await, ok());
    assert_eq!(get(&worker, "/startupz").await, ok());
    assert!(metrics::of(&worker).await.is("orchestrator_worker_draining", "", 1.0));

    gated.open();
    assert!(worker.wait().success());
    assert_eq!(worker.logged("execution.handed_back"), 1, "the rest is for another worker");
}
