//! What goes wrong around a script: its guardian killed or frozen, its worker gone.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use super::*;

const LEAVES: &str = "sh -c 'echo $$ >> $MEET/pids; sleep 300' &
    (setsid sh -c 'echo $$ >> $MEET/pids; sleep 300' &)
    until [ -e $MEET/pids ] && [ $(wc -l < $MEET/pids) -eq 2 ]; do sleep 0.02; done;";

#[tokio::test]
async fn without_the_call_in_main_a_shell_step_is_refused_with_the_remedy() {
    let mut case = Case::new();
    case.settings.program = ShellSettings::default().program;
    let (error, _) = unanswered_of(case.run("touch $MEET/ran").await);
    assert!(error.contains("if let Some(code) = orchestrator_worker::guardian()"), "{error}");
    assert!(!case.file("ran").exists());
}

#[tokio::test]
async fn a_guardian_that_cannot_be_started_is_an_error_in_words() {
    let mut case = Case::new();
    case.settings.program = "/nonexistent".into();
    let (error, _) = unanswered_of(case.run("true").await);
    assert!(error.starts_with("cannot start the guardian /nonexistent: No such file"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_no_guardian_is_an_error_in_words() {
    let mut case = Case::new();
    let program = case.file("program");
    fs::write(&program, "#!/bin/sh\necho I am no guardian >&2; exit 4\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("executable");
    case.settings.program = program;
    let (error, output) = unanswered_of(case.run("true").await);
    assert_eq!(error, "the guardian ended before the script began (exit status: 4)");
    assert_eq!(output, "I am no guardian\n");
}

#[tokio::test]
async fn signals_that_end_a_worker_do_not_end_a_guardian() {
    let script = "for signal in TERM INT HUP QUIT; do kill -$signal $PPID; done; echo still here";
    assert_eq!(output_of(Case::new().run(script).await), "still here\n");
}

#[tokio::test]
async fn a_guardian_leads_a_session_of_its_own_under_another_name() {
    let script =
        "cut -d' ' -f1,2,6 /proc/$PPID/stat; echo $PPID; tr '\\0' ' ' </proc/$PPID/cmdline";
    let output = output_of(Case::new().run(script).await);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], format!("{0} (ow-guardian) {0}", lines[1]));
    assert_eq!(lines[2].trim(), "ow-guardian __guardian");
}

#[tokio::test]
async fn a_script_that_kills_its_guardian_fails_and_leaves_nothing() {
    let case = Case::new();
    let outcome = case.run(&format!("{LEAVES} echo now; kill -KILL $PPID; sleep 300")).await;
    let (error, output) = unanswered_of(outcome);
    assert!(error.starts_with("the guardian of the script ended too early (signal: 9"), "{error}");
    assert_eq!(output, "now\n");
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_script_that_freezes_its_guardian_is_killed_all_the_same() {
    let case = Case::new().grace(Duration::ZERO);
    let task = case.spawn(&format!("{LEAVES} kill -STOP $PPID; touch $MEET/ready; sleep 300"));
    case.met("ready").await;
    case.stop.cancel();
    output_of_stopped(ended(task).await);
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_script_that_freezes_its_guardian_and_floods_its_output_is_killed_all_the_same() {
    let case = Case::new().grace(Duration::ZERO);
    let task = case.spawn("yes & yes & kill -STOP $PPID; touch $MEET/ready; yes");
    case.met("ready").await;
    case.stop.cancel();
    output_of_stopped(ended(task).await);
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_flood_that_outlives_its_guardian_ends_with_the_attempt() {
    let case = Case::new();
    let (error, _) = unanswered_of(case.run("yes & yes & kill -KILL $PPID; yes").await);
    assert!(error.starts_with("the guardian of the script ended too early"), "{error}");
    case.assert_nothing_left();
}

#[tokio::test]
async fn an_attempt_that_nobody_waits_for_any_more_is_killed() {
    let case = Case::new();
    let task = case.spawn(&format!("{LEAVES} touch $MEET/ready; sleep 300"));
    case.met("ready").await;
    task.abort();
    eventually("nothing is left", || case.living().is_empty()).await;
    eventually("its folder is gone", || {
        fs::read_dir(case.state.path()).expect("readable").next().is_none()
    })
    .await;
}

#[test]
fn a_runtime_that_is_shut_down_takes_its_scripts_with_it() {
    let case = Case::new();
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let first = runtime();
    first.block_on(async {
        drop(case.spawn(&format!("{LEAVES} touch $MEET/ready; sleep 300")));
        case.met("ready").await;
    });
    first.shutdown_background();
    runtime().block_on(eventually("nothing is left", || case.living().is_empty()));
}
