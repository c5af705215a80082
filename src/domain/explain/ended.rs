//! How an execution has ended, or is about to because somebody has cancelled it.

use super::{Explanation, Facts};
use crate::domain::id::RELEASED;

pub(super) fn succeeded(facts: &Facts) -> Explanation {
    match facts.error.as_deref().filter(|error| !error.is_empty()) {
        None => Explanation::new("succeeded", "every step succeeded", "nothing"),
        Some(error) => Explanation::new("succeeded", error, "nothing"),
    }
}

pub(super) fn failed(facts: &Facts) -> Explanation {
    let because = match facts.error.as_deref().filter(|error| !error.is_empty()) {
        Some(error) => error.to_owned(),
        None => {
            facts.steps.iter().find(|step| step.status.as_deref() == Some("failed")).map_or_else(
                || "it failed, and no reason was recorded".into(),
                |step| {
                    let error = step.error.as_deref().unwrap_or("no reason was recorded");
                    format!("step {} failed: {error}", step.name)
                },
            )
        }
    };
    let next = "nothing; `orchestrator-worker retry` runs it again from its first unfinished step";
    Explanation::new("failed", because, next)
}

pub(super) fn cancelled(facts: &Facts) -> Explanation {
    match facts.owner.as_str() {
        "" => Explanation::new(
            "cancelled",
            "somebody cancelled it",
            "nothing; `orchestrator-worker retry` takes it up again",
        ),
        RELEASED => Explanation::new(
            "being_cancelled",
            "somebody cancelled it after it was handed back",
            "the next look of any worker ends its steps",
        ),
        owner => Explanation::new(
            "being_cancelled",
            format!("somebody cancelled it while {owner} held it"),
            format!("{owner} stops it at its next renewal; if it is dead, another worker ends it"),
        ),
    }
}
