//! The stored step that may run for longest.

use async_trait::async_trait;

use crate::{
    adapters::mysql::{
        errors::Fault,
        rows,
        session::{Session, fixed},
        work::Work,
    },
    domain::{drain_contract::LongestStep, step::DEFAULT_TIMEOUT},
};

pub(super) struct Ask;

#[async_trait]
impl Work for Ask {
    type Answer = Option<LongestStep>;

    /// No timeout, or 0, is the default one.
    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault> {
        let ask = fixed(
            "SELECT t.name, s.name, CAST(COALESCE(NULLIF(s.timeout, 0), ?) AS SIGNED) AS seconds \
             FROM steps s JOIN workflow_template_steps l ON l.step_id=s.id \
             JOIN workflow_templates t ON t.id=l.template_id \
             ORDER BY seconds DESC, t.id, s.id LIMIT 1",
        )
        .bind(DEFAULT_TIMEOUT.as_secs());
        let row = session.row(ask).await?;
        row.map(|row| {
            let seconds = rows::number(&row, 2)?.unwrap_or(0);
            let seconds = u64::try_from(seconds).unwrap_or(0);
            Ok(LongestStep::new(rows::name(&row, 0)?, rows::name(&row, 1)?, seconds))
        })
        .transpose()
    }
}
