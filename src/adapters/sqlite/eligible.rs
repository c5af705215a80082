//! Which pending rows a claim may take.
//!
//! **Invariant:** the look before a claim, the claim and the count of what waits ask for the same.

use std::collections::BTreeSet;

use sqlx::{Sqlite, SqliteConnection, query::Query, sqlite::SqliteArguments};

use super::{
    errors::Failure,
    locks,
    rows::{Cells, list},
};
use crate::domain::{
    eligibility::{Backlog, Eligibility, Templates},
    id::TemplateId,
};

/// Rows that were created before this time and never touched are backlog.
pub(super) const BACKLOG_BEFORE: &str =
    "(SELECT strftime('%Y-%m-%d %H:%M:%f', first_migrated_at, '-1 day') FROM ow_meta WHERE id=1)";

/// The backlog, whatever is set. A row without a time that can be read is none.
pub(super) fn is_backlog() -> String {
    format!(
        "(status='pending' AND ow_due<{BACKLOG_BEFORE} AND ow_due>'2000-01-01 00:00:00.000'
          AND ow_fence=0)"
    )
}

/// A condition on `workflow_executions` whose parameters are `?1` to `?3`.
pub(super) fn is_eligible() -> String {
    format!(
        "(?1=0 OR ow_due>={BACKLOG_BEFORE} OR ow_due='2000-01-01 00:00:00.000')
         AND CASE WHEN ?2 THEN template_id IS NULL OR template_id NOT IN
                               (SELECT value FROM json_each(?3))
                  ELSE template_id IN (SELECT value FROM json_each(?3)) END"
    )
}

/// The values of [`is_eligible`].
#[derive(Clone, Debug)]
pub(super) struct Eligible {
    holds_backlog: bool,
    pub(super) templates: Templates,
}

impl Eligible {
    pub(super) async fn read(
        connection: &mut SqliteConnection,
        eligibility: &Eligibility,
    ) -> Result<Self, Failure> {
        let holds_backlog = eligibility.backlog == Backlog::Hold;
        Ok(Self { holds_backlog, templates: templates(connection, eligibility).await? })
    }

    /// The same without templates that are busy, if each is to have one execution at a time: however
    /// many wait for theirs, they keep no other from being claimed.
    pub(super) async fn of_free_templates(
        connection: &mut SqliteConnection,
        eligibility: &Eligibility,
    ) -> Result<Self, Failure> {
        let mut eligible = Self::read(connection, eligibility).await?;
        if eligibility.one_per_template {
            eligible.templates.keep_out(&locks::busy_templates(connection).await?);
        }
        Ok(eligible)
    }

    /// The same, backlog and all.
    pub(super) fn whatever_its_age(self) -> Self {
        Self { holds_backlog: false, ..self }
    }

    /// Binds `?1` to `?3`.
    pub(super) fn bind<'q>(
        &self,
        query: Query<'q, Sqlite, SqliteArguments>,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        let (all_but, templates) = match &self.templates {
            Templates::AllBut(out) => (true, list(out)),
            Templates::Only(only) => (false, list(only)),
        };
        query.bind(self.holds_backlog).bind(all_but).bind(templates)
    }
}

async fn templates(
    connection: &mut SqliteConnection,
    eligibility: &Eligibility,
) -> Result<Templates, Failure> {
    let rows = sqlx::query(
        "SELECT template_id AS id, NULL AS name FROM ow_paused
          UNION ALL SELECT id, name FROM workflow_templates
          WHERE name IN (SELECT value FROM json_each(?1))",
    )
    .bind(list(eligibility.names()))
    .fetch_all(connection)
    .await?;
    let (mut paused, mut named) = (BTreeSet::new(), Vec::new());
    for row in &rows {
        let id = TemplateId::from(row.word("id")?);
        match row.text("name")? {
            None => drop(paused.insert(id)),
            Some(name) => named.push((id, name)),
        }
    }
    Ok(eligibility.templates(&named, &paused))
}
