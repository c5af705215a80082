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
#[derive(Clone, Debug, Default)]
pub(super) struct Eligible {
    sql: String,
    values: Vec<String>,
}

impl Eligible {
    /// ` AND …`, or nothing.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Binds the values of [`Eligible::sql`].
    pub fn bind<'q>(&'q self, sql: Sql<'q>) -> Sql<'q> {
        self.values.iter().fold(sql, sqlx::query::Query::bind)
    }

    /// Some templates are kept out.
    pub fn names_templates(&self) -> bool {
        self.sql.contains("template_id")
    }

    /// But for templates.
    pub fn by_due_time(eligibility: &Eligibility, facts: &Facts) -> Self {
        match eligibility.backlog {
            Backlog::Run => Self::default(),
            Backlog::Hold => Self {
                sql: format!(" AND (ow_due >= ? OR ow_due = {TIMELESS})"),
                values: vec![facts.backlog_before.clone()],
            },
        }
    }

    /// With templates; `None` if no row can be eligible.
    pub async fn read(
        session: &mut Session,
        eligibility: &Eligibility,
        facts: &Facts,
    ) -> Result<Option<Self>, Fault> {
        let kept_out = BTreeSet::new();
        Self::but_for(kept_out, session, eligibility, facts).await
    }

    /// The same without templates that are locked by somebody, if each is to have one execution at a
    /// time: however many wait for theirs, they keep no other from being claimed.
    pub async fn of_free_templates(
        session: &mut Session,
        eligibility: &Eligibility,
        facts: &Facts,
    ) -> Result<Option<Self>, Fault> {
        let busy = if eligibility.one_per_template {
            locks::busy_templates(session).await?
        } else {
            BTreeSet::new()
        };
        Self::but_for(busy, session, eligibility, facts).await
    }

    async fn but_for(
        kept_out: BTreeSet<TemplateId>,
        session: &mut Session,
        eligibility: &Eligibility,
        facts: &Facts,
    ) -> Result<Option<Self>, Fault> {
        let mut eligible = Self::by_due_time(eligibility, facts);
        let (ids, condition) = match templates(session, eligibility, kept_out).await? {
            Templates::AllBut(out) if out.is_empty() => return Ok(Some(eligible)),
            Templates::Only(only) if only.is_empty() => return Ok(None),
            Templates::AllBut(out) => {
                let out = rows::filled(out);
                let marks = rows::marks(out.len());
                (out, format!(" AND (template_id IS NULL OR template_id NOT IN ({marks}))"))
            }
            Templates::Only(only) => {
                let only = rows::filled(only);
                let marks = rows::marks(only.len());
                (only, format!(" AND template_id IN ({marks})"))
            }
        };
        eligible.sql += &condition;
        eligible.values.extend(ids.iter().map(ToString::to_string));
        Ok(Some(eligible))
    }
}

/// The backlog, whatever is set: ` AND …` without values of its own but the bound.
pub(super) fn is_backlog() -> String {
    format!(" AND ow_due < ? AND ow_due > {TIMELESS} AND ow_fence=0")
}

async fn templates(
    session: &mut Session,
    eligibility: &Eligibility,
    mut kept_out: BTreeSet<TemplateId>,
) -> Result<Templates, Fault> {
    let names: Vec<&str> = eligibility.names().collect();
    let mut sql = String::from("SELECT template_id, NULL FROM ow_paused");
    if !names.is_empty() {
        sql += " UNION ALL SELECT id, name FROM workflow_templates WHERE name IN (";
        sql += &rows::marks(names.len());
        sql += ")";
    }
    let ask = names.into_iter().fold(made(sql), sqlx::query::Query::bind);
    let mut named = Vec::new();
    for row in session.rows(ask).await? {
        let id = TemplateId::from(rows::name(&row, 0)?);
        match rows::text(&row, 1)? {
            None => drop(kept_out.insert(id)),
            Some(name) => named.push((id, name)),
        }
    }
    Ok(eligibility.templates(&named, &kept_out))
}
