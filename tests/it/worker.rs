//! The worker in this process, on an in-memory store that a test can make misbehave.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt};
use orchestrator_worker::{
    adapters::{
        runners::{Runners, func::FuncRegistry},
        sqlite::{Settings as SqliteSettings, SqlitePath, SqliteStore},
    },
    domain::{
        eligibility::Eligibility,
        execution::ExecutionState,
        id::{Beat, ExecutionId, Owner, StepExecutionId},
        lease::{Lease, LeaseTerms, Renewal},
        marks::Load,
        pod::PodProcess,
        recovery::{Held, TakeOver},
        retention::Retention,
        retry::Backoff,
    },
    instruments::Instruments,
    ports::{
        control::{About, Control, Start, Submission},
        executions::{
            Advance, AdvanceError, Advanced, Batch, Claimant, ExecutionStore, HandBack, Named,
            Queue, StoreError,
        },
        traced::{Former, Remains, Telling, TracedEnd, Untold},
    },
    worker::{Settings, Shutdown, Summary, WorkError, Worker, health::Health},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{timeout, timeout_at},
};

use crate::{
    contract::world::{chain, claim_one, workflow},
    process::CEILING,
};

/// What a test does to a call before it reaches the store; `Some` is the answer in its place.
pub trait Mischief: Send + Sync + 'static {
    fn claim(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
    fn survey(&self) {}
    fn renew(&self) {}
    fn advance(&self, _: &Advance) -> Option<AdvanceError> {
        None
    }
}

struct Honest;

impl Mischief for Honest {}

struct Faulty<M> {
    store: Arc<SqliteStore>,
    mischief: M,
}

#[async_trait]
impl<M: Mischief> ExecutionStore for Faulty<M> {
    async fn claim(&self, as_who: &Claimant, limit: usize) -> Result<Batch, StoreError> {
        self.mischief.claim().await;
        self.store.claim(as_who, limit).await
    }

    async fn claim_named(
        &self,
        as_who: &Claimant,
        execution: &ExecutionId,
    ) -> Result<Named, StoreError> {
        self.store.claim_named(as_who, execution).await
    }

    async fn renew(
        &self,
        ttl: Duration,
        beat: Beat,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        self.mischief.renew();
        self.store.renew(ttl, beat, leases).await
    }

    async fn advance(&self, advances: &[Advance]) -> Vec<Result<Advanced, AdvanceError>> {
        let mut answers = Vec::new();
        for advance in advances {
            answers.push(match self.mischief.advance(advance) {
                Some(error) => Err(error),
                None => self.store.advance(std::slice::from_ref(advance)).await.remove(0),
            });
        }
        answers
    }

    async fn note_output(
        &self,
        lease: &Lease,
        step: &StepExecutionId,
        attempt: u32,
        text: &str,
    ) -> Result<bool, StoreError> {
        self.store.note_output(lease, step, attempt, text).await
    }

    async fn hand_back(&self, returns: &[HandBack]) -> Vec<Result<Advanced, AdvanceError>> {
        self.store.hand_back(returns).await
    }

    async fn survey(&self) -> Result<Vec<Held>, StoreError> {
        self.mischief.survey();
        self.store.survey().await
    }

    async fn take_over(&self, as_who: &Claimant, due: &[TakeOver]) -> Result<Batch, StoreError> {
        self.store.take_over(as_who, due).await
    }

    async fn remains(&self, of: &[Former]) -> Result<Vec<Remains>, StoreError> {
        self.store.remains(of).await
    }

    async fn note_told(
        &self,
        owner: &Owner,
        ends: &[TracedEnd],
        telling: Telling,
    ) -> Result<(), StoreError> {
        self.store.note_told(owner, ends, telling).await
    }

    async fn take_untold(&self, owner: &Owner, limit: u32) -> Result<Vec<Untold>, StoreError> {
        self.store.take_untold(owner, limit).await
    }

    async fn reap(&self, limit: u32) -> Result<u64, StoreError> {
        self.store.reap(limit).await
    }

    async fn orphans(&self) -> Result<Vec<Held>, StoreError> {
        self.store.orphans().await
    }

    async fn fail_unknown(
        &self,
        after: Duration,
    ) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.store.fail_unknown(after).await
    }

    async fn expire(
        &self,
        state: ExecutionState,
        kept: Duration,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.store.expire(state, kept, limit).await
    }

    async fn queue(&self, eligibility: &Eligibility) -> Result<Queue, StoreError> {
        self.store.queue(eligibility).await
    }
}

pub async fn memory() -> Arc<SqliteStore> {
    let settings = SqliteSettings { path: SqlitePath::Memory { name: None } };
    let store = SqliteStore::open(settings).await.expect("memory opens");
    store.migrate(false).await.expect("it is migrated");
    Arc::new(store)
}

/// Submits so many executions of a workflow of one step that calls `func`.
pub async fn submit(store: &SqliteStore, func: &str, count: usize) -> Vec<ExecutionId> {
    let mut definition = workflow(func, chain(&[func]));
    definition.steps[0].parameters = Some(format!(r#"{{"func":"{func}","seconds":0.02}}"#));
    store.apply(&definition, &About::default()).await.expect("it is applied");
    let mut ids = Vec::new();
    for _ in 0..count {
        let template = definition.template.to_string();
        let submission = Submission {
            template,
            created_by: String::new(),
            start: Start::Now,
            traceparent: None,
        };
        ids.push(store.submit(&submission).await.expect("it is submitted").execution);
    }
    ids
}

pub async fn states(store: &SqliteStore, ids: &[ExecutionId]) -> Vec<String> {
    let mut states = Vec::new();
    for id in ids {
        let detail = store.show(id).await.expect("it is there");
        states.push(detail.summary.status.expect("a status"));
    }
    states
}

/// Waits until all of them have succeeded.
pub async fn succeed(store: &SqliteStore, ids: &[ExecutionId]) {
    let deadline = tokio::time::Instant::now() + CEILING;
    while states(store, ids).await.iter().any(|state| state != "success") {
        let look = tokio::time::sleep(Duration::from_millis(10));
        timeout_at(deadline, look).await.expect("they succeed in time");
    }
}

pub struct Running {
    pub instruments: Arc<Instruments>,
    tasks: JoinSet<Result<Summary, WorkError>>,
    shutdown: Shutdown,
}

impl Running {
    fn start<M: Mischief>(store: &Arc<SqliteStore>, mischief: M, slots: usize) -> Self {
        Self::start_as(store, mischief, slots, |worker| worker)
    }

    /// A worker with something more.
    pub fn start_as<M: Mischief>(
        store: &Arc<SqliteStore>,
        mischief: M,
        slots: usize,
        with: impl FnOnce(Worker) -> Worker,
    ) -> Self {
        Self::start_looking(store, mischief, slots, Duration::from_millis(50), with)
    }

    /// One that looks for work so often.
    pub fn start_looking<M: Mischief>(
        store: &Arc<SqliteStore>,
        mischief: M,
        slots: usize,
        poll_interval: Duration,
        with: impl FnOnce(Worker) -> Worker,
    ) -> Self {
        let seconds = Duration::from_secs;
        let settings = Settings {
            owner: Owner::try_new("w").expect("a name"),
            process: PodProcess::default(),
            slots,
            poll_interval,
            terms: LeaseTerms::try_new(seconds(8), Duration::from_millis(100)).expect("terms"),
            claim_batch: slots,
            eligibility: Arc::default(),
            unknown_after: seconds(600),
            drain_deadline: seconds(600),
            steps_at_once: 8,
            backoff: Backoff { base: seconds(1), cap: seconds(60) },
            poison_claims: 10,
            retention: Retention::default(),
            adopt_orphans: false,
            until_idle: false,
        };
        let instruments = Arc::new(Instruments::new());
        let worker = Worker::new(
            Arc::new(Faulty { store: store.clone(), mischief }),
            Arc::new(Runners::new(None, FuncRegistry::default())),
            settings,
            instruments.clone(),
            Health::new(seconds(1)),
        );
        let shutdown = Shutdown::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(with(worker).run(shutdown.clone()));
        Self { instruments, tasks, shutdown }
    }

    async fn end(mut self) -> Result<Summary, WorkError> {
        let ended = timeout(CEILING, self.tasks.join_next()).await.expect("it ends in time");
        ended.expect("it was started").expect("it does not panic")
    }

    pub async fn drain(self) -> Summary {
        self.shutdown.drain.cancel();
        self.end().await.expect("it works to its end")
    }
}

/// No result of these executions can be recorded.
struct Unrecordable(Vec<ExecutionId>);

impl Mischief for Unrecordable {
    fn advance(&self, advance: &Advance) -> Option<AdvanceError> {
        let is_bad = self.0.contains(&advance.lease.execution);
        is_bad.then(|| StoreError::Data("it is refused".into()).into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_cannot_be_recorded_hold_no_other_up_and_are_given_up() {
    let store = memory().await;
    // More than there are committers, and claimed first.
    let bad = submit(&store, "noop", 4).await;
    let good = submit(&store, "echo", 40).await;
    let worker = Running::start(&store, Unrecordable(bad.clone()), 6);
    succeed(&store, &good).await;
    let summary = worker.drain().await;
    assert_eq!(summary.succeeded, 40);
    assert!(summary.lost >= 4, "their leases were given up: {summary:?}");
    assert_eq!(states(&store, &bad).await, ["running"; 4], "for whoever takes them over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_back_goes_before_what_is_new() {
    let store = memory().await;
    let begun = submit(&store, "noop", 1).await;
    let lease = claim_one(&*store, "gone").await.lease;
    let returned = [HandBack { lease, drained: Vec::new() }];
    assert_eq!(store.hand_back(&returned).await, [Ok(Advanced::Recorded)]);
    let new = submit(&store, "sleep", 200).await;
    let worker = Running::start(&store, Honest, 1);
    succeed(&store, &begun).await;
    let waiting = states(&store, &new).await.iter().filter(|state| *state == "pending").count();
    assert!(waiting > 100, "it did not wait for the others: {waiting} are left");
    worker.shutdown.drain.cancel();
    worker.end().await.expect("it works to its end");
}

/// Every claim is silent.
struct SilentClaim(mpsc::UnboundedSender<()>);

impl Mischief for SilentClaim {
    fn claim(&self) -> BoxFuture<'_, ()> {
        self.0.send(()).expect("the test listens");
        std::future::pending().boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_waits_for_no_claim_and_no_deadline() {
    let store = memory().await;
    let (said, mut claiming) = mpsc::unbounded_channel();
    let worker = Running::start(&store, SilentClaim(said), 1);
    claiming.recv().await.expect("it claims");
    worker.shutdown.drain.cancel();
    worker.shutdown.abort.cancel();
    let summary = worker.end().await.expect("it works to its end");
    assert_eq!(summary.handed_back + summary.lost, 0);
}

/// The keeper does not survive its first renewal.
struct DeadlyRenewal;

impl Mischief for DeadlyRenewal {
    fn renew(&self) {
        panic!("as a test wants it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_loses_a_part_of_itself_goes_away_and_says_so() {
    let store = memory().await;
    let mut definition = workflow("long", chain(&["long"]));
    definition.steps[0].parameters = Some(r#"{"func":"sleep","seconds":3600}"#.into());
    definition.steps[0].timeout = Some(7200);
    store.apply(&definition, &About::default()).await.expect("it is applied");
    let template = definition.template.to_string();
    let submission =
        Submission { template, created_by: String::new(), start: Start::Now, traceparent: None };
    let id = store.submit(&submission).await.expect("it is submitted").execution;
    let error = Running::start(&store, DeadlyRenewal, 1).end().await.expect_err("it is broken");
    assert!(error.to_string().contains("ended before its time"), "{error}");
    assert_eq!(states(&store, &[id]).await, ["running"], "for whoever takes it over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_when_it_is_at_work_and_when_it_drains() {
    let store = memory().await;
    let load = watch::Sender::<Load>::default();
    let mut told = load.subscribe();
    let worker = Running::start_as(&store, Honest, 4, |worker| worker.telling(load));
    let ids = submit(&store, "sleep", 8).await;
    let mut hears = async |is: fn(&Load) -> bool| {
        let heard = timeout(CEILING, told.wait_for(is)).await.expect("it is told in time");
        heard.expect("the worker is there").runs()
    };
    let runs = hears(|load| load.runs() > 0).await;
    assert!((1..=4).contains(&runs), "{runs}");
    succeed(&store, &ids).await;
    hears(|load| load.runs() == 0).await;
    worker.shutdown.drain.cancel();
    hears(Load::is_draining).await;
    worker.end().await.expect("it works to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_told_to_end_now_says_that_it_goes() {
    let store = memory().await;
    let load = watch::Sender::<Load>::default();
    let told = load.subscribe();
    let worker = Running::start_as(&store, Honest, 1, |worker| worker.telling(load));
    worker.shutdown.abort.cancel();
    worker.end().await.expect("it works to its end");
    assert!(told.borrow().is_draining());
}
