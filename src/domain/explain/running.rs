//! Who runs an execution, or why nobody does any more.

use super::{Explanation, Facts, LockFact, shown};
use crate::domain::{id::RELEASED, recovery::UNSEEN_TTL};

pub(super) fn explain(facts: &Facts) -> Explanation {
    match facts.owner.as_str() {
        "" => run_by_the_orchestrator(facts),
        RELEASED => Explanation::new(
            "released",
            "its worker went away and handed it back",
            "the next worker with a free slot goes on with it at once",
        ),
        owner => held(facts, owner),
    }
}

fn run_by_the_orchestrator(facts: &Facts) -> Explanation {
    let next = "workers keep their hands off it, unless `claim.adopt_orphans_of_go_service` is set; if \
                its process is dead, cancel and retry it";
    match &facts.lock {
        Some(LockFact { owner, expires_in: Some(left), .. }) => Explanation::new(
            "run_by_orchestrator",
            format!(
                "the orchestrator itself runs it, as {owner}, whose lock holds for {}",
                shown(*left)
            ),
            next,
        ),
        Some(_) | None => Explanation::new(
            "run_by_orchestrator",
            "the orchestrator itself has started it, and holds no lock on it any more",
            next,
        ),
    }
}

fn held(facts: &Facts, owner: &str) -> Explanation {
    if let Some(provider) = &facts.kept_in {
        // Its lock row is that of the claim, and says nothing.
        let next = format!(
            "it goes on; its lease is kept in {provider}, where another worker that keeps leases there \
             sees if its owner is dead; `orchestrator-worker cancel` stops it"
        );
        return Explanation::new("running", runs_it(facts, owner), next);
    }
    let Some(lock) = &facts.lock else {
        return Explanation::new(
            "lock_missing",
            format!("{owner} holds it, but its lock row is gone"),
            format!(
                "{owner} puts it back at its next renewal; if it is dead, another worker takes over \
                 after {} at the latest",
                shown(UNSEEN_TTL)
            ),
        );
    };
    // Renewed well within its time; the rest allows for a renewal that is just under way.
    if lock.age > lock.ttl / 2 {
        return Explanation::new(
            "orphaned",
            format!("{owner} holds it and has not renewed its lease for {}", shown(lock.age)),
            format!(
                "a worker that has watched it stand still for {} takes it over",
                shown(lock.ttl)
            ),
        );
    }
    let next = "it goes on; `orchestrator-worker cancel` stops it";
    Explanation::new("running", runs_it(facts, owner), next)
}

fn runs_it(facts: &Facts, owner: &str) -> String {
    let running: Vec<String> = facts
        .steps
        .iter()
        .filter(|step| step.status.as_deref() == Some("running"))
        .map(|step| match step.running_for {
            Some(since) => {
                format!("{} (attempt {}, for {})", step.name, step.attempt, shown(since))
            }
            None => format!("{} (between attempts)", step.name),
        })
        .collect();
    let runs = match running.as_slice() {
        [] => format!("{owner} runs it and is between two steps"),
        [one] => format!("{owner} runs it, in step {one}"),
        many => format!("{owner} runs it, in steps {}", many.join(", ")),
    };
    match &facts.lost {
        Some(lost) => format!("{runs}; before that {} was lost: {}", lost.owner, lost.cause),
        None => runs,
    }
}
