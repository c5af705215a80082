//! A server of a test's own, which can be killed, stopped, started and sent into another time.
//!
//! **Invariant:** it ends with its handle.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A running `tests/servers one`.
pub struct Instance {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Of its root user, without a database; ends in `/`.
    pub url: String,
}

impl Instance {
    /// `server` as `tests/servers` calls it: mysql or mariadb.
    pub fn start(server: &str) -> Self {
        Self::start_as(&["one", server])
    }

    /// One that `clock` can be told to.
    pub fn start_with_clock(server: &str) -> Self {
        Self::start_as(&["one", server, "clock"])
    }

    fn start_as(words: &[&str]) -> Self {
        let mut keeper = Command::new("tests/servers")
            .args(words)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/servers runs");
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().expect("it is piped"));
        let mut instance = Self { keeper, orders, answers, url: String::new() };
        loop {
            let line = instance.answer();
            if line == "ready" {
                return instance;
            }
            if let Some((_, url)) = line.split_once("_URL=") {
                url.clone_into(&mut instance.url);
            }
        }
    }

    /// `kill`, `stop`, `start`, or `clock SECONDS`; returns when it is done.
    pub fn tell(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("it runs");
        writeln!(orders, "{order}").expect("the keeper reads");
        let mut answer = self.answer();
        if answer != "done" {
            self.answers.read_to_string(&mut answer).expect("the keeper says why");
            panic!("{order}: {answer}");
        }
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the keeper answers");
        assert!(!line.is_empty(), "tests/servers has ended; what it said is above");
        line.trim_end().to_owned()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It removes the server's data before it ends.
        self.keeper.wait().ok();
    }
}
