//! What `graph` draws: a template, or an execution's plan with its steps' states.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::find;
use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            errors::Fault,
            facts, rows,
            session::{Entrance, Session, fixed},
            templates,
            work::{WORK_LIMIT, Work, run},
        },
    },
    domain::{
        definition::Definition,
        id::{StepId, TemplateId},
    },
    ports::control::{ControlError, Drawn},
};

pub(in crate::adapters::mysql) async fn draw(
    lanes: &Lanes<Entrance>,
    which: &str,
) -> Result<Drawn, ControlError> {
    run(lanes, WORK_LIMIT, Draw { which: which.to_owned() }).await?
}

struct Draw {
    which: String,
}

#[async_trait]
impl Work for Draw {
    type Answer = Result<Drawn, ControlError>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        let ask = fixed(
            "SELECT e.template_id, p.plan FROM workflow_executions e \
             LEFT JOIN ow_plans p ON p.sha256=e.ow_plan WHERE e.id=?",
        );
        if let Some(row) = session.row(ask.bind(&self.which)).await? {
            let plan = rows::text(&row, 1)?.and_then(|text| Definition::from_text(&text).ok());
            let definition = match (plan, rows::text(&row, 0)?) {
                (Some(plan), _) => Ok(plan),
                (None, Some(template)) => self.template(session, &template.into()).await?,
                (None, None) => Err(ControlError::NoTemplate(String::new())),
            };
            let states = self.states(session).await?;
            return Ok(definition.map(|definition| Drawn { definition, states }));
        }
        let definition = match find::template(session, &self.which).await? {
            Ok(template) => self.template(session, &template.id).await?,
            Err(error) => Err(error),
        };
        Ok(definition.map(|definition| Drawn { definition, states: BTreeMap::new() }))
    }
}

impl Draw {
    async fn template(
        &self,
        session: &mut Session,
        template: &TemplateId,
    ) -> Result<Result<Definition, ControlError>, Fault> {
        let mut read = templates::definitions(session, &[template.clone()].into()).await?;
        Ok(match read.remove(template) {
            None => Err(ControlError::NoTemplate(template.to_string())),
            Some(Err(reason)) => {
                Err(ControlError::Unreadable(template.to_string(), reason.to_string()))
            }
            Some(Ok(definition)) => Ok(definition),
        })
    }

    async fn states(&self, session: &mut Session) -> Result<BTreeMap<StepId, String>, Fault> {
        let ask = fixed(
            "SELECT step_id, COALESCE(status, 'pending') FROM workflow_step_executions \
             WHERE execution_id=? ORDER BY id DESC",
        );
        let found = session.rows(ask.bind(&self.which)).await?;
        found.iter().map(|row| Ok((rows::name(row, 0)?.into(), rows::name(row, 1)?))).collect()
    }
}
