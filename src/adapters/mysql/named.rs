//! The claim of one execution by its id, for a caller who waits for it.
//!
//! **Invariant:** it is the transaction of every claim; only which row it pins is said otherwise.

use async_trait::async_trait;

use super::{
    apart::{self, Fate, Haste},
    claim::{Which, transact},
    draft::Draft,
    errors::Fault,
    rows,
    session::{Entrance, Session, fixed},
    shared::Shared,
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    adapters::lane::Lanes,
    domain::{
        deferral::Deferral,
        id::{ExecutionId, Fence},
        lease::Holding,
    },
    ports::executions::{Batch, Claimant, Named},
};

pub(super) async fn claim(
    lanes: &Lanes<Entrance>,
    shared: &Shared,
    who: &Claimant,
    execution: &ExecutionId,
) -> Result<Named, Fault> {
    let draft = Draft::default();
    let within = Haste::begin(who.ttl).limit(&Batch::default());
    let which = Which::Named(execution.clone());
    let mut batch = match transact(lanes, shared, who, 1, which, within, &draft).await {
        Ok(batch) => batch,
        Err(fault) if !draft.suspects(&fault).is_empty() => {
            let mut batch = Batch::default();
            match apart::deal_with(lanes, execution, &fault).await? {
                Fate::Failed(reason) => batch.refused.push((execution.clone(), reason)),
                Fate::PutOff(why) => {
                    batch.deferred.push((execution.clone(), Deferral::Unwritable(why)));
                }
            }
            batch
        }
        Err(fault) => return Err(fault),
    };
    // A database may find a row by letters that are not quite its own.
    let is_it = |id: &ExecutionId| id == execution;
    batch.deferred.retain(|(id, _)| is_it(id));
    if batch.claims.is_empty() && batch.deferred.is_empty() && batch.refused.is_empty() {
        let look = Look { execution: execution.clone() };
        return Ok(run(lanes, WORK_LIMIT, look).await?.map_or(Named::Missing, Named::Stands));
    }
    Ok(Named::Met(batch))
}

struct Look {
    execution: ExecutionId,
}

#[async_trait]
impl Work for Look {
    type Answer = Option<Holding>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let ask = fixed(
            "SELECT status, ow_fence, ow_claim, ow_owner FROM workflow_executions WHERE id=?",
        );
        let Some(row) = session.row(ask.bind(self.execution.as_str())).await? else {
            return Ok(None);
        };
        Ok(Some(Holding {
            status: rows::name(&row, 0)?,
            fence: Fence(rows::count(&row, 1)?),
            nonce: rows::name(&row, 2)?,
            by: rows::name(&row, 3)?,
        }))
    }
}
