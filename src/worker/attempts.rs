//! One step until it is final: tries, timeout, back-off, key.
//!
//! **Invariant:** a start is committed before its effect begins, the key changes only after a
//! definite failure, and an attempt that was stopped or lost uses up no retry.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::{drain::Drain, leases::Standing, live::Live, recorder::Recorder, spans::AttemptEnd};
use crate::{
    clock::boot_now,
    domain::{
        execution::AttemptOutcome,
        intake::StepSlot,
        key::{idempotency_key, next_generation},
        lease::BootTime,
        retry::Backoff,
        step::Step,
    },
    instruments::{ByExecutor, Instruments, as_seconds, millis},
    ports::{
        executions::{Advance, ExecutionStore, StepEnd, StepRetry, StepStart},
        runner::{Attempt, Code, Halt, Outcome, Reason, StepRunner},
    },
};

/// What all steps share.
pub struct Tools {
    pub store: Arc<dyn ExecutionStore>,
    pub runner: Arc<dyn StepRunner>,
    pub recorder: Recorder,
    pub backoff: Backoff,
    pub drain: Drain,
    pub instruments: Arc<Instruments>,
}

/// How the tries at a step ended.
#[derive(Debug)]
pub enum Tried {
    /// Final.
    Ended(StepEnd),
    /// Stopped as asked; the step is not final. Holds its last attempt.
    Stopped { slot: StepSlot, output: Option<String> },
    /// The lease is lost: nothing may be recorded.
    LeaseLost,
}

/// A step whose first start is already committed and counted in `slot`.
pub struct Tries {
    pub tools: Arc<Tools>,
    pub standing: Arc<Standing>,
    pub step: Arc<Step>,
    pub slot: StepSlot,
    /// The execution ends: stop.
    pub stop: CancellationToken,
}

/// What came of one attempt.
enum Attempted {
    Success { output: String, code: Option<Code> },
    Failed(Failure),
    Stopped { output: Option<String> },
    LeaseLost,
}

/// An attempt that used up a try.
struct Failure {
    /// `Failed`, `Unanswered` or `Timeout`.
    outcome: AttemptOutcome,
    error: Reason,
    output: Option<String>,
    retry_after: Option<Duration>,
    code: Option<Code>,
}

impl Tries {
    pub async fn run(mut self) -> Tried {
        loop {
            let failure = match self.attempt().await {
                Attempted::Success { output, .. } => return self.succeeded(output),
                Attempted::Stopped { output } => return Tried::Stopped { slot: self.slot, output },
                Attempted::LeaseLost => return Tried::LeaseLost,
                Attempted::Failed(failure) => failure,
            };
            if self.slot.retry_count >= self.step.retries {
                return self.failed(failure);
            }
            match self.wait_for_next(failure).await {
                Ok(()) => {}
                Err(tried) => return tried,
            }
        }
    }

    /// Records the failure, waits, records the next start.
    async fn wait_for_next(&mut self, failure: Failure) -> Result<(), Tried> {
        let Failure { outcome, error, retry_after, .. } = failure;
        self.slot.retry_count = self.slot.retry_count.saturating_add(1);
        self.slot.key_gen = next_generation(self.slot.key_gen, outcome);
        let delay = self.tools.backoff.delay(self.slot.retry_count, rand::random(), retry_after);
        warn!(event = "step.retrying", step.name = %self.step.name, attempt = self.slot.attempt,
            error = %error.said, delay = ?delay, "step failed and will be tried again");
        let mut advance = Advance::new(self.standing.lease.clone());
        advance.retrying.push(StepRetry {
            step: self.slot.id.clone(),
            attempt: self.slot.attempt,
            outcome,
            error: error.to_string(),
            key_gen: self.slot.key_gen,
            retry_count: self.slot.retry_count,
        });
        self.record(advance).await?;
        tokio::select! {
            biased;
            () = self.standing.lost().cancelled() => return Err(Tried::LeaseLost),
            () = self.stop.cancelled() => return Err(self.between()),
            () = self.tools.drain.draining.cancelled() => return Err(self.between()),
            () = sleep(delay) => {}
        }
        self.slot.count_attempt();
        let mut advance = Advance::new(self.standing.lease.clone());
        advance.started.push(StepStart::of(&self.slot));
        self.record(advance).await?;
        self.tools.instruments.step_retries.inc();
        Ok(())
    }

    async fn record(&self, advance: Advance) -> Result<(), Tried> {
        match self.tools.recorder.record(&self.standing, advance).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Tried::LeaseLost),
        }
    }

    fn between(&self) -> Tried {
        Tried::Stopped { slot: self.slot.clone(), output: None }
    }

    async fn attempt(&self) -> Attempted {
        if !self.standing.may_act(boot_now()) {
            return Attempted::LeaseLost;
        }
        // It may have been stopped while its start was recorded.
        if self.stop.is_cancelled() || self.tools.drain.interrupt.is_cancelled() {
            self.standing.term.attempted(&self.step, &self.slot, boot_now(), AttemptEnd::default());
            return Attempted::Stopped { output: None };
        }
        let executor = self.step.action.kind().to_owned();
        let id = self.standing.term.attempt_id(&self.slot);
        let span = info_span!("step.run", span_id = %id, step.name = %self.step.name, attempt = self.slot.attempt,
            executor = %executor);
        let began = boot_now();
        let result = self.run_once().instrument(span.clone()).await;
        let took = boot_now().since(began);
        self.tell(&result, began);
        let word = match &result {
            Attempted::Success { .. } => "success",
            Attempted::Failed(failure) => failure.outcome.as_str(),
            Attempted::Stopped { .. } => "stopped",
            Attempted::LeaseLost => "lost",
        };
        let instruments = &self.tools.instruments;
        instruments.step_attempts.get_or_create(&ByExecutor { executor, result: word }).inc();
        instruments.step_attempt_duration.observe(as_seconds(took));
        span.in_scope(|| {
            info!(
                event = "step.attempt_ended",
                result = word,
                duration_ms = millis(took),
                "attempt ended"
            );
        });
        result
    }

    /// For the trace. Of an attempt whose lease is lost, whoever has it now tells.
    fn tell(&self, result: &Attempted, began: BootTime) {
        let (outcome, output, code) = match result {
            Attempted::Success { output, code } => {
                (Some(AttemptOutcome::Success), Some(output.as_str()), *code)
            }
            Attempted::Failed(failure) => {
                (Some(failure.outcome), failure.output.as_deref(), failure.code)
            }
            Attempted::Stopped { output } => (None, output.as_deref(), None),
            Attempted::LeaseLost => return,
        };
        let end = AttemptEnd { outcome, output, code };
        self.standing.term.attempted(&self.step, &self.slot, began, end);
    }

    async fn run_once(&self) -> Attempted {
        let halt = Halt {
            stop: CancellationToken::new(),
            kill: self.standing.lost().child_token(),
            deadline: self.standing.deadline(),
        };
        let (so_far, told) = watch::channel(String::new());
        let mut live = Live {
            store: self.tools.store.clone(),
            standing: self.standing.clone(),
            step: self.slot.id.clone(),
            attempt: self.slot.attempt,
            told,
            write: None,
        };
        let run = AssertUnwindSafe(self.tools.runner.run(Attempt {
            execution: self.standing.lease.execution.clone(),
            step_execution: self.slot.id.clone(),
            step: self.step.clone(),
            number: self.slot.attempt,
            idempotency_key: idempotency_key(
                &self.standing.lease.execution,
                &self.slot.id,
                self.slot.key_gen,
            ),
            fence: self.standing.lease.fence,
            trace: self.standing.term.carried(&self.step, &self.slot),
            halt: halt.clone(),
            so_far,
        }))
        .catch_unwind();
        tokio::pin!(run);
        let timeout = sleep(self.step.timeout);
        tokio::pin!(timeout);
        let (mut timed_out, mut asked, mut aborted) = (false, false, false);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut run => break outcome.unwrap_or_else(|_| panicked()),
                () = self.tools.drain.abort.cancelled(), if !aborted => {
                    (aborted, asked) = (true, true);
                    halt.kill.cancel();
                }
                () = self.stop.cancelled(), if !asked => {
                    asked = true;
                    halt.stop.cancel();
                }
                () = self.tools.drain.interrupt.cancelled(), if !asked => {
                    asked = true;
                    halt.stop.cancel();
                }
                () = &mut timeout, if !timed_out && !asked => {
                    timed_out = true;
                    halt.stop.cancel();
                }
                never = live.go_on() => match never {},
            }
        };
        live.finish(&self.tools.drain.abort).await;
        self.judge(outcome, timed_out, asked)
    }

    /// What an outcome means, given what the runner was told meanwhile.
    fn judge(&self, outcome: Outcome, timed_out: bool, asked: bool) -> Attempted {
        if !self.standing.may_act(boot_now()) {
            return Attempted::LeaseLost;
        }
        let failure = match outcome {
            Outcome::Success { output, code } => return Attempted::Success { output, code },
            Outcome::Failed { error, output, retry_after, code } => {
                Failure { outcome: AttemptOutcome::Failed, error, output, retry_after, code }
            }
            Outcome::Unanswered { error, output, retry_after, code } => {
                Failure { outcome: AttemptOutcome::Unanswered, error, output, retry_after, code }
            }
            Outcome::Stopped { output } => Failure {
                outcome: AttemptOutcome::Unanswered,
                error: "it was killed from outside".into(),
                output,
                retry_after: None,
                code: None,
            },
        };
        if timed_out {
            return Attempted::Failed(Failure {
                outcome: AttemptOutcome::Timeout,
                error: format!("timed out after {:?}", self.step.timeout).into(),
                retry_after: None,
                ..failure
            });
        }
        if asked {
            return Attempted::Stopped { output: failure.output };
        }
        Attempted::Failed(failure)
    }

    fn succeeded(self, output: String) -> Tried {
        self.end(true, AttemptOutcome::Success, Some(output), None)
    }

    fn failed(self, failure: Failure) -> Tried {
        let Failure { outcome, error, output, .. } = failure;
        warn!(event = "step.failed", step.name = %self.step.name, attempt = self.slot.attempt,
            error = %error.said, "step failed");
        self.end(false, outcome, output, Some(error.to_string()))
    }

    fn end(
        self,
        succeeded: bool,
        outcome: AttemptOutcome,
        output: Option<String>,
        error: Option<String>,
    ) -> Tried {
        Tried::Ended(StepEnd {
            step: self.slot.id,
            attempt: self.slot.attempt,
            succeeded,
            outcome,
            output,
            error,
            retry_count: self.slot.retry_count,
        })
    }
}

/// Nobody knows how far the step came.
fn panicked() -> Outcome {
    Outcome::Unanswered {
        error: "its runner panicked: this is a bug, please report it".into(),
        output: None,
        retry_after: None,
        code: None,
    }
}
