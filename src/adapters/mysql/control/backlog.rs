//! The backlog: how much of it there is, and its release.
//!
//! **Invariant:** a released row is due at the bound of the backlog: before everything newer, and no
//! backlog any more.

use async_trait::async_trait;

use super::find;
use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            eligible::is_backlog,
            errors::Fault,
            facts, rows,
            session::{Entrance, Session, made},
            work::{WORK_LIMIT, Work, run},
        },
    },
    ports::control::{BacklogSummary, ControlError},
};

/// Rows a transaction at most.
const CHUNK: u32 = 1_000;

pub(in crate::adapters::mysql) async fn backlog(
    lanes: &Lanes<Entrance>,
) -> Result<BacklogSummary, Fault> {
    run(lanes, WORK_LIMIT, Count).await
}

struct Count;

#[async_trait]
impl Work for Count {
    type Answer = BacklogSummary;

    async fn attempt(&mut self, session: &mut Session) -> Result<BacklogSummary, Fault> {
        let facts = facts::of(session).await?;
        let ask = made(format!(
            "SELECT COUNT(*), {}, {} FROM workflow_executions FORCE INDEX (ow_poll) \
             WHERE status='pending'{}",
            rows::unix("MIN(ow_due)"),
            rows::unix("MAX(ow_due)"),
            is_backlog()
        ));
        let row = session.row(ask.bind(&facts.backlog_before)).await?;
        let row = row.ok_or_else(|| Fault::Unexpected("a count gave no row".into()))?;
        Ok(BacklogSummary {
            executions: u64::try_from(rows::number(&row, 0)?.unwrap_or(0)).unwrap_or(0),
            oldest: rows::time(&row, 1)?,
            newest: rows::time(&row, 2)?,
        })
    }
}

/// In chunks, so that no claim waits for long; a release that breaks off is simply begun again.
pub(in crate::adapters::mysql) async fn release_backlog(
    lanes: &Lanes<Entrance>,
    template: Option<&str>,
) -> Result<u64, ControlError> {
    let mut all = 0;
    loop {
        let released =
            run(lanes, WORK_LIMIT, Release { template: template.map(str::to_owned) }).await??;
        all += released;
        if released < u64::from(CHUNK) {
            return Ok(all);
        }
    }
}

struct Release {
    template: Option<String>,
}

#[async_trait]
impl Work for Release {
    type Answer = Result<u64, ControlError>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let facts = facts::of(session).await?;
        let template = match &self.template {
            None => None,
            Some(wanted) => match find::template(session, wanted).await? {
                Ok(template) => Some(template.id),
                Err(error) => return Ok(Err(error)),
            },
        };
        let of_template = if template.is_some() { " AND template_id=?" } else { "" };
        let update = made(format!(
            "UPDATE workflow_executions SET ow_fence=ow_fence+1, ow_not_before=?, updated_at=NOW(3) \
             WHERE status='pending'{}{of_template} ORDER BY ow_due, id LIMIT ?",
            is_backlog()
        ));
        let bound = &facts.backlog_before;
        let update = update.bind(bound).bind(bound);
        let update =
            template.iter().fold(update, |update, template| update.bind(template.as_str()));
        Ok(Ok(session.matched_alone(update.bind(CHUNK)).await?))
    }
}
