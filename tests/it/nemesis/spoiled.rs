//! Whether the checker would notice: workers whose guards are taken out on the wire, and a guardian
//! that is not there.
//!
//! **Invariant:** each scene without a mutation shows nothing; so it is the missing guard that is
//! found, and nothing else.

use orchestrator_worker::{
    adapters::mysql::MySqlStore,
    domain::{
        definition::RecordedStep,
        recovery::{Cause, TakeOver},
    },
    ports::{
        control::Control,
        executions::{Advance, Advanced, Batch, Claim, Claimant, ExecutionStore, StepStart},
    },
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    history::{self, Effect, Rule, Violation, What, violations},
    workload::{LONG, Workload, rows},
};
use crate::{
    contract::{world::*, writes::*},
    mysql::{Database, Server},
    process::{Worker, wait_until},
    proxy::{Proxy, Spoil},
    stores::on_both_servers,
};

on_both_servers! {
    a_late_success_that_no_fence_stops_is_found
    late_successes_together_that_no_fence_stops_are_found
    a_late_end_that_no_fence_stops_is_found
    a_late_start_that_no_fence_stops_is_found
    a_late_hand_back_that_no_fence_stops_is_found
    a_late_retry_that_no_fence_stops_is_found
    a_second_takeover_that_nothing_stops_is_found
    a_success_of_what_waits_under_a_newer_fence_is_found
    a_copy_of_an_end_that_no_attempt_stops_is_found
    a_copy_of_a_start_that_no_status_stops_is_found
    a_copy_of_a_start_that_no_attempt_stops_is_found
    a_late_skip_that_no_fence_stops_is_found
    late_output_that_no_status_stops_is_found
    an_end_over_a_cancellation_that_no_status_stops_is_found
    a_script_that_outlives_its_frozen_worker_without_a_guardian_is_found
}

/// An execution of two steps, `one` and then `two`, whose first owner comes too late for everything.
struct Scene<S: Server> {
    world: World<Database<S>>,
    /// The store of a worker with missing guards.
    late: MySqlStore,
    proxy: Proxy,
    effects: Vec<Effect>,
}

impl<S: Server> Scene<S> {
    async fn new(spoils: Vec<Spoil>) -> Self {
        let world = World::<Database<S>>::new().await;
        let proxy = Proxy::start_spoiling(Database::<S>::address(), spoils).await;
        let late = world.subject.open(Some(proxy.address())).await;
        Self { world, late, proxy, effects: Vec::new() }
    }

    /// The worker that will be late claims and starts `one`.
    async fn claim(&mut self) -> Claim {
        self.claim_of(chain(&["one", "two"])).await
    }

    /// As [`Scene::claim`], of these steps.
    async fn claim_of(&mut self, steps: Vec<RecordedStep>) -> Claim {
        let name = format!("w{}", self.effects.len());
        let template = self.world.apply(&workflow(&name, steps)).await;
        self.world.submit(&template).await;
        let claim = claim_one(&self.late, "a").await;
        for step in started(&claim) {
            self.does(What::Start, &claim, &step);
        }
        claim
    }

    /// `one` has failed, and is at its second attempt.
    async fn try_again(&mut self, claim: &mut Claim) {
        let (retrying, next) = (retry(claim, "one"), start_after_retry(claim, "one"));
        let sent =
            Advance { retrying: vec![retrying], started: vec![next.clone()], ..advance(claim) };
        assert_eq!(send(&self.world.b, &sent).await, Ok(Advanced::Recorded));
        self.begins(claim, &next, "one");
    }

    /// What was recorded as started.
    fn begins(&mut self, claim: &mut Claim, next: &StepStart, step: &str) {
        let slot = claim.slots.iter_mut().find(|slot| slot.id == next.step).expect("a slot");
        (slot.attempt, slot.key_gen, slot.retry_count) =
            (next.attempt, next.key_gen, next.retry_count);
        self.does(What::Start, claim, step);
    }

    /// A line of the harness.
    fn notes(&mut self, what: What, claim: &Claim) {
        self.effects.push(Effect {
            what,
            execution: claim.lease.execution.to_string(),
            step: "-".into(),
            fence: 0,
            attempt: 0,
            key: "-".into(),
        });
    }

    /// Another has watched it stand still, and goes on with what it had begun.
    async fn take_over(&mut self, from: &Claim, step: &str) -> Claim {
        let claim = only(self.world.b_takes_over(&from.lease.execution, Cause::LeaseExpired).await);
        self.does(What::Start, &claim, step);
        claim
    }

    fn does(&mut self, what: What, claim: &Claim, step: &str) {
        self.effects.push(Effect {
            what,
            execution: claim.lease.execution.to_string(),
            step: step.into(),
            fence: claim.lease.fence.0,
            attempt: slot(claim, step).attempt,
            key: format!("{step}-{}", slot(claim, step).key_gen),
        });
    }

    /// The end of a step, as an advance that says so.
    fn end(&mut self, claim: &Claim, step: &str) -> Advance {
        self.does(What::End, claim, step);
        let attempt = slot(claim, step).attempt;
        let mut end = succeeded(claim, step);
        end.output = Some(format!("{} {attempt}", claim.lease.fence));
        Advance { ended: vec![end], ..advance(claim) }
    }

    /// The rest of the execution, as its right owner runs it.
    async fn finish(&mut self, claim: &mut Claim) {
        self.finish_with(claim, "two").await;
    }

    /// `one`, and then this step.
    async fn finish_with(&mut self, claim: &mut Claim, last: &str) {
        let mut sent = self.end(claim, "one");
        let next = start(claim, last);
        sent.started.push(next.clone());
        // Whoever came late may have taken it away.
        if send(&self.world.b, &sent).await != Ok(Advanced::Recorded) {
            return;
        }
        self.begins(claim, &next, last);
        let sent = Advance { finish: Some(success()), ..self.end(claim, last) };
        send(&self.world.b, &sent).await.ok();
    }

    async fn judge(self, mutated: bool) -> Vec<Violation> {
        assert_eq!(self.proxy.spoilt() > 0, mutated, "the statement was met on its way");
        let url = self.world.subject.url(None);
        let rows = rows(&url, |_| vec![("two".into(), vec!["one".into()])]).await;
        violations(&self.effects, &rows.expect("the tables"))
    }
}

/// Plays a scene with and without the guard.
macro_rules! found {
    ($server:ty, $scene:ident, [$($spoil:expr),*], $rule:pat) => {
        let mut scene = Scene::<$server>::new(Vec::new()).await;
        $scene(&mut scene).await;
        assert_eq!(scene.judge(false).await, [], "with all guards");
        let mut scene = Scene::<$server>::new(vec![$($spoil),*]).await;
        $scene(&mut scene).await;
        let found = scene.judge(true).await;
        assert!(found.iter().any(|it| matches!(it.rule, $rule)), "{found:?}");
    };
}

async fn a_late_success_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let late = scene.end(&first, "one");
        let mut second = scene.take_over(&first, "one").await;
        scene.finish(&mut second).await;
        send(&scene.late, &late).await.ok();
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND ow_attempt=? AND status IN ('running', ?)",
        "WHERE ((id=? AND (ow_fence=? OR 1))) AND (ow_attempt=? OR 1) AND status IN ('running', ?)",
    );
    found!(S, scene, [spoil], Rule::ForeignOutput);
}

async fn late_successes_together_that_no_fence_stops_are_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut late = Vec::new();
        for _ in 0..2 {
            let first = scene.claim().await;
            late.push(scene.end(&first, "one"));
            let mut second = scene.take_over(&first, "one").await;
            scene.finish(&mut second).await;
        }
        scene.late.advance(&late).await;
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?) OR (id=? AND ow_fence=?)) AND ow_attempt=? \
         AND status IN ('running', ?)",
        "WHERE ((id=? AND (ow_fence=? OR 1)) OR (id=? AND (ow_fence=? OR 1))) \
         AND (ow_attempt=? OR 1) AND status IN ('running', ?)",
    );
    found!(S, scene, [spoil], Rule::ForeignOutput);
}

async fn a_late_end_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let mut second = scene.take_over(&first, "one").await;
        let late = Advance { finish: Some(failure()), ..advance(&first) };
        send(&scene.late, &late).await.ok();
        scene.finish(&mut second).await;
    }
    let spoil = Spoil(
        "ow_owner='' WHERE ((id=? AND ow_fence=? AND ow_claim=?)) AND status IN ('running', ?)",
        "ow_owner='' WHERE ((id=? AND (ow_fence=? OR 1) AND (ow_claim=? OR 1))) \
         AND status IN ('running', ?)",
    );
    found!(S, scene, [spoil], Rule::NotEnded);
}

async fn a_late_start_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let end = scene.end(&first, "one");
        assert_eq!(send(&scene.late, &end).await, Ok(Advanced::Recorded));
        let mut late = advance(&first);
        late.started.push(start(&first, "two"));
        let second = scene.take_over(&first, "two").await;
        if send(&scene.late, &late).await == Ok(Advanced::Recorded) {
            scene.begins(&mut first, &late.started[0], "two");
        }
        let sent = Advance { finish: Some(success()), ..scene.end(&second, "two") };
        send(&scene.world.b, &sent).await.ok();
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND (status IS NULL OR status NOT IN \
         ('success','failed','skipped')) AND ow_attempt IN (?, ?)",
        "WHERE ((id=? AND (ow_fence=? OR 1))) AND (status IS NULL OR status NOT IN \
         ('success','failed','skipped')) AND ow_attempt IN (?, ?)",
    );
    found!(S, scene, [spoil], Rule::Overlap);
}

async fn a_late_hand_back_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let mut second = scene.take_over(&first, "one").await;
        if hand_back(&scene.late, &first).await == Ok(Advanced::Recorded) {
            let execution = &first.lease.execution;
            let third = only(scene.world.b_takes_over(execution, Cause::Released).await);
            scene.does(What::Start, &third, "one");
        }
        scene.finish(&mut second).await;
    }
    let spoil = Spoil(
        "WHERE id=? AND ow_fence=? AND ow_claim=? AND status='running'",
        "WHERE id=? AND (ow_fence=? OR 1) AND (ow_claim=? OR 1) AND status='running'",
    );
    found!(S, scene, [spoil], Rule::Overlap);
}

async fn a_late_retry_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let second = scene.take_over(&first, "one").await;
        let late = Advance { retrying: vec![retry(&first, "one")], ..advance(&first) };
        send(&scene.late, &late).await.ok();
        let mut third = scene.take_over(&second, "one").await;
        scene.finish(&mut third).await;
    }
    let spoil = Spoil(
        "WHERE id=? AND ow_fence=? AND status='running' AND (ow_attempt=? OR (ow_attempt=? AND \
         ow_key_gen=? AND retry_count=?))",
        "WHERE id=? AND (ow_fence=? OR 1) AND status='running' AND (ow_attempt=? OR 1 OR \
         (ow_attempt=? AND ow_key_gen=? AND retry_count=?))",
    );
    found!(S, scene, [spoil], Rule::Key);
}

async fn a_second_takeover_that_nothing_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let seen = scene.world.held(&first.lease.execution).await.expect("it is held");
        let mut second = scene.take_over(&first, "one").await;
        let stale = TakeOver { seen, cause: Cause::LeaseExpired };
        let batch: Batch = scene.late.take_over(&who("c"), &[stale]).await.expect("an answer");
        if let Some(third) = batch.claims.first() {
            scene.does(What::Start, third, "one");
        }
        scene.finish(&mut second).await;
    }
    // The execution's row and the lock row each stop it alone.
    let row = Spoil(
        "(id=? AND ow_fence=? AND ow_owner=?)",
        "(id=? AND (ow_fence=? OR 1) AND (ow_owner=? OR 1))",
    );
    let lock = Spoil(
        "WHERE lock_key=? AND ((ow_fence=? AND ow_beat=? AND ow_fence > 0)",
        "WHERE lock_key=? AND (((ow_fence=? OR 1) AND (ow_beat=? OR 1) AND ow_fence > 0)",
    );
    found!(S, scene, [row, lock], Rule::Overlap);
}

async fn a_success_of_what_waits_under_a_newer_fence_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim_of(fan(&["one", "beside"])).await;
        let late = scene.end(&first, "beside");
        // Whoever takes it over begins one step at a time.
        let seen = scene.world.held(&first.lease.execution).await.expect("it is held");
        let slow = Claimant { steps_at_once: 1, ..who("b") };
        let gone = TakeOver { seen, cause: Cause::LeaseExpired };
        let mut second = only(scene.world.b.take_over(&slow, &[gone]).await.expect("an answer"));
        scene.does(What::Start, &second, "one");
        send(&scene.late, &late).await.ok();
        scene.finish_with(&mut second, "beside").await;
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND ow_attempt=? AND status IN ('running', ?)",
        "WHERE ((id=? AND (ow_fence=? OR 1))) AND ow_attempt=? AND status IN ('running', ?)",
    );
    found!(S, scene, [spoil], Rule::ForeignOutput);
}

async fn a_copy_of_an_end_that_no_attempt_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let mut copy = succeeded(&first, "one");
        copy.output = Some(format!("{} 1", first.lease.fence));
        scene.try_again(&mut first).await;
        scene.finish(&mut first).await;
        send(&scene.late, &Advance { ended: vec![copy], ..advance(&first) }).await.ok();
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND ow_attempt=? AND status IN ('running', ?)",
        "WHERE ((id=? AND ow_fence=?)) AND (ow_attempt=? OR 1) AND status IN ('running', ?)",
    );
    found!(S, scene, [spoil], Rule::ForeignOutput);
}

async fn a_copy_of_a_start_that_no_status_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let copy = StepStart::of(slot(&first, "one"));
        scene.finish(&mut first).await;
        send(&scene.late, &Advance { started: vec![copy], ..advance(&first) }).await.ok();
    }
    let spoil = Spoil(
        "AND (status IS NULL OR status NOT IN ('success','failed','skipped')) AND ow_attempt IN (?, ?)",
        "AND ow_attempt IN (?, ?)",
    );
    found!(S, scene, [spoil], Rule::NotEnded);
}

async fn a_copy_of_a_start_that_no_attempt_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let copy = StepStart::of(slot(&first, "one"));
        scene.try_again(&mut first).await;
        send(&scene.late, &Advance { started: vec![copy], ..advance(&first) }).await.ok();
        scene.finish(&mut first).await;
    }
    let spoil = Spoil("AND ow_attempt IN (?, ?)", "AND (ow_attempt IN (?, ?) OR 1)");
    found!(S, scene, [spoil], Rule::NotEnded);
}

async fn a_late_skip_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let mut second = scene.take_over(&first, "one").await;
        let late = Advance { skipped: vec![skip(&first, "two")], ..advance(&first) };
        send(&scene.late, &late).await.ok();
        scene.finish(&mut second).await;
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND (status IS NULL OR status NOT IN \
         ('success','failed','running'))",
        "WHERE ((id=? AND (ow_fence=? OR 1))) AND (status IS NULL OR status NOT IN \
         ('success','failed','running'))",
    );
    found!(S, scene, [spoil], Rule::NotEnded);
}

async fn late_output_that_no_status_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let one = slot(&first, "one").clone();
        scene.finish(&mut first).await;
        let noted = scene.late.note_output(&first.lease, &one.id, one.attempt, "half of it").await;
        noted.expect("an answer");
    }
    let spoil = Spoil(
        "WHERE id=? AND ow_fence=? AND ow_attempt=? AND status='running'",
        "WHERE id=? AND ow_fence=? AND ow_attempt=?",
    );
    found!(S, scene, [spoil], Rule::ForeignOutput);
}

async fn an_end_over_a_cancellation_that_no_status_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        scene.notes(What::Asked, &first);
        scene.world.b.cancel(&first.lease.execution).await.expect("it is cancelled");
        scene.notes(What::Promised, &first);
        let end = Advance { finish: Some(failure()), ..advance(&first) };
        send(&scene.late, &end).await.expect("it is ours");
    }
    let spoil = Spoil(
        "ow_owner='' WHERE ((id=? AND ow_fence=? AND ow_claim=?)) AND status IN ('running', ?)",
        "ow_owner='' WHERE ((id=? AND ow_fence=? AND ow_claim=?)) AND (status IN ('running', ?) OR 1)",
    );
    found!(S, scene, [spoil], Rule::NotCancelled);
}

/// The guardians of a worker's scripts, as `/proc` has its children.
fn guardians(worker: u32) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{worker}/task")).expect("it runs");
    let children = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<i32> = children
        .flat_map(|line| line.split_whitespace().map(str::parse).collect::<Vec<_>>())
        .filter_map(Result::ok)
        .collect();
    pids.into_iter().filter_map(Pid::from_raw).collect()
}

async fn a_script_that_outlives_its_frozen_worker_without_a_guardian_is_found<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let (url, workload) = (world.subject.url(None), Workload::new());
    workload.apply(&world.a).await;
    let frozen = Worker::start(&url, "a", &[]);
    frozen.wait_for("worker.started");
    assert!(workload.submit(&world.a, LONG).await);
    wait_until("the script runs", || workload.has_begun().then_some(()));
    frozen.signal(Signal::STOP);
    let guardians = guardians(frozen.pid());
    assert_eq!(guardians.len(), 1);
    kill_process(guardians[0], Signal::KILL).expect("it is there");

    let _second = Worker::start(&url, "b", &[]);
    let overlap = wait_until("both run", || {
        let rows = history::Rows::default();
        violations(&workload.effects(), &rows).into_iter().find(|it| it.rule == Rule::Overlap)
    });
    assert!(overlap.how.starts_with("Tick under"), "{overlap}");
    // It wakes, and kills what the guardian has left: the first script never comes to its end.
    frozen.signal(Signal::CONT);
    frozen.wait_for("execution.lost");
    let ends = wait_until("the second script's end", || {
        let ends: Vec<Effect> =
            workload.effects().into_iter().filter(|effect| effect.what == What::End).collect();
        (!ends.is_empty()).then_some(ends)
    });
    assert_eq!(ends.iter().map(|end| end.attempt).collect::<Vec<_>>(), [2]);
}
