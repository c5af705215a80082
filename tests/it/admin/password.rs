//! A worker whose password stands in a file, and is another one from time to time.

use std::fs;

use reqwest::StatusCode;
use tempfile::TempDir;

use super::{Gated, get, ok, ready_until, said};
use crate::{
    contract::{Subject, world::World},
    mysql::{Database, PASSWORD, Server},
    process::{Worker, binary, json, run, wait_until},
    stores::on_both_servers,
};

on_both_servers! {
    a_rotated_password_is_used_at_the_next_connect_and_the_execution_goes_on
    a_worker_with_a_wrong_password_says_so_and_goes_on_when_the_file_is_mended
    a_pod_without_a_password_is_not_ready_and_says_why_until_it_is_there
}

const VARIABLE: &str = "ORCHESTRATOR_WORKER__DATABASE__PASSWORD_FILE";
const NEW_PASSWORD: &str = "battery-staple-horse";

/// A database with a user whose password stands in a file.
struct Secret<S: Server> {
    world: World<Database<S>>,
    /// Of the database, without a password.
    url: String,
    folder: TempDir,
}

impl<S: Server> Secret<S> {
    async fn new() -> Self {
        let world = World::<Database<S>>::new().await;
        let url = world.subject.user("ALL").await.replace(&format!(":{PASSWORD}"), "");
        let secret = Self { world, url, folder: tempfile::tempdir().expect("a folder") };
        secret.write(PASSWORD);
        secret
    }

    fn path(&self) -> String {
        self.folder.path().join("password").display().to_string()
    }

    /// Exchanges the file as a whole, as secrets of pods are.
    fn write(&self, password: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{password}\n")).expect("it can be written");
        fs::rename(new, self.path()).expect("it can be renamed");
    }

    fn start(&self, more: &[(&str, &str)]) -> Worker {
        Worker::start(&self.url, "a", &[&[(VARIABLE, &*self.path())], more].concat())
    }

    async fn change_password(&self) {
        let user = self.world.subject.user_name();
        let sql = format!("ALTER USER {user} IDENTIFIED BY '{NEW_PASSWORD}'");
        self.world.subject.exec(&sql).await;
    }

    fn refused(&self) -> String {
        format!(
            "the server at {} refused user {:?} or its password; correct the user in the database \
             URL, or the password in {}",
            Database::<S>::address(),
            self.world.subject.user_name(),
            self.path()
        )
    }
}

async fn a_rotated_password_is_used_at_the_next_connect_and_the_execution_goes_on<S: Server>() {
    let secret = Secret::<S>::new().await;
    let admin = secret.world.subject.url(None);
    let gated = Gated::apply(&admin, "gated");
    let worker = secret.start(&[]);
    worker.wait_for("worker.started");
    gated.submit(&admin);
    gated.wait_until_begun();

    secret.change_password().await;
    secret.write(NEW_PASSWORD);
    let before = secret.world.subject.kill_users_connections().await;
    assert!(!before.is_empty(), "the worker is connected");
    gated.open();

    let ended = wait_until("the execution ends", || {
        let all = json(&admin, ["list"]);
        let state = all[0]["state"].as_str().expect("a state").to_owned();
        (state != "running").then_some(all[0].clone())
    });
    assert_eq!(ended["state"], "success");
    let shown = json(&admin, ["show", ended["execution"].as_str().expect("an id")]);
    let attempts = shown["steps"][0]["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 1, "its step went on: {shown}");
    assert_eq!(worker.logged("execution.lost"), 0);
    assert!(before.is_disjoint(&secret.world.subject.users_connections().await), "they were ended");
    assert_eq!(get(&worker, "/readyz").await, ok());

    let mut list = binary();
    list.args(["--database-url", &secret.url, "list"]);
    assert!(list.env(VARIABLE, secret.path()).output().expect("it starts").status.success());
    let old = secret.url.replace('@', &format!(":{PASSWORD}@"));
    let refused = run(&old, ["list"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("refused user"), "{refused:?}");
}

async fn a_worker_with_a_wrong_password_says_so_and_goes_on_when_the_file_is_mended<S: Server>() {
    let secret = Secret::<S>::new().await;
    let admin = secret.world.subject.url(None);
    let worker = secret.start(&[]);
    worker.wait_for("worker.started");

    secret.write("hunter2");
    secret.world.subject.kill_users_connections().await;
    let told = worker.wait_for_line("database.failed", |line| {
        line["error"].as_str().is_some_and(|error| error.contains("refused user"))
    });
    let sentence = format!("the database cannot be used: {}", secret.refused());
    assert_eq!(told["error"], sentence);
    assert!(!told.to_string().contains("hunter2"));

    fs::remove_file(secret.path()).expect("it is there");
    worker.wait_for_line("database.failed", |line| {
        line["error"].as_str().is_some_and(|error| error.contains("cannot be read"))
    });

    secret.write(PASSWORD);
    worker.wait_for("database.answers");
    assert_eq!(get(&worker, "/readyz").await, ok());
    let gated = Gated::apply(&admin, "gated");
    gated.open();
    assert!(run(&admin, ["submit", "--wait", "gated"]).status.success());
}

async fn a_pod_without_a_password_is_not_ready_and_says_why_until_it_is_there<S: Server>() {
    let secret = Secret::<S>::new().await;
    fs::remove_file(secret.path()).expect("it is there");
    let worker = secret.start(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
    let not_ready = |text: &str| said(StatusCode::SERVICE_UNAVAILABLE, &format!("{text}\n"));
    let missing = format!(
        "the password file {} (database.password_file) cannot be read (No such file or directory \
         (os error 2)); put it there, or let this process's user read it",
        secret.path()
    );
    ready_until(&worker, |said| *said == not_ready(&missing)).await;

    secret.write("hunter2");
    let refused = format!("the database cannot be used: {}", secret.refused());
    ready_until(&worker, |said| *said == not_ready(&refused)).await;

    secret.write(PASSWORD);
    ready_until(&worker, |said| *said == ok()).await;
    assert_eq!(worker.logged("store.waiting"), 2, "each reason is said once");
}
