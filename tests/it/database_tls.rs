//! The database behind TLS: who it is, is checked at every connect.
//!
//! Servers on loopback are spoken to without TLS, so these are called by a name that leads there and
//! that this program does not know for it: it compares letter by letter, and resolvers do not.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::{
    authority::Authority,
    mysql::{PASSWORD, Server},
    own_server::OwnServer,
    process::{Worker, json, run},
    stores::on_both_servers,
};

on_both_servers! {
    a_server_must_prove_its_name_at_the_first_connect_and_at_every_later_one
}

const NAME: &str = "LOCALHOST";

/// A server that lets user `w` in by TLS alone.
struct Secured<S: Server> {
    server: OwnServer<S>,
    folder: TempDir,
}

impl<S: Server> Secured<S> {
    async fn start(authority: &Authority) -> Self {
        let settings = ["--ssl-ca={}/ca.pem", "--ssl-cert={}/server.pem", "--ssl-key={}/key.pem"];
        let server =
            OwnServer::<S>::start(&settings, &[], |folder| authority.write_server(NAME, folder));
        let user = format!("CREATE USER w IDENTIFIED BY '{PASSWORD}' REQUIRE SSL");
        server.exec(&format!("CREATE DATABASE d; {user}; GRANT ALL ON d.* TO w")).await;
        let folder = tempfile::tempdir().expect("a folder");
        Self { server, folder }
    }

    /// What it shows to whoever connects from now on.
    async fn show(&self, authority: &Authority, name: &str) {
        authority.write_server(name, self.server.folder());
        self.server.exec(S::RELOAD_TLS).await;
    }

    /// Under this name, trusting this authority, or those of the machine.
    fn url(&self, host: &str, trusted: Option<&Authority>) -> String {
        let url = format!("mysql://w:{PASSWORD}@{host}:{}/d", self.server.port());
        let Some(authority) = trusted else { return url };
        let path = self.folder.path().join(uuid::Uuid::new_v4().to_string());
        authority.write(&path);
        format!("{url}?ssl-ca={}", path.display())
    }

    async fn kill_the_workers_connections(&self) {
        assert!(!self.server.kill_connections_of("w").await.is_empty(), "the worker is connected");
    }
}

fn refusal(url: &str) -> String {
    let refused = run(url, ["list"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    String::from_utf8(refused.stderr).expect("UTF-8")
}

fn assert_no_tls(sentence: &str, because: &str) {
    let begin = "error: the database cannot be used: no TLS with LOCALHOST:";
    let end = "; name the authority's certificate with ?ssl-ca=FILE in the database URL, or set \
               database.tls to insecure\n";
    assert!(sentence.starts_with(begin) && sentence.ends_with(end), "{sentence}");
    assert!(sentence.contains(because) && !sentence.contains(PASSWORD), "{sentence}");
}

/// Applies, submits and waits.
fn run_one(url: &str, folder: &Path) {
    let file = folder.join("w.yaml");
    fs::write(&file, "name: w\nsteps: [{name: a, func: noop}]").expect("it can be written");
    json(url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    assert!(run(url, ["submit", "--wait", "w"]).status.success());
}

async fn a_server_must_prove_its_name_at_the_first_connect_and_at_every_later_one<S: Server>() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let secured = Secured::<S>::start(&ours).await;
    let url = secured.url(NAME, Some(&ours));
    assert!(run(&url, ["migrate"]).status.success());

    for refused in [secured.url(NAME, Some(&theirs)), secured.url(NAME, None)] {
        assert_no_tls(&refusal(&refused), "UnknownIssuer");
    }
    secured.show(&ours, "elsewhere.example").await;
    assert_no_tls(&refusal(&url), "not valid for name");
    secured.show(&ours, NAME).await;
    let unprotected = refusal(&secured.url("127.0.0.1", Some(&ours)));
    assert!(unprotected.contains("refused user \"w\""), "{unprotected}");

    let worker = Worker::start(&url, "a", &[]);
    worker.wait_for("worker.started");
    run_one(&url, secured.folder.path());
    secured.kill_the_workers_connections().await;
    run_one(&url, secured.folder.path());

    // Somebody else answers in its place.
    secured.show(&theirs, NAME).await;
    secured.kill_the_workers_connections().await;
    worker.wait_for_line("database.failed", |line| {
        line["error"].as_str().is_some_and(|error| error.contains("no TLS with LOCALHOST:"))
    });
    secured.show(&ours, NAME).await;
    worker.wait_for("database.answers");
    run_one(&url, secured.folder.path());
}
