//! `submit`: a pending execution with its step rows, in one transaction.
//!
//! **Invariant:** an execution is never seen without its steps; a submission whose commit went
//! unanswered is looked for, not made twice.

use async_trait::async_trait;
use uuid::Uuid;

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
    domain::id::{ExecutionId, TemplateId},
    ports::control::{ControlError, Submission, Submitted},
};

/// Rows a statement at most.
const CHUNK: usize = 500;

pub(in crate::adapters::mysql) async fn submit(
    lanes: &Lanes<Entrance>,
    submission: &Submission,
) -> Result<Submitted, ControlError> {
    let execution = ExecutionId::from(Uuid::new_v4().to_string());
    let work = Submit { execution: execution.clone(), submission: submission.clone() };
    match run(lanes, WORK_LIMIT, work.clone()).await {
        // The same id again: it is inserted, or found to have been.
        Err(Fault::Unknown(_)) => run(lanes, WORK_LIMIT, work).await?,
        result => result?,
    }
}

#[derive(Clone)]
struct Submit {
    execution: ExecutionId,
    submission: Submission,
}

#[async_trait]
impl Work for Submit {
    type Answer = Result<Submitted, ControlError>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        facts::of(session).await?;
        session.begin().await?;
        let template = match find(session, &self.submission.template).await? {
            Ok(template) => template,
            Err(error) => {
                session.rollback().await?;
                return Ok(Err(error));
            }
        };
        if self.insert_execution(session, &template.id).await? {
            self.insert_steps(session, &template.id).await?;
            session.commit().await?;
        } else {
            session.rollback().await?;
        }
        Ok(Ok(Submitted {
            execution: self.execution.clone(),
            template: template.id,
            template_name: template.name,
        }))
    }
}

/// A template that something may be submitted for.
struct Template {
    id: TemplateId,
    name: String,
}

/// By id, else by name. Databases take names that differ in case only for the same; we do not.
async fn find(
    session: &mut Session,
    wanted: &str,
) -> Result<Result<Template, ControlError>, Fault> {
    let ask = fixed(
        "SELECT id, name, CAST(COALESCE(is_active, 1) AS SIGNED) FROM workflow_templates \
         WHERE id=? OR name=? ORDER BY id",
    );
    let mut found = Vec::new();
    for row in session.rows(ask.bind(wanted).bind(wanted)).await? {
        let template = Template { id: rows::name(&row, 0)?.into(), name: rows::name(&row, 1)? };
        let is_active = rows::number(&row, 2)? != Some(0);
        if template.id.as_str() == wanted {
            found = vec![(template, is_active)];
            break;
        }
        if template.name == wanted {
            found.push((template, is_active));
        }
    }
    let count = found.len();
    let ids: Vec<String> = found.iter().map(|(template, _)| template.id.to_string()).collect();
    Ok(match (found.pop(), count) {
        (None, _) => Err(ControlError::NoTemplate(wanted.into())),
        (Some((template, true)), 1) => Ok(template),
        (Some((_, false)), 1) => Err(ControlError::Inactive(wanted.into())),
        (Some(_), count) => {
            Err(ControlError::Ambiguous { name: wanted.into(), count, ids: ids.join(", ") })
        }
    })
}

impl Submit {
    /// `false` if it is there already, committed by a former try.
    async fn insert_execution(
        &self,
        session: &mut Session,
        template: &TemplateId,
    ) -> Result<bool, Fault> {
        let insert = fixed(
            "INSERT INTO workflow_executions(id, template_id, status, created_by, created_at, \
             updated_at) VALUES (?, ?, 'pending', ?, NOW(3), NOW(3))",
        );
        let insert = insert.bind(self.execution.as_str()).bind(template.as_str());
        match session.matched(insert.bind(&self.submission.created_by)).await {
            Ok(_) => Ok(true),
            Err(Fault::Duplicate(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn insert_steps(
        &self,
        session: &mut Session,
        template: &TemplateId,
    ) -> Result<(), Fault> {
        let ask = fixed(
            "SELECT step_id FROM workflow_template_steps WHERE template_id=? \
             ORDER BY `order`, step_id",
        );
        let steps = session.rows(ask.bind(template.as_str())).await?;
        let steps = steps.iter().map(|row| rows::text(row, 0)).collect::<Result<Vec<_>, _>>()?;
        for chunk in steps.chunks(CHUNK) {
            let row = "(?, ?, ?, 'pending', 0, NOW(3), NOW(3))";
            let sql = format!(
                "INSERT INTO workflow_step_executions(id, execution_id, step_id, status, \
                 retry_count, created_at, updated_at) VALUES {}",
                rows::joined(chunk.len(), row, ", ")
            );
            let insert = chunk.iter().fold(made(sql), |insert, step| {
                let id = Uuid::new_v4().to_string();
                insert.bind(id).bind(self.execution.as_str()).bind(step)
            });
            session.matched(insert).await?;
        }
        Ok(())
    }
}
