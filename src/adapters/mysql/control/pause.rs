//! `pause` and `resume`: rows of `ow_paused`, which every claim reads.

use async_trait::async_trait;

use super::find;
use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            errors::Fault,
            facts, rows,
            session::{Entrance, Session, fixed, made},
            work::{WORK_LIMIT, Work, run},
        },
    },
    domain::{eligibility::ALL_TEMPLATES, id::TemplateId},
    ports::control::{ControlError, Pausable, PauseChange, Paused},
};

/// Pauses, or takes a pause back.
pub(in crate::adapters::mysql) async fn pause(
    lanes: &Lanes<Entrance>,
    which: &Pausable,
    paused: bool,
) -> Result<PauseChange, ControlError> {
    run(lanes, WORK_LIMIT, Pause { which: which.clone(), paused }).await?
}

struct Pause {
    which: Pausable,
    paused: bool,
}

#[async_trait]
impl Work for Pause {
    type Answer = Result<PauseChange, ControlError>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        let template = match &self.which {
            Pausable::All => None,
            Pausable::Template(wanted) => match find::template(session, wanted).await? {
                Ok(template) => Some(template),
                Err(error) => return Ok(Err(error)),
            },
        };
        let id = template.as_ref().map_or(ALL_TEMPLATES, |template| template.id.as_str());
        let change = if self.paused {
            fixed("INSERT IGNORE INTO ow_paused(template_id, since) VALUES (?, NOW(3))")
        } else {
            fixed("DELETE FROM ow_paused WHERE template_id=?")
        };
        let changed = session.matched_alone(change.bind(id)).await? == 1;
        let (template, template_name) =
            template.map(|template| (template.id, template.name)).unzip();
        Ok(Ok(PauseChange { template, template_name, changed }))
    }
}

pub(in crate::adapters::mysql) async fn paused(
    lanes: &Lanes<Entrance>,
) -> Result<Vec<Paused>, Fault> {
    run(lanes, WORK_LIMIT, List).await
}

struct List;

#[async_trait]
impl Work for List {
    type Answer = Vec<Paused>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<Paused>, Fault> {
        facts::of(session).await?;
        let ask = made(format!(
            "SELECT p.template_id, t.name, {} FROM ow_paused p \
             LEFT JOIN workflow_templates t ON t.id=p.template_id ORDER BY p.since, p.template_id",
            rows::unix("p.since")
        ));
        let found = session.rows(ask).await?;
        let paused = |row| {
            let id = rows::name(row, 0)?;
            Ok(Paused {
                template: (id != ALL_TEMPLATES).then(|| TemplateId::from(id)),
                template_name: rows::text(row, 1)?,
                since: rows::time(row, 2)?,
            })
        };
        found.iter().map(paused).collect()
    }
}
