//! A plain key that is acquired, renewed and released for trial.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    adapters::mysql::{
        errors::Fault,
        locks::{self, Taking},
        session::{Session, fixed},
        work::Work,
    },
    domain::{
        doctor::RoundTrip,
        id::{Beat, Fence, LockKey},
    },
};

/// Should this process die in between, workers delete the row soon after.
const TTL: Duration = Duration::from_secs(10);
const OWNER: &str = "orchestrator-worker-doctor";
const FENCE: Fence = Fence(1);

pub(super) struct Try {
    key: LockKey,
}

impl Try {
    pub fn new() -> Self {
        Self { key: format!("orchestrator_worker_doctor:{}", Uuid::new_v4()).into() }
    }

    async fn renew(&self, session: &mut Session) -> Result<u64, Fault> {
        let update = fixed(
            "UPDATE distributed_locks SET expires_at=NOW(3)+INTERVAL ? MICROSECOND, \
             updated_at=NOW(3), ow_beat=2 WHERE lock_key=? AND owner=? AND ow_fence=?",
        );
        let update = update.bind(locks::micros(TTL)).bind(self.key.as_str());
        session.matched_alone(update.bind(OWNER).bind(FENCE.0)).await
    }

    async fn release(&self, session: &mut Session) -> Result<u64, Fault> {
        let delete =
            fixed("DELETE FROM distributed_locks WHERE lock_key=? AND owner=? AND ow_fence=?");
        session.matched_alone(delete.bind(self.key.as_str()).bind(OWNER).bind(FENCE.0)).await
    }
}

#[async_trait]
impl Work for Try {
    type Answer = RoundTrip;

    async fn attempt(&mut self, session: &mut Session) -> Result<RoundTrip, Fault> {
        let began = Instant::now();
        let taking = Taking { owner: OWNER, fence: FENCE, ttl: TTL, beat: Beat(1) };
        locks::insert(session, &self.key, &taking).await?;
        let acquired = Instant::now();
        let renewed = self.renew(session).await;
        let renewed_at = Instant::now();
        // Whatever the renewal has met, nothing stays behind.
        let released = self.release(session).await;
        let round = RoundTrip {
            acquire: acquired - began,
            renew: renewed_at - acquired,
            release: renewed_at.elapsed(),
        };
        match (renewed?, released?) {
            (1, 1) => Ok(round),
            _ => {
                Err(Fault::Unexpected("a lock row of our own was changed by somebody else".into()))
            }
        }
    }
}
