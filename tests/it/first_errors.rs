//! The errors that somebody meets in the first ten minutes, as they stand on the terminal.
//!
//! **Invariant:** each is one sentence on the standard error that says what to do next, comes within
//! seconds and with its documented exit code; nothing is on the standard output. Every case is the
//! real binary in a folder of its own.

mod rows;
mod servers;
mod sqlite;

use std::{fs, net::TcpListener, process::Command, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Ended, binary, end_of};

/// Somebody who has just typed a command is told by then.
const SOON: Duration = Duration::from_secs(20);

/// A folder in which commands are typed.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self::new();
        for (name, text) in files {
            fs::write(folder.0.path().join(name), text).expect("it can be written");
        }
        folder
    }

    /// The program in this folder, with these words behind its name.
    fn command(&self, line: &str) -> Command {
        let mut command = binary();
        command.current_dir(self.0.path()).env("RUST_LOG", "warn");
        command.args(line.split_whitespace()).args(["--log-format", "text"]);
        command
    }

    /// Types a line that is refused with this exit code; returns what is said.
    fn refusal(&self, line: &str, exit: i32) -> String {
        self.sentence(&refused(&mut self.command(line), exit))
    }

    /// The error alone, with the folder's name taken out, and without a worker's warnings of a server
    /// of tests, which writes nothing through.
    fn sentence(&self, ended: &Ended) -> String {
        let here = self.0.path().display().to_string();
        let note = format!("note: no database is configured: using the SQLite file {here}/");
        let is_warning = |line: &str| line.contains("event=\"database.warning\"");
        let told = ended.stderr.lines();
        let told = told.filter(|line| !line.starts_with(&note) && !is_warning(line));
        let lines: Vec<String> = told.map(|line| line.replace(&here, "DIR")).collect();
        let sentence = lines.join("\n");
        sentence.strip_prefix("error: ").unwrap_or_else(|| panic!("{sentence:?}")).to_owned()
    }
}

fn refused(command: &mut Command, exit: i32) -> Ended {
    let ended = end_of(command);
    assert_eq!(ended.code, Some(exit), "{command:?}: {ended:?}");
    assert_eq!(ended.stdout, "", "{command:?}");
    assert!(ended.took < SOON, "{command:?}: {ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{command:?}: {ended:?}");
    ended
}

#[test]
fn what_is_not_there_is_named_with_the_command_that_makes_or_lists_it() {
    let folder = Folder::new();
    for (line, sentence) in [
        (
            "submit release",
            r#"there is no template named "release"; `orchestrator-worker apply -f FILE` adds one"#,
        ),
        (
            "submit release --wait",
            r#"there is no template named "release"; `orchestrator-worker apply -f FILE` adds one"#,
        ),
        (
            "show 0197c2d4",
            r#"there is no execution "0197c2d4"; `orchestrator-worker list` shows those there are"#,
        ),
    ] {
        assert_eq!(folder.refusal(line, 1), sentence, "{line}");
    }
}

/// Files that are refused, and how the sentence goes on after their name.
const FILES: [(&str, &str, &str); 6] = [
    (
        "circle.yaml",
        "name: x\nsteps:\n- {name: a, shell: x, depends_on: [b]}\n- {name: b, shell: x, depends_on: [a]}",
        ":3: steps wait for each other in a circle: a -> b -> a; take one of them out of `depends_on`",
    ),
    (
        "broken.yaml",
        "name: x\nsteps: [{name: a\n",
        ":2: this cannot be read as YAML: unclosed bracket '{'; correct it there",
    ),
    (
        "unknown.yaml",
        "name: x\nsteps:\n- {name: a, shel: x}\n",
        ":3: there is no key `shel` here; did you mean `shell`?",
    ),
    (
        "http.yaml",
        "name: x\nsteps:\n- {name: a, http: {url: x}}\n",
        ":3: step \"a\" cannot be run: its http_url is not a URL: it does not begin with http:// or https://",
    ),
    ("nothing.yaml", "", ":1: the file is empty; begin it with `name:` and `steps:`"),
    (
        "quoted.yaml",
        "name: x\nsteps:\n- {name: a, func: echo, parameters: '{\"message\": 1'}\n",
        ":3: a group of `key: value` is expected here",
    ),
];

#[test]
fn a_workflow_file_that_cannot_be_run_is_refused_with_its_line_before_anything_is_done() {
    let folder = Folder::with(&FILES.map(|(name, text, _)| (name, text)));
    for (name, _, problem) in FILES {
        let sentence = format!("{name}{problem}");
        assert_eq!(folder.refusal(&format!("apply -f {name}"), 1), sentence);
        assert_eq!(folder.refusal(&format!("run --until-idle --submit {name}"), 1), sentence);
    }
    for line in ["apply -f missing.yaml", "run --until-idle --submit missing.yaml"] {
        assert_eq!(
            folder.refusal(line, 1),
            "missing.yaml: cannot read it: No such file or directory (os error 2); give a workflow \
             file or a folder with *.yaml files"
        );
    }
    assert!(!folder.0.path().join("orchestrator.db").exists(), "no database was made");
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_with_its_key_and_its_place() {
    let folder = Folder::with(&[("typo.yaml", "lock: {tll: 10s}"), ("broken.yaml", "slots: [")]);
    let forms = "give mysql://USER:PASSWORD@HOST:3306/NAME";
    for (line, sentence) in [
        (
            "--config missing.yaml list",
            "cannot read the configuration file missing.yaml: No such file or directory (os error \
             2); give another with --config"
                .to_owned(),
        ),
        (
            "--config typo.yaml run",
            r#"there is no setting "lock.tll" (in typo.yaml); did you mean "lock.ttl"?"#.into(),
        ),
        (
            "--config broken.yaml run",
            "the configuration file broken.yaml is not YAML with settings in it: while parsing a \
             node, did not find expected node content at byte 8 line 2 column 1; correct it there"
                .into(),
        ),
        (
            "--database-url orchestrator.db list",
            format!(
                "database.url (from --database-url) has no scheme; {forms}, sqlite://PATH or memory:"
            ),
        ),
        (
            "--database-url postgres://db/x list",
            format!(
                "database.url (from --database-url) begins with \"postgres\", a kind of store that \
                 this version does not know; {forms}, sqlite://PATH or memory:"
            ),
        ),
        (
            "--database-url mysql://root@db list",
            format!("database.url (from --database-url) names no database; {forms}"),
        ),
        ("run --slots 0", "slots (from --slots) is 0; it must be between 1 and 1000".into()),
        (
            "run --admin-listen 9400",
            "admin.listen (from --admin-listen) is \"9400\"; give an address with a port, such as \
             127.0.0.1:9400 or [::]:9400, or off"
                .into(),
        ),
    ] {
        assert_eq!(folder.refusal(line, 78), sentence, "{line}");
    }
}

#[test]
fn a_password_file_that_holds_no_password_is_a_wrong_configuration() {
    let folder = Folder::with(&[("empty", "\n")]);
    let path = folder.0.path().join("empty").display().to_string();
    let missing = folder.0.path().join("missing").display().to_string();
    for (path, says) in [
        (
            path,
            "DIR/empty (database.password_file) is empty; write the MySQL user's password into it",
        ),
        (
            missing,
            "DIR/missing (database.password_file) cannot be read (No such file or directory (os \
             error 2)); put it there, or let this process's user read it",
        ),
    ] {
        for line in
            ["list", "migrate", "run --until-idle --admin-listen off", "run --admin-listen off"]
        {
            // Nobody is asked there.
            let line = format!("--database-url mysql://u@127.0.0.1:1/x {line}");
            let mut command = folder.command(&line);
            command.env("ORCHESTRATOR_WORKER__DATABASE__PASSWORD_FILE", &path);
            let sentence = folder.sentence(&refused(&mut command, 78));
            assert_eq!(sentence, format!("the password file {says}"), "{line}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_refused_with_what_was_perhaps_meant() {
    let folder = Folder::new();
    for (line, says) in [
        (
            "run --sloots 3",
            "unexpected argument '--sloots' found\n\n  tip: a similar argument exists: '--slots'",
        ),
        ("runn", "unrecognized subcommand 'runn'\n\n  tip: a similar subcommand exists: 'run'"),
        ("run --slots many", "invalid value 'many' for '--slots <SLOTS>'"),
        ("list --state lost", "[possible values: pending, running, success, failed, cancelled]"),
        ("submit", "the following required arguments were not provided:\n  <TEMPLATE>"),
    ] {
        let sentence = folder.refusal(line, 2);
        assert!(sentence.contains(says), "{line}: {sentence}");
        assert!(sentence.ends_with("For more information, try '--help'."), "{line}: {sentence}");
    }
    let memory = folder.refusal("--database-url memory: list", 2);
    assert_eq!(
        memory,
        "`memory:` is gone when this command ends; name a database that stays, such as \
         --database-url sqlite://orchestrator.db, or use `run --submit FILE --until-idle`"
    );
    let alone = refused(binary().current_dir(folder.0.path()), 2);
    assert!(alone.stderr.contains("Commands:\n  run "), "a command alone shows the commands");
}

#[test]
fn a_port_in_use_is_refused_with_another_to_choose() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = Folder::new();
    let line = format!("run --until-idle --admin-listen {address}");
    let sentence = format!(
        "cannot listen on {address} (admin.listen): the port is in use, perhaps by another worker; \
         choose another with --admin-listen, such as --admin-listen 127.0.0.1:0 for any free one"
    );
    assert_eq!(folder.refusal(&line, 1), sentence);

    // Where logs are for programs, so is the reason for the end.
    let mut command = binary();
    command.current_dir(folder.0.path()).args(line.split(' '));
    let ended = refused(&mut command, 1);
    let said: Value = serde_json::from_str(&ended.stderr).expect("one line of JSON");
    assert_eq!((&said["level"], &said["event"]), (&"ERROR".into(), &"worker.failed".into()));
    assert_eq!(said["message"], sentence);
}

#[test]
fn a_mysql_server_that_does_not_answer_is_named() {
    // Nobody listens there once the listener is gone.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr();
    let closed = closed.expect("an address");
    let folder = Folder::new();
    for line in ["list", "migrate", "submit x", "run --until-idle --admin-listen off"] {
        let line = format!("--database-url mysql://u:hush@{closed}/x {line}");
        assert_eq!(
            folder.refusal(&line, 1),
            format!(
                "the database cannot be reached: {closed} does not answer (Connection refused (os \
                 error 111)); check that the server runs and that the database URL names it"
            )
        );
    }
    // This one takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("an address");
    assert_eq!(
        folder.refusal(&format!("--database-url mysql://u:hush@{address}/x list"), 1),
        "the database cannot be reached: no connection was ready within 5s; check that the server \
         runs and that nothing on the way to it swallows what is sent"
    );
}
