//! What a running step has printed so far.
//!
//! **Invariant:** it is written to the row of that very attempt while it runs, in a commit of its own,
//! and never over the output of an end.

use async_trait::async_trait;

use super::{
    errors::Fault,
    session::{Entrance, Session, fixed},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        id::{Fence, StepExecutionId},
        lease::Lease,
    },
};

/// Returns whether it was written.
pub(super) async fn note_output(
    lanes: &Lanes<Entrance>,
    lease: &Lease,
    step: &StepExecutionId,
    attempt: u32,
    text: &str,
) -> Result<bool, Fault> {
    let (step, output) = (step.clone(), text.to_owned());
    run(lanes, WORK_LIMIT, NoteOutput { fence: lease.fence, step, attempt, output }).await
}

struct NoteOutput {
    fence: Fence,
    step: StepExecutionId,
    attempt: u32,
    output: String,
}

#[async_trait]
impl Work for NoteOutput {
    type Answer = bool;

    async fn attempt(&mut self, session: &mut Session) -> Result<bool, Fault> {
        let update = fixed(
            "UPDATE workflow_step_executions SET output=? \
             WHERE id=? AND ow_fence=? AND ow_attempt=? AND status='running'",
        );
        let update = update.bind(&*self.output).bind(self.step.as_str());
        let update = update.bind(self.fence.0).bind(self.attempt);
        Ok(session.matched_alone(update).await? == 1)
    }
}
