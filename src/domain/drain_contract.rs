//! Whether a pod is given the time that its drain takes.
//!
//! **Invariant:** only what the pod's surroundings have said is held against the worker; where
//! nothing was said there is no breach.

use std::time::Duration;

use super::{explain::shown, step::LONGEST_TIMEOUT};

/// Time of a drain to stop a step (its grace included) and to hand its execution back.
const TO_HAND_BACK: Duration = Duration::from_secs(5);
/// What a process needs once its drain is over: to send its last spans, answer its last probes, and
/// leave what still blocks a thread.
const TO_END: Duration = Duration::from_secs(10);

/// How long running steps may go on after the drain began: the deadline less the time to stop and
/// hand back, but at least half of it.
pub fn patience(deadline: Duration) -> Duration {
    deadline.saturating_sub(TO_HAND_BACK).max(deadline / 2)
}

/// From the signal to the kill, so that nothing is killed that would have ended by itself.
pub fn needed(deadline: Duration) -> Duration {
    deadline + TO_END
}

/// What whoever made the pod says of it; a pod cannot read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTerms {
    /// Its `terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// Its `preStop` hook, which is part of the grace period and comes before the signal.
    pub pre_stop: Duration,
    /// Whether a disruption budget keeps a node's drain from taking all pods at once.
    pub disruption_budget: Option<bool>,
}

/// The stored step that may run for longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongestStep {
    pub template: String,
    pub step: String,
    /// Of one attempt.
    pub timeout: Duration,
}

impl LongestStep {
    /// `seconds` as a worker takes them, cut like those of a step.
    pub fn new(template: String, step: String, seconds: u64) -> Self {
        let timeout = Duration::from_secs(seconds).min(LONGEST_TIMEOUT);
        Self { template, step, timeout }
    }
}

/// What somebody should mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub found: String,
    pub repair: String,
}

/// What of a worker's drain the pod's terms, or the steps, do not fit.
pub fn breaches(
    terms: &PodTerms,
    deadline: Duration,
    longest: Option<&LongestStep>,
) -> Vec<Breach> {
    let all = [grace(terms, deadline), long_step(deadline, longest), budget(terms)];
    all.into_iter().flatten().collect()
}

fn grace(terms: &PodTerms, deadline: Duration) -> Option<Breach> {
    let needed = terms.pre_stop + needed(deadline);
    let sum = if terms.pre_stop.is_zero() {
        format!("drain_deadline ({}) and {} to end", shown(deadline), shown(TO_END))
    } else {
        format!(
            "the preStop hook ({}), drain_deadline ({}) and {} to end",
            shown(terms.pre_stop),
            shown(deadline),
            shown(TO_END)
        )
    };
    (terms.grace < needed).then(|| Breach {
        found: format!(
            "the pod is killed {} after it is told to go, and {sum} take {}: what it holds then is \
             only taken over after its TTL",
            shown(terms.grace),
            shown(needed)
        ),
        repair: format!(
            "set terminationGracePeriodSeconds to {} or more, or a shorter drain_deadline",
            needed.as_secs()
        ),
    })
}

fn long_step(deadline: Duration, longest: Option<&LongestStep>) -> Option<Breach> {
    let LongestStep { template, step, timeout } = longest?;
    let patience = patience(deadline);
    (*timeout > patience).then(|| Breach {
        found: format!(
            "step {step:?} of {template:?} may run for {}, and a drain stops it after {}: each rollout \
             may make it begin again, in another pod",
            shown(*timeout),
            shown(patience)
        ),
        repair: format!(
            "set drain_deadline to {}s or more, with the grace period to match, or make such steps \
             shorter",
            (*timeout + TO_HAND_BACK).as_secs()
        ),
    })
}

fn budget(terms: &PodTerms) -> Option<Breach> {
    (terms.disruption_budget == Some(false)).then(|| Breach {
        found: "no disruption budget: a node's drain may take all workers at once".into(),
        repair: "make a PodDisruptionBudget with maxUnavailable 1 for the workers' pods".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn terms(grace: u64, pre_stop: u64) -> PodTerms {
        PodTerms { grace: secs(grace), pre_stop: secs(pre_stop), disruption_budget: Some(true) }
    }

    fn longest(timeout: u64) -> LongestStep {
        LongestStep { template: "release".into(), step: "build".into(), timeout: secs(timeout) }
    }

    #[test]
    fn steps_may_use_the_deadline_but_for_the_time_to_hand_back() {
        assert_eq!(patience(secs(60)), secs(55));
        assert_eq!(patience(secs(6)), secs(3));
        assert_eq!(patience(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_grace_period_that_holds_hook_drain_and_end_is_no_breach() {
        for (grace, pre_stop, breached) in
            [(70, 0, false), (69, 0, true), (75, 5, false), (74, 5, true), (0, 0, true)]
        {
            let found = breaches(&terms(grace, pre_stop), secs(60), None);
            assert_eq!(!found.is_empty(), breached, "{grace} s with a hook of {pre_stop} s");
        }
    }

    #[test]
    fn the_repair_of_a_short_grace_period_is_one_that_mends_it() {
        let found = breaches(&terms(30, 5), secs(60), None);
        assert!(found[0].found.starts_with("the pod is killed 30s after it is told to go"));
        assert!(found[0].repair.contains("terminationGracePeriodSeconds to 75 "), "{found:?}");
        assert_eq!(breaches(&terms(75, 5), secs(60), None), []);
    }

    #[test]
    fn a_step_that_a_drain_stops_is_told_by_name_with_the_deadline_that_lets_it_end() {
        assert_eq!(breaches(&terms(75, 0), secs(60), Some(&longest(55))), []);
        let found = breaches(&terms(75, 0), secs(60), Some(&longest(600)));
        let [Breach { found, repair }] = found.as_slice() else { panic!("{found:?}") };
        assert!(found.starts_with(r#"step "build" of "release" may run for 10m 0s"#), "{found}");
        assert!(repair.contains("drain_deadline to 605s"), "{repair}");
        assert_eq!(breaches(&terms(700, 0), secs(605), Some(&longest(600))), []);
    }

    #[test]
    fn only_a_budget_that_is_said_to_be_missing_is_a_breach() {
        let of = |disruption_budget| PodTerms { disruption_budget, ..terms(75, 0) };
        assert_eq!(breaches(&of(Some(false)), secs(60), None).len(), 1);
        assert_eq!(breaches(&of(None), secs(60), None), []);
    }
}
