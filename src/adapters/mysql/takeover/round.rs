//! One round of takeovers: batches, then one by one what was in a batch that broke, then what was
//! cancelled.
//!
//! **Invariant:** what has been taken over is returned, whatever became of the rest.

use std::time::Duration;

use super::{
    super::{
        apart::{self, Haste},
        claim::MOST,
        draft::Draft,
        errors::Fault,
        session::Entrance,
        shared::Shared,
        tidy::{self, FailHeld},
        work::{WORK_LIMIT, run},
    },
    TakeOverWork,
};
use crate::{
    adapters::lane::Lanes,
    domain::{deferral::Deferral, recovery::TakeOver},
    ports::executions::{Batch, Claimant},
};

/// Takes over what is still as seen; tidies what was cancelled.
pub(in super::super) async fn take_over(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    due: &[TakeOver],
) -> Result<Batch, Fault> {
    let haste = Haste::begin(who.ttl);
    let (cancelled, running): (Vec<TakeOver>, Vec<TakeOver>) = due
        .iter()
        .filter(|one| !shared.is_left_alone(&one.seen.execution))
        .cloned()
        .partition(|one| one.seen.cancelled);
    let mut all = Batch::default();
    let taken = take_running(lanes, shared, who, running, haste, &mut all).await;
    let done = match taken {
        Ok(()) => tidy::tidy(lanes, shared, cancelled, haste, &mut all.tidied).await,
        Err(fault) => Err(fault),
    };
    match done {
        Err(fault) if all.claims.is_empty() => Err(fault),
        // What is taken already must not be lost over what is not.
        Ok(()) | Err(_) => Ok(all),
    }
}

async fn take_running(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    running: Vec<TakeOver>,
    haste: Haste,
    all: &mut Batch,
) -> Result<(), Fault> {
    let (mut suspects, plain): (Vec<TakeOver>, Vec<TakeOver>) =
        running.into_iter().partition(|one| shared.held_suspects.contains(&one.seen.execution));
    let mut broken = None;
    for chunk in plain.chunks(MOST) {
        let draft = Draft::default();
        match transact(lanes, who, chunk.to_vec(), haste.limit(all), &draft).await {
            Ok(batch) => all.extend(batch),
            Err(fault) if !draft.suspects(&fault).is_empty() => {
                suspects.extend_from_slice(chunk);
                broken = Some(fault);
            }
            Err(fault) => return Err(fault),
        }
        if !haste.has_time() {
            break;
        }
    }
    for one in &suspects {
        shared.held_suspects.add(one.seen.execution.clone());
    }
    match broken {
        Some(fault) if !haste.has_time() => Err(fault),
        _ => one_by_one(lanes, shared, who, suspects, haste, all).await,
    }
}

async fn transact(
    lanes: &Lanes<Entrance>,
    who: &Claimant,
    due: Vec<TakeOver>,
    within: Duration,
    draft: &Draft,
) -> Result<Batch, Fault> {
    let work = TakeOverWork { who: who.clone(), due, draft: draft.clone() };
    match run(lanes, within, work).await {
        Err(fault) => draft.resolve(lanes, fault).await,
        done => done,
    }
}

/// One of the suspects has broken a batch: each alone. The culprit is failed or left alone for a
/// while, the longer the oftener, and the others do not wait for it. It stays a suspect: most often
/// another worker was at it in the same moment, and that is over soon.
async fn one_by_one(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    suspects: Vec<TakeOver>,
    haste: Haste,
    all: &mut Batch,
) -> Result<(), Fault> {
    for one in suspects {
        if !haste.has_time() {
            break;
        }
        let execution = one.seen.execution.clone();
        let (draft, within) = (Draft::default(), haste.limit(all));
        let fault = match transact(lanes, who, vec![one.clone()], within, &draft).await {
            Ok(batch) => {
                shared.held_suspects.remove(&execution);
                all.extend(batch);
                continue;
            }
            Err(fault) => fault,
        };
        if draft.suspects(&fault).is_empty() || haste.cuts_short(within, &fault) {
            return Err(fault);
        }
        if let Fault::Data(reason) = &fault {
            let reason = apart::refused(reason);
            let work = FailHeld { one, reason: reason.clone() };
            if let Ok(true) = run(lanes, WORK_LIMIT, work).await {
                shared.held_suspects.remove(&execution);
                all.refused.push((execution, reason));
                continue;
            }
        }
        let deferral = Deferral::Unwritable(fault.to_string());
        shared.put_off(&execution, &deferral);
        all.deferred.push((execution, deferral));
    }
    Ok(())
}
