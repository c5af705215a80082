//! Log lines: flat JSON for programs, text for people.

use serde_json::{Map, Value};

use super::Run;

/// Fails twice, in a step that is tried again and then skipped over.
const WORKFLOW: &str = "
name: told
steps:
  - name: fails
    on_failure: skip
    retries: 1
    shell: echo 'out of paper' >&2; exit 9
  - name: works
    depends_on: [fails]
    func: noop
";

/// Events of a run over it, each with the fields that its line has at least, beside the fixed ones.
const EVENTS: [(&str, &[&str]); 9] = [
    ("store.opened", &[]),
    ("execution.submitted", &["execution.id", "workflow.name"]),
    ("worker.started", &["lease.owner", "slots", "due", "later", "running", "backlog"]),
    ("execution.claimed", &OF_EXECUTION),
    (
        "step.retrying",
        &["execution.id", "workflow.name", "lease.fence", "step.name", "attempt", "error", "delay"],
    ),
    (
        "step.attempt_ended",
        &[
            "execution.id",
            "workflow.name",
            "lease.fence",
            "step.name",
            "attempt",
            "executor",
            "result",
            "duration_ms",
        ],
    ),
    (
        "step.failed",
        &["execution.id", "workflow.name", "lease.fence", "step.name", "attempt", "error"],
    ),
    (
        "execution.finished",
        &["execution.id", "workflow.name", "lease.fence", "result", "error", "duration_ms"],
    ),
    ("drain.finished", &["duration_ms", "handed_back"]),
];

const OF_EXECUTION: [&str; 3] = ["execution.id", "workflow.name", "lease.fence"];

const FIXED: [&str; 5] = ["timestamp", "level", "target", "message", "event"];

#[test]
fn for_programs_every_line_is_one_flat_object_with_the_fields_of_its_event() {
    // Not a terminal, so nobody has to ask for it.
    let ended = Run::of_text(WORKFLOW).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<Map<String, Value>> = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    for line in &lines {
        for key in FIXED {
            assert!(line[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {line:?}");
        }
        let time = line["timestamp"].as_str().expect("a text");
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{time}");
        let level = line["level"].as_str().expect("a text");
        assert!(["INFO", "WARN", "ERROR"].contains(&level), "{line:?}");
        assert!(line.values().all(|value| !value.is_object() && !value.is_array()), "{line:?}");
    }
    for (event, fields) in EVENTS {
        let of_event: Vec<_> = lines.iter().filter(|line| line["event"] == event).collect();
        assert!(!of_event.is_empty(), "{event} was never logged: {lines:#?}");
        for line in of_event {
            for field in fields {
                assert!(line.contains_key(*field), "{field} of {line:?}");
            }
        }
    }
    let of = |event: &str| lines.iter().find(|line| line["event"] == event).expect("it was logged");
    assert_eq!(of("step.retrying")["level"], "WARN");
    assert_eq!(of("step.failed")["step.name"], "fails");
    assert_eq!(of("step.failed")["attempt"], 2);
    assert_eq!(of("execution.finished")["result"], "success");
    assert!(!ended.stderr.contains("out of paper"), "what steps print is not logged");
}

#[test]
fn for_people_every_line_is_a_time_a_level_and_a_sentence_with_its_fields() {
    let ended = Run::of_text(WORKFLOW).flags(&["--log-format", "text"]).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains('\x1b'), "no colours where there is no terminal");
    for line in ended.stderr.lines() {
        let (time, rest) = line.split_once(' ').expect("several words");
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        let level = rest.split_whitespace().next().expect("several words");
        assert!(["INFO", "WARN", "ERROR"].contains(&level), "{line}");
        assert!(rest.contains(" event=\""), "{line}");
    }
    for (event, fields) in EVENTS {
        let line = ended.stderr.lines().find(|line| line.contains(&format!("event=\"{event}\"")));
        let line = line.unwrap_or_else(|| panic!("{event} was never logged: {}", ended.stderr));
        for field in fields {
            assert!(line.contains(&format!(" {field}=")), "{field} in {line}");
        }
    }
}

#[test]
fn fewer_lines_are_logged_where_fewer_are_asked_for_and_each_still_says_whose_it_is() {
    let ended = Run::of_text(WORKFLOW).env("RUST_LOG", "warn").end();
    let events: Vec<String> = ended
        .stderr
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            assert!(line["execution.id"].is_string(), "{line}");
            line["event"].as_str().expect("an event").to_owned()
        })
        .collect();
    assert_eq!(events, ["step.retrying", "step.failed"]);
}
