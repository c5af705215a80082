//! `apply`: a definition into the orchestrator's tables, in one transaction.
//!
//! **Invariant:** applying the same definition twice changes nothing; executions that have begun keep
//! the plan of their first claim.

use std::collections::BTreeSet;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            errors::Fault,
            facts, rows,
            session::{Entrance, Session, fixed, made},
            templates,
            work::{WORK_LIMIT, Work, run},
        },
    },
    domain::{
        definition::{Definition, RecordedStep},
        id::{StepId, TemplateId},
    },
    ports::control::{About, Applied},
};

/// Rows a statement at most.
const CHUNK: usize = 200;

pub(in crate::adapters::mysql) async fn apply(
    lanes: &Lanes<Entrance>,
    definition: &Definition,
    about: &About,
) -> Result<Applied, Fault> {
    let mut definition = definition.clone();
    definition.sort();
    run(lanes, WORK_LIMIT, Apply { definition, about: about.clone() }).await
}

struct Apply {
    /// Sorted, as [`templates::definitions`] gives them.
    definition: Definition,
    about: About,
}

#[async_trait]
impl Work for Apply {
    type Answer = Applied;

    async fn attempt(&mut self, session: &mut Session) -> Result<Applied, Fault> {
        facts::of(session).await?;
        session.begin().await?;
        let id = &self.definition.template;
        let lock = fixed("SELECT description FROM workflow_templates WHERE id=? FOR UPDATE");
        let applied = match session.row(lock.bind(id.as_str())).await? {
            None => {
                self.insert_template(session).await?;
                Applied::Created
            }
            Some(row) => {
                let description = rows::name(&row, 0)?;
                let there = templates::definitions(session, &BTreeSet::from([id.clone()])).await?;
                let same = there.get(id).is_some_and(|it| it.as_ref() == Ok(&self.definition));
                if same && description == self.about.description {
                    session.rollback().await?;
                    return Ok(Applied::Unchanged);
                }
                self.update_template(session).await?;
                Applied::Changed
            }
        };
        self.put_steps(session).await?;
        self.replace_links(session).await?;
        session.commit().await?;
        Ok(applied)
    }
}

impl Apply {
    async fn insert_template(&self, session: &mut Session) -> Result<(), Fault> {
        let insert = fixed(
            "INSERT INTO workflow_templates(id, name, description, creator_email, is_active, \
             created_at, updated_at) VALUES (?, ?, ?, ?, 1, NOW(3), NOW(3))",
        );
        let insert = insert.bind(self.definition.template.as_str()).bind(&self.definition.name);
        session.matched(insert.bind(&self.about.description).bind(&self.about.creator)).await?;
        Ok(())
    }

    /// Its creator stays, whoever changes it.
    async fn update_template(&self, session: &mut Session) -> Result<(), Fault> {
        let update = fixed(
            "UPDATE workflow_templates SET name=?, description=?, updated_at=NOW(3) WHERE id=?",
        );
        let update = update.bind(&self.definition.name).bind(&self.about.description);
        session.matched(update.bind(self.definition.template.as_str())).await?;
        Ok(())
    }

    /// By id, so that two commands meet the rows in one order.
    async fn put_steps(&self, session: &mut Session) -> Result<(), Fault> {
        let mut steps: Vec<&RecordedStep> = self.definition.steps.iter().collect();
        steps.sort_by(|a, b| a.id.cmp(&b.id));
        for chunk in steps.chunks(CHUNK) {
            let sql = format!(
                "INSERT INTO steps(id, name, executor_type, http_method, http_url, http_headers, \
                 http_body, shell_script, shell_env, parameters, timeout, retries, creator_email, \
                 created_at, updated_at) VALUES {} ON DUPLICATE KEY UPDATE name=VALUES(name), \
                 executor_type=VALUES(executor_type), http_method=VALUES(http_method), \
                 http_url=VALUES(http_url), http_headers=VALUES(http_headers), \
                 http_body=VALUES(http_body), shell_script=VALUES(shell_script), \
                 shell_env=VALUES(shell_env), parameters=VALUES(parameters), \
                 timeout=VALUES(timeout), retries=VALUES(retries), updated_at=NOW(3)",
                rows::joined(chunk.len(), "(?,?,?,?,?,?,?,?,?,?,?,?,?,NOW(3),NOW(3))", ", ")
            );
            let insert = chunk.iter().fold(made(sql), |insert, step| {
                insert
                    .bind(step.id.as_str())
                    .bind(&step.name)
                    .bind(&step.executor_type)
                    .bind(&step.http_method)
                    .bind(&step.http_url)
                    .bind(&step.http_headers)
                    .bind(&step.http_body)
                    .bind(&step.shell_script)
                    .bind(&step.shell_env)
                    .bind(&step.parameters)
                    .bind(step.timeout)
                    .bind(step.retries)
                    .bind(&self.about.creator)
            });
            session.matched(insert).await?;
        }
        Ok(())
    }

    async fn replace_links(&self, session: &mut Session) -> Result<(), Fault> {
        let template = &self.definition.template;
        let delete = fixed("DELETE FROM workflow_template_steps WHERE template_id=?");
        session.matched(delete.bind(template.as_str())).await?;
        for chunk in self.definition.steps.chunks(CHUNK) {
            let sql = format!(
                "INSERT INTO workflow_template_steps(id, template_id, step_id, dependencies, \
                 run_mode, on_failure, `order`, created_at) VALUES {}",
                rows::joined(chunk.len(), "(?, ?, ?, ?, ?, ?, ?, NOW(3))", ", ")
            );
            let insert = chunk.iter().fold(made(sql), |insert, step| {
                insert
                    .bind(link_id(template, &step.id))
                    .bind(template.as_str())
                    .bind(step.id.as_str())
                    .bind(&step.dependencies)
                    .bind(&step.run_mode)
                    .bind(&step.on_failure)
                    .bind(step.order)
            });
            session.matched(insert).await?;
        }
        Ok(())
    }
}

/// The same at each apply.
fn link_id(template: &TemplateId, step: &StepId) -> String {
    let name = format!("{}:{template}/{step}", template.as_str().len());
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}
