//! What the steps of real workers are told of the trace that they belong to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use orchestrator_worker::domain::trace::{TraceParent, carried};
use proptest::prelude::*;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    contract::world::World,
    crash::Served,
    http::server::{Act, Server},
    process::{Worker, binary, end_of, json, wait_until},
    stores::on_every_store,
};

on_every_store! {
    every_step_of_a_callers_trace_is_told_its_place_in_it
    the_trace_of_an_execution_is_the_same_in_every_workers_hands
}

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn place(text: &str) -> TraceParent {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn apply(url: &str, text: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("it.yaml");
    fs::write(&file, text).expect("it can be written");
    json(url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
}

fn submit(url: &str, words: &[&str]) -> String {
    let submitted = json(url, ["submit", "it"].iter().chain(words));
    submitted["execution"].as_str().expect("an id").to_owned()
}

fn run_until_idle(url: &str) {
    let mut command = binary();
    command.args(["--database-url", url, "run", "--until-idle"]);
    command.env("ORCHESTRATOR_WORKER__ADMIN__LISTEN", "off");
    let ended = end_of(&mut command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// What a script printed as `NAME=value` lines.
fn printed(shown: &Value, step: usize) -> BTreeMap<String, String> {
    let output = shown["steps"][step]["output"].as_str().expect("an output");
    let entry = |line: &str| {
        let (name, value) = line.split_once('=').expect("an entry");
        (name.to_owned(), value.to_owned())
    };
    output.lines().map(entry).collect()
}

async fn every_step_of_a_callers_trace_is_told_its_place_in_it<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let server = Server::always(Act::ok("")).await;
    let text = format!(
        "
name: it
steps:
- {{name: a script, shell: 'env | grep -E \"^(TRACE|BAGGAGE)\"'}}
- name: a request
  http: {{url: '{0}'}}
- name: a request of its own mind
  http: {{url: '{0}', headers: {{TraceParent: mine}}}}
",
        server.url("/")
    );
    apply(&url, &text);
    let id = submit(&url, &["--traceparent", GIVEN]);
    run_until_idle(&url);
    let shown = json(&url, ["show", &id]);
    assert_eq!(shown["state"], "success", "{shown:#}");
    let caller = place(GIVEN);
    assert_eq!(shown["trace_id"], caller.trace.to_string());

    let script = printed(&shown, 0);
    assert_eq!(script["TRACESTATE"], format!("orchestrator-worker={id}"));
    let baggage = format!("execution.id={id},workflow.name=it,step.name=a%20script");
    assert_eq!(script["BAGGAGE"], baggage);
    let seen = server.seen();
    let request = seen[0].all();
    assert_eq!(request["tracestate"], script["TRACESTATE"]);
    assert!(!request.contains_key("baggage"), "others need not know: {request:?}");
    let places = [place(&script["TRACEPARENT"]), place(request["traceparent"])];
    for place in places {
        assert_eq!((place.trace, place.sampled), (caller.trace, true));
    }
    let spans: BTreeSet<_> = places.iter().chain([&caller]).map(|place| place.span).collect();
    assert_eq!(spans.len(), 3, "each attempt is a span of its own");
    assert_eq!(seen[1].header("traceparent"), Some("mine"));
}

async fn the_trace_of_an_execution_is_the_same_in_every_workers_hands<S: Served>() {
    let world = World::<S>::new().await;
    let url = world.subject.url();
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        r#"
name: it
steps:
- name: only
  timeout: 100s
  env: {{DIR: "{}"}}
  shell: |
    echo "$TRACEPARENT" > "$DIR/new"; mv "$DIR/new" "$DIR/$ORCHESTRATOR_ATTEMPT"
    until [ -e "$DIR/gate" ]; do sleep 0.05; done
"#,
        folder.path().display()
    );
    apply(&url, &text);
    let id = submit(&url, &[]);
    let told = |attempt: &str| {
        let path = folder.path().join(attempt);
        let text = wait_until("an attempt begins", || fs::read_to_string(&path).ok());
        place(text.trim())
    };
    let mut a = Worker::start(&url, "a", &[]);
    let first = told("1");
    a.signal(Signal::TERM);
    // Its step waits for the gate, so the deadline must come before the handing over.
    a.signal(Signal::TERM);
    a.wait();
    let _b = Worker::start(&url, "b", &[]);
    let second = told("2");
    fs::write(folder.path().join("gate"), "").expect("it can be written");
    assert_eq!(first.trace, second.trace);
    assert_ne!(first.span, second.span);
    assert!(!first.sampled && !second.sampled, "nobody keeps spans here");
    let shown = wait_until("it ends", || {
        let shown = json(&url, ["show", &id]);
        (shown["state"] == "success").then_some(shown)
    });
    assert_eq!(shown["trace_id"], first.trace.to_string());
}

#[test]
fn what_is_no_place_in_a_trace_is_refused_before_anything_is_submitted() {
    for (bad, says) in [
        ("", "is no traceparent; give version, trace, parent and flags"),
        ("00-nonsense", "such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        (&GIVEN.replacen("00", "ff", 1), "the version ff of a traceparent is forbidden"),
        (&GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)), "parent must not be all zeros"),
    ] {
        let mut command = binary();
        command.args(["--database-url", "sqlite:///nowhere/at/all", "submit", "it"]);
        let ended = end_of(command.args(["--traceparent", bad]));
        assert_eq!(ended.code, Some(2), "{bad}: {ended:?}");
        let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(says), "{bad}: {said}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader_and_whatever_it_reads_is_read_again(
        text in "([0-9a-f-]{50,60}|.{0,80})"
    ) {
        if let Ok(parsed) = text.parse::<TraceParent>() {
            prop_assert_eq!(parsed.to_string().parse::<TraceParent>(), Ok(parsed));
        }
    }

    #[test]
    fn every_place_in_a_trace_is_written_as_it_was_read(
        trace in 1_u128.., span in 1_u64.., sampled in any::<bool>(),
    ) {
        let text = format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled));
        prop_assert_eq!(place(&text).to_string(), text);
    }

    #[test]
    fn whatever_a_row_holds_what_is_carried_is_safe_in_a_header(
        execution in ".{0,40}", workflow in ".{0,40}", step in ".{0,40}",
    ) {
        for value in carried(place(GIVEN), &execution.into(), &workflow, &step).values() {
            prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic()), "{}", value);
        }
    }
}
