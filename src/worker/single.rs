//! One execution, asked for by its id, and nothing else: for a program that waits for its end.
//!
//! **Invariant:** it is claimed, renewed, driven and handed back as every other; only nobody looks for
//! more work.

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{Finished, Shared, Shutdown, Summary, WorkError, Worker, teller, work_while_whole};
use crate::{
    clock::boot_now,
    domain::{
        deferral::Deferral,
        id::{ExecutionId, RELEASED},
        lease::{Holding, LeaseTerms},
        recovery::{Cause, Held, Holder, TakeOver},
    },
    ports::executions::{Batch, Named, StoreError},
};

/// What became of an execution that was asked for.
#[derive(Clone, Debug)]
pub enum Single {
    /// It ended in this worker's hands, or was failed because it cannot be run.
    Ended(Finished),
    /// The shutdown came before its end: any worker goes on with it.
    HandedBack,
    /// Another has it now.
    Lost,
    /// It was put back for a while.
    Deferred(Deferral),
    /// It is not to be had: what its row says.
    Stands(Holding),
    Missing,
}

/// What a look at the execution brought.
enum Found {
    Batch(Batch),
    Answer(Single),
}

impl Worker {
    /// Claims this execution if it is pending, or was handed back, and drives it to its end. A
    /// shutdown drains as in [`Worker::run`].
    pub async fn execute(
        self,
        execution: &ExecutionId,
        shutdown: Shutdown,
    ) -> Result<Single, WorkError> {
        let mut running = self.begin(shutdown)?;
        let shared = running.shared.clone();
        let work = async { find_and_drive(&shared, execution).await.map_err(WorkError::Store) };
        let mut nobody = JoinSet::new();
        let worked = work_while_whole(&shared, &mut running.services, &mut nobody, work).await;
        shared.tools.drain.begin();
        // Nothing is left unless everything was to end at once.
        timeout(LeaseTerms::KILL, shared.all_done()).await.ok();
        teller::finish(&shared, &mut running.noting).await;
        drop(shared);
        let summary = running.end().await;
        Ok(worked?.flatten().unwrap_or_else(|| outcome(&summary)))
    }
}

/// `None`: what became of it stands in the summary.
async fn find_and_drive(
    shared: &std::sync::Arc<Shared>,
    execution: &ExecutionId,
) -> Result<Option<Single>, StoreError> {
    let slot = shared.reserve(1).expect("nobody else asks for one");
    let sent = boot_now();
    let mut batch = match find(shared, execution).await? {
        Found::Answer(answer) => return Ok(Some(answer)),
        Found::Batch(batch) => batch,
    };
    let deferred = batch.deferred.pop();
    shared.admit(batch, sent, slot, None);
    shared.all_done().await;
    Ok(deferred.map(|(_, why)| Single::Deferred(why)))
}

async fn find(shared: &Shared, execution: &ExecutionId) -> Result<Found, StoreError> {
    /// Between looks at a row that somebody has locked for a moment, and how many.
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    const LOOKS: u32 = 20;
    for look in 1.. {
        let holding = match shared.store.claim_named(&shared.claimant(), execution).await {
            Ok(Named::Met(batch)) => return Ok(Found::Batch(batch)),
            Ok(Named::Missing) => return Ok(Found::Answer(Single::Missing)),
            Ok(Named::Stands(holding)) => holding,
            // This process has not observed anything that it would have to forget.
            Err(StoreError::PrimaryChanged) if look < LOOKS => continue,
            Err(error) => return Err(error),
        };
        let may_be_had = holding.status == "pending" || is_released(&holding);
        if is_released(&holding)
            && let Some(batch) = take_over(shared, execution).await?
        {
            return Ok(Found::Batch(batch));
        }
        if !may_be_had || look >= LOOKS || shared.tools.drain.draining.is_cancelled() {
            return Ok(Found::Answer(Single::Stands(holding)));
        }
        debug!(look, %execution, "it is not to be had at this moment; looking again");
        sleep(PAUSE).await;
    }
    unreachable!("the loop ends by its returns")
}

fn is_released(holding: &Holding) -> bool {
    holding.status == "running" && holding.by == RELEASED
}

/// What was handed back goes to whoever comes first.
async fn take_over(shared: &Shared, execution: &ExecutionId) -> Result<Option<Batch>, StoreError> {
    let survey = shared.store.survey().await?;
    let is_free = |held: &Held| !held.cancelled && held.by == Holder::Released;
    let mut all = survey.into_iter().filter(is_free);
    let Some(seen) = all.find(|held| held.execution == *execution) else {
        return Ok(None);
    };
    let due = [TakeOver { seen, cause: Cause::Released }];
    let batch = shared.store.take_over(&shared.claimant(), &due).await?;
    let is_nothing =
        batch.claims.is_empty() && batch.deferred.is_empty() && batch.refused.is_empty();
    Ok((!is_nothing).then_some(batch))
}

/// What a worker did that had one execution.
fn outcome(summary: &Summary) -> Single {
    match summary.finished.first() {
        Some(finished) => Single::Ended(finished.clone()),
        None if summary.handed_back > 0 => Single::HandedBack,
        // Abandoned in the middle: others take it over when its lease ends.
        None => Single::Lost,
    }
}
