//! Log lines about executions that this worker did not claim: failed at once, or put back.
//!
//! **Invariant:** no work waits for them: a line whose trace cannot be read is logged without it.

use std::sync::Arc;

use tracing::{debug, info_span, warn};

use super::shared::Shared;
use crate::{
    domain::{deferral::Deferral, id::ExecutionId, trace::Trace},
    ports::traced::Former,
};

/// What became of one.
pub enum Unclaimed {
    /// It was failed, for this reason.
    Refused(String),
    /// Somebody may have misspelt a function, and would wait for long without a word.
    Unknown(Deferral),
    PutBack(Deferral),
}

impl Unclaimed {
    fn say(self, shared: &Shared) {
        match self {
            Self::Refused(reason) => warn!(event = "execution.refused", %reason,
                "failed: it cannot be run; mend its template and submit it again"),
            Self::Unknown(reason) => warn!(event = "execution.deferred", %reason,
                fails_after = ?shared.settings.unknown_after,
                "put back for a worker that can run it; without one it fails in the end"),
            Self::PutBack(reason) => {
                debug!(event = "execution.deferred", %reason, "put back for a while");
            }
        }
    }
}

/// Says it of each, beside the work, with its name and its trace as far as the store tells them.
pub fn say(shared: &Arc<Shared>, all: Vec<(ExecutionId, Unclaimed)>) {
    if all.is_empty() {
        return;
    }
    let shared = shared.clone();
    shared.clone().drivers.spawn(async move {
        let of: Vec<_> = all.iter().map(|(id, _)| Former::none(id.clone())).collect();
        let known = shared.store.remains(&of).await.unwrap_or_else(|error| {
            debug!(%error, "the next lines do not name the traces that they belong to");
            Vec::new()
        });
        for (id, unclaimed) in all {
            let span = if let Some(one) = known.iter().find(|one| one.execution == id) {
                let trace = Trace::of(&id, &one.origin);
                info_span!("execution", trace_id = %trace.id(), span_id = %trace.root(),
                    execution.id = %id, workflow.name = %one.workflow)
            } else {
                info_span!("execution", execution.id = %id)
            };
            span.in_scope(|| unclaimed.say(&shared));
        }
    });
}
