//! The server's clock, beside ours and beside times that the orchestrator wrote.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    adapters::mysql::{
        errors::Fault,
        rows,
        session::{Session, fixed},
        work::Work,
    },
    clock,
    domain::doctor::Clock,
};

pub(super) struct Ask;
pub(super) struct AskOrchestrator;

#[async_trait]
impl Work for Ask {
    type Answer = Clock;

    async fn attempt(&mut self, session: &mut Session) -> Result<Clock, Fault> {
        let before = clock::wall_now_ms();
        let ask =
            fixed("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000");
        let row = session.row(ask).await?;
        let ours = i64::midpoint(before, clock::wall_now_ms());
        let there = row.map(|row| rows::number(&row, 0)).transpose()?.flatten().unwrap_or(ours);
        let (future, farthest) = future(session).await?;
        Ok(Clock {
            ahead_ms: there - ours,
            orchestrator_ms: orchestrator(session).await?,
            future,
            farthest,
        })
    }
}

#[async_trait]
impl Work for AskOrchestrator {
    type Answer = Option<i64>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Option<i64>, Fault> {
        orchestrator(session).await
    }
}

/// Only workers write a fence.
async fn orchestrator(session: &mut Session) -> Result<Option<i64>, Fault> {
    let ask = fixed(
        "SELECT TIMESTAMPDIFF(MICROSECOND, NOW(3), MAX(COALESCE(updated_at, created_at))) DIV 1000 \
         FROM distributed_locks WHERE ow_fence=0",
    );
    let row = session.row(ask).await?;
    Ok(row.map(|row| rows::number(&row, 0)).transpose()?.flatten())
}

async fn future(session: &mut Session) -> Result<(u64, Duration), Fault> {
    let ask = fixed(
        "SELECT COUNT(*), TIMESTAMPDIFF(MICROSECOND, NOW(3), MAX(created_at)) \
         FROM workflow_executions FORCE INDEX (ow_poll) WHERE status='pending' AND ow_due > NOW(3) \
         AND created_at > NOW(3)",
    );
    let row = session.row(ask).await?;
    let farthest = row.as_ref().map(|row| rows::number(row, 1)).transpose()?.flatten();
    let farthest = Duration::from_micros(farthest.map_or(0, |it| u64::try_from(it).unwrap_or(0)));
    Ok((super::count(row.as_ref())?, farthest))
}
