//! Workflow files: what is recorded from them, and the sentence for everything that is wrong.

use std::{fs, path::Path, time::Duration};

use orchestrator_worker::{
    cli::workflow_file::{self, WorkflowFile},
    domain::{
        step::{Action, Resume},
        workflow::{OnFailure, RunMode, Workflow},
    },
};

fn parse(text: &str) -> WorkflowFile {
    workflow_file::parse(Path::new("f.yaml"), text, "me").expect("it is a workflow")
}

fn refusal(text: &str) -> String {
    workflow_file::parse(Path::new("f.yaml"), text, "me").expect_err("it is refused").to_string()
}

const FULL: &str = "
name: full
description: everything
steps:
  - name: first
    shell: echo $A
    env: {A: 1, B: no, C: 0755, D: 'x y', E: ''}
    timeout: 5m
    retries: 0
    mode: parallel
    on_failure: skip
    resume: fail
  - name: second
    func: sleep
    parameters: {seconds: 2, word: yes}
    depends_on: [first]
  - name: third
    shell: 'true'
    depends_on: [first, second]
  - name: fourth
    http:
      method: post
      url: https://u@h.example/a b?c=d#e
      headers: {X-A: 1, Content-Type: text/yaml}
      body: {n: 1.50, word: no, list: [a, null]}
    resume: fail
  - name: fifth
    http: {url: 'http://h', body: '{\"as\": it is}'}
";

#[test]
fn a_file_is_recorded_as_it_is_meant() {
    let file = parse(FULL);
    assert_eq!(
        (file.about.description.as_str(), file.about.creator.as_str()),
        ("everything", "me")
    );
    let workflow = Workflow::try_new(&file.definition).expect("it was checked");
    let [first, second, third, fourth, fifth] = workflow.nodes() else { panic!("five steps") };

    let Action::Shell { script, env } = &first.step.action else { panic!("a shell step") };
    assert_eq!(script, "echo $A");
    let env: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=1", "B=no", "C=0755", "D=x y", "E="], "values are as they are written");
    assert_eq!((first.step.timeout, first.step.retries), (Duration::from_secs(300), 0));
    assert_eq!((first.mode, first.on_failure), (RunMode::Parallel, OnFailure::Skip));
    assert_eq!(first.step.resume, Resume::Fail);

    let Action::Func { name, parameters } = &second.step.action else { panic!("a func step") };
    assert_eq!(name, "sleep");
    assert_eq!(parameters["seconds"], 2);
    assert_eq!(parameters["word"], "yes");
    assert_eq!((second.step.timeout, second.step.retries), (Duration::from_secs(30), 3));
    assert_eq!((second.mode, second.on_failure), (RunMode::Serial, OnFailure::Abort));
    assert_eq!(second.step.resume, Resume::Rerun);

    let Action::Http(request) = &fourth.step.action else { panic!("an http step") };
    assert_eq!(
        (request.method.as_str(), request.url.as_str()),
        ("POST", "https://u@h.example/a%20b?c=d")
    );
    let header = |name: &str| request.headers[name].to_str().expect("plain").to_owned();
    assert_eq!((header("x-a"), header("content-type")), ("1".into(), "text/yaml".into()));
    let body = request.body.as_deref().expect("a body");
    assert_eq!(body, r#"{"list":["a",null],"n":1.5,"word":"no"}"#);
    assert_eq!(fourth.step.resume, Resume::Fail);
    let Action::Http(request) = &fifth.step.action else { panic!("an http step") };
    assert_eq!((request.method.as_str(), request.url.as_str()), ("GET", "http://h/"));
    assert_eq!(request.body.as_deref(), Some(r#"{"as": it is}"#), "a text is sent as it is");
    assert!(request.headers.is_empty());

    let names = |node: &orchestrator_worker::domain::workflow::Node| -> Vec<String> {
        node.dependencies.iter().map(|id| workflow.node(*id).step.name.clone()).collect()
    };
    assert_eq!((names(first), names(second)), (vec![], vec!["first".to_owned()]));
    assert_eq!(names(third), ["first", "second"]);
}

#[test]
fn the_same_names_give_the_same_ids_and_other_names_others() {
    let (one, again) = (parse(FULL), parse(FULL));
    assert_eq!(one, again);
    let changed = parse(&FULL.replace("echo $A", "echo $B"));
    assert_eq!(one.definition.template, changed.definition.template);
    let ids = |file: &WorkflowFile| -> Vec<String> {
        file.definition.steps.iter().map(|step| step.id.to_string()).collect()
    };
    assert_eq!(ids(&one), ids(&changed));
    let renamed = parse(&FULL.replace("name: full", "name: other"));
    assert_ne!(one.definition.template, renamed.definition.template);
    assert!(ids(&one).iter().all(|id| !ids(&renamed).contains(id)));
    assert!(ids(&one).iter().all(|id| id.len() == 36), "ids fit their columns");
}

/// Steps that are refused, and how the sentence goes on after `f.yaml`.
const STEPS: [(&str, &str); 32] = [
    ("- {name: a}", r#":3: step "a" says none of `shell`, `http` and `func`; give it one of them"#),
    (
        "- {name: a, shell: x, func: y}",
        r#":3: step "a" says both `shell` and `func`; make it two steps"#,
    ),
    (
        "- {name: a, shell: x, http: {url: y}}",
        r#":3: step "a" says both `shell` and `http`; make it two steps"#,
    ),
    (
        "- {name: a, func: x, http: {url: y}}",
        r#":3: step "a" says both `http` and `func`; make it two steps"#,
    ),
    (
        "- {name: a, http: {url: x}}",
        r#":3: step "a" cannot be run: its http_url is not a URL: it does not begin with http:// or https://"#,
    ),
    ("- {name: a, http: {url: ''}}", r#":3: step "a" cannot be run: its http_url is empty"#),
    (
        "- {name: a, http: {url: 'ftp://h'}}",
        r#":3: step "a" cannot be run: its http_url is of the kind "ftp"; only http:// and https:// can be called"#,
    ),
    (
        "- {name: a, http: {url: 'http://h', method: GET IT}}",
        r#":3: step "a" cannot be run: its http_method is "GET IT"; give one such as GET or POST"#,
    ),
    (
        "- {name: a, http: {url: 'http://h', headers: {A B: c}}}",
        r#":3: step "a" cannot be run: its http_headers name "A B", which cannot name a header"#,
    ),
    (
        "- {name: a, http: {url: 'http://h', headers: {A: \"b\\nc\"}}}",
        r#":3: step "a" cannot be run: its http_headers give "A" a value that this header may not have"#,
    ),
    (
        "- {name: a, http: {url: 'http://h'}, parameters: {}}",
        r#":3: step "a" has `parameters`, which goes with `func` only; take it out"#,
    ),
    (
        "- {name: a, http: {url: 'http://h'}, env: {A: b}}",
        r#":3: step "a" has `env`, which goes with `shell` only; take it out"#,
    ),
    ("- {name: a, http: {method: GET}}", ":3: `url:` is missing here; add it"),
    (
        "- {name: a, http: {url: 'http://h', header: {}}}",
        ":3: there is no key `header` here; did you mean `headers`?",
    ),
    ("- {name: a, shell: ' '}", r#":3: step "a" has an empty `shell`; give it a script"#),
    (
        "- {name: a, func: ''}",
        r#":3: step "a" has an empty `func`; give it a function's name, such as sleep"#,
    ),
    (
        "- {name: a, func: f, env: {A: b}}",
        r#":3: step "a" has `env`, which goes with `shell` only; take it out"#,
    ),
    (
        "- {name: a, shell: x, parameters: {}}",
        r#":3: step "a" has `parameters`, which goes with `func` only; take it out"#,
    ),
    (
        "- {name: a, func: x, parameters: {resume: fail}}",
        r#":3: step "a" has `parameters.resume`; write it as `resume:` beside `name`"#,
    ),
    (
        "- {name: a, shell: x, timeout: 10}",
        r#":3: step "a" has the timeout "10"; give whole seconds with a unit, such as 10s or 5m"#,
    ),
    (
        "- {name: a, shell: x, timeout: 1500ms}",
        r#":3: step "a" has the timeout "1500ms"; give whole seconds with a unit, such as 10s or 5m"#,
    ),
    (
        "- {name: ' ', shell: x}",
        r#":3: step " " has an unusable name; give it 1 to 200 characters on one line"#,
    ),
    (
        "- {name: a, shell: x}\n- {name: a, shell: y}",
        r#":4: step "a" stands here and in line 3; give each step a name of its own"#,
    ),
    (
        "- {name: a, shell: x, depends_on: [a]}",
        r#":3: step "a" depends on itself; take that out of `depends_on`"#,
    ),
    (
        "- {name: build, shell: x}\n- name: b\n  shell: x\n  depends_on:\n  - biuld",
        r#":7: step "b" depends on "biuld", which is not a step of this file; did you mean "build"?"#,
    ),
    (
        "- {name: a, shell: x, depends_on: [elsewhere]}",
        r#":3: step "a" depends on "elsewhere", which is not a step of this file; name steps of this file in `depends_on`"#,
    ),
    (
        "- {name: a, shell: x, depends_on: [c]}\n- {name: b, shell: x, depends_on: [a]}\n- {name: c, shell: x, depends_on: [b]}",
        ":3: steps wait for each other in a circle: a -> b -> c -> a; take one of them out of `depends_on`",
    ),
    ("- {name: a, shell: x, depends_on: b}", ":3: a list is expected here, such as [a, b]"),
    ("- {name: a, shel: x}", ":3: there is no key `shel` here; did you mean `shell`?"),
    (
        r#"- {name: a, http: {url: x, "hea\n\u001b[31mders": {}}}"#,
        ":3: there is no key `hea \u{fffd}[31mders` here; those there are: method, url, headers, body",
    ),
    ("- {name: a, shell: x, mode: both}", ":3: `both` is not known here; give serial or parallel"),
    ("- {name: a, shell: x, retries: -1}", ":3: a whole number from 0 on is expected here"),
];

#[test]
fn each_wrong_step_is_refused_with_its_line_and_what_to_mend() {
    for (steps, sentence) in STEPS {
        let text = format!("name: x\nsteps:\n{steps}\n");
        assert_eq!(refusal(&text), format!("f.yaml{sentence}"), "{steps}");
    }
}

#[test]
fn each_wrong_file_is_refused_with_its_line_and_what_to_mend() {
    for (text, sentence) in [
        ("", "f.yaml:1: the file is empty; begin it with `name:` and `steps:`"),
        ("- a", "f.yaml:1: a group of `key: value` is expected here"),
        ("name: x", "f.yaml:1: `steps:` is missing here; add it"),
        (
            "name: x\nsteps: []",
            "f.yaml: the workflow has no steps; give it at least one, with a name and `shell`, `http` or `func`",
        ),
        ("name: x\nstep: []", "f.yaml:2: there is no key `step` here; did you mean `steps`?"),
        (
            "name: x\nsteps: []\nmodules: 1",
            "f.yaml:3: there is no key `modules` here; those there are: name, description, steps",
        ),
        ("name: x\nname: y", "f.yaml:2: `name` stands twice here; take one of them out"),
        ("name:\nsteps: []", "f.yaml:1: a text is missing here"),
        (
            "name: ' '\nsteps: [{name: a, shell: x}]",
            r#"f.yaml:1: the template's name is " "; give it 1 to 200 characters on one line"#,
        ),
        (
            "name: x\nsteps:\n\t- a",
            "f.yaml:3: this cannot be read as YAML: tabs disallowed within this context (block indentation); correct it there",
        ),
        (
            "name: x\nsteps: [\"a",
            "f.yaml:2: this cannot be read as YAML: unclosed quote; correct it there",
        ),
        (
            "name: x\nsteps: []\n---\nname: y",
            "f.yaml:4: one file holds one workflow; move what follows `---` into a file of its own",
        ),
        ("name: x\nsteps:\n- name: a\n  shell:\n    a: b", "f.yaml:5: a text is expected here"),
    ] {
        assert_eq!(refusal(text), sentence, "{text}");
    }
}

#[test]
fn a_folder_is_read_in_the_order_of_its_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("the file is written");
    };
    let load = || workflow_file::load(folder.path(), "me");
    let refusal = || {
        let shown = folder.path().display().to_string();
        load().expect_err("it is refused").to_string().replace(&shown, "DIR")
    };
    assert_eq!(refusal(), "DIR: there is no *.yaml file in this folder; name another, or a file");

    write("b.yaml", "name: b\nsteps: [{name: s, shell: x}]");
    write("a.yml", "name: a\nsteps: [{name: s, shell: x}]");
    write(".hidden.yaml", "not: a workflow");
    write("README.md", "not a workflow");
    let names: Vec<String> =
        load().expect("workflows").into_iter().map(|file| file.definition.name).collect();
    assert_eq!(names, ["a", "b"]);

    write("c.yaml", "name: a\nsteps: [{name: s, shell: x}]");
    assert_eq!(
        refusal(),
        "DIR/c.yaml: template \"a\" is in DIR/a.yml already; give each file a name of its own"
    );
    write("c.yaml", "name: [");
    assert_eq!(refusal(), "DIR/c.yaml:1: a text is expected here");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = workflow_file::load(Path::new("/nowhere/x.yaml"), "me").expect_err("missing");
    assert_eq!(
        missing.to_string(),
        "/nowhere/x.yaml: cannot read it: No such file or directory (os error 2); give a workflow \
         file or a folder with *.yaml files"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.yaml");
    fs::write(&path, b"name: \xff").expect("the file is written");
    let text = workflow_file::load(&path, "me").expect_err("not UTF-8").to_string();
    assert!(text.ends_with("x.yaml: it is not a text in UTF-8; save it as one"), "{text}");
    let large = fs::File::create(&path).expect("the file is made");
    large.set_len((8 << 20) + 1).expect("it grows");
    let text = workflow_file::load(&path, "me").expect_err("too large").to_string();
    assert!(text.ends_with("it has more bytes than the 8388608 that a workflow file may have"));
}

/// The keys in the first column of the table under a heading.
fn documented(page: &str, heading: &str) -> Vec<String> {
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let section = section.split("\n## ").next().expect("a section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

/// The keys that there are, as the refusal of one that there is not tells them.
fn known(text: &str) -> Vec<String> {
    let refusal = refusal(text);
    let (_, keys) = refusal.split_once("those there are: ").expect("they are told");
    keys.split(", ").map(|key| key.trim_end().to_owned()).collect()
}

#[test]
fn the_page_about_files_names_every_key_and_its_example_is_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/workflow-files.md");
    let page = fs::read_to_string(page).expect("the page");
    for (heading, unknown) in [
        ("The file", "qqqqqqqqqqqq: 1"),
        ("A step", "name: n\nsteps:\n  - qqqqqqqqqqqq: 1"),
        ("A request", "name: n\nsteps:\n  - name: s\n    http: {qqqqqqqqqqqq: 1}"),
    ] {
        let (mut there, mut told) = (known(unknown), documented(&page, heading));
        there.sort();
        told.sort();
        assert_eq!(told, there, "{heading}");
    }
    let (_, example) = page.split_once("```yaml\n").expect("an example");
    let file = parse(example.split("```").next().expect("its end"));
    Workflow::try_new(&file.definition).expect("it can be run");
}
