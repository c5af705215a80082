//! Templates by what an operator calls them.

use crate::{
    adapters::sqlite::{errors::Failure, rows::Cells, session::Moment},
    domain::id::TemplateId,
    ports::control::ControlError,
};

pub(super) struct Template {
    pub id: TemplateId,
    pub name: String,
    /// Something may be submitted for it.
    pub is_active: bool,
}

/// By id, else by its one name.
pub(super) async fn template(moment: &mut Moment<'_>, word: &str) -> Result<Template, Failure> {
    let rows = sqlx::query(
        "SELECT id, name, COALESCE(is_active, 1) AS is_active FROM workflow_templates
          WHERE id=?1 OR name=?1 ORDER BY id<>?1, id",
    )
    .bind(word)
    .fetch_all(moment.on())
    .await?;
    let Some(first) = rows.first() else {
        return Err(ControlError::NoTemplate(word.into()).into());
    };
    if rows.len() > 1 && first.word("id")? != word {
        let ids: Result<Vec<String>, _> = rows.iter().map(|row| row.word("id")).collect();
        let (name, ids) = (word.into(), ids?.join(", "));
        return Err(ControlError::Ambiguous { name, count: rows.len(), ids }.into());
    }
    Ok(Template {
        id: first.word("id")?.into(),
        name: first.word("name")?,
        is_active: first.yes("is_active")?,
    })
}
