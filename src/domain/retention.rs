//! How long executions are kept after their end.
//!
//! **Invariant:** what has not ended is never spoken of here, and nothing is deleted unless it was
//! asked for.

use std::time::Duration;

use super::execution::ExecutionState;

/// For each way to end, how long to keep what ended so; `None` keeps it for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub success: Option<Duration>,
    pub failed: Option<Duration>,
    pub cancelled: Option<Duration>,
}

impl Retention {
    /// The states that are cleared up, with the time for which each is kept.
    pub fn limits(&self) -> impl Iterator<Item = (ExecutionState, Duration)> {
        [
            (ExecutionState::Success, self.success),
            (ExecutionState::Failed, self.failed),
            (ExecutionState::Cancelled, self.cancelled),
        ]
        .into_iter()
        .filter_map(|(state, kept)| Some((state, kept?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ends_that_have_a_limit_are_cleared_up() {
        assert_eq!(Retention::default().limits().count(), 0);
        let day = Duration::from_secs(86_400);
        let retention = Retention { failed: Some(day), ..Retention::default() };
        assert_eq!(retention.limits().collect::<Vec<_>>(), [(ExecutionState::Failed, day)]);
        let all = Retention { success: Some(day), failed: Some(day), cancelled: Some(day) };
        assert!(all.limits().all(|(state, _)| state.is_final()));
        assert_eq!(all.limits().count(), 3);
    }
}
