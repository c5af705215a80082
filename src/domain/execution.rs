//! The states of executions and steps, and which moves between them a worker makes.

use serde::Serialize;

/// `workflow_executions.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionState {
    Pending,
    Running,
    Success,
    Failed,
    Cancelled,
}

/// `workflow_step_executions.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    Pending,
    Running,
    Success,
    Failed,
    Skipped,
}

/// A status column held a word that no version of the orchestrator writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown status {0:?}")]
pub struct UnknownState(pub String);

/// Why an execution with this status is failed.
pub fn unknown_status(status: Option<&str>) -> String {
    match status {
        None => "its status was NULL, which no version of the orchestrator writes".into(),
        Some(word) => {
            let word: String = word.chars().take(100).collect();
            format!("its status was {word:?}, which no version of the orchestrator writes")
        }
    }
}

impl ExecutionState {
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Success, Self::Failed, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }

    /// Nothing moves it any more but an operator's retry.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Success | Self::Failed | Self::Cancelled => true,
        }
    }

    /// The moves of an execution: claimed or failed without a claim, ended, put back by the very
    /// claim that could not admit it, retried by an operator; `cancelled` by anyone before its end.
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Pending => matches!(next, Self::Running | Self::Failed | Self::Cancelled),
            Self::Running => {
                matches!(next, Self::Success | Self::Failed | Self::Cancelled | Self::Pending)
            }
            Self::Failed | Self::Cancelled => matches!(next, Self::Pending),
            Self::Success => false,
        }
    }
}

impl StepState {
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Success, Self::Failed, Self::Skipped];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    pub fn parse(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }

    pub const fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Success | Self::Failed | Self::Skipped => true,
        }
    }

    /// The moves of a step. `running` to `running` is the next attempt.
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Pending => matches!(next, Self::Running | Self::Skipped),
            Self::Running => matches!(next, Self::Running | Self::Success | Self::Failed),
            Self::Success | Self::Failed | Self::Skipped => false,
        }
    }
}

/// How one attempt at a step ended (`ow_attempts.outcome`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptOutcome {
    Success,
    /// It was done, and the answer was no.
    Failed,
    /// It failed without a definite answer: it could not begin, or broke off and may have had an
    /// effect.
    Unanswered,
    Timeout,
    /// Stopped by a cancellation, or because a sibling's failure aborts the execution.
    Cancelled,
    /// Stopped because its worker goes away; does not use up a retry.
    Drained,
    /// Its worker died or lost its lease; does not use up a retry.
    Lost,
}

impl AttemptOutcome {
    const ALL: [Self; 7] = [
        Self::Success,
        Self::Failed,
        Self::Unanswered,
        Self::Timeout,
        Self::Cancelled,
        Self::Drained,
        Self::Lost,
    ];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Unanswered => "unanswered",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Drained => "drained",
            Self::Lost => "lost",
        }
    }

    /// Somebody who knows has said how it went: whoever remembers keys would say so again.
    pub const fn is_definite(self) -> bool {
        match self {
            Self::Success | Self::Failed => true,
            Self::Unanswered | Self::Timeout | Self::Cancelled | Self::Drained | Self::Lost => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back_as_itself_and_nothing_else_is_one() {
        for state in ExecutionState::ALL {
            assert_eq!(ExecutionState::parse(state.as_str()), Ok(state));
        }
        for state in StepState::ALL {
            assert_eq!(StepState::parse(state.as_str()), Ok(state));
        }
        for outcome in AttemptOutcome::ALL {
            assert_eq!(AttemptOutcome::parse(outcome.as_str()), Some(outcome));
        }
        assert_eq!(AttemptOutcome::parse("Lost"), None);
        assert_eq!(StepState::parse("Running"), Err(UnknownState("Running".into())));
        assert_eq!(ExecutionState::parse("skipped"), Err(UnknownState("skipped".into())));
    }

    #[test]
    fn a_success_is_never_left() {
        for next in ExecutionState::ALL {
            assert!(!ExecutionState::Success.may_become(next));
        }
        for next in StepState::ALL {
            assert!(!StepState::Success.may_become(next));
        }
    }
}
