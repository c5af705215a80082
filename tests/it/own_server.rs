//! A server that one test has for itself, because it needs other settings than the one for all.
//!
//! **Invariant:** it listens on loopback alone, and ends with its handle, data and all; should the
//! test's thread end without it, the kernel ends it. Its temporary files are its own: as it starts, a
//! MariaDB removes those of others from a folder that it shares with them.

use std::{collections::BTreeSet, fs, marker::PhantomData, path::Path, process::Child};

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, raw_sql};
use tempfile::TempDir;

use crate::{
    debian,
    mysql::{Server, kill},
};

/// In the log of one that has started.
const READY: &str = "ready for connections";

/// A running server.
pub struct OwnServer<S: Server> {
    child: Child,
    words: Vec<String>,
    env: Vec<(String, String)>,
    port: u16,
    folder: TempDir,
    server: PhantomData<S>,
}

impl<S: Server> OwnServer<S> {
    /// Starts one with these settings and variables. `{}` in a setting is the folder that `prepare`
    /// puts files into, as the server sees it.
    pub fn start(settings: &[&str], env: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let folder = debian::folder(&S::root());
        prepare(folder.path());
        let seen = debian::seen(&S::root(), folder.path());
        let initialize = S::INITIALIZE.iter().map(|word| (*word).to_owned());
        let mut initialize: Vec<String> = initialize.collect();
        let datadir = initialize.pop().expect("words");
        initialize.push(format!("{datadir}={seen}/data"));
        let log = folder.path().join("initialize.log");
        let made = debian::program(&S::root(), &initialize, &log).env("TMPDIR", &seen).status();
        let made = made.expect("chroot starts");
        assert!(made.success(), "{}", fs::read_to_string(&log).unwrap_or_default());
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let env: Vec<_> = [("TMPDIR".to_owned(), seen.clone())].into_iter().chain(env).collect();
        loop {
            let port = debian::free_port();
            let mut words = vec![S::DAEMON.to_owned(), "--no-defaults".into()];
            words.extend([
                "--user=root".into(),
                format!("--datadir={seen}/data"),
                format!("--socket={seen}/socket"),
                format!("--pid-file={seen}/server.pid"),
                "--bind-address=127.0.0.1".into(),
                format!("--port={port}"),
            ]);
            words.extend(
                S::SETTINGS.iter().chain(settings).map(|setting| setting.replace("{}", &seen)),
            );
            let log = folder.path().join("log");
            let child = debian::program(&S::root(), &words, &log).envs(env.iter().cloned()).spawn();
            let mut child = child.expect("chroot starts");
            if debian::is_ready(&mut child, &log, READY) {
                return Self { child, words, env, port, folder, server: PhantomData };
            }
        }
    }

    /// Kills it, and starts it again on its data, at the same port.
    pub fn restart(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        let log = self.folder.path().join("log");
        let mut server = debian::program(&S::root(), &self.words, &log);
        self.child = server.envs(self.env.iter().cloned()).spawn().expect("chroot starts");
        assert!(debian::is_ready(&mut self.child, &log, READY), "its port is free");
    }

    /// Without a database, under this name of its host: `mysql://root@127.0.0.1:3306/`.
    pub fn url(&self, host: &str) -> String {
        format!("mysql://root@{host}:{}/", self.port)
    }

    /// Runs statements as its root.
    pub async fn exec(&self, sql: &str) {
        let url = self.url("127.0.0.1");
        let mut root = MySqlConnection::connect(&url).await.expect("it takes connections");
        let done = raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut root).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Ends the connections of this user; returns which.
    pub async fn kill_connections_of(&self, user: &str) -> BTreeSet<String> {
        let url = self.url("127.0.0.1");
        let mut root = MySqlConnection::connect(&url).await.expect("it takes connections");
        kill(&mut root, user).await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl<S: Server> Drop for OwnServer<S> {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
