//! Recorded rows that cannot be run: what the worker says of them, and what it leaves recorded.

use serde_json::Value;

use super::Folder;
use crate::{
    contract::world::{World, chain, workflow},
    crash::Served,
    process::{end_of, json, unbroken},
    stores::on_every_store,
};

on_every_store! {
    broken_json_in_a_step_fails_the_execution_with_step_and_column
}

async fn broken_json_in_a_step_fails_the_execution_with_step_and_column<S: Served>() {
    let world = World::<S>::new().await;
    let (folder, url) = (Folder::new(), world.subject.url());
    let template = world.apply(&workflow("broken", chain(&["one", "two"]))).await;
    for (sql, reason) in [
        (
            "UPDATE workflow_template_steps SET dependencies='[broken' WHERE step_id='step-two'",
            "the dependencies of step \"two\" are not a JSON array of step ids: expected value at \
             line 1 column 2",
        ),
        (
            "UPDATE steps SET parameters='{broken' WHERE id='step-two'",
            "step \"two\" cannot be run: the column parameters is not a JSON object: key must be a \
             string at line 1 column 2",
        ),
    ] {
        assert_eq!(world.subject.exec(sql).await, 1);
        let execution = world.submit(&template).await;

        let line = format!("--database-url {url} run --until-idle --admin-listen off");
        let ended = end_of(&mut folder.command(&line));
        assert_eq!(ended.code, Some(3), "{ended:?}");
        let end = format!(" {execution}: {reason} 1 failed");
        assert!(unbroken(&ended.stdout).ends_with(&end), "{ended:?}");
        let told = "failed: it cannot be run; mend its template and submit it again";
        assert!(ended.stderr.contains(told) && ended.stderr.contains(reason), "{ended:?}");

        let shown = json(&url, ["show", execution.as_str()]);
        assert_eq!((&shown["state"], &shown["error"]), (&"failed".into(), &reason.into()));
        let ran = shown["steps"].as_array().expect("steps").iter();
        assert!(ran.clone().all(|step| step["attempts"] == Value::Array(Vec::new())), "{shown}");
    }
}
