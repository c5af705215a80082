//! The commands of docs/observability.md, typed as they stand there, in a network of their own.
//!
//! **Invariant:** what is not on this machine is stood in for by the same thing from elsewhere: the image
//! that `docker` would run by that Jaeger itself, the browser by a request for its page.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use orchestrator_worker::domain::key::hex;
use serde_json::Value;

use super::keepers::jaeger;
use crate::process::end_of;

/// `docker run -d -p PORT:PORT... jaegertracing/jaeger`: listens where it always does, and may take its
/// time.
const DOCKER: &str = r#"#!/bin/sh
[ "$*" = 'run -d -p 4318:4318 -p 16686:16686 jaegertracing/jaeger' ] || exit 1
setsid JAEGER >/dev/null 2>&1 &
"#;

/// Goes to the page that it is given.
const BROWSER: &str = r#"#!/bin/bash
[[ $1 == http://127.0.0.1:16686/search* ]] || exit 1
fetch "${1#http://127.0.0.1:16686}" | grep -q '^HTTP/1.[01] 200'
"#;

const FETCH: &str = r#"#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/16686
printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
cat <&3
"#;

/// What the page asks for, once Jaeger has stored it all.
const AFTER: &str = r#"
traces() { fetch '/api/traces?service=orchestrator-worker&limit=100' | sed '1,/^.$/d'; }
until [ "$(traces | grep -o '"RUN [a-z]*"' | wc -l)" = "$(ls deploy/examples | wc -l)" ]; do
    sleep 0.1
done
traces
"#;

mod on_jaeger {
    #[test]
    fn three_commands_lead_from_nothing_to_a_trace_on_the_screen() {
        super::three_commands();
    }
}

fn three_commands() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(project.join("docs/observability.md")).expect("it is there");
    let block = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.expect("it begins with a block");
    assert_eq!(block.lines().count(), 3);

    let folder = tempfile::tempdir().expect("a folder");
    let program = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("it can be written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("it is ours");
    };
    program("docker", &DOCKER.replace("JAEGER", &jaeger().display().to_string()));
    program("xdg-open", BROWSER);
    program("fetch", FETCH);
    let binary = Path::new(env!("CARGO_BIN_EXE_orchestrator-worker"));
    symlink(binary, folder.path().join("orchestrator-worker")).expect("a link");
    symlink(project.join("deploy"), folder.path().join("deploy")).expect("a link");

    let script = format!("set -e\nip link set lo up\n{block}{AFTER}");
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--pid", "--fork", "--kill-child", "bash", "-c", &script])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().display()));
    let ended = end_of(&mut command);
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let submitted = ended.stderr.matches("\"execution.submitted\"").count();
    let (_, body) = ended.stdout.split_once("{\"data\"").expect("an answer");
    let answer: Value = serde_json::from_str(&format!("{{\"data\"{body}")).expect("JSON");
    let traces = answer["data"].as_array().expect("traces");
    assert!(submitted > 2 && traces.len() == submitted, "{submitted}: {}", traces.len());
    for trace in traces {
        let id = trace["traceID"].as_str().expect("an id");
        assert_eq!(id.len(), hex(&[0; 16]).len());
        let spans = trace["spans"].as_array().expect("spans");
        let roots = spans.iter().filter(|span| {
            span["operationName"].as_str().is_some_and(|name| name.starts_with("RUN "))
        });
        assert_eq!(roots.count(), 1, "{id}");
    }
}
