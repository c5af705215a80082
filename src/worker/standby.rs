//! Says when this worker begins to stand by, and when it claims again.

use std::sync::Arc;

use tracing::info;

use super::Shared;
use crate::{
    domain::standby::{Reason, Standby},
    instruments::ByReason,
};

/// Until the drain begins.
pub async fn tell(shared: Arc<Shared>) {
    let draining = shared.tools.drain.draining.clone();
    let mut told = shared.standby();
    let mut before = Standby::default();
    loop {
        let now = *told.borrow_and_update();
        count(&shared, now);
        say(before, now);
        before = now;
        tokio::select! {
            () = draining.cancelled() => return,
            Ok(()) = told.changed() => {}
        }
    }
}

fn count(shared: &Shared, now: Standby) {
    for reason in Reason::ALL {
        let by = ByReason { reason: reason.as_str() };
        let gauge = shared.instruments.standing_by.get_or_create(&by);
        gauge.set(i64::from(now.is_for(reason)));
    }
}

fn say(before: Standby, now: Standby) {
    if now.is_on() == before.is_on() {
        return;
    }
    let of = if now.is_on() { now } else { before };
    let reasons: Vec<_> = Reason::ALL.into_iter().filter(|reason| of.is_for(*reason)).collect();
    let names = reasons.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", ");
    if now.is_on() {
        let why = reasons.iter().map(|reason| why(*reason)).collect::<Vec<_>>().join(", and ");
        info!(
            event = "claiming.paused",
            reason = names,
            "{why}: nothing is claimed or taken over until that ends; what runs goes on"
        );
    } else {
        info!(event = "claiming.resumed", reason = names, "claiming again");
    }
}

const fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Cordoned => "the pod's node is to be emptied",
        Reason::Superseded => "pods of a newer version are ready",
    }
}
