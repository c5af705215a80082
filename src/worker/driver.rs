//! One execution: ask the plan, start what is ready, record what ended, until it is final, handed
//! back, or lost.
//!
//! **Invariant:** a step starts only after the commit that says so, and nothing is written or
//! started once the lease is lost.

use std::{collections::HashMap, sync::Arc};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error};

use super::{
    attempts::{Tools, Tried, Tries},
    leases::Standing,
    recorder::LeaseLost,
    spans::AttemptEnd,
};
use crate::{
    clock::boot_now,
    domain::{
        execution::{AttemptOutcome, ExecutionState},
        id::StepExecutionId,
        intake::StepSlot,
        plan::{End, Finish, Plan, Progress, plan},
        step::Step,
        workflow::{NodeId, Workflow},
    },
    ports::executions::{Advance, Advanced, Claim, HandBack, StepEnd, StepSkip, StepStart},
};

/// What became of an execution in this worker's hands.
#[derive(Debug)]
pub enum Driven {
    Ended {
        finish: Finish,
        /// Which, for logs.
        failed_steps: Option<String>,
    },
    /// To be handed back.
    Drained(HandBack),
    Lost,
}

/// Drives one claimed execution.
pub struct Driver {
    tools: Arc<Tools>,
    standing: Arc<Standing>,
    workflow: Arc<Workflow>,
    slots: Vec<StepSlot>,
    progress: Progress,
    steps_at_once: usize,
    tries: JoinSet<(NodeId, Tried)>,
    stops: HashMap<NodeId, CancellationToken>,
    drained: Vec<(StepExecutionId, u32)>,
    draining: bool,
    cancelling: bool,
}

/// What a driver waits for.
enum Event {
    Lost,
    Cancelled,
    Draining,
    Tried(Vec<(NodeId, Tried)>),
}

impl Driver {
    /// Drives until the end. The claim's starts are committed already.
    pub async fn drive(
        tools: Arc<Tools>,
        standing: Arc<Standing>,
        claim: Claim,
        steps_at_once: usize,
    ) -> Driven {
        let driver = Self {
            draining: tools.drain.draining.is_cancelled(),
            tools,
            standing,
            workflow: claim.workflow,
            slots: claim.slots,
            progress: claim.progress,
            steps_at_once,
            tries: JoinSet::new(),
            stops: HashMap::new(),
            drained: Vec::new(),
            cancelling: false,
        };
        driver.run(claim.plan).await
    }

    async fn run(mut self, first: Plan) -> Driven {
        let mut advance = self.advance(&first, Vec::new(), true);
        let mut plan = first;
        loop {
            if !advance.is_empty() {
                match self.record(advance).await {
                    Ok(Advanced::Recorded) => {}
                    Ok(Advanced::Cancelled) => {
                        let finish = Finish { state: ExecutionState::Cancelled, error: None };
                        return Driven::Ended { finish, failed_steps: None };
                    }
                    Err(_) => return self.lose().await,
                }
            }
            if let Some(finish) = plan.finish {
                let failed_steps = self.progress.failed_steps(&self.workflow);
                return Driven::Ended { finish, failed_steps };
            }
            self.act(&plan);
            if self.draining && self.tries.is_empty() {
                let lease = self.standing.lease.clone();
                return Driven::Drained(HandBack { lease, drained: self.drained });
            }
            let mut ended = Vec::new();
            match self.next_event().await {
                Event::Lost => return self.lose().await,
                Event::Cancelled => {
                    self.cancelling = true;
                    self.progress.cancel();
                }
                Event::Draining => self.draining = true,
                Event::Tried(tried) => {
                    for (id, tried) in tried {
                        if matches!(tried, Tried::LeaseLost) {
                            return self.lose().await;
                        }
                        ended.extend(self.take_in(id, tried));
                    }
                }
            }
            plan = self.plan();
            advance = self.advance(&plan, ended, false);
        }
    }

    /// Records, and tells the trace what ended by it.
    async fn record(&self, advance: Advance) -> Result<Advanced, LeaseLost> {
        let ended: Vec<_> =
            advance.ended.iter().map(|end| (end.step.clone(), end.outcome)).collect();
        let advanced = self.tools.recorder.record(&self.standing, advance).await?;
        for (step, outcome) in ended {
            self.standing.term.step_ended(&step, outcome);
        }
        Ok(advanced)
    }

    fn plan(&mut self) -> Plan {
        let at_once = if self.draining { 0 } else { self.steps_at_once };
        plan(&self.workflow, &mut self.progress, at_once)
    }

    /// What there is to record of a plan, and of the ends that led to it.
    fn advance(&mut self, plan: &Plan, ended: Vec<StepEnd>, started: bool) -> Advance {
        let mut advance = Advance::new(self.standing.lease.clone());
        advance.ended = ended;
        for (id, reason) in &plan.fail {
            advance.ended.push(end_of(&self.slots[id.index()], AttemptOutcome::Lost, reason, None));
        }
        let reason = self.progress.stop_reason(&self.workflow);
        for id in &plan.skip {
            advance.skipped.push(StepSkip {
                step: self.slots[id.index()].id.clone(),
                reason: reason.clone().unwrap_or_default().replacen("stopped", "skipped", 1),
            });
        }
        if !started {
            for id in &plan.start {
                let slot = &mut self.slots[id.index()];
                slot.count_attempt();
                advance.started.push(StepStart::of(slot));
            }
        }
        advance.finish.clone_from(&plan.finish);
        advance.told_ms = advance.finish.as_ref().and_then(|_| self.standing.term.told_ms());
        advance
    }

    fn act(&mut self, plan: &Plan) {
        for id in &plan.stop {
            if let Some(stop) = self.stops.get(id) {
                stop.cancel();
            }
        }
        for id in &plan.start {
            let slot = self.slots[id.index()].clone();
            if self.draining {
                let step = &self.workflow.node(*id).step;
                self.standing.term.attempted(step, &slot, boot_now(), AttemptEnd::default());
                self.drained.push((slot.id, slot.attempt));
            } else {
                self.start(*id, slot);
            }
        }
    }

    fn start(&mut self, id: NodeId, slot: StepSlot) {
        let step: &Step = &self.workflow.node(id).step;
        let stop = CancellationToken::new();
        self.stops.insert(id, stop.clone());
        let tries = Tries {
            tools: self.tools.clone(),
            standing: self.standing.clone(),
            step: Arc::new(step.clone()),
            slot,
            stop,
        };
        self.tools.instruments.steps_active.inc();
        let instruments = self.tools.instruments.clone();
        self.tries.spawn(
            async move {
                let tried = tries.run().await;
                instruments.steps_active.dec();
                (id, tried)
            }
            .instrument(Span::current()),
        );
    }

    async fn next_event(&mut self) -> Event {
        tokio::select! {
            biased;
            () = self.standing.lost().cancelled() => Event::Lost,
            () = self.standing.cancelled().cancelled(), if !self.cancelling => Event::Cancelled,
            () = self.tools.drain.draining.cancelled(), if !self.draining => Event::Draining,
            Some(joined) = self.tries.join_next() => {
                let mut tried = vec![taken(joined)];
                while let Some(joined) = self.tries.try_join_next() {
                    tried.push(taken(joined));
                }
                Event::Tried(tried)
            }
        }
    }

    /// Returns the end to record, unless the step was stopped for the drain.
    fn take_in(&mut self, id: NodeId, tried: Tried) -> Option<StepEnd> {
        self.stops.remove(&id);
        let end = match tried {
            Tried::Ended(end) => end,
            Tried::Stopped { slot, output } => {
                let Some(reason) = self.progress.stop_reason(&self.workflow) else {
                    self.drained.push((slot.id, slot.attempt));
                    return None;
                };
                end_of(&slot, AttemptOutcome::Cancelled, &reason, output)
            }
            Tried::LeaseLost => return None,
        };
        let how = match &end.error {
            None => End::Success,
            Some(reason) => End::Failed { reason: reason.clone() },
        };
        self.progress.ended(&self.workflow, id, &how);
        Some(end)
    }

    /// Waits until nothing of it runs any more; records nothing.
    async fn lose(mut self) -> Driven {
        self.standing.expire(&self.tools.instruments);
        while let Some(joined) = self.tries.join_next().await {
            debug!(step = ?taken(joined).0, "step of a lost execution has ended");
        }
        Driven::Lost
    }
}

fn end_of(
    slot: &StepSlot,
    outcome: AttemptOutcome,
    reason: &str,
    output: Option<String>,
) -> StepEnd {
    StepEnd {
        step: slot.id.clone(),
        attempt: slot.attempt,
        succeeded: false,
        outcome,
        output,
        error: Some(reason.to_owned()),
        retry_count: slot.retry_count,
    }
}

/// A step's task neither panics (its attempts catch what their runners do) nor is it aborted before its
/// driver.
fn taken(joined: Result<(NodeId, Tried), tokio::task::JoinError>) -> (NodeId, Tried) {
    joined.unwrap_or_else(|error| {
        error!(%error, "a step's task panicked");
        std::panic::resume_unwind(error.into_panic())
    })
}
