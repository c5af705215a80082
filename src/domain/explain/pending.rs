//! Why nobody has claimed an execution yet.

use super::{Explanation, Facts, LockFact, Paused, View, shown};
use crate::domain::{deferral::Deferrals, eligibility::Backlog, id::Fence, intake::HALF_MADE};

pub(super) fn explain(facts: &Facts, view: &View) -> Explanation {
    kept_out(facts, view)
        .or_else(|| not_due(facts).filter(|_| facts.due_in > Deferrals::OVER))
        .or_else(|| locked(facts, view))
        .or_else(|| not_runnable(facts, view))
        .or_else(|| not_due(facts))
        .unwrap_or_else(|| waiting(facts, view))
}

/// By its time, an operator, or the configuration.
fn kept_out(facts: &Facts, view: &View) -> Option<Explanation> {
    if facts.fence.0 >= Fence::CEILING {
        return Some(Explanation::new(
            "fence_exhausted",
            format!("its fence {} is beyond what any clock gives", facts.fence),
            "no worker takes it; submit its template again",
        ));
    }
    let eligibility = &view.eligibility;
    match facts.paused {
        Some(Paused::All) => {
            let next = "it is claimed after `orchestrator-worker resume --all`";
            return Some(Explanation::new("paused", "all templates are paused", next));
        }
        Some(Paused::Template) => {
            return Some(Explanation::new(
                "paused",
                format!("its template {:?} is paused", facts.template),
                "it is claimed after `orchestrator-worker resume` of the template",
            ));
        }
        None => {}
    }
    if facts.is_backlog && eligibility.backlog == Backlog::Hold {
        return Some(Explanation::new(
            "backlog",
            "it was more than a day old when the tables were first migrated, and is held as backlog",
            "it is claimed after `orchestrator-worker backlog release TEMPLATE` (or `--all`), or cancelled by \
             `cancel`",
        ));
    }
    if eligibility.exclude.contains(&facts.template) {
        return Some(Explanation::new(
            "filtered",
            format!("claim.exclude names its template {:?}", facts.template),
            "workers with this configuration leave it to others",
        ));
    }
    if !eligibility.include.is_empty() && !eligibility.include.contains(&facts.template) {
        return Some(Explanation::new(
            "filtered",
            format!("claim.include does not name its template {:?}", facts.template),
            "workers with this configuration leave it to others",
        ));
    }
    None
}

/// What was put back for a while is not due either: what it was put back for comes first.
fn not_due(facts: &Facts) -> Option<Explanation> {
    (!facts.due_in.is_zero()).then(|| {
        Explanation::new(
            "not_due",
            format!("it is not due for another {}", shown(facts.due_in)),
            "it is claimed then; until then it was scheduled, or put back for a moment",
        )
    })
}

/// By its own lock, or by that of its template where each is to have one execution at a time.
fn locked(facts: &Facts, view: &View) -> Option<Explanation> {
    if let Some((owner, expires_in)) = facts.lock.as_ref().and_then(LockFact::holder) {
        return Some(Explanation::new(
            "locked",
            format!("its lock is held by {owner}"),
            format!(
                "it is claimed when the lock is released, or in {} at the latest",
                shown(expires_in)
            ),
        ));
    }
    if !view.eligibility.one_per_template {
        return None;
    }
    let runs = facts.template_lock.as_ref().filter(|lock| lock.keeps_template());
    let because = match runs {
        Some(LockFact { owner, .. }) => {
            format!("{owner} runs another execution of its template {:?}", facts.template)
        }
        None if facts.template_handed_back => {
            format!("another execution of its template {:?} was handed back", facts.template)
        }
        None => return None,
    };
    Some(Explanation::new(
        "template_busy",
        because,
        "with claim.one_per_template it is claimed when that one has ended, whoever ends it",
    ))
}

fn not_runnable(facts: &Facts, view: &View) -> Option<Explanation> {
    let workflow = match &facts.workflow {
        Ok(workflow) => workflow,
        Err(problem) => {
            return Some(Explanation::new(
                "not_runnable",
                problem,
                "the next worker that claims it fails it with this reason; mend the template first",
            ));
        }
    };
    if let Some(what) = view.supported.unknown_of(workflow) {
        return Some(Explanation::new(
            "unknown_action",
            format!("this version does not know {what}"),
            "a worker that knows it runs it; if none does for `claim.unknown_after` it is failed",
        ));
    }
    let there = facts.steps.len();
    let wanted = workflow.nodes().len();
    (there < wanted && facts.age < HALF_MADE).then(|| {
        let left = HALF_MADE.saturating_sub(facts.age);
        Explanation::new(
            "half_made",
            format!("{there} of its {wanted} step rows are there"),
            format!("the missing ones are waited for, and made in {} at the latest", shown(left)),
        )
    })
}

fn waiting(facts: &Facts, view: &View) -> Explanation {
    if facts.workers == 0 {
        return Explanation::new(
            "no_worker_seen",
            "nothing speaks against it, and no worker holds any execution",
            "an idle worker claims it at its next look; `orchestrator-worker run` starts one",
        );
    }
    let because = match facts.ahead {
        0 => "it is the next in line".to_owned(),
        1 => "1 execution was due before it".into(),
        many => format!("{many} executions were due before it"),
    };
    let hold = match (facts.workers, facts.held) {
        (1, 1) => "1 worker holds 1 execution".to_owned(),
        (1, held) => format!("1 worker holds {held} executions"),
        (workers, held) => format!("{workers} workers hold {held} executions"),
    };
    let next = "it is claimed as soon as one of them has a free slot; more slots or workers make it sooner";
    if facts.due_for > view.look_within {
        let due_for = shown(facts.due_for);
        return Explanation::new(
            "no_free_slots",
            format!(
                "it has been due for {due_for} and no worker has had a free slot for it: {because}; \
                 {hold}"
            ),
            next,
        );
    }
    Explanation::new("waiting", format!("{because}; {hold}"), next)
}
