//! Files that are no workflows, through `apply` as a user runs it.
//!
//! **Invariant:** each is refused in one sentence that names the file, within 400 MB of address
//! space, and the database is as before.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use crate::process::{Ended, binary, end_of};

/// What a file holds, and a piece of the sentence that refuses it.
type Row = (&'static str, Vec<u8>, &'static str);

fn texts() -> Vec<Row> {
    let good = "name: x\nsteps: [{name: a, shell: 'true'}]\n";
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    let text = |what, text: &str, sentence| (what, text.as_bytes().to_vec(), sentence);
    vec![
        text("nothing", "", "the file is empty; begin it with"),
        text("a comment", "# name: x\n", "the file is empty; begin it with"),
        text("a byte order mark", "\u{feff}", "the file is empty; begin it with"),
        text("several documents", &format!("{good}---\n{good}"), ":4: one file holds one workflow"),
        text("several ends", &format!("{good}...\n...\nname: y\n"), "one file holds one workflow"),
        text("a key twice", "name: x\nname: y\n", ":2: `name` stands twice here"),
        text("a key of a list", "? [name]\n: x\n", ":1: "),
        text("tabs", "name: x\nsteps:\n\t- name: a\n", ":3: this cannot be read as YAML"),
        text("a NUL", "name: \"x\0\"\nsteps: []\n", "correct it there"),
        text("control characters", "name: \u{1}\u{7f}\n", "unexpected character"),
        text("JSON of another kind", "{\"a\": [1, 2, {}]}", "there is no key `a` here"),
        text("a program", "#!/bin/sh\nexec true\n", ":2: "),
        text("an unknown tag", "name: !!python/object:os.system [x]\n", ":1: "),
        text("an unknown alias", "name: *nobody\nsteps: []\n", ":1: "),
        text("an alias to itself", "name: x\nsteps: &a [*a]\n", ":2: "),
        text("a directive of the future", "%YAML 9.9\n---\nname: x\n", ": "),
        text("a merge of nothing", "<<: [1]\nname: x\nsteps: []\n", ": "),
        text("a number beyond all", "name: x\nsteps: 1e999999999\n", ":2: a list is expected"),
        ("UTF-16", utf16("\u{feff}name: x\n"), ": it is not a text in UTF-8"),
        ("bytes of no text", b"name: \xff\xfe\n".to_vec(), ": it is not a text in UTF-8"),
        (
            "a picture",
            [b"\x89PNG\r\n\x1a\n", &[0; 1_000][..]].concat(),
            ": it is not a text in UTF-8",
        ),
        ("zeros", vec![0; 10_000], ": "),
    ]
}

/// Where any value may stand.
const PARAMETERS: &str = "name: x\nsteps:\n- name: a\n  func: noop\n  parameters:\n    a0: &a0 x\n";

fn bombs() -> Vec<Row> {
    let under_parameters = |text: String| format!("{PARAMETERS}{text}").into_bytes();
    let tens = (1..30).map(|n| {
        let ten = vec![format!("*a{}", n - 1); 10].join(",");
        format!("    a{n}: &a{n} [{ten}]\n")
    });
    let aliases = format!("    b: [{}]\n", vec!["*a0"; 1_000_000].join(","));
    let keys = (0..200_000).map(|n| format!("k{n}: 1\n"));
    let levels = (0..2_000).map(|depth| format!("{}-\n", " ".repeat(depth + 5)));
    let long = |count: usize, item: &str| item.repeat(count);
    let deep = |item: &str| under_parameters(format!("    b: {}", long(1_000_000, item)));
    let yaml = ": this cannot be read as YAML: ";
    let less =
        ": this goes deeper, or holds more values or aliases, than a workflow may; write less";
    vec![
        ("a billion laughs", under_parameters(tens.collect()), less),
        ("a million aliases", under_parameters(aliases), less),
        ("a million brackets", deep("["), yaml),
        ("a million braces", deep("{a: "), less),
        ("a million dashes", deep("- "), yaml),
        (
            "two thousand levels",
            under_parameters(format!("    b:\n{}", levels.collect::<String>())),
            less,
        ),
        ("200,000 keys", keys.collect::<String>().into_bytes(), ":1: there is no key `k0` here"),
        ("8 MB of blanks", long(8 << 20, " ").into_bytes(), ": the file is empty"),
        ("8 MB of one key", long(8 << 20, "x").into_bytes(), ":1: a group of `key: value`"),
        ("8 MB of an open quote", format!("name: \"{}", long(8_000_000, "x")).into_bytes(), yaml),
        ("10 MB", long(10 << 20, "#").into_bytes(), ": it has more bytes than the 8388608"),
    ]
}

/// With so little address space that whatever grows without an end fails.
fn apply(database: &Path, file: &Path) -> Ended {
    let program = binary();
    let mut command = Command::new("sh");
    command.env_clear().env("MALLOC_ARENA_MAX", "1").args([
        "-c",
        "ulimit -v 400000; exec \"$@\"",
        "sh",
    ]);
    command.arg(program.get_program()).arg("--database-url");
    command.arg(format!("sqlite://{}", database.display()));
    end_of(command.args(["apply", "-f"]).arg(file))
}

/// What is not as it must be about a refusal.
fn complaint(what: &str, file: &Path, sentence: &str, ended: &Ended) -> Option<String> {
    let said = ended.stderr.trim_end();
    let after = said.split_once(&*file.to_string_lossy()).map_or("", |(_, after)| after);
    let is_right = ended.code == Some(1)
        && !after.is_empty()
        && after.contains(sentence)
        && said.lines().count() == 1
        && said.len() < 1_000
        && ended.stdout.is_empty();
    (!is_right).then(|| format!("{what}, {:?}: {said:.300}", ended.code))
}

#[test]
fn every_file_that_is_no_workflow_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("store.db");
    let file = folder.path().join("f.yaml");
    let mut wrong = Vec::new();
    for (what, bytes, sentence) in texts().into_iter().chain(bombs()) {
        fs::write(&file, bytes).expect("it can be written");
        wrong.extend(complaint(what, &file, sentence, &apply(&database, &file)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!database.exists(), "nothing was opened for what cannot be applied");
}

#[test]
fn what_is_no_file_with_an_end_is_refused_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("store.db");
    let circle = folder.path().join("circle.yaml");
    symlink(&circle, &circle).expect("a link");
    for (path, sentence) in [
        (Path::new("/dev/zero"), "it has more bytes than the 8388608"),
        (Path::new("/dev/null"), "the file is empty"),
        (&circle, "cannot read it: Too many levels of symbolic links"),
        (folder.path(), "cannot read it: Too many levels of symbolic links"),
    ] {
        let ended = apply(&database, path);
        assert_eq!(complaint("a path", path, sentence, &ended), None);
    }
}

#[test]
fn odd_files_that_say_what_they_mean_are_applied_and_applying_them_again_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("store.db");
    let url = format!("sqlite://{}", database.display());
    crate::process::json::<&str>(&url, ["migrate"]);
    for (what, text) in [
        ("a byte order mark", "\u{feff}name: a\nsteps: [{name: s, shell: 'true'}]\n"),
        ("CRLF", "name: b\r\nsteps:\r\n- name: s\r\n  shell: |\r\n    true\r\n"),
        ("JSON", r#"{"name": "c", "steps": [{"name": "s", "func": "noop"}]}"#),
        ("no newline at the end", "name: d\nsteps: [{name: s, shell: 'true'}]"),
        ("anchors", "name: e\nsteps:\n- &s {name: s, shell: 'true'}\n- {<<: *s, name: t}\n"),
        ("emoji", "name: 🦀\nsteps: [{name: 🦀, shell: 'echo 🦀'}]\n"),
        ("a marked begin and end", "---\nname: g\nsteps: [{name: s, shell: 'true'}]\n...\n"),
        (
            "the longest name",
            &format!("name: {}\nsteps: [{{name: s, shell: x}}]", "🦀".repeat(200)),
        ),
    ] {
        let file = folder.path().join("f.yaml");
        fs::write(&file, text).expect("it can be written");
        for result in ["created", "unchanged"] {
            let ended = apply(&database, &file);
            assert!(ended.code == Some(0) && ended.stdout.contains(result), "{what}: {ended:?}");
        }
    }
}
