//! `doctor`, as somebody types it.

use std::net::TcpListener;

use serde_json::Value;

use crate::{
    crash::Served,
    process::{Ended, binary, end_of},
    stores::on_every_store,
};

on_every_store! {
    a_dry_run_says_what_it_would_mend_and_without_it_that_is_mended
    templates_are_told_with_the_rest
    the_terms_of_a_pod_are_held_against_the_drain
}

fn doctor(url: &str, args: &[&str], env: &[(&str, &str)]) -> Ended {
    let mut command = binary();
    command.args(["--database-url", url, "doctor"]).args(args).envs(env.iter().copied());
    end_of(&mut command)
}

fn found(ended: &Ended) -> Vec<Value> {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

fn of<'f>(all: &'f [Value], check: &str) -> &'f Value {
    let is_it = |one: &&Value| one["check"] == check;
    all.iter().find(is_it).unwrap_or_else(|| panic!("no {check} in {all:?}"))
}

async fn a_dry_run_says_what_it_would_mend_and_without_it_that_is_mended<S: Served>() {
    let subject = S::create().await;
    let url = subject.url();
    let dry = doctor(&url, &["--dry-run"], &[]);
    assert_eq!(dry.code, Some(1), "{dry:?}");
    assert!(dry.stdout.contains("steps of the migration are not done"), "{dry:?}");
    assert!(dry.stdout.lines().all(|line| line.chars().count() <= 80), "{dry:?}");
    let again = doctor(&url, &["--dry-run", "--output", "json"], &[]);
    assert_eq!(of(&found(&again), "schema")["verdict"], "problem", "it changed nothing");

    let mended = doctor(&url, &["--output", "json"], &[]);
    assert_eq!(mended.code, Some(0), "{mended:?}");
    let all = found(&mended);
    let schema = of(&all, "schema")["found"].as_str().unwrap_or_default();
    assert!(schema.contains("just migrated: create table steps"), "{schema}");
    assert_eq!(of(&all, "lock")["verdict"], "ok");
    assert!(of(&all, "lock")["repair"].is_null());

    let now = S::now();
    let expired = format!(
        "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at) VALUES \
         ('mine', 'me', {}, {now}, {now})",
        S::moved(now, -120_000)
    );
    subject.exec(&expired).await;
    let dry = doctor(&url, &["--dry-run", "--output", "json"], &[]);
    assert_eq!((dry.code, &of(&found(&dry), "locks")["verdict"]), (Some(0), &"warning".into()));
    let mended = doctor(&url, &[], &[]);
    assert_eq!(mended.code, Some(0), "{mended:?}");
    assert!(mended.stdout.contains("just deleted: 1 expired lock row"), "{mended:?}");
    let left = subject.one("SELECT COUNT(*) FROM distributed_locks").await;
    assert_eq!(left.as_deref(), Some("0"));
}

async fn templates_are_told_with_the_rest<S: Served>() {
    let subject = S::create().await;
    let url = subject.url();
    let none = doctor(&url, &["--templates", "--output", "json"], &[]);
    assert_eq!(of(&found(&none), "template")["found"], "none is stored");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/hello.yaml");
    assert!(crate::process::run(&url, ["apply", "-f", file]).status.success());
    let good = doctor(&url, &["--templates", "--output", "json"], &[]);
    assert_eq!(good.code, Some(0), "{good:?}");
    let all = found(&good);
    let told = of(&all, "template");
    assert_eq!((&told["template"], &told["verdict"]), (&"hello".into(), &"ok".into()));

    subject.exec("UPDATE steps SET executor_type='ssh'").await;
    let bad = doctor(&url, &["--templates"], &[]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.stdout.contains("hello: refused: this version does not know executor"), "{bad:?}");
    assert_eq!(doctor(&url, &[], &[]).code, Some(0), "nobody asked for templates");
}

async fn the_terms_of_a_pod_are_held_against_the_drain<S: Served>() {
    let subject = S::create().await;
    let url = subject.url();
    let drain = |env: &[(&str, &str)]| {
        let all = found(&doctor(&url, &["--output", "json"], env));
        of(&all, "drain").clone()
    };
    let unknown = drain(&[]);
    assert_eq!(unknown["verdict"], "ok");
    assert!(unknown["found"].as_str().is_some_and(|text| text.contains("must give it 1m 10s")));
    let grace = "ORCHESTRATOR_WORKER__POD__TERMINATION_GRACE_PERIOD";
    let short = drain(&[(grace, "30s")]);
    assert_eq!(short["verdict"], "warning");
    let repair = short["repair"].as_str().unwrap_or_default();
    assert!(repair.contains("terminationGracePeriodSeconds to 70 "), "{short}");
    assert_eq!(drain(&[(grace, "70s")])["verdict"], "ok");
}

#[test]
fn a_database_that_cannot_be_reached_is_found_with_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let ended = doctor(&format!("mysql://u:hunter2@{free}/x"), &["--output", "json"], &[]);
    assert_eq!(ended.code, Some(1));
    let all = found(&ended);
    let server = of(&all, "server");
    assert_eq!(server["verdict"], "problem");
    let told = server["found"].as_str().unwrap_or_default();
    assert!(told.contains(&format!("{free} does not answer")), "{told}");
    assert!(server["repair"].as_str().is_some_and(|it| it.contains("check that the server runs")));
    assert_eq!(of(&all, "otlp")["verdict"], "ok", "the rest is looked at all the same");
    assert!(!ended.stdout.contains("hunter2") && ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn a_dry_run_makes_no_file_and_one_that_cannot_be_made_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("it.db");
    assert_eq!(doctor(&format!("sqlite://{}", file.display()), &["--dry-run"], &[]).code, Some(1));
    assert!(!file.exists());
    let nowhere = folder.path().join("no/it.db");
    let ended = doctor(&format!("sqlite://{}", nowhere.display()), &[], &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("does not exist"), "{ended:?}");
    assert!(ended.stdout.contains("→ make it, or give another path"), "{ended:?}");
}

#[test]
fn a_collector_is_tried_where_one_is_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("it.db").display());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let endpoint = format!("http://{address}");
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let told = || {
        let ended = doctor(&url, &["--output", "json"], &env);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        of(&found(&ended), "otlp").clone()
    };
    assert_eq!(told()["found"], format!("{address} takes connections"));
    drop(listener);
    assert_eq!(told()["verdict"], "warning");
}
