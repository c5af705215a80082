//! Whether the checker would notice: workers whose guards are taken out of their statements on the wire.
//!
//! **Invariant:** each scene without a mutation shows nothing; so it is the missing guard that is
//! found, and nothing else.

use std::{fs, path::Path, thread, time::Duration};

use orchestrator_worker::{
    adapters::mysql::MySqlStore,
    domain::{
        definition::RecordedStep,
        id::ExecutionId,
        recovery::{Cause, TakeOver},
    },
    ports::{
        control::Control,
        executions::{Advance, Advanced, Batch, Claim, ExecutionStore, StepStart},
    },
};
use tokio::time::Instant;

use super::{
    history::{Effect, Rule, Violation, What, violations},
    say,
    twin::Twin,
    workload::rows,
};
use crate::{
    contract::{world::*, writes::*},
    mysql::{Database, Server},
    proxy::{Proxy, Spoil},
};

mod executions;
mod steps;

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

    /// Somebody cancels it.
    async fn cancel(&mut self, claim: &Claim) {
        self.notes(What::Asked, claim);
        self.world.b.cancel(&claim.lease.execution).await.expect("it is cancelled");
        self.notes(What::Promised, claim);
    }

    /// Another has watched it stand still, and goes on with what it had begun.
    async fn take_over(&mut self, from: &Claim, step: &str) -> Claim {
        let claim = only(self.world.b_takes_over(&from.lease.execution, Cause::LeaseExpired).await);
        self.does(What::Start, &claim, step);
        claim
    }

    /// Another ends what was cancelled, and whose owner is gone.
    async fn bury(&self, id: &ExecutionId) {
        let tidied = self.world.b_takes_over(id, Cause::LeaseExpired).await.tidied;
        assert!(tidied.contains(id), "{tidied:?}");
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

    /// Executions that nobody disturbs: one is claimed, handed back, taken over and ended, and one is cancelled
    /// and buried, all by the worker with missing guards.
    async fn live(&self) {
        let template = self.world.apply(&workflow("undisturbed", chain(&["one"]))).await;
        self.world.submit(&template).await;
        let claim = claim_one(&self.late, "c").await;
        assert_eq!(hand_back(&self.late, &claim).await, Ok(Advanced::Recorded));
        let claim = only(self.late_takes_over(&claim, Cause::Released).await);
        let end = Advance {
            ended: vec![succeeded(&claim, "one")],
            finish: Some(success()),
            ..advance(&claim)
        };
        assert_eq!(send(&self.late, &end).await, Ok(Advanced::Recorded));

        let id = self.world.submit(&template).await;
        let claim = claim_one(&self.late, "c").await;
        self.world.b.cancel(&id).await.expect("it is cancelled");
        assert_eq!(self.late_takes_over(&claim, Cause::LeaseExpired).await.tidied.len(), 1);
    }

    /// The worker with missing guards takes over what somebody holds.
    async fn late_takes_over(&self, from: &Claim, cause: Cause) -> Batch {
        let seen = self.world.held(&from.lease.execution).await.expect("it is held");
        let gone = [TakeOver { seen, cause }];
        self.late.take_over(&who("c"), &gone).await.expect("an answer")
    }

    /// The Go service, whose clock is right, with a log in this folder.
    fn twin(&self, folder: &Path) -> Twin {
        Twin::new(self.world.subject.url(None), folder.join("log"), 0)
    }

    /// What the Go service has written since.
    fn takes_in(&mut self, folder: &Path) {
        let text = fs::read_to_string(folder.join("log")).unwrap_or_default();
        self.effects.extend(text.lines().filter_map(Effect::parse));
    }

    async fn judge(&self) -> Vec<Violation> {
        let url = self.world.subject.url(None);
        let rows = rows(&url, |_| vec![("two".into(), vec!["one".into()])]).await;
        violations(&self.effects, &rows.expect("the tables"))
    }
}

/// Plays a scene with all guards: nothing is found.
async fn guarded<S: Server>(play: impl AsyncFn(&mut Scene<S>)) {
    let mut scene = Scene::<S>::new(Vec::new()).await;
    play(&mut scene).await;
    assert_eq!(scene.judge().await, [], "with all guards");
}

/// Plays a scene with all guards, and without these: only then something is found.
async fn found<S: Server>(play: impl AsyncFn(&mut Scene<S>), spoils: &[Spoil], rule: Rule) {
    guarded(&play).await;
    let since = Instant::now();
    let mut scene = Scene::<S>::new(spoils.to_vec()).await;
    play(&mut scene).await;
    assert!(scene.proxy.spoilt() > 0, "no statement with such a guard was met on its way");
    let found = scene.judge().await;
    assert!(found.iter().any(|it| it.rule == rule), "{found:?}");
    tell(rule, since);
}

/// Says how long the scene took in which the test that runs has found something. Not longer than a minute.
pub(super) fn tell(rule: Rule, since: Instant) {
    let (test, took) = (thread::current().name().unwrap_or_default().to_owned(), since.elapsed());
    say(&format!("{test}: {rule:?} in {:.1} s", took.as_secs_f64()));
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// Plays a scene without one of several guards of the same thing: another one stops it, before or after the
/// statement with this one is sent.
async fn harmless<S: Server>(play: impl AsyncFn(&mut Scene<S>), spoil: Spoil) {
    let mut scene = Scene::<S>::new(vec![spoil]).await;
    play(&mut scene).await;
    assert_eq!(scene.judge().await, [], "without {:?}", spoil.0);
    scene.live().await;
    assert!(scene.proxy.spoilt() > 0, "no statement has {:?}", spoil.0);
}
