//! The tour is a script: what stands in `docs/tour.md` is typed here, and answers as it stands there.
//!
//! **Invariant:** ids, times, durations and ports may differ, an id of the page always stands for the
//! same real one; `…` on a line of its own stands for lines that are left out.

mod same;

use std::{env, fs, iter, path::Path, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use self::same::Ids;
use crate::process::{Follower, end_of, program, wait_until};

/// Where the page says that it is.
const FOLDER: &str = "/home/ann/tour";
const LEFT_OUT: &str = "…";
const CTRL_C: &str = "^C";
/// Commands that change nothing, so that what a worker is about to do can be waited for.
const LOOKS: [&str; 7] = ["explain", "graph", "list", "locks", "logs", "show", "workers"];

/// What the page has somebody do.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    /// Save a file.
    Save {
        name: String,
        text: String,
    },
    Type {
        second: bool,
        line: String,
        answer: Vec<String>,
    },
    /// Look at what the second terminal says meanwhile, or stop what runs there.
    Second {
        answer: Vec<String>,
    },
}

/// The acts of the page's blocks, one after the other.
fn acts(page: &str) -> Vec<Act> {
    let mut acts = Vec::new();
    for block in page.split("\n```").skip(1).step_by(2) {
        let (kind, body) = block.split_once('\n').expect("a block has lines");
        match kind {
            "yaml" => acts.push(save(body)),
            "console" => typed(false, body, &mut acts),
            "console second terminal" => typed(true, body, &mut acts),
            other => panic!("no block of the tour: {other}"),
        }
    }
    acts
}

/// The first line is a comment with the file's name.
fn save(body: &str) -> Act {
    let (name, _) = body.strip_prefix("# ").and_then(|it| it.split_once('\n')).expect("a name");
    Act::Save { name: name.into(), text: format!("{body}\n") }
}

fn typed(second: bool, body: &str, acts: &mut Vec<Act>) {
    let mut last = second.then(|| Act::Second { answer: Vec::new() });
    for line in body.lines() {
        match (line.strip_prefix("$ "), &mut last) {
            (Some(line), _) => {
                let next = Act::Type { second, line: line.into(), answer: Vec::new() };
                acts.extend(last.replace(next));
            }
            (None, Some(Act::Type { answer, .. } | Act::Second { answer })) => {
                answer.push(line.into());
            }
            (None, Some(Act::Save { .. }) | None) => panic!("who says {line:?}?"),
        }
    }
    let says_nothing = |act: &Act| matches!(act, Act::Second { answer } if answer.is_empty());
    acts.extend(last);
    acts.retain(|act| !says_nothing(act));
}

struct Tour {
    folder: TempDir,
    ids: Ids,
    /// What runs in the second terminal.
    second: Option<Follower>,
}

impl Tour {
    fn take(&mut self, act: Act) {
        match act {
            Act::Save { name, text } => {
                fs::write(self.folder.path().join(name), text).expect("it can be written");
            }
            Act::Type { second: true, line, answer } => {
                let terminal = self.follow(&line);
                self.read(&terminal, &answer);
                self.second = Some(terminal);
            }
            Act::Type { second: false, line, answer } if is_stopped(&answer) => {
                let terminal = self.follow(&line);
                self.read(&terminal, &answer);
            }
            Act::Type { second: false, line, answer } => self.compare(&line, &answer),
            Act::Second { answer } => {
                let terminal = self.second.take().expect("something runs there");
                self.read(&terminal, &answer);
                if is_stopped(&answer) {
                    let (_, code) = terminal.end();
                    assert_eq!(code, Some(0), "a worker that is stopped");
                } else {
                    self.second = Some(terminal);
                }
            }
        }
    }

    /// A line in the folder, with the real ids, answering on the standard output alone.
    fn command(&self, line: &str, how: &str) -> Command {
        let folder = Path::new(env!("CARGO_BIN_EXE_orchestrator-worker")).parent();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = folder.into_iter().map(Path::to_owned).chain(env::split_paths(&path));
        let mut command = program("sh");
        command
            .args(["-c", &format!("exec 2>&1\n{how}{}", self.ids.real(line))])
            .current_dir(self.folder.path())
            .env("PATH", env::join_paths(path).expect("a path"))
            .env("COLUMNS", "80");
        if line.contains("orchestrator-worker run") {
            // As on a terminal; and the usual port may be taken by another test.
            command.env("ORCHESTRATOR_WORKER__LOG__FORMAT", "text");
            command.env("ORCHESTRATOR_WORKER__ADMIN__LISTEN", "127.0.0.1:0");
        }
        command
    }

    /// In the background, with the process as the shell's own, so that a signal reaches it.
    fn follow(&self, line: &str) -> Follower {
        Follower::spawn(&mut self.command(line, "exec "))
    }

    /// Reads until the page has it all.
    fn read(&mut self, terminal: &Follower, answer: &[String]) {
        let mut left_out = false;
        for page in answer {
            match page.as_str() {
                LEFT_OUT => left_out = true,
                CTRL_C => terminal.signal(Signal::INT),
                _ => {
                    self.ids = iter::repeat_with(|| self.told(&terminal.line()))
                        .find_map(|real| {
                            let ids = self.ids.with(page, &real);
                            assert!(left_out || ids.is_some(), "{}", difference(page, &real));
                            ids
                        })
                        .expect("it goes on");
                    left_out = false;
                }
            }
        }
    }

    /// Types a line until it answers as the page has it; once, if it changes anything.
    fn compare(&mut self, line: &str, answer: &[String]) {
        let looks =
            LOOKS.iter().any(|word| line.starts_with(&format!("orchestrator-worker {word}")));
        let mut said = String::new();
        self.ids = wait_until(&format!("{line:?} answers as the page has it"), || {
            let real = self.told(&end_of(&mut self.command(line, "")).stdout);
            let lines: Vec<String> = real.lines().map(str::to_owned).collect();
            let ids = self.ids.like(answer, &lines);
            let difference = difference(&answer.join("\n"), &real);
            assert!(looks || ids.is_some(), "$ {line}\n{difference}");
            if ids.is_none() && said != real {
                eprintln!("$ {line}\n{difference}");
                said = real;
            }
            ids
        });
    }

    /// What is said of this test's folder, as the page has it.
    fn told(&self, text: &str) -> String {
        text.replace(&self.folder.path().display().to_string(), FOLDER)
    }
}

fn is_stopped(answer: &[String]) -> bool {
    answer.iter().any(|line| line == CTRL_C)
}

fn difference(page: &str, real: &str) -> String {
    format!("the page has:\n{page}\nbut it says:\n{real}")
}

#[test]
fn every_command_of_the_tour_answers_as_its_page_shows() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tour.md");
    let page = fs::read_to_string(page).expect("there is a page");
    let folder = tempfile::tempdir().expect("a folder");
    let mut tour = Tour { folder, ids: Ids::default(), second: None };
    for act in acts(&page) {
        tour.take(act);
    }
    assert!(tour.second.is_none(), "the tour stops its worker");
}

#[test]
fn a_page_is_read_block_by_block() {
    let page = "
# A page
```yaml
# a.yaml
name: a
```
Text.
```console
$ one two
says

this
$ three
```
```console second terminal
$ four
four
```
```console second terminal
^C
…
```
";
    let typed = |second, line: &str, answer: &[&str]| Act::Type {
        second,
        line: line.into(),
        answer: answer.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(
        acts(page),
        [
            Act::Save { name: "a.yaml".into(), text: "# a.yaml\nname: a\n".into() },
            typed(false, "one two", &["says", "", "this"]),
            typed(false, "three", &[]),
            typed(true, "four", &["four"]),
            Act::Second { answer: vec![CTRL_C.into(), LEFT_OUT.into()] },
        ]
    );
}
