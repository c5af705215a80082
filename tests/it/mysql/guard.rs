//! The guard trigger: it lets through every write of a worker and of an operator's command, and stops
//! those of an orchestrator that come too late.

use std::{fs, path::Path};

use orchestrator_worker::{
    domain::recovery::Cause,
    ports::{
        control::Control,
        executions::{Advance, Advanced, ExecutionStore, HandBack},
    },
};
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, raw_sql};

use super::{Database, Server};
use crate::{
    contract::{Subject, world::*, writes::*},
    process::{Worker, json, run, wait_until},
};

async fn guarded<S: Server>() -> World<Database<S>> {
    let world = World::<Database<S>>::new().await;
    let names = async |dry_run| world.a.guard(dry_run).await.expect("a guard").len();
    assert_eq!(names(true).await, 2);
    assert_eq!(names(false).await, 2, "a dry run makes nothing");
    assert_eq!(names(false).await, 0, "once is enough");
    world
}

/// The number of the error that the orchestrator's statement meets; 0 if it is let through.
async fn refusal<S: Server>(world: &World<Database<S>>, set: &str, id: &str) -> u16 {
    let mut orchestrator =
        MySqlConnection::connect(&world.subject.url(None)).await.expect("a connection");
    let sql = format!("UPDATE workflow_executions SET {set} WHERE id='{id}'");
    match raw_sql(AssertSqlSafe(sql)).execute(&mut orchestrator).await {
        Ok(done) => {
            assert_eq!(done.rows_affected(), 1);
            0
        }
        Err(sqlx::Error::Database(error)) => {
            error.downcast_ref::<sqlx::mysql::MySqlDatabaseError>().number()
        }
        Err(error) => panic!("{error}"),
    }
}

const STARTS: &str = "status='running', started_at=NOW(3), updated_at=NOW(3)";
const SUCCEEDS: &str = "status='success', finished_at=NOW(3), updated_at=NOW(3)";

pub async fn what_an_orchestrator_does_to_its_own_executions_is_let_through<S: Server>() {
    let world = guarded::<S>().await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    for end in [SUCCEEDS, "status='failed'", "status='cancelled'"] {
        let id = world.submit(&template).await;
        let id = id.as_str();
        assert_eq!(refusal(&world, STARTS, id).await, 0);
        assert_eq!(refusal(&world, "updated_at=NOW(3)", id).await, 0);
        assert_eq!(refusal(&world, end, id).await, 0, "{end}");
    }
}

pub async fn what_comes_too_late_is_refused_by_number<S: Server>() {
    let world = guarded::<S>().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = claim.lease.execution.as_str();
    assert_eq!(refusal(&world, STARTS, id).await, 31001, "it has begun");
    assert_eq!(refusal(&world, SUCCEEDS, id).await, 31002, "it is held");
    assert_eq!(refusal(&world, "status='pending'", id).await, 31002);
    let end = Advance {
        ended: vec![succeeded(&claim, "one")],
        finish: Some(success()),
        ..advance(&claim)
    };
    assert_eq!(send(&world.a, &end).await, Ok(Advanced::Recorded));
    assert_eq!(refusal(&world, STARTS, id).await, 31001, "it has ended");
    assert_eq!(refusal(&world, "status='failed'", id).await, 31003);
    assert_eq!(refusal(&world, "status='cancelled'", id).await, 31003);
    assert_eq!(world.status(&claim.lease.execution).await, "success");
}

pub async fn what_is_handed_back_or_retried_is_not_the_orchestrators<S: Server>() {
    let world = guarded::<S>().await;
    let claim = world.a_claims(chain(&["one"])).await;
    let id = &claim.lease.execution;
    let returned = HandBack { lease: claim.lease.clone(), drained: Vec::new() };
    assert_eq!(world.a.hand_back(&[returned]).await, [Ok(Advanced::Recorded)]);
    assert_eq!(refusal(&world, SUCCEEDS, id.as_str()).await, 31002);
    let taken = only(world.b_takes_over(id, Cause::Released).await);
    let end =
        Advance { ended: vec![failed(&taken, "one")], finish: Some(failure()), ..advance(&taken) };
    assert_eq!(send(&world.b, &end).await, Ok(Advanced::Recorded));
    world.a.retry(id).await.expect("it is pending again");
    assert_eq!(refusal(&world, "status='failed'", id.as_str()).await, 31002, "it waits for us");
    assert_eq!(refusal(&world, STARTS, id.as_str()).await, 0, "whoever comes first runs it");
}

/// A step that fails at first, one that waits for a gate, one more.
fn workflow_file(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("guarded.yaml");
    let text = format!(
        r#"
name: guarded
steps:
  - name: first
    env: {{DIR: "{0}"}}
    shell: '[ -e "$DIR/well" ]'
    retries: 0
  - name: second
    depends_on: [first]
    timeout: 10m
    env: {{DIR: "{0}"}}
    shell: touch "$DIR/here.$ORCHESTRATOR_ATTEMPT"; until [ -e "$DIR/gate" ]; do sleep 0.05; done
  - name: third
    depends_on: [second]
    func: noop
"#,
        folder.display()
    );
    fs::write(&file, text).expect("it can be written");
    file
}

pub async fn workers_and_operators_go_on_as_without_it<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let (folder, url) = (tempfile::tempdir().expect("a folder"), world.subject.url(None));
    let migrated = json(&url, ["migrate", "--guard"]);
    assert_eq!(migrated["steps"].as_array().map(Vec::len), Some(2), "{migrated}");
    let file = workflow_file(folder.path());
    json(&url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    let submitted = json(&url, ["submit", "guarded"]);
    let execution = submitted["execution"].as_str().expect("an id").to_owned();
    let is = |state: &str| {
        wait_until(&format!("it is {state}"), || {
            let shown = json(&url, ["show", &execution]);
            (shown["state"] == state && shown["owner"].is_null()).then_some(())
        });
    };
    let is_at_attempt = |attempt: u32| {
        let file = folder.path().join(format!("here.{attempt}"));
        wait_until("the second step runs", || file.exists().then_some(()));
    };
    let mut a = Worker::start(&url, "a", &[]);
    is("failed");
    fs::write(folder.path().join("well"), "").expect("written");
    json(&url, ["retry", &execution]);
    is_at_attempt(1);
    a.signal(Signal::KILL);
    assert!(!a.wait().success());
    let mut b = Worker::start(&url, "b", &[("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "1s")]);
    is_at_attempt(2);
    b.signal(Signal::TERM);
    assert!(b.wait().success());
    let mut c = Worker::start(&url, "c", &[]);
    is_at_attempt(3);
    json(&url, ["cancel", &execution]);
    is("cancelled");
    json(&url, ["retry", &execution]);
    is_at_attempt(4);
    fs::write(folder.path().join("gate"), "").expect("written");
    is("success");
    c.signal(Signal::TERM);
    assert!(c.wait().success());
}

pub async fn the_grants_that_are_printed_are_all_that_a_worker_needs<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let url = world.subject.user("").await;
    let user = world.subject.user_name().to_owned();
    let grants = json(&url, ["migrate", "--print-grants", "--grant-to", &user]);
    for grant in grants.as_array().expect("a list") {
        world.subject.exec(grant.as_str().expect("a statement")).await;
    }
    world.submit_chain(&["one", "two"]).await;
    let ended = run(&url, ["run", "--until-idle", "--admin-listen", "off", "--name", "w"]);
    assert!(ended.status.success(), "{ended:?}");
    let doctor = json(&url, ["doctor", "--dry-run"]);
    let grants = doctor.as_array().expect("a list").iter().filter(|it| it["check"] == "grants");
    assert!(grants.clone().all(|it| it["verdict"] == "ok") && grants.count() == 1, "{doctor}");
}
