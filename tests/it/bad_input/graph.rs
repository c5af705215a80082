//! Places in the graph that no step can stand in.

use orchestrator_worker::domain::definition::RecordedStep;

use super::{Becomes::Success, Entry, failed, noop};

pub fn after(step: RecordedStep, dependencies: &str) -> RecordedStep {
    RecordedStep { dependencies: Some(dependencies.into()), ..step }
}

pub fn entries() -> Vec<Entry> {
    let mut entries = dependencies();
    entries.extend(texts_of_dependencies());
    entries.extend(words());
    entries.extend(ids());
    entries
}

fn dependencies() -> Vec<Entry> {
    let unknown = |name: &str| {
        failed(&format!("step \"a\" depends on {name:?}, which is not a step of this template"))
    };
    let circle = |names| failed(&format!("steps wait for each other in a circle: {names}"));
    let a = |text: &str| vec![after(noop("a"), text)];
    let many = format!("[{}]", vec!["\"{e}b\""; 5_000].join(","));
    vec![
        Entry::steps("a dependency that is not there", a(r#"["{e}b"]"#), unknown("{e}b")),
        Entry::steps("a dependency in capitals", a(r#"["{e}A"]"#), unknown("{e}A")),
        Entry::steps("a dependency on nothing", a(r#"[""]"#), unknown("")),
        Entry::steps("a dependency with a NUL", a(r#"["\u0000"]"#), unknown("\0")),
        Entry::steps("a dependency on itself", a(r#"["{e}a"]"#), circle("a -> a")),
        Entry::steps(
            "two steps in a circle",
            vec![after(noop("a"), r#"["{e}b"]"#), after(noop("b"), r#"["{e}a"]"#)],
            circle("a -> b -> a"),
        ),
        Entry::steps(
            "a circle behind a good step",
            vec![
                noop("c"),
                after(noop("a"), r#"["{e}c","{e}b"]"#),
                after(noop("b"), r#"["{e}a"]"#),
            ],
            circle("a -> b -> a"),
        ),
        Entry::steps("a dependency 5,000 times", vec![after(noop("a"), &many), noop("b")], Success),
    ]
}

fn texts_of_dependencies() -> Vec<Entry> {
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let texts = [
        "7",
        "{}",
        "true",
        "[",
        "[1]",
        "[null]",
        "[[\"a\"]]",
        "{\"a\":[]}",
        "a",
        "[\"a\",]",
        "[\"a\"] [\"b\"]",
        "[\"\\ud800\"]",
        "[1e999]",
        "[\"a\0\"]",
        &nested,
    ];
    let becomes = || failed("the dependencies of step \"a\" are not a JSON array of step ids: ");
    let entry = |text: &str| {
        let shown: String = text.chars().take(20).collect();
        let steps = vec![after(noop("a"), text)];
        Entry::steps(&format!("the dependencies {shown:?}"), steps, becomes())
    };
    texts.into_iter().map(entry).collect()
}

fn words() -> Vec<Entry> {
    let mode = |word: &str| RecordedStep { run_mode: Some(word.into()), ..noop("a") };
    let failure = |word: &str| RecordedStep { on_failure: Some(word.into()), ..noop("a") };
    let no_mode =
        |word: &str| failed(&format!("step \"a\" has run_mode {word:?}, which is neither"));
    let no_failure =
        |word: &str| failed(&format!("step \"a\" has on_failure {word:?}, which is neither"));
    vec![
        Entry::steps("a run mode in capitals", vec![mode("Serial")], no_mode("Serial")),
        Entry::steps("a run mode with a blank", vec![mode("serial ")], no_mode("serial ")),
        Entry::steps("an unknown on_failure", vec![failure("retry")], no_failure("retry")),
        Entry::steps("a NUL in on_failure", vec![failure("skip\0")], no_failure("skip\0")),
    ]
}

fn ids() -> Vec<Entry> {
    vec![
        Entry::steps(
            "an id with a blank, quotes and a percent sign",
            vec![noop(" '\"%_`"), after(noop("b"), r#"["{e} '\"%_`"]"#)],
            Success,
        ),
        Entry::steps("a workflow without steps", Vec::new(), Success),
    ]
}
