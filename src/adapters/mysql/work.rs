//! Pieces of work as jobs for a lane.
//!
//! **Invariant:** a piece of work is tried as a whole: what the server rolled back, and what met a
//! lock, is done again from its beginning after a ROLLBACK; no transaction is open between tries.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::{
    errors::Fault,
    session::{Entrance, Session},
};
use crate::adapters::lane::Lanes;

/// What is done on one session, from begin to commit. It may be tried several times.
#[async_trait]
pub(super) trait Work: Send + 'static {
    type Answer: Send + 'static;
    /// Whether it is tried again where a lock was not free in time. Work on many rows is not: its
    /// caller does without those that are locked.
    const PATIENT: bool = true;

    async fn attempt(&mut self, session: &mut Session) -> Result<Self::Answer, Fault>;
}

/// The first connection; a person waits for it.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A renewal must be answered, or given up, several times within a lease.
pub(super) fn lease_limit(ttl: Duration) -> Duration {
    (ttl / 6).clamp(Duration::from_secs(1), Duration::from_secs(5))
}
/// Everything else; longer than some waits for a lock.
pub(super) const WORK_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait before the next try after a deadlock.
const JITTER: Duration = Duration::from_millis(50);

/// Runs `work` on one of `lanes`. `limit` bounds connecting and the work, each; half of it is for
/// trying again.
pub(super) async fn run<W: Work>(
    lanes: &Lanes<Entrance>,
    limit: Duration,
    work: W,
) -> Result<W::Answer, Fault> {
    lanes.run(limit, move |session| Box::pin(carry_out(session, work, limit / 2))).await?
}

/// The outer error costs the connection, the inner one does not.
async fn carry_out<W: Work>(
    session: &mut Session,
    mut work: W,
    retry_for: Duration,
) -> Result<Result<W::Answer, Fault>, Fault> {
    let began = Instant::now();
    loop {
        let fault = match work.attempt(session).await {
            Ok(answer) => return Ok(Ok(answer)),
            Err(fault) if fault.costs_the_connection() => return Err(fault),
            Err(fault) => fault,
        };
        session.rollback().await?;
        if matches!(fault, Fault::NotMigrated | Fault::Busy(_)) {
            // What was learnt about the tables may be out of date.
            session.shared.learn_facts(None);
        }
        let waits = W::PATIENT || !matches!(fault, Fault::LockWait(_));
        if !fault.is_passing() || !waits || began.elapsed() >= retry_for {
            return Ok(Err(fault));
        }
        sleep(JITTER.mul_f64(rand::random())).await;
    }
}
