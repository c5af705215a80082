//! MySQL and MariaDB databases that cannot be used.

use super::Folder;
use crate::{
    contract::world::{World, chain, workflow},
    mysql::{Database, PASSWORD, Server},
    stores::on_both_servers,
};

on_both_servers! {
    a_refused_password_is_told_with_the_user_and_without_the_password
    a_database_that_is_not_there_is_named
    a_database_that_was_never_migrated_is_told_to_be
    a_user_without_rights_is_told_what_to_grant
}

/// Types each command against a database; all are refused in the same words.
fn refusals(url: &str, commands: &[&str]) -> String {
    let folder = Folder::with(&[("w.yaml", "name: w\nsteps: [{name: a, func: noop}]")]);
    let refusal = |command: &&str| folder.refusal(&format!("--database-url {url} {command}"), 1);
    let mut all: Vec<String> = commands.iter().map(refusal).collect();
    all.dedup();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

const COMMANDS: [&str; 5] =
    ["list", "submit x", "show x", "apply -f w.yaml", "run --until-idle --admin-listen off"];

async fn a_refused_password_is_told_with_the_user_and_without_the_password<S: Server>() {
    let database = Database::<S>::make().await;
    let url = database.user("ALL").await.replace(PASSWORD, "hunter2");
    let (user, server) = (database.user_name(), Database::<S>::address());
    assert_eq!(
        refusals(&url, &COMMANDS),
        format!(
            "the database cannot be used: the server at {server} refused user {user:?} or its \
             password; correct them in the database URL"
        )
    );
    assert_eq!(refusals(&url, &["migrate", "list"]), refusals(&url, &["list"]));
}

async fn a_database_that_is_not_there_is_named<S: Server>() {
    let (database, server) = (Database::<S>::make().await, Database::<S>::address());
    let url = format!("{}_not", database.url(None));
    let name = url.rsplit('/').next().expect("a name");
    assert_eq!(
        refusals(&url, &[&COMMANDS[..], &["migrate"]].concat()),
        format!(
            "the database cannot be used: there is no database \"{name}\" on the server at \
             {server}; create it (CREATE DATABASE {name}) or name another in the database URL"
        )
    );
}

async fn a_database_that_was_never_migrated_is_told_to_be<S: Server>() {
    let database = Database::<S>::make().await;
    assert_eq!(
        refusals(&database.url(None), &COMMANDS),
        "the tables are not there yet; run `orchestrator-worker migrate` first"
    );
}

async fn a_user_without_rights_is_told_what_to_grant<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let template = world.apply(&workflow("w", chain(&["a"]))).await;
    world.submit(&template).await;
    let url = world.subject.user("SELECT").await;
    for command in ["apply -f w.yaml", "submit w", "run --until-idle --admin-listen off"] {
        let sentence = refusals(&url, &[command]);
        let begin = "the database cannot be used: a right is missing; grant it to this user: ";
        assert!(sentence.starts_with(begin), "{command}: {sentence}");
        assert!(sentence.contains("command denied to user"), "{command}: {sentence}");
    }
}
