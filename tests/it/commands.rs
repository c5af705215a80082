//! Commands that only look, as somebody types them.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::process::{binary, json, run};

/// A database with the release example in it.
fn release() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("it.db").display());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/release.yaml");
    json(&url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    (folder, url)
}

fn printed(url: &str, args: &[&str]) -> String {
    let output = run(url, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

#[test]
fn a_graph_shows_what_waits_for_what_in_every_format() {
    let (_folder, url) = release();
    let text = printed(&url, &["graph", "release"]);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    assert!(lines[1].starts_with("checkout "), "{text}");
    let lint = lines.iter().find(|line| line.starts_with("  lint ")).expect("further in");
    assert!(lint.contains("checkout") && lint.ends_with("parallel"), "{text}");
    assert!(lines.last().is_some_and(|line| line.starts_with("        announce")), "{text}");

    let mermaid = printed(&url, &["graph", "release", "--format", "mermaid"]);
    assert!(mermaid.starts_with("flowchart TD\n"), "{mermaid}");
    assert_eq!(mermaid.matches(" --> ").count(), 10, "{mermaid}");
    let dot = printed(&url, &["graph", "release", "--format", "dot"]);
    assert!(dot.starts_with("digraph \"release\" {\n") && dot.trim_end().ends_with('}'), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), 10, "{dot}");

    let of_template = json(&url, ["graph", "release"]);
    assert_eq!(of_template["steps"][0]["name"], "checkout");
    assert!(of_template["steps"][0]["state"].is_null());
    let submitted = json(&url, ["submit", "release"]);
    let execution = submitted["execution"].as_str().expect("an id");
    let of_execution = json(&url, ["graph", execution]);
    assert_eq!(of_execution["steps"][0]["state"], "pending");
    assert_eq!(of_execution["steps"][4]["after"].as_array().map(Vec::len), Some(3));

    let refused = run(&url, ["graph", "nothing"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no template"));
}

#[test]
fn config_show_names_where_each_setting_comes_from_and_no_password() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    fs::write(&file, "slots: 3\nclaim:\n  include: [a, b]\n").expect("it is written");
    let show = |args: &[&str]| {
        let output = binary()
            .args(["config", "show", "--config"])
            .arg(&file)
            .args(args)
            .env("ORCHESTRATOR_WORKER__LOCK__TTL", "20s")
            .env("DATABASE_URL", "mysql://me:hunter2@db.example/orchestrator")
            .output()
            .expect("the binary starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let all: serde_json::Value = serde_json::from_str(&show(&["--output", "json"])).expect("JSON");
    let of = |key: &str| {
        let all = all.as_array().expect("a list");
        let one = all.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("no {key}"));
        (one["value"].as_str(), one["origin"].as_str())
    };
    let file = file.display().to_string();
    assert_eq!(of("slots"), (Some("3"), Some(&*file)));
    assert_eq!(of("claim.include"), (Some("a, b"), Some(&*file)));
    assert_eq!(of("lock.ttl"), (Some("20s"), Some("ORCHESTRATOR_WORKER__LOCK__TTL")));
    assert_eq!(of("lock.renew_every"), (Some("5s"), None));
    assert_eq!(of("retention.failed"), (None, None));
    assert_eq!(
        of("database.url"),
        (Some("MySQL db.example:3306/orchestrator"), Some("DATABASE_URL"))
    );
    let changed: serde_json::Value =
        serde_json::from_str(&show(&["--changed", "--output", "json"])).expect("JSON");
    assert_eq!(changed.as_array().map(Vec::len), Some(4), "{changed}");
    assert!(!show(&[]).contains("hunter2"));
}

#[test]
fn config_check_says_yes_or_what_to_mend() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    let check = |text: &str| {
        fs::write(&file, text).expect("it is written");
        let command = ["config", "check", "--config"];
        binary().args(command).arg(&file).output().expect("the binary starts")
    };
    let good = check("slots: 3\n");
    assert!(good.status.success() && String::from_utf8_lossy(&good.stdout).contains("is right"));
    let bad = check("slotz: 3\n");
    assert_eq!(bad.status.code(), Some(78));
    assert!(bad.stdout.is_empty());
    assert!(String::from_utf8_lossy(&bad.stderr).contains("did you mean \"slots\"?"));
}

#[test]
fn completions_and_the_manual_need_no_configuration() {
    let print = |args: &[&str]| {
        let output = binary()
            .args(args)
            .env("ORCHESTRATOR_WORKER__SLOTS", "none")
            .output()
            .expect("the binary starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = print(&["completions", shell]);
        assert!(script.contains("backlog") && script.contains("drain-deadline"), "{shell}");
    }
    let page = print(&["man"]);
    for command in ["RUN", "SUBMIT", "RETRY", "GRAPH"] {
        assert!(page.contains(&format!(".SH \"{command}\"")), "{command}");
    }
    assert!(page.contains("drain\\-deadline"));
}
