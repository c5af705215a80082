//! Workflow files.

use orchestrator_worker::{
    adapters::sqlite::{Settings, SqlitePath, SqliteStore},
    ports::control::{Applied, Control},
};
use proptest::{prelude::*, test_runner::TestRunner};

use super::{any_bytes, cases, damaged, pieces, promises};

const PIECES: &[&str] = &[
    "name: x\n",
    "steps:\n",
    "steps: [",
    "- name: a\n",
    "- name: b\n",
    "  shell: 'true'\n",
    "  func: noop\n",
    "  http: {url: 'http://h'}\n",
    "  depends_on: [a]\n",
    "  depends_on: [b]\n",
    "  retries: 1\n",
    "  timeout: 5s\n",
    "  env: {A: 1}\n",
    "  parameters: {a: [1]}\n",
    "&x ",
    "*x",
    "]",
    "{",
    "}",
    "- ",
    "  ",
    "\n",
    "---\n",
    "<<: ",
    "!!str ",
    "'",
    "\"",
    "|\n",
    "\t",
    "\r\n",
    "description: ",
];
const GOOD: &str = "name: x\ndescription: 'a b'\nsteps:\n- name: a\n  shell: |\n    true\n  env: {A: 1}\n\
                    - name: b\n  func: echo\n  parameters: {n: 1.5}\n  depends_on: [a]\n  timeout: 5m\n\
                    - &c {name: c, http: {url: 'http://h/a?b', body: {c: [1, null]}}}\n";

fn text() -> impl Strategy<Value = String> {
    let after_name =
        pieces(PIECES, 12).prop_map(|text| format!("name: x\nsteps:\n- name: a\n{text}"));
    prop_oneof![4 => damaged(GOOD), 3 => after_name, 1 => pieces(PIECES, 20), 1 => any_bytes()]
}

/// One sentence on one line, or a workflow that can be run and is the same however often it is put in.
#[test]
fn a_file_is_refused_in_one_sentence_or_is_the_same_however_often_it_is_applied() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = runtime.block_on(async {
        let settings = Settings { path: SqlitePath::Memory { name: None } };
        let store = SqliteStore::open(settings).await.expect("memory opens");
        store.migrate(false).await.expect("it is migrated");
        store
    });
    let told = TestRunner::new(cases(1_500)).run(&text(), |text| {
        let Some(file) = promises::workflow_file(&text) else { return Ok(()) };
        let apply = || runtime.block_on(store.apply(&file.definition, &file.about));
        apply().map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(apply(), Ok(Applied::Unchanged));
        Ok(())
    });
    told.unwrap_or_else(|error| panic!("{error}"));
}
