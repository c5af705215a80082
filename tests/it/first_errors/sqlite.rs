//! SQLite files that cannot be used.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread,
};

use rustix::{
    process::geteuid,
    thread::{CapabilitySet, remove_capability_from_bounding_set},
};

use super::{Folder, refused};
use crate::process::{Ended, end_of, json};

#[test]
fn a_path_that_is_no_sqlite_file_is_named_with_what_is_there_instead() {
    let text = "this is a text, and longer than the sixteen bytes that an SQLite file begins with";
    let folder = Folder::with(&[("notes.txt", text)]);
    for (path, sentence) in [
        (".", "the database cannot be used: . is a folder; give the path of a file in it"),
        (
            "notes.txt",
            "the database cannot be used: the SQLite file notes.txt is not an SQLite database; give \
             another path, or move it away",
        ),
        (
            "no/where.db",
            "the database cannot be used: the folder no of the SQLite file no/where.db does not \
             exist; make it, or give another path",
        ),
    ] {
        for command in ["list", "submit x", "migrate", "run --until-idle --admin-listen off"] {
            let line = format!("--database-url sqlite://{path} {command}");
            assert_eq!(folder.refusal(&line, 1), sentence, "{line}");
        }
    }
    let left = fs::read_to_string(folder.0.path().join("notes.txt")).expect("it is there");
    assert_eq!(left, text, "a file that is no database is left alone");
}

#[test]
fn a_file_or_folder_without_rights_is_named() {
    let folder = Folder::new();
    let (closed, unreadable) = (folder.0.path().join("closed"), folder.0.path().join("secret.db"));
    fs::create_dir(&closed).expect("a folder");
    allow(&closed, 0o555);
    fs::write(&unreadable, "").expect("it can be written");
    allow(&unreadable, 0o000);

    let refusal = |line: &str| {
        let ended = as_ordinary_user(folder.command(line), |command| refused(command, 1));
        folder.sentence(&ended)
    };
    for command in ["list", "run --until-idle --admin-listen off"] {
        assert_eq!(
            refusal(&format!("--database-url sqlite://closed/x.db {command}")),
            "the database cannot be used: the SQLite file closed/x.db cannot be made; check the \
             rights on its folder, or give another path"
        );
        assert_eq!(
            refusal(&format!("--database-url sqlite://secret.db {command}")),
            "the database cannot be used: the SQLite file secret.db cannot be opened; check the \
             rights on it and on its folder"
        );
    }
    let mut elsewhere =
        folder.command("--database-url memory: run --until-idle --admin-listen off");
    elsewhere.env("ORCHESTRATOR_WORKER__STATE_DIR", &closed);
    assert_eq!(
        folder.sentence(&as_ordinary_user(elsewhere, |command| refused(command, 1))),
        "cannot use the folder DIR/closed (state_dir) for running steps: Permission denied (os \
         error 13); name another that may be written to"
    );
    allow(&closed, 0o755);
}

#[test]
fn a_worker_that_may_not_write_to_its_file_says_so_and_does_not_wait_for_ever() {
    let folder = Folder::with(&[("w.yaml", "name: w\nsteps: [{name: a, func: noop}]")]);
    let file = folder.0.path().join("x.db");
    let url = format!("sqlite://{}", file.display());
    json(&url, ["apply".as_ref(), "-f".as_ref(), folder.0.path().join("w.yaml").as_os_str()]);
    json(&url, ["submit", "w"]);
    allow(&file, 0o444);

    let line = "--database-url sqlite://x.db run --until-idle --admin-listen off";
    let ended = as_ordinary_user(folder.command(line), |command| refused(command, 1));
    assert_eq!(
        folder.sentence(&ended),
        "the database cannot be used: the SQLite file x.db may not be written; check the rights on \
         it and on its folder"
    );
    let list = "--database-url sqlite://x.db list";
    let listed = as_ordinary_user(folder.command(list), end_of);
    assert_eq!(listed.code, Some(0), "who may only read may look: {listed:?}");
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

/// Runs a process for which the rights on files count, whoever runs the tests: root's are ignored
/// only while these capabilities may be had. A thread has a set of its own, which a process that it
/// starts inherits.
fn as_ordinary_user(mut command: Command, run: impl FnOnce(&mut Command) -> Ended + Send) -> Ended {
    let start = || {
        if geteuid().is_root() {
            for capability in [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH] {
                remove_capability_from_bounding_set(capability).expect("root may give up rights");
            }
        }
        run(&mut command)
    };
    thread::scope(|scope| scope.spawn(start).join().expect("no panic"))
}
