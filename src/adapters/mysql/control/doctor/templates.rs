//! Every stored template.

use async_trait::async_trait;

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
    domain::{doctor::Stored, id::TemplateId},
};

/// Templates whose steps are read at once.
const CHUNK: usize = 64;

pub(in crate::adapters::mysql) async fn templates(
    lanes: &Lanes<Entrance>,
) -> Result<Vec<Stored>, Fault> {
    let mut all = Vec::new();
    for chunk in run(lanes, WORK_LIMIT, List).await?.chunks(CHUNK) {
        all.extend(run(lanes, WORK_LIMIT, Read { heads: chunk.to_vec() }).await?);
    }
    Ok(all)
}

#[derive(Clone)]
struct Head {
    id: TemplateId,
    name: String,
    is_active: bool,
}

struct List;

#[async_trait]
impl Work for List {
    type Answer = Vec<Head>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<Head>, Fault> {
        facts::check_version(session).await?;
        let ask = fixed(
            "SELECT id, name, CAST(COALESCE(is_active, 1) AS SIGNED) FROM workflow_templates \
             ORDER BY name, id",
        );
        let head = |row| {
            let is_active = rows::number(row, 2)? != Some(0);
            Ok(Head { id: rows::name(row, 0)?.into(), name: rows::name(row, 1)?, is_active })
        };
        session.rows(ask).await?.iter().map(head).collect()
    }
}

struct Read {
    heads: Vec<Head>,
}

#[async_trait]
impl Work for Read {
    type Answer = Vec<Stored>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<Stored>, Fault> {
        let ids = self.heads.iter().map(|head| head.id.clone()).collect();
        let mut read = templates::definitions(session, &ids).await?;
        let mut all = Vec::new();
        for Head { id, name, is_active } in self.heads.clone() {
            // One that is gone since the list was read is no template any more.
            let Some(definition) = read.remove(&id) else { continue };
            let definition = match definition {
                Err(reason) => Err(reason.to_string()),
                Ok(definition) => match templates::too_long(session, definition.to_text().len()) {
                    Some(reason) => Err(reason),
                    None => Ok(definition),
                },
            };
            all.push(Stored { id, name, is_active, definition });
        }
        Ok(all)
    }
}
