//! The nemesis at a database that it was given, as users run it at a server of their own.

use std::{
    env::current_exe,
    process::{Command, Stdio},
};

use crate::{
    contract::Subject,
    mysql::{Database, Server},
    process::program,
    stores::on_both_servers,
};

on_both_servers! {
    a_given_database_is_struck_left_for_a_look_and_refused_once_it_has_executions
}

/// One round of the faults that need no server of their own, in a process as a person starts it.
fn strike<S: Server>(url: &str) -> Command {
    let this = current_exe().expect("the tests' program");
    let mut command = program(this.to_str().expect("UTF-8"));
    let test = format!("nemesis::on_{}::no_fault_loses_or_doubles_work", S::NAME.to_lowercase());
    command.args(["--exact", &test, "--nocapture"]).stdin(Stdio::null());
    command.env("ORCHESTRATOR_NEMESIS_URL", url).env("ORCHESTRATOR_NEMESIS_ROUNDS", "1");
    command
}

async fn a_given_database_is_struck_left_for_a_look_and_refused_once_it_has_executions<
    S: Server,
>() {
    let database = Database::<S>::make().await;
    let url = database.user("ALL").await;
    // Where it writes a binary log, a server takes a trigger from few.
    if database.one("SELECT @@log_bin").await.as_deref() == Some("1") {
        database.exec(&format!("GRANT SUPER ON *.* TO {}", database.user_name())).await;
    }
    let ended = strike::<S>(&url).output().expect("it starts");
    let said = String::from_utf8_lossy(&ended.stdout);
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}\n{told}");
    assert!(format!("{said}{told}").contains(": 0 violations"), "{said}\n{told}");
    for fault in ["Kill", "BlackHole", "LoseCommit", "MetadataLock"] {
        assert!(format!("{said}{told}").contains(fault), "{said}\n{told}");
    }
    let left = "SELECT COUNT(*) FROM workflow_executions";
    assert_ne!(database.one(left).await.as_deref(), Some("0"));

    let again = strike::<S>(&url).output().expect("it starts");
    assert!(!again.status.success());
    let why = String::from_utf8_lossy(&again.stderr);
    assert!(why.contains("it has executions; give a database of its own"), "{why}");
}
