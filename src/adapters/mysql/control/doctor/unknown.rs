//! How many executions have a status that there is not.

use async_trait::async_trait;

use crate::adapters::mysql::{
    errors::Fault,
    session::{Session, fixed},
    work::Work,
};

pub(super) struct Count;

#[async_trait]
impl Work for Count {
    type Answer = u64;

    async fn attempt(&mut self, session: &mut Session) -> Result<u64, Fault> {
        let ask = fixed(
            "SELECT COUNT(*) FROM workflow_executions FORCE INDEX (ow_poll) WHERE status IS NULL \
             OR status NOT IN ('pending','running','success','failed','cancelled')",
        );
        super::count(session.row(ask).await?.as_ref())
    }
}
