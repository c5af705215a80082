//! The nemesis at a database that it was given, as users run it at a server of their own.

use std::{
    env::current_exe,
    process::{Command, Stdio},
};

use tokio::task::block_in_place;

use crate::{
    contract::Subject,
    mysql::{Database, Server},
    process::{end_of, program},
    stores::on_both_servers,
};

on_both_servers! {
    a_given_database_is_refused_if_it_has_executions_and_else_struck_and_left_for_a_look
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

async fn a_given_database_is_refused_if_it_has_executions_and_else_struck_and_left_for_a_look<
    S: Server,
>() {
    let database = Database::<S>::make().await;
    let url = database.user("ALL").await;
    database.exec("CREATE TABLE workflow_executions (id VARCHAR(36) PRIMARY KEY)").await;
    database.exec("INSERT INTO workflow_executions VALUES ('somebody''s')").await;
    let refused = block_in_place(|| end_of(&mut strike::<S>(&url)));
    assert_ne!(refused.code, Some(0));
    let why = "it has executions; give a database of its own";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema=DATABASE()";
    assert_eq!(database.one(tables).await.as_deref(), Some("1"), "nothing is changed before");
    database.exec("DROP TABLE workflow_executions").await;

    // Where it writes a binary log, a server takes a trigger from few.
    if database.one("SELECT @@log_bin").await.as_deref() == Some("1") {
        database.exec(&format!("GRANT SUPER ON *.* TO {}", database.user_name())).await;
    }
    let ended = block_in_place(|| strike::<S>(&url).output().expect("it starts"));
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{told}");
    assert!(told.contains(": 0 violations"), "{told}");
    assert!(told.contains("\n12 faults ("), "each that needs no server of its own: {told}");
    let left = "SELECT COUNT(*) FROM workflow_executions";
    assert_ne!(database.one(left).await.as_deref(), Some("0"));
}
