//! Spans that nobody else can write any more: of a lease whose owner is dead, of executions that a claim
//! or a takeover has ended by itself, and of ends that nobody has told of.
//!
//! **Invariant:** of a lease only what its owner cannot have told: the lease, the steps that it did not
//! end or only after its last renewal, and their attempts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{Held, Open, Told, Tracing, Tried, millis, run_result, words};
use crate::{
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        id::{ExecutionId, Fence, StepExecutionId},
        recovery::{Cause, Holder, TakeOver},
        step::Step,
    },
    ports::{
        executions::Claim,
        spans::{Gone, Span},
        traced::{Former, LeftAttempt, Remains, TracedEnd, Untold},
    },
};

/// What is to be told of one execution.
#[derive(Debug)]
pub struct Past {
    pub execution: ExecutionId,
    /// The lease that has ended.
    dead: Option<Dead>,
    /// It was ended with that.
    ends: bool,
    /// What is known of its steps.
    steps: HashMap<StepExecutionId, Step>,
}

/// A lease whose owner will not tell of it.
#[derive(Debug)]
struct Dead {
    fence: Fence,
    owner: String,
    /// `None`: it ended with the execution.
    cause: Option<Cause>,
    expires_ms: Option<i64>,
    /// Its last renewal: without one nobody knows what it had told, and most it has.
    told_ms: i64,
}

impl Past {
    /// Claimed, and failed at once.
    pub fn refused(execution: ExecutionId) -> Self {
        Self { execution, dead: None, ends: true, steps: HashMap::new() }
    }

    /// Taken over: what its owner has left, if it had one.
    pub fn taken(take_over: &TakeOver, claim: &Claim) -> Self {
        let nodes = claim.workflow.nodes().iter().map(|node| node.step.clone());
        let steps = claim.slots.iter().map(|slot| slot.id.clone()).zip(nodes).collect();
        Self { steps, ..Self::left(take_over) }
    }

    /// Taken from its owner and left for others.
    pub fn left(take_over: &TakeOver) -> Self {
        let seen = &take_over.seen;
        // Of a lease that is kept elsewhere the row tells the claim alone.
        let lock = seen.lock.filter(|_| seen.elsewhere.is_none());
        let dead = match (&seen.by, &take_over.cause) {
            (Holder::Released | Holder::Orchestrator, _) | (_, Cause::Released) => None,
            (Holder::Owner(owner), cause) => Some(Dead {
                fence: seen.fence,
                owner: owner.clone(),
                cause: Some(cause.clone()),
                expires_ms: lock.map(|lock| lock.expires_ms),
                told_ms: lock.map_or(i64::MAX, |lock| lock.renewed_ms()),
            }),
        };
        let execution = seen.execution.clone();
        Self { execution, dead, ends: false, steps: HashMap::new() }
    }

    /// Taken from its owner and ended.
    pub fn ended(take_over: &TakeOver) -> Self {
        Self { ends: true, ..Self::left(take_over) }
    }

    /// Ended by its holder, who has not told of that.
    pub fn untold(untold: Untold) -> Self {
        let Untold { end, owner, told_ms } = untold;
        let told_ms = i64::try_from(told_ms).unwrap_or(i64::MAX);
        let dead = Dead { fence: end.fence, owner, cause: None, expires_ms: None, told_ms };
        Self { execution: end.execution, dead: Some(dead), ends: true, steps: HashMap::new() }
    }

    /// Whether the store has to be told when it is told.
    pub fn untold_end(&self) -> Option<TracedEnd> {
        let dead = self.dead.as_ref().filter(|dead| dead.cause.is_none())?;
        Some(TracedEnd { execution: self.execution.clone(), fence: dead.fence })
    }

    /// Nothing is to be told.
    pub fn is_nothing(&self) -> bool {
        self.dead.is_none() && !self.ends
    }

    /// What its remains are asked for by.
    pub fn former(&self) -> Former {
        let execution = self.execution.clone();
        match &self.dead {
            Some(dead) => Former { execution, fence: dead.fence, told_ms: dead.told_ms },
            None => Former::none(execution),
        }
    }

    /// Tells of it. `gone`: who is to be told when that has arrived.
    pub fn tell(&self, tracing: &Tracing, remains: &Remains, told_by: &str, gone: Option<Gone>) {
        let told = Told::of(Some(tracing), &self.execution, &remains.origin, &remains.workflow);
        let Some(sink) = told.sink.clone() else {
            // Nothing of it is kept.
            if let Some(gone) = gone {
                gone();
            }
            return;
        };
        let now = millis(remains.now_ms).unwrap_or_default();
        let end = match self.untold_end() {
            Some(_) => remains.ended_ms.and_then(millis).unwrap_or(now),
            None => now,
        };
        let mut spans = self.end_spans(&told, remains, end);
        if let Some(dead) = &self.dead {
            spans.extend(self.dead_spans(&told, dead, remains, end, told_by));
        }
        match gone {
            Some(gone) => sink.write_last(spans, gone),
            None => sink.write(spans),
        }
    }

    /// `RUN` and its wait, unless somebody has it run again already.
    fn end_spans(&self, told: &Told, remains: &Remains, now: Duration) -> Vec<Span> {
        let was_driven = self.untold_end().is_some();
        let (result, error) = match ExecutionState::parse(&remains.state) {
            Ok(ExecutionState::Cancelled) => ("cancellation", None),
            Ok(state) if was_driven && state.is_final() => run_result(state),
            Ok(ExecutionState::Failed) if self.dead.is_some() => ("error", Some("given_up")),
            Ok(ExecutionState::Failed) => ("error", Some("refused")),
            Ok(_) | Err(_) => return Vec::new(),
        };
        if !self.ends {
            return Vec::new();
        }
        let origin = &remains.origin;
        let began = if origin.run == 0 { origin.created_ms } else { origin.started_ms };
        let began = began.and_then(millis).unwrap_or(now);
        let mut spans = vec![told.run_span(began, now, result, error)];
        spans.extend(told.wait_span(origin, origin.started_ms.and_then(millis)));
        spans
    }

    fn dead_spans(
        &self,
        told: &Told,
        dead: &Dead,
        remains: &Remains,
        now: Duration,
        told_by: &str,
    ) -> Vec<Span> {
        // A fence is the time of its claim, unless somebody has turned a clock back.
        let created = remains.origin.created_ms.and_then(millis).unwrap_or_default();
        let start = Duration::from_micros(dead.fence.0).clamp(created.min(now), now);
        let has_expired = dead.cause == Some(Cause::LeaseExpired);
        let expired = dead.expires_ms.and_then(millis).filter(|_| has_expired);
        let end = expired.unwrap_or(now).clamp(start, now);
        let outcome = match &dead.cause {
            None => "released",
            Some(Cause::LeaseExpired) => "expired",
            Some(_) => "lost",
        };
        let mut spans = vec![told.hold_span(Held {
            owner: dead.owner.as_str().into(),
            fence: dead.fence,
            former: None,
            start,
            end,
            outcome,
            error: dead.cause.as_ref().map(Cause::as_str),
            further: vec![("orchestrator.told_by", Arc::<str>::from(told_by).into())],
        })];
        let mut steps: HashMap<&StepExecutionId, Vec<&LeftAttempt>> = HashMap::new();
        for attempt in &remains.attempts {
            steps.entry(&attempt.step).or_default().push(attempt);
        }
        for (step, attempts) in steps {
            let open = self.open(step, &attempts, start, end);
            let last = attempts.last().filter(|attempt| attempt.has_ended);
            let outcome = last.and_then(|it| it.outcome).unwrap_or(AttemptOutcome::Lost);
            let ended = last.and_then(|it| it.finished_ms).and_then(millis).unwrap_or(end);
            let ended = ended.clamp(start, end);
            spans.extend(told.step_spans(dead.fence, None, step, open, outcome, ended));
        }
        spans
    }

    fn open(
        &self,
        step: &StepExecutionId,
        attempts: &[&LeftAttempt],
        held: Duration,
        end: Duration,
    ) -> Open {
        let known = self.steps.get(step);
        let recorded = attempts.first().map(|attempt| attempt.step_name.as_str());
        let name = known.map(|step| step.name.as_str()).or(recorded).unwrap_or_default();
        let tried = attempts.iter().map(|attempt| {
            // Rows keep milliseconds: the first attempt may seem to be before its claim.
            let start = millis(attempt.started_ms).unwrap_or_default().clamp(held, end);
            let ended = attempt.finished_ms.and_then(millis).unwrap_or(end);
            Tried {
                number: attempt.number,
                called: known.map_or_else(
                    || words::called_by_kind(&attempt.executor),
                    |step| words::called(&step.action),
                ),
                start,
                end: ended.clamp(start, end),
                outcome: attempt.outcome,
                output: None,
            }
        });
        Open { name: words::short(name), tried: tried.collect() }
    }
}
