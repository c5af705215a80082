//! Claims under leases that are kept elsewhere: what is due, and how rows stand.
//!
//! **Invariant:** nothing in here locks a row for longer than its own statement.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    MySqlStore, apart, claim,
    errors::Fault,
    facts,
    renew::{self, CHUNK},
    rows,
    session::{Session, made},
    work::{WORK_LIMIT, Work, run},
};
use crate::{
    domain::{
        deferral::Deferral,
        id::ExecutionId,
        lease::{Lease, Renewal},
    },
    ports::{
        executions::{Batch, Claimant, StoreError},
        rows::RowStore,
    },
};

#[async_trait]
impl RowStore for MySqlStore {
    async fn due(&self, as_who: &Claimant, limit: usize) -> Result<Vec<ExecutionId>, StoreError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let work = Due { who: as_who.clone(), limit };
        self.told(run(&self.work, WORK_LIMIT, work).await)
    }

    async fn claim_these(
        &self,
        as_who: &Claimant,
        executions: &[ExecutionId],
    ) -> Result<Batch, StoreError> {
        self.told(claim::claim_these(&self.work, &self.shared, as_who, executions).await)
    }

    async fn put_off(&self, executions: &[ExecutionId]) -> Result<(), StoreError> {
        let work = PutOff { executions: executions.to_vec() };
        Ok(run(&self.work, WORK_LIMIT, work).await?)
    }

    async fn standing(
        &self,
        within: Duration,
        leases: &[Lease],
    ) -> Result<Vec<Renewal>, StoreError> {
        let work = Standing { leases: leases.to_vec() };
        Ok(run(&self.leases, within, work).await?)
    }
}

struct Due {
    who: Claimant,
    limit: u32,
}

#[async_trait]
impl Work for Due {
    type Answer = Vec<ExecutionId>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let facts = facts::of(session).await?;
        let Some(eligible) = claim::due(session, &self.who.eligibility, &facts).await? else {
            return Ok(Vec::new());
        };
        let sql = format!(
            "SELECT id FROM workflow_executions FORCE INDEX (ow_poll) WHERE status='pending' \
             AND ow_fence < 9000000000000000000 AND ow_due <= NOW(3){} ORDER BY ow_due, id LIMIT ?",
            eligible.sql()
        );
        let found = session.rows(eligible.bind(made(sql)).bind(self.limit)).await?;
        found.iter().map(|row| Ok(rows::name(row, 0)?.into())).collect()
    }
}

struct PutOff {
    executions: Vec<ExecutionId>,
}

#[async_trait]
impl Work for PutOff {
    type Answer = ();
    const PATIENT: bool = false;

    async fn attempt(&mut self, session: &mut Session) -> Result<(), Fault> {
        for execution in &self.executions {
            let (backoff, _) = session.shared.defer(execution, &Deferral::Locked);
            apart::put_off(session, execution, backoff).await?;
        }
        Ok(())
    }
}

struct Standing {
    leases: Vec<Lease>,
}

#[async_trait]
impl Work for Standing {
    type Answer = Vec<Renewal>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let mut answers = Vec::with_capacity(self.leases.len());
        for chunk in self.leases.chunks(CHUNK) {
            let found = renew::read(session, chunk, "").await?;
            answers.extend(chunk.iter().map(|lease| lease.standing(found.get(&lease.execution))));
        }
        Ok(answers)
    }
}
