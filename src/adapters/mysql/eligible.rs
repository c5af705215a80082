//! Which pending rows a claim may take, as conditions of its statements.
//!
//! The backlog is told by its due time: a row that nobody has touched is due since its creation, and
//! whatever sets one free (`backlog release`, an operator's retry) gives it a due time that is no
//! backlog's. So C1 stays a range of its index, however many rows are held.
//!
//! **Invariant:** what C1 asks for and what the look before it asks for is the same.

use std::collections::BTreeSet;

use super::{
    errors::Fault,
    facts::Facts,
    locks, rows,
    session::{Session, Sql, made},
};
use crate::domain::{
    eligibility::{Backlog, Eligibility, Templates},
    id::TemplateId,
};

/// The due time of a row without a time that can be read: it is no backlog.
const TIMELESS: &str = "'2000-01-01 00:00:00'";

/// Conditions on `workflow_executions`, and their values.
#[derive(Clone, Debug)]
pub(super) struct Eligible {
    /// The bound of the backlog, if that is held.
    due_since: Option<String>,
    pub templates: Templates,
}

impl Eligible {
    /// ` AND …`, or nothing.
    pub fn sql(&self) -> String {
        let due = match self.due_since {
            None => String::new(),
            Some(_) => format!(" AND (ow_due >= ? OR ow_due = {TIMELESS})"),
        };
        let marks = rows::marks(self.named().len());
        due + &match &self.templates {
            everything if everything.is_everything() => String::new(),
            Templates::AllBut(_) => {
                format!(" AND (template_id IS NULL OR template_id NOT IN ({marks}))")
            }
            Templates::Only(_) => format!(" AND template_id IN ({marks})"),
        }
    }

    fn named(&self) -> Vec<&TemplateId> {
        match &self.templates {
            Templates::AllBut(ids) | Templates::Only(ids) => rows::filled(ids),
        }
    }

    /// Binds the values of [`Eligible::sql`].
    pub fn bind<'q>(&'q self, sql: Sql<'q>) -> Sql<'q> {
        let sql = self.due_since.iter().fold(sql, sqlx::query::Query::bind);
        self.named().into_iter().fold(sql, |sql, id| sql.bind(id.as_str()))
    }

    /// But for templates.
    pub fn by_due_time(eligibility: &Eligibility, facts: &Facts) -> Self {
        Self {
            due_since: match eligibility.backlog {
                Backlog::Run => None,
                Backlog::Hold => Some(facts.backlog_before.clone()),
            },
            templates: Templates::AllBut(BTreeSet::new()),
        }
    }

    /// With templates; `None` if no row can be eligible.
    pub async fn read(
        session: &mut Session,
        eligibility: &Eligibility,
        facts: &Facts,
    ) -> Result<Option<Self>, Fault> {
        let templates = templates(session, eligibility).await?;
        let eligible = Self { templates, ..Self::by_due_time(eligibility, facts) };
        Ok(eligible.unless_nothing())
    }

    /// The same without templates that are busy, if each is to have one execution at a time: however
    /// many wait for theirs, they keep no other from being claimed.
    pub async fn of_free_templates(
        session: &mut Session,
        eligibility: &Eligibility,
        facts: &Facts,
    ) -> Result<Option<Self>, Fault> {
        let Some(mut eligible) = Self::read(session, eligibility, facts).await? else {
            return Ok(None);
        };
        if eligibility.one_per_template {
            eligible.templates.keep_out(&locks::busy_templates(session).await?);
        }
        Ok(eligible.unless_nothing())
    }

    /// The same, backlog and all.
    pub fn whatever_its_age(self) -> Self {
        Self { due_since: None, ..self }
    }

    fn unless_nothing(self) -> Option<Self> {
        (!self.templates.is_nothing()).then_some(self)
    }
}

/// The backlog, whatever is set: ` AND …` without values of its own but the bound.
pub(super) fn is_backlog() -> String {
    format!(" AND ow_due < ? AND ow_due > {TIMELESS} AND ow_fence=0")
}

async fn templates(session: &mut Session, eligibility: &Eligibility) -> Result<Templates, Fault> {
    let names: Vec<&str> = eligibility.names().collect();
    let mut sql = String::from("SELECT template_id, NULL FROM ow_paused");
    if !names.is_empty() {
        sql += " UNION ALL SELECT id, name FROM workflow_templates WHERE name IN (";
        sql += &rows::marks(names.len());
        sql += ")";
    }
    let ask = names.into_iter().fold(made(sql), sqlx::query::Query::bind);
    let (mut paused, mut named) = (BTreeSet::new(), Vec::new());
    for row in session.rows(ask).await? {
        let id = TemplateId::from(rows::name(&row, 0)?);
        match rows::text(&row, 1)? {
            None => drop(paused.insert(id)),
            Some(name) => named.push((id, name)),
        }
    }
    Ok(eligibility.templates(&named, &paused))
}
