//! Templates by what an operator calls them.

use crate::{
    adapters::mysql::{
        errors::Fault,
        rows,
        session::{Session, fixed},
    },
    domain::id::TemplateId,
    ports::control::ControlError,
};

pub(super) struct Template {
    pub id: TemplateId,
    pub name: String,
    /// Something may be submitted for it.
    pub is_active: bool,
}

/// By id, else by name. Databases take names that differ in case only for the same; we do not.
pub(super) async fn template(
    session: &mut Session,
    wanted: &str,
) -> Result<Result<Template, ControlError>, Fault> {
    let ask = fixed(
        "SELECT id, name, CAST(COALESCE(is_active, 1) AS SIGNED) FROM workflow_templates \
         WHERE id=? OR name=? ORDER BY id",
    );
    let mut found = Vec::new();
    for row in session.rows(ask.bind(wanted).bind(wanted)).await? {
        let template = Template {
            id: rows::name(&row, 0)?.into(),
            name: rows::name(&row, 1)?,
            is_active: rows::number(&row, 2)? != Some(0),
        };
        if template.id.as_str() == wanted {
            return Ok(Ok(template));
        }
        if template.name == wanted {
            found.push(template);
        }
    }
    let count = found.len();
    let ids: Vec<String> = found.iter().map(|template| template.id.to_string()).collect();
    Ok(match (found.pop(), count) {
        (None, _) => Err(ControlError::NoTemplate(wanted.into())),
        (Some(template), 1) => Ok(template),
        (Some(_), count) => {
            Err(ControlError::Ambiguous { name: wanted.into(), count, ids: ids.join(", ") })
        }
    })
}
