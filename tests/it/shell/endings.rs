//! How an attempt ends: by itself, by stop, by kill, by its deadline. Nothing of it is left.

use super::*;

/// A child, a grandchild, and a double fork into a session and an environment of its own.
const FAMILY: &str = r#"
    sh -c 'echo $$ >> $MEET/pids; sleep 300 & echo $! >> $MEET/pids; wait' &
    (env -i MEET=$MEET setsid sh -c 'echo $$ >> $MEET/pids; trap "" TERM; sleep 300' &)
    until [ -e $MEET/pids ] && [ $(wc -l < $MEET/pids) -eq 3 ]; do sleep 0.02; done
"#;

#[tokio::test]
async fn what_a_script_leaves_in_the_background_ends_with_it() {
    let case = Case::new();
    let output = output_of(case.run(&format!("{FAMILY} echo done")).await);
    assert_eq!(output, "done\n", "and its hold on the output does not hold up the end");
    assert_eq!(case.pids().len(), 3);
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_stopped_script_can_clean_up_and_need_not_wait_for_the_grace_to_end() {
    let case = Case::new().grace(CEILING * 2);
    let task = case.spawn(
        "trap 'echo cleaned; exit 0' TERM
         while :; do sh -c 'touch $MEET/ready; exec sleep 300'; done",
    );
    case.met("ready").await;
    case.stop.cancel();
    let output = output_of_stopped(ended(task).await);
    assert!(output.ends_with("cleaned\n"), "{output}");
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_stopped_script_does_not_go_on_to_its_next_line() {
    let case = Case::new();
    let task = case.spawn("touch $MEET/ready; sleep 300; touch $MEET/went_on");
    case.met("ready").await;
    case.stop.cancel();
    output_of_stopped(ended(task).await);
    assert!(!case.file("went_on").exists());
    case.assert_nothing_left();
}

#[tokio::test]
async fn whoever_ignores_term_is_killed_after_the_grace() {
    let grace = Duration::from_millis(300);
    let case = Case::new().grace(grace);
    let task = case.spawn(&format!("trap '' TERM; {FAMILY} touch $MEET/ready; sleep 300"));
    case.met("ready").await;
    let start = Instant::now();
    case.stop.cancel();
    output_of_stopped(ended(task).await);
    assert!(start.elapsed() >= grace);
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_stopped_script_that_is_frozen_is_woken_to_end() {
    let case = Case::new().grace(CEILING * 2);
    let task = case.spawn("trap 'echo woken; exit' TERM; touch $MEET/ready; kill -STOP $$");
    case.met("ready").await;
    case.stop.cancel();
    assert_eq!(output_of_stopped(ended(task).await), "woken\n");
    case.assert_nothing_left();
}

#[tokio::test]
async fn kill_waits_for_no_grace() {
    for stop_first in [false, true] {
        let case = Case::new().grace(CEILING * 2);
        let task = case.spawn(&format!("trap '' TERM; {FAMILY} touch $MEET/ready; sleep 300"));
        case.met("ready").await;
        if stop_first {
            case.stop.cancel();
        }
        case.kill.cancel();
        output_of_stopped(ended(task).await);
        case.assert_nothing_left();
    }
}

#[tokio::test]
async fn an_attempt_that_is_halted_already_does_not_begin() {
    let (stopped, killed) = (Case::new(), Case::new());
    stopped.stop.cancel();
    killed.kill.cancel();
    let late = Case::new().deadline_in(Duration::ZERO);
    for case in [stopped, killed, late] {
        output_of_stopped(case.run("touch $MEET/ran").await);
        assert!(!case.file("ran").exists());
        case.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_deadline_that_is_not_renewed_ends_the_script() {
    let case = Case::new().grace(CEILING * 2).deadline_in(Duration::from_millis(700));
    let deadline = *case.deadline.borrow();
    output_of_stopped(case.run(&format!("trap '' TERM; {FAMILY} sleep 300")).await);
    assert!(boot_now() >= deadline);
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_deadline_ends_the_grace_too() {
    let case = Case::new().grace(CEILING * 2);
    let task = case.spawn("trap '' TERM; touch $MEET/ready; sleep 300");
    case.met("ready").await;
    case.stop.cancel();
    case.deadline.send_replace(boot_now().plus(Duration::from_millis(200)));
    output_of_stopped(ended(task).await);
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_renewed_deadline_lets_the_script_go_on() {
    let case = Case::new().deadline_in(Duration::from_secs(3));
    let first = *case.deadline.borrow();
    let task =
        case.spawn("touch $MEET/ready; until [ -e $MEET/go ]; do sleep 0.02; done; echo went on");
    case.met("ready").await;
    case.deadline.send_replace(boot_now().plus(CEILING));
    let past = first.plus(Duration::from_millis(300));
    eventually("the first deadline has passed", || boot_now() > past).await;
    std::fs::write(case.file("go"), "").expect("written");
    assert_eq!(output_of(ended(task).await), "went on\n");
}

#[tokio::test]
async fn orphans_are_reaped_while_the_script_goes_on() {
    let case = Case::new();
    let task = case.spawn(
        "echo $PPID > $MEET/guardian
         for i in 1 2 3 4 5 6 7 8 9 10; do (sh -c 'echo $$ >> $MEET/pids' &) ; done
         touch $MEET/ready; until [ -e $MEET/go ]; do sleep 0.02; done",
    );
    case.met("ready").await;
    eventually("ten orphans were there", || case.file("pids").exists() && case.pids().len() == 10)
        .await;
    eventually("none is left, not even as a zombie", || {
        case.pids().into_iter().all(|pid| state_of(pid).is_none())
    })
    .await;
    std::fs::write(case.file("go"), "").expect("written");
    output_of(ended(task).await);
}
