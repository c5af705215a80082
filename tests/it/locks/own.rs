//! A Redis, a Sentinel or an etcd of a test's own.
//!
//! **Invariant:** it ends with its handle, data and all.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
};

use tempfile::TempDir;

use crate::{debian, process::wait_until, servers::locks_root};

pub struct Own {
    child: Child,
    words: Vec<String>,
    ready: String,
    folder: TempDir,
    pub port: u16,
}

impl Own {
    /// Starts one by its words, of its folder as it sees it and its port; it is ready when its log has
    /// this word.
    pub fn start(
        ready: &str,
        prepare: impl Fn(&Path, u16),
        words: impl Fn(&str, u16) -> Vec<String>,
    ) -> Self {
        let root = locks_root();
        let folder = debian::folder(&root);
        let seen = debian::seen(&root, folder.path());
        loop {
            let port = debian::free_port();
            prepare(folder.path(), port);
            let log = folder.path().join("log");
            let words = words(&seen, port);
            let child = debian::program(&root, &words, &log).spawn();
            let mut child = child.expect("chroot starts");
            if debian::is_ready(&mut child, &log, ready) {
                return Self { child, words, ready: ready.into(), folder, port };
            }
        }
    }

    pub fn redis(more: &[&str]) -> Self {
        Self::redis_with(more, |_| {})
    }

    /// `{}` in a word is its folder as it sees it, `{port}` its port.
    pub fn redis_with(more: &[&str], prepare: impl Fn(&Path)) -> Self {
        Self::start(
            "Ready to accept connections",
            |folder, _| prepare(folder),
            |seen, port| {
                let fixed = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--dir", "{}"];
                let (port, usual) = (port.to_string(), ["--port", "{port}"]);
                let usual = if more.contains(&"--tls-port") { &[][..] } else { &usual };
                let filled = |word: &&str| word.replace("{port}", &port).replace("{}", seen);
                fixed.iter().chain(usual).chain(more).map(filled).collect()
            },
        )
    }

    /// Waits until its log has this word.
    pub fn wait_for(&self, word: &str) {
        wait_until(word, || self.log().contains(word).then_some(()));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("it logs")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn kill(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Starts it again, at the same port.
    pub fn start_again(&mut self) {
        let log = self.folder.path().join("log");
        self.child = debian::program(&locks_root(), &self.words, &log).spawn().expect("a chroot");
        assert!(debian::is_ready(&mut self.child, &log, &self.ready), "its port is free");
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}
