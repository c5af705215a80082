//! The guardian by itself, its orders coming from a stand-in for the worker that can be frozen
//! and killed.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
};

use orchestrator_worker::adapters::runners::shell::{
    Limits,
    guardian::WORD,
    protocol::{Order, Spec, line},
};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// `cat` in the worker's place: all that a guardian sees of a worker is its end of the pipe.
struct StandIn {
    worker: Child,
    guardian: Child,
}

impl StandIn {
    fn new(case: &Case, script: &str, lease: Duration) -> Self {
        let mut worker = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat runs");
        let orders = worker.stdout.take().expect("a pipe");
        let guardian = Command::new(PROGRAM)
            .arg(WORD)
            .stdin(orders)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the guardian runs");
        let stand_in = Self { worker, guardian };
        stand_in.order(&Order::Run(Spec {
            script: script.to_owned(),
            environment: BTreeMap::from([
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
                ("MEET".to_owned(), case.meet.path().display().to_string()),
                ("ORCHESTRATOR_IDEMPOTENCY_KEY".to_owned(), case.key.clone()),
            ]),
            folder: case.state.path().join("folder"),
            grace: CEILING,
            deadline: boot_now().plus(lease).into(),
            limits: Limits::default(),
        }));
        stand_in
    }

    fn order(&self, order: &Order) {
        let mut pipe = self.worker.stdin.as_ref().expect("a pipe");
        pipe.write_all(&line(order)).expect("written");
    }

    fn signal_worker(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.worker.id()).expect("small")).expect("a pid");
        kill_process(pid, signal).expect("it lives");
    }

    /// Exit code and reports of the guardian.
    async fn ended(&mut self) -> (Option<i32>, String) {
        let pid = i32::try_from(self.guardian.id()).expect("small");
        eventually("the guardian ends", || !lives(pid)).await;
        let mut reports = String::new();
        let mut stdout = self.guardian.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut reports).expect("reports");
        (self.guardian.wait().expect("its end").code(), reports)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.worker.kill().expect("it was not waited for");
        self.worker.wait().expect("its end");
    }
}

/// Four descendants, one of them a double fork in a session of its own; none heeds TERM.
const FOUR: &str = "trap '' TERM
    sh -c 'echo $$ >> $MEET/pids; sleep 300 & echo $! >> $MEET/pids; wait' &
    (setsid sh -c 'echo $$ >> $MEET/pids; exec sleep 300' &)
    echo $$ >> $MEET/pids
    until [ $(wc -l < $MEET/pids) -eq 4 ]; do sleep 0.02; done; touch $MEET/ready; wait";
const STOPPED: &str = "\"Began\"\n{\"Ended\":\"Stopped\"}\n";

#[tokio::test]
async fn kill_9_of_the_worker_ends_every_descendant() {
    let case = Case::new();
    let mut stand_in = StandIn::new(&case, FOUR, CEILING * 2);
    case.met("ready").await;
    let pids = case.pids();
    let start = Instant::now();
    stand_in.signal_worker(Signal::KILL);
    while pids.iter().any(|pid| lives(*pid)) {
        assert!(start.elapsed() < CEILING, "something lives on");
        tokio::task::yield_now().await;
    }
    println!("four descendants ended {:?} after the kill -9 of the worker", start.elapsed());
    assert_eq!(stand_in.ended().await, (Some(0), STOPPED.to_owned()));
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_frozen_worker_does_not_keep_a_script_beyond_its_lease() {
    let case = Case::new();
    let lease = Duration::from_secs(3);
    let deadline = boot_now().plus(lease);
    let mut stand_in = StandIn::new(&case, FOUR, lease);
    case.met("ready").await;
    stand_in.signal_worker(Signal::STOP);
    stand_in.order(&Order::Deadline(deadline.plus(CEILING).into()));
    eventually("nothing is left", || case.living().is_empty()).await;
    let late = boot_now().since(deadline);
    println!("all had ended {late:?} after the deadline");
    assert!(boot_now() >= deadline && late < Duration::from_secs(3), "{late:?}");
    assert_eq!(stand_in.ended().await, (Some(0), STOPPED.to_owned()));
    case.assert_nothing_left();
}

#[tokio::test]
async fn the_worker_may_be_dead_before_the_script_is_known() {
    let mut guardian = Command::new(PROGRAM)
        .arg(WORD)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut reports = String::new();
    guardian.stdout.take().expect("a pipe").read_to_string(&mut reports).expect("reports");
    assert_eq!((guardian.wait().expect("its end").code(), &*reports), (Some(0), ""));
}

#[tokio::test]
async fn an_order_that_is_not_understood_ends_the_script() {
    let case = Case::new();
    let mut stand_in = StandIn::new(&case, FOUR, CEILING * 2);
    case.met("ready").await;
    let mut pipe = stand_in.worker.stdin.as_ref().expect("a pipe");
    pipe.write_all(b"hello\n").expect("written");
    let (code, reports) = stand_in.ended().await;
    assert_eq!((code, &*reports), (Some(1), "\"Began\"\n"));
    case.assert_nothing_left();
}
