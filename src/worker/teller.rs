//! Ends of executions whose spans are on their way: noted in the store once they have arrived, and told
//! by somebody else if that does not come.
//!
//! **Invariant:** an end is noted as told only after its spans have arrived or were given up, and nobody else
//! tells of it while its worker lives and may send them still.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info};

use super::{shared::Shared, spans::Past};
use crate::{
    domain::lease::Lease,
    ports::{
        executions::StoreError,
        spans::Gone,
        traced::{Telling, TracedEnd},
    },
};

/// Ends that are noted, and that are taken from others, in one go.
const AT_ONCE: usize = 500;
const TAKEN: u32 = 100;
/// Between two looks at what others have left untold, and at what of the own is on its way for long.
const EVERY: Duration = Duration::from_secs(15);
/// Before what could not be noted is noted again.
const PAUSE: Duration = Duration::from_secs(1);
/// For the last spans to arrive, and to be noted.
const LAST: Duration = Duration::from_secs(5);

/// The ends whose spans are on their way.
#[derive(Default)]
pub struct Untold(Mutex<State>);

#[derive(Default)]
struct State {
    /// Since when.
    ends: HashMap<TracedEnd, Instant>,
    /// Where those go whose spans are gone; `None` before the first and after the last.
    gone: Option<UnboundedSender<TracedEnd>>,
}

impl Untold {
    /// Those whose spans are gone, until [`Untold::close`].
    pub fn gone(&self) -> UnboundedReceiver<TracedEnd> {
        let (sender, receiver) = unbounded_channel();
        self.state().gone = Some(sender);
        receiver
    }

    /// One more; to be called when its spans are gone.
    pub fn add(&self, end: TracedEnd) -> Gone {
        let mut state = self.state();
        state.ends.insert(end.clone(), Instant::now());
        let sender = state.gone.clone();
        Box::new(move || {
            // Where nobody listens any more, it is left to others.
            sender.and_then(|sender| sender.send(end).ok());
        })
    }

    /// None follows: the receiver ends with the last that was added.
    fn close(&self) {
        self.state().gone.take();
    }

    fn forget(&self, ends: &[TracedEnd]) {
        let mut state = self.state();
        for end in ends {
            state.ends.remove(end);
        }
    }

    fn older_than(&self, age: Duration) -> Vec<TracedEnd> {
        let state = self.state();
        let old = state.ends.iter().filter(|(_, since)| since.elapsed() > age);
        old.map(|(end, _)| end.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while it is held")
    }
}

impl From<&Lease> for TracedEnd {
    fn from(lease: &Lease) -> Self {
        Self { execution: lease.execution.clone(), fence: lease.fence }
    }
}

/// Notes what is told, until the last is.
pub async fn note(shared: Arc<Shared>, mut gone: UnboundedReceiver<TracedEnd>) {
    let owner = shared.settings.owner.clone();
    let mut ends = Vec::new();
    while gone.recv_many(&mut ends, AT_ONCE).await > 0 {
        while let Err(error) = shared.store.note_told(&owner, &ends, Telling::Done).await {
            debug!(%error, "what was told could not be noted; trying again");
            sleep(PAUSE).await;
        }
        shared.untold.forget(&ends);
        ends.clear();
    }
}

/// Tells, until the drain, of what others have ended and not told; and says of the own that it is told still.
pub async fn watch(shared: Arc<Shared>) {
    let draining = shared.tools.drain.draining.clone();
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = sleep(EVERY.mul_f64(0.5 + rand::random::<f64>())) => {}
        }
        if let Err(error) = look(&shared).await {
            debug!(%error, "what others have left untold could not be looked for");
        }
    }
}

async fn look(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let owner = &shared.settings.owner;
    let own = shared.untold.older_than(EVERY);
    if !own.is_empty() {
        shared.store.note_told(owner, &own, Telling::UnderWay).await?;
    }
    loop {
        let taken = shared.store.take_untold(owner, TAKEN).await?;
        let count = taken.len();
        if count > 0 {
            info!(
                event = "traces.taken_over",
                count, "telling of executions whose workers have not told of their end"
            );
        }
        shared.tell_of_past(taken.into_iter().map(Past::untold).collect());
        if count < TAKEN as usize || shared.tools.drain.draining.is_cancelled() {
            return Ok(());
        }
    }
}

/// Waits, for a while, until the last is told and noted.
pub async fn finish(shared: &Shared, noting: &mut JoinSet<()>) {
    shared.untold.close();
    shared.hurry_spans();
    if timeout(LAST, noting.join_next()).await.is_err() {
        noting.abort_all();
        let left = shared.untold.older_than(Duration::ZERO).len();
        debug!(left, "not told in time: others tell of it");
    }
}
