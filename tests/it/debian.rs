//! Programs in the small Debians that `tests/servers` makes, for tests that need a server of their own.
//!
//! **Invariant:** the kernel ends one whose test's thread ends without it.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::process::wait_until;

/// One in its /tmp.
pub fn folder(root: &Path) -> TempDir {
    let mut folder = tempfile::Builder::new();
    folder.prefix("own.").tempdir_in(root.join("tmp")).expect("a folder")
}

/// How its programs see a path in it.
pub fn seen(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).expect("it is in there");
    PathBuf::from("/").join(inside).display().to_string()
}

/// A program by its words; what it says goes to `log`.
pub fn program(root: &Path, words: &[String], log: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let log = File::create(log).expect("it can be written");
    command
        .args(["--pdeathsig", "KILL", "chroot"])
        .arg(root)
        .args(words)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log);
    command
}

/// Somebody else may be faster with it.
pub fn free_port() -> u16 {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    taken.local_addr().expect("an address").port()
}

/// Waits until its log says that it is; `false` where somebody else was faster with the port.
pub fn is_ready(child: &mut Child, log: &Path, word: &str) -> bool {
    wait_until("the server is ready", || {
        let text = fs::read_to_string(log).expect("it logs");
        if text.contains(word) {
            return Some(true);
        }
        child.try_wait().expect("a child").map(|status| {
            let is_taken = text.to_lowercase().contains("address already in use");
            assert!(is_taken, "{status}: {text}");
            false
        })
    })
}
