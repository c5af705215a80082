//! Whether a drain has the time that it takes.

use super::{Finding, View};
use crate::domain::{
    drain_contract::{LongestStep, breaches, needed},
    explain::shown,
};

pub(super) fn findings(longest: Option<&LongestStep>, view: &View) -> Vec<Finding> {
    let needed = shown(needed(view.drain_deadline));
    let Some(terms) = &view.pod else {
        let found =
            format!("whoever stops this worker must give it {needed}; no pod says what it gets");
        return vec![Finding::ok("drain", found)];
    };
    let breaches = breaches(terms, view.drain_deadline, longest);
    if breaches.is_empty() {
        let grace = shown(terms.grace);
        return vec![Finding::ok(
            "drain",
            format!("takes {needed} at most, and the pod has {grace}"),
        )];
    }
    breaches
        .into_iter()
        .map(|breach| Finding::warning("drain", breach.found, breach.repair))
        .collect()
}
