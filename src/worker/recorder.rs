//! Turns advances into commits, several at once under load, and answers each driver.
//!
//! **Invariant:** an advance is sent only while its lease stands, is sent again until the store
//! has answered it, and its driver goes on only after that answer.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use super::leases::Standing;
use crate::{
    clock::boot_now,
    domain::{notice::LostBy, retry::Backoff},
    instruments::{ByReason, Instruments},
    ports::executions::{Advance, AdvanceError, Advanced, ExecutionStore, StoreError},
};

/// Advances that share one commit at most.
const BATCH: usize = 32;
/// Commits under way at one time.
const COMMITTERS: usize = 2;
/// Advances that wait for a commit; more make their drivers wait.
const QUEUE: usize = 1024;
/// Before an advance that failed is sent again.
const PAUSE: Backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(1) };

/// The lease ended before the write was made: stop, write nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost")]
pub struct LeaseLost;

struct Order {
    advance: Advance,
    standing: Arc<Standing>,
    answer: oneshot::Sender<Result<Advanced, LeaseLost>>,
    /// So often it has failed.
    failures: u32,
    /// It was refused for a value, and holds none of the step's own texts any more.
    bare: bool,
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
            let committer = Committer {
                store: store.clone(),
                instruments: instruments.clone(),
                again: Vec::new(),
                failing: None,
            };
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
        let (began, term) = (boot_now(), standing.term.clone());
        let standing = standing.clone();
        let order = Order { advance, standing, answer, failures: 0, bare: false };
        self.orders.send(order).await.map_err(|_| LeaseLost)?;
        let answer = answered.await.unwrap_or(Err(LeaseLost));
        // Of a lease that is lost, whoever has the execution now tells.
        if answer.is_ok() {
            term.called_database("commit", began, None);
        }
        answer
    }
}

struct Committer {
    store: Arc<dyn ExecutionStore>,
    instruments: Arc<Instruments>,
    /// What failed, and when it is sent again: apart from what is new, so that one advance that
    /// cannot be recorded holds nothing else up.
    again: Vec<(Instant, Order)>,
    /// Why the last advance failed, until one is recorded.
    failing: Option<StoreError>,
}

type Queue = Arc<Mutex<mpsc::Receiver<Order>>>;

impl Committer {
    async fn run(mut self, queue: Queue) {
        let mut open = true;
        while open || !self.again.is_empty() {
            // Waiting may be cut short: neither the lock nor the receive loses anything.
            let mut fresh = Vec::new();
            let received = async { queue.lock().await.recv_many(&mut fresh, BATCH).await };
            let next = self.again.iter().map(|(due, _)| *due).min();
            tokio::select! {
                count = received, if open => open = count > 0,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            self.commit(fresh).await;
            let due = self.take_due();
            self.commit(due).await;
        }
    }

    fn take_due(&mut self) -> Vec<Order> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.again).into_iter().partition(|it| it.0 <= now);
        self.again = later;
        let due: Vec<(Instant, Order)> = due;
        due.into_iter().map(|(_, order)| order).collect()
    }

    /// Sends what may still be sent, and keeps what has to be sent again.
    async fn commit(&mut self, orders: Vec<Order>) {
        let now = boot_now();
        let (standing, lost): (Vec<_>, Vec<_>) =
            orders.into_iter().partition(|order| order.standing.may_act(now));
        for order in lost {
            order.standing.expire(&self.instruments);
            reply(order, Err(LeaseLost));
        }
        if standing.is_empty() {
            return;
        }
        let advances: Vec<Advance> = standing.iter().map(|order| order.advance.clone()).collect();
        let answers = self.store.advance(&advances).await;
        for (order, answer) in standing.into_iter().zip(answers) {
            match answer {
                Ok(advanced) => {
                    self.note_recorded();
                    reply(order, Ok(advanced));
                }
                Err(AdvanceError::Fenced) => {
                    order.standing.refuse(&self.instruments);
                    reply(order, Err(LeaseLost));
                }
                Err(AdvanceError::Store(StoreError::Data(problem))) if order.bare => {
                    self.give_up(order, &problem);
                }
                Err(AdvanceError::Store(error)) => self.send_again(order, error),
            }
        }
    }

    fn send_again(&mut self, mut order: Order, error: StoreError) {
        order.failures += 1;
        if let StoreError::Data(problem) = &error {
            without_texts(&mut order.advance, problem);
            order.bare = true;
        }
        if self.failing.as_ref() != Some(&error) {
            let _of_execution = order.standing.term.log().enter();
            warn!(event = "execution.record_failed", %error,
                "a result could not be recorded; trying again while the lease stands");
            self.failing = Some(error);
        }
        let pause = PAUSE.delay(order.failures, rand::random(), Some(PAUSE.base));
        self.again.push((Instant::now() + pause, order));
    }

    fn note_recorded(&mut self) {
        if self.failing.take().is_some() {
            info!(event = "execution.recording_again", "results are recorded again");
        }
    }

    /// The database refuses something that is not the step's own: whoever takes the execution over
    /// meets the same, and fails it with the reason.
    fn give_up(&self, order: Order, problem: &str) {
        if order.standing.lose(LostBy::Unrecordable) {
            self.instruments.lease_lost.get_or_create(&ByReason { reason: "unrecordable" }).inc();
            let _of_execution = order.standing.term.log().enter();
            error!(
                event = "execution.unrecordable",
                problem, "a result cannot be recorded: the execution is given up"
            );
        }
        reply(order, Err(LeaseLost));
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
    for skip in &mut advance.skipped {
        skip.reason = "why it was skipped could not be stored".into();
    }
    if let Some(finish) = &mut advance.finish {
        finish.error = finish.error.take().map(|_| "why could not be stored; see its steps".into());
    }
}

fn reply(order: Order, answer: Result<Advanced, LeaseLost>) {
    // A driver that no longer waits has lost its lease.
    order.answer.send(answer).ok();
}
