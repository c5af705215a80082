//! Turns advances into commits, several at once under load, and answers each driver.
//!
//! **Invariant:** an advance is sent only while its lease stands, is sent again until the store
//! has answered it, and its driver goes on only after that answer.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
    time::sleep,
};
use tracing::warn;

use super::leases::Standing;
use crate::{
    clock::boot_now,
    instruments::{ByReason, Instruments},
    ports::executions::{Advance, AdvanceError, Advanced, ExecutionStore, StoreError},
};

/// Advances that share one commit at most.
const BATCH: usize = 32;
/// Commits under way at one time.
const COMMITTERS: usize = 2;
/// Advances that wait for a commit; more make their drivers wait.
const QUEUE: usize = 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The lease ended before the write was made: stop, write nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost")]
pub struct LeaseLost;

struct Order {
    advance: Advance,
    standing: Arc<Standing>,
    answer: oneshot::Sender<Result<Advanced, LeaseLost>>,
}

/// Where drivers hand in what happened.
#[derive(Clone)]
pub struct Recorder {
    orders: mpsc::Sender<Order>,
}

impl Recorder {
    /// Starts the committers; they end when every `Recorder` is gone and the queue is empty.
    pub fn start(
        store: &Arc<dyn ExecutionStore>,
        instruments: &Arc<Instruments>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (orders, queue) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..COMMITTERS {
            let committer = Committer { store: store.clone(), instruments: instruments.clone() };
            tasks.spawn(committer.run(queue.clone()));
        }
        Self { orders }
    }

    /// Returns once the advance is committed, or can no longer be.
    pub async fn record(
        &self,
        standing: &Arc<Standing>,
        advance: Advance,
    ) -> Result<Advanced, LeaseLost> {
        let (answer, answered) = oneshot::channel();
        let order = Order { advance, standing: standing.clone(), answer };
        self.orders.send(order).await.map_err(|_| LeaseLost)?;
        answered.await.unwrap_or(Err(LeaseLost))
    }
}

struct Committer {
    store: Arc<dyn ExecutionStore>,
    instruments: Arc<Instruments>,
}

impl Committer {
    async fn run(self, queue: Arc<Mutex<mpsc::Receiver<Order>>>) {
        loop {
            let mut orders = Vec::new();
            if queue.lock().await.recv_many(&mut orders, BATCH).await == 0 {
                return;
            }
            let mut pause = FIRST_PAUSE;
            loop {
                orders = self.commit(orders).await;
                if orders.is_empty() {
                    break;
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Sends what may still be sent; returns what has to be sent again.
    async fn commit(&self, orders: Vec<Order>) -> Vec<Order> {
        let now = boot_now();
        let (standing, lost): (Vec<_>, Vec<_>) =
            orders.into_iter().partition(|order| order.standing.may_act(now));
        for order in lost {
            order.standing.lose();
            reply(order, Err(LeaseLost));
        }
        if standing.is_empty() {
            return Vec::new();
        }
        let advances: Vec<Advance> = standing.iter().map(|order| order.advance.clone()).collect();
        let answers = self.store.advance(&advances).await;
        let mut again = Vec::new();
        for (mut order, answer) in standing.into_iter().zip(answers) {
            match answer {
                Ok(advanced) => reply(order, Ok(advanced)),
                Err(AdvanceError::Fenced) => {
                    self.note_fenced(&order.standing);
                    reply(order, Err(LeaseLost));
                }
                Err(AdvanceError::Store(error)) => {
                    warn!(event = "execution.record_failed", %error,
                        execution.id = %order.standing.lease.execution,
                        "a result could not be recorded; trying again while the lease stands");
                    if let StoreError::Data(problem) = error {
                        without_texts(&mut order.advance, &problem);
                    }
                    again.push(order);
                }
            }
        }
        again
    }

    fn note_fenced(&self, standing: &Standing) {
        self.instruments.fenced_writes.inc();
        if standing.lose() {
            self.instruments.lease_lost.get_or_create(&ByReason { reason: "fenced" }).inc();
            warn!(event = "lease.fenced", execution.id = %standing.lease.execution,
                lease.fence = standing.lease.fence.0,
                "a write was refused because the execution has a newer holder");
        }
    }
}

/// The database refused a value: what the step said is given up, so that how it ended is kept.
fn without_texts(advance: &mut Advance, problem: &str) {
    for end in &mut advance.ended {
        end.output = None;
        if end.error.is_some() || !end.succeeded {
            end.error = Some(format!("what the step said could not be stored: {problem}"));
        }
    }
    for retry in &mut advance.retrying {
        retry.error = format!("what the step said could not be stored: {problem}");
    }
}

fn reply(order: Order, answer: Result<Advanced, LeaseLost>) {
    // A driver that no longer waits has lost its lease.
    order.answer.send(answer).ok();
}
