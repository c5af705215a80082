//! The trace model: `RUN`, `wait`, `hold`, steps, attempts, and calls of the database that did
//! something.
//!
//! ```text
//! RUN release                        SERVER    whoever commits the end
//! ├─ wait release                    INTERNAL  with RUN: creation to first claim
//! ├─ hold release                    CONSUMER  each lease; linked to the one before
//! │  ├─ claim, commit, renew         CLIENT
//! │  └─ step build                   INTERNAL
//! │     ├─ sh                        CLIENT    each attempt; linked to the one before
//! │     └─ sh
//! └─ hold release                    the next worker's
//! ```
//!
//! **Invariant:** a span is written once, by the one whose write the store has taken: of a step after
//! its end is committed, of a lease by its holder when it lets go, else by whoever took it over
//! ([`past`]). Ids follow from the rows. A step comes before its attempts, so that nothing is sent
//! without what it belongs to.
//!
//! A holder sends what it has to tell with a renewal or with the end of its lease: whoever takes over
//! from a killed one reads in the lock row what that has told ([`Kept`]). An end stands untold in the lock
//! row until its spans have arrived; if its holder is killed before, somebody else tells of it
//! ([`teller`](super::teller)).

mod kept;
mod past;
mod words;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::info_span;

use self::kept::Kept;
pub use self::kept::SoFar;
pub use self::past::Past;
use self::words::{Called, called, code, error_type, pipeline_result, short, task_result};
use crate::{
    clock::boot_now,
    domain::{
        cut,
        execution::{AttemptOutcome, ExecutionState},
        id::{ExecutionId, Fence, StepExecutionId},
        intake::StepSlot,
        lease::{BootTime, Lease},
        step::Step,
        trace::{Mode, Origin, Sampling, SpanId, Trace, TraceId, TraceParent, carried},
    },
    ports::{
        executions::{Claim, ClaimKind},
        runner::Code,
        spans::{Attribute, Gone, Link, Parent, Span, SpanKind, SpanSink},
    },
};

/// Where spans go, and which.
#[derive(Clone)]
pub struct Tracing {
    pub sink: Arc<dyn SpanSink>,
    pub sampling: Sampling,
    pub mode: Mode,
    /// `db.system.name`
    pub database: &'static str,
}

/// What all spans of an execution have in common.
struct Told {
    trace: Trace,
    /// Of its leases.
    mode: Mode,
    execution: Arc<str>,
    workflow: Arc<str>,
    run: u32,
    /// `None`: nothing is kept of it.
    sink: Option<Arc<dyn SpanSink>>,
}

/// One lease on an execution, as its trace sees it.
pub struct Term {
    told: Told,
    sampled: bool,
    lease: Lease,
    database: &'static str,
    /// Since 1970, by the store's clock: the claim.
    claimed: Duration,
    /// The same moment on this machine.
    sent: BootTime,
    /// Since 1970: when this run began.
    began: Duration,
    /// The lease before.
    former: Option<Fence>,
    /// When this run was first claimed.
    started: Duration,
    origin: Origin,
    open: Mutex<HashMap<StepExecutionId, Open>>,
    kept: Kept,
    /// What ended by then has been told, in milliseconds since 1970.
    told_ms: AtomicU64,
    calls: AtomicU32,
    renewals: AtomicU64,
    log: tracing::Span,
}

/// A step that has been begun and not ended.
struct Open {
    name: Arc<str>,
    tried: Vec<Tried>,
}

/// An attempt that has ended.
struct Tried {
    number: u32,
    called: Called,
    start: Duration,
    end: Duration,
    /// `None`: it was stopped; what for is known when its step ends.
    outcome: Option<AttemptOutcome>,
    output: Option<Output>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Default)]
pub struct AttemptEnd<'a> {
    /// `None`: it was stopped, or never began.
    pub outcome: Option<AttemptOutcome>,
    pub output: Option<&'a str>,
    pub code: Option<Code>,
}

/// Of an attempt.
const MOST_ATTRIBUTES: usize = 13;

/// What is told of an output.
#[derive(Clone, Copy)]
struct Output {
    bytes: u64,
    truncated: bool,
}

impl Told {
    fn of(
        tracing: Option<&Tracing>,
        execution: &ExecutionId,
        origin: &Origin,
        workflow: &str,
    ) -> Self {
        let trace = Trace::of(execution, origin);
        let kept = tracing.filter(|tracing| tracing.sampling.keeps(&trace));
        Self {
            trace,
            mode: tracing.map_or_else(Mode::default, |tracing| tracing.mode),
            execution: execution.to_shared(),
            workflow: short(workflow),
            run: origin.run,
            sink: kept.map(|tracing| tracing.sink.clone()),
        }
    }

    fn root(&self) -> Link {
        Link { trace: self.trace.id(), span: self.trace.root() }
    }

    /// What stands above a lease: the root, unless each has a trace of its own.
    fn above_hold(&self) -> (Option<Parent>, Vec<Link>) {
        match self.mode {
            Mode::Continuous => (Some(own(self.trace.root())), Vec::new()),
            Mode::Linked => (None, vec![self.root()]),
        }
    }

    fn hold(&self, fence: Fence) -> Link {
        Link { trace: self.trace.term(fence, self.mode), span: self.trace.hold(fence) }
    }

    /// `RUN`, and whatever else is known of it only now.
    fn run_span(
        &self,
        start: Duration,
        end: Duration,
        result: &'static str,
        error: Option<&'static str>,
    ) -> Span {
        let mut attributes = vec![
            ("cicd.pipeline.name", self.workflow.clone().into()),
            ("cicd.pipeline.action.name", "RUN".into()),
            ("cicd.pipeline.run.id", self.execution.clone().into()),
            ("cicd.pipeline.result", result.into()),
            ("orchestrator.run", self.run.into()),
        ];
        attributes.extend(error.map(|error| ("error.type", error.into())));
        let caller = self.trace.caller();
        Span {
            trace: self.trace.id(),
            id: self.trace.root(),
            parent: caller.map(|caller| Parent { span: caller.span, is_remote: true }),
            name: format!("RUN {}", self.workflow).into(),
            kind: SpanKind::Server,
            start: start.min(end),
            end,
            attributes,
            links: Vec::new(),
            error,
        }
    }

    /// From its creation to its first claim.
    fn wait_span(&self, origin: &Origin, claimed: Option<Duration>) -> Option<Span> {
        let start = origin.created_ms.filter(|_| self.run == 0).and_then(millis)?;
        let end = claimed?;
        Some(Span {
            trace: self.trace.id(),
            id: self.trace.wait(),
            parent: Some(own(self.trace.root())),
            name: format!("wait {}", self.workflow).into(),
            kind: SpanKind::Internal,
            start: start.min(end),
            end,
            attributes: vec![("cicd.pipeline.run.state", "pending".into())],
            links: Vec::new(),
            error: None,
        })
    }

    fn hold_span(&self, held: Held) -> Span {
        let (parent, mut links) = self.above_hold();
        links.extend(held.former.map(|former| self.hold(former)));
        let mut attributes = vec![
            ("cicd.pipeline.run.id", self.execution.clone().into()),
            ("cicd.worker.name", held.owner.into()),
            ("orchestrator.lease.fence", held.fence.0.into()),
            ("orchestrator.lease.outcome", held.outcome.into()),
        ];
        attributes.extend(held.error.map(|error| ("error.type", error.into())));
        attributes.extend(held.further);
        Span {
            trace: self.trace.term(held.fence, self.mode),
            id: self.trace.hold(held.fence),
            parent,
            name: format!("hold {}", self.workflow).into(),
            kind: SpanKind::Consumer,
            start: held.start.min(held.end),
            end: held.end,
            attributes,
            links,
            error: held.error,
        }
    }

    /// A step's span, then those of its attempts. `before` is the lease under which the attempt
    /// before the first of them ran.
    fn step_spans(
        &self,
        fence: Fence,
        before: Option<Fence>,
        step: &StepExecutionId,
        open: Open,
        outcome: AttemptOutcome,
        end: Duration,
    ) -> Vec<Span> {
        let trace = self.trace.term(fence, self.mode);
        let start = open.tried.iter().map(|tried| tried.start).min().unwrap_or(end);
        let id = self.trace.step(fence, step);
        let task = |outcome| -> [Attribute; 3] {
            [
                ("cicd.pipeline.task.name", open.name.clone().into()),
                ("cicd.pipeline.task.run.id", step.to_shared().into()),
                ("cicd.pipeline.task.run.result", task_result(outcome).into()),
            ]
        };
        let mut spans = Vec::with_capacity(open.tried.len() + 1);
        let mut attributes = Vec::from(task(outcome));
        let error = error_type(outcome);
        attributes.extend(error.map(|error| ("error.type", error.into())));
        spans.push(Span {
            trace,
            id,
            parent: Some(own(self.trace.hold(fence))),
            name: format!("step {}", open.name).into(),
            kind: SpanKind::Internal,
            start: start.min(end),
            end,
            attributes,
            links: Vec::new(),
            error,
        });
        let mut last = match self.mode {
            Mode::Continuous => Some(trace),
            Mode::Linked => before.map(|before| self.trace.term(before, self.mode)),
        };
        for tried in open.tried {
            let outcome = tried.outcome.unwrap_or(outcome);
            let error = error_type(outcome);
            let mut attributes = Vec::with_capacity(MOST_ATTRIBUTES);
            attributes.extend(task(outcome));
            attributes.push(("orchestrator.attempt", tried.number.into()));
            attributes.push(("orchestrator.attempt.outcome", outcome.as_str().into()));
            attributes.extend(error.map(|error| ("error.type", error.into())));
            attributes.extend(tried.called.attributes);
            if let Some(Output { bytes, truncated }) = tried.output {
                attributes.push(("output.bytes", bytes.into()));
                attributes.push(("output.truncated", truncated.into()));
            }
            let before = tried.number.checked_sub(1).filter(|number| *number > 0);
            let links = before
                .zip(last)
                .map(|(number, trace)| Link { trace, span: self.trace.attempt(step, number) });
            last = Some(trace);
            spans.push(Span {
                trace,
                id: self.trace.attempt(step, tried.number),
                parent: Some(own(id)),
                name: tried.called.name,
                kind: tried.called.kind,
                start: tried.start.min(tried.end),
                end: tried.end.min(end),
                attributes,
                links: links.into_iter().collect(),
                error,
            });
        }
        spans
    }
}

/// Of an execution that was driven to its end, and why it counts as an error.
fn run_result(state: ExecutionState) -> (&'static str, Option<&'static str>) {
    (pipeline_result(state), (state == ExecutionState::Failed).then_some("step_failed"))
}

fn own(span: SpanId) -> Parent {
    Parent { span, is_remote: false }
}

/// A lease as its span tells of it.
struct Held {
    owner: Arc<str>,
    fence: Fence,
    former: Option<Fence>,
    start: Duration,
    end: Duration,
    /// `released`, `drained`, `lost`, `expired`.
    outcome: &'static str,
    error: Option<&'static str>,
    further: Vec<Attribute>,
}

impl Term {
    /// Of what was just claimed; `sent` is before the claim, and now is after it. Tells of the claim
    /// itself.
    pub fn begin(tracing: Option<&Tracing>, claim: &Claim, sent: BootTime) -> Arc<Self> {
        let told = Told::of(tracing, &claim.lease.execution, &claim.origin, &claim.workflow.name);
        let created = claim.origin.created_ms.and_then(millis);
        let claimed = claimed_at(claim.lease.fence, created.map(|at| at + claim.age));
        let began = match claim.origin.run {
            0 => created,
            _ => claim.origin.started_ms.and_then(millis),
        };
        let log = info_span!("execution", trace_id = %told.trace.term(claim.lease.fence, told.mode),
            span_id = %told.trace.hold(claim.lease.fence), execution.id = %claim.lease.execution,
            workflow.name = %claim.workflow.name, lease.fence = claim.lease.fence.0);
        let sampled = match tracing {
            Some(_) => told.sink.is_some(),
            None => told.trace.caller().is_some_and(|caller| caller.sampled),
        };
        let term = Arc::new(Self {
            sampled,
            lease: claim.lease.clone(),
            database: tracing.map_or("", |tracing| tracing.database),
            claimed,
            sent,
            began: began.unwrap_or(claimed),
            started: match (&claim.kind, claim.origin.started_ms.and_then(millis)) {
                (ClaimKind::TakenOver { .. }, Some(started)) => started,
                _ => claimed,
            },
            origin: claim.origin.clone(),
            former: claim.former,
            open: Mutex::default(),
            kept: Kept::default(),
            told_ms: AtomicU64::new(0),
            calls: AtomicU32::new(0),
            renewals: AtomicU64::new(0),
            log,
            told,
        });
        term.called_database("claim", sent, None);
        term
    }

    /// The execution, for logs.
    pub fn log(&self) -> &tracing::Span {
        &self.log
    }

    /// An attempt at a step, for its logs.
    pub fn attempt_id(&self, slot: &StepSlot) -> SpanId {
        self.told.trace.attempt(&slot.id, slot.attempt)
    }

    /// What an attempt hands on to whatever it calls.
    pub fn carried(&self, step: &Step, slot: &StepSlot) -> BTreeMap<String, String> {
        let context =
            TraceParent { trace: self.trace(), span: self.attempt_id(slot), sampled: self.sampled };
        carried(context, &self.lease.execution, &self.told.workflow, &step.name)
    }

    /// An attempt has ended, or was stopped before it began.
    pub fn attempted(&self, step: &Step, slot: &StepSlot, began: BootTime, end: AttemptEnd<'_>) {
        if self.told.sink.is_none() {
            return;
        }
        let mut called = called(&step.action);
        called.attributes.extend(end.code.map(code));
        let tried = Tried {
            number: slot.attempt,
            called,
            start: self.at(began),
            end: self.now(),
            outcome: end.outcome,
            output: end
                .output
                .map(|text| Output { bytes: text.len() as u64, truncated: cut::is_cut(text) }),
        };
        let mut open = self.open.lock().expect("no panic while it is held");
        let step = open
            .entry(slot.id.clone())
            .or_insert_with(|| Open { name: short(&step.name), tried: Vec::new() });
        step.tried.push(tried);
    }

    /// The end of a step is recorded.
    pub fn step_ended(&self, step: &StepExecutionId, outcome: AttemptOutcome) {
        let open = self.open.lock().expect("no panic while it is held").remove(step);
        let (Some(open), Some(sink)) = (open, &self.told.sink) else { return };
        let (fence, now) = (self.lease.fence, self.now());
        let spans = self.told.step_spans(fence, self.former, step, open, outcome, now);
        sink.write(self.kept.add(spans, Some(now)));
    }

    /// A call of the database for this lease has ended just now.
    pub fn called_database(
        &self,
        operation: &'static str,
        began: BootTime,
        error: Option<&'static str>,
    ) {
        self.write(|| {
            let mut attributes = vec![
                ("db.system.name", self.database.into()),
                ("db.operation.name", operation.into()),
            ];
            attributes.extend(error.map(|error| ("error.type", error.into())));
            let number = self.calls.fetch_add(1, Ordering::Relaxed);
            let (start, end) = (self.at(began), self.now());
            vec![Span {
                trace: self.trace(),
                id: self.told.trace.call(self.lease.fence, number),
                parent: Some(own(self.told.trace.hold(self.lease.fence))),
                name: operation.into(),
                kind: SpanKind::Client,
                start,
                end: end.max(start),
                attributes,
                links: Vec::new(),
                error,
            }]
        });
    }

    /// The lease is about to be renewed; to be handed to [`Self::renewed`].
    pub fn renewing(&self) -> SoFar {
        self.kept.so_far()
    }

    /// The lease was renewed: what there was to tell before that is sent.
    pub fn renewed(&self, so_far: SoFar) {
        if let Some(sink) = &self.told.sink {
            let told_ms = u64::try_from(so_far.until.as_millis()).unwrap_or(u64::MAX);
            self.told_ms.fetch_max(told_ms, Ordering::Relaxed);
            sink.write(self.kept.take(so_far));
        }
    }

    /// If its end will be told of with [`Self::ended`]: what ended by then has been told already, in
    /// milliseconds since 1970.
    pub fn told_ms(&self) -> Option<u64> {
        self.told.sink.as_ref().map(|_| self.told_ms.load(Ordering::Relaxed))
    }

    /// A renewal that went as it should is counted, not told.
    pub fn count_renewal(&self) {
        self.renewals.fetch_add(1, Ordering::Relaxed);
    }

    /// The end of the execution is recorded, and with it of the lease. `gone` is called once that has been
    /// told, if the store has been said that it will be ([`Self::told_ms`]).
    pub fn ended(&self, state: ExecutionState, gone: Option<Gone>) {
        self.close(AttemptOutcome::Cancelled);
        let (result, error) = run_result(state);
        self.write(|| {
            let end = self.now();
            let run = self.told.run_span(self.began, end, result, error);
            let wait = self.told.wait_span(&self.origin, Some(self.started));
            [run, self.hold_span("released", end)].into_iter().chain(wait).collect()
        });
        match (&self.told.sink, gone) {
            (Some(sink), Some(gone)) => sink.write_last(self.kept.take(self.kept.so_far()), gone),
            (Some(_), None) => self.send(),
            (None, _) => {}
        }
    }

    /// The execution is handed back.
    pub fn drained(&self) {
        self.close(AttemptOutcome::Drained);
        self.write(|| vec![self.hold_span("drained", self.now())]);
        self.send();
    }

    /// Steps that end together with the lease.
    fn close(&self, outcome: AttemptOutcome) {
        let open = std::mem::take(&mut *self.open.lock().expect("no panic while it is held"));
        for (step, open) in open {
            self.write(|| {
                let (fence, now) = (self.lease.fence, self.now());
                self.told.step_spans(fence, self.former, &step, open, outcome, now)
            });
        }
    }

    fn hold_span(&self, outcome: &'static str, end: Duration) -> Span {
        let renewals = self.renewals.load(Ordering::Relaxed);
        self.told.hold_span(Held {
            owner: self.lease.owner.as_str().into(),
            fence: self.lease.fence,
            former: self.former,
            start: self.claimed,
            end,
            outcome,
            error: None,
            further: vec![("orchestrator.lease.renewals", renewals.into())],
        })
    }

    fn trace(&self) -> TraceId {
        self.told.trace.term(self.lease.fence, self.told.mode)
    }

    fn write(&self, spans: impl FnOnce() -> Vec<Span>) {
        if let Some(sink) = &self.told.sink {
            sink.write(self.kept.add(spans(), None));
        }
    }

    /// The lease has ended in this worker's hands: nobody else tells of it.
    fn send(&self) {
        self.renewed(self.renewing());
    }

    /// On the store's clock, so that spans of several workers stand in their order.
    fn at(&self, time: BootTime) -> Duration {
        self.claimed + time.since(self.sent)
    }

    fn now(&self) -> Duration {
        self.at(boot_now())
    }
}

/// A fence is the time of its claim, unless somebody has turned a clock back: then it is far from what
/// the claim itself has said of the time.
fn claimed_at(fence: Fence, said: Option<Duration>) -> Duration {
    const NEAR: Duration = Duration::from_secs(2);
    let fence = Duration::from_micros(fence.0);
    said.filter(|said| said.abs_diff(fence) > NEAR).unwrap_or(fence)
}

/// Since 1970; `None` before that.
fn millis(time: i64) -> Option<Duration> {
    u64::try_from(time).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_tells_when_it_was_claimed_unless_it_is_far_from_the_stores_time() {
        let seconds = Duration::from_secs;
        let fence = Fence(100_000_000);
        for (said, expected) in [
            (None, seconds(100)),
            (Some(seconds(100)), seconds(100)),
            (Some(seconds(98)), seconds(100)),
            (Some(seconds(40)), seconds(40)),
            (Some(seconds(400)), seconds(400)),
        ] {
            assert_eq!(claimed_at(fence, said), expected, "{said:?}");
        }
    }
}
