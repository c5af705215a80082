//! Where a worker tells what people who look at its pod should know.
//!
//! **Invariant:** telling never waits; what finds no room is dropped and counted.

use std::sync::Arc;

use tokio::sync::mpsc::Sender;

use crate::{
    domain::{
        id::ExecutionId,
        notice::{Notice, What},
    },
    instruments::{ByResult, Instruments},
};

/// Tells nobody by default.
#[derive(Clone, Default)]
pub struct Notices(Option<(Sender<Notice>, Arc<Instruments>)>);

impl Notices {
    pub const fn to(listener: Sender<Notice>, instruments: Arc<Instruments>) -> Self {
        Self(Some((listener, instruments)))
    }

    pub fn tell(&self, what: What) {
        self.send(Notice { what, execution: None });
    }

    pub fn tell_of(&self, execution: &ExecutionId, what: What) {
        self.send(Notice { what, execution: Some(execution.clone()) });
    }

    fn send(&self, notice: Notice) {
        if let Some((listener, instruments)) = &self.0
            && listener.try_send(notice).is_err()
        {
            instruments.k8s_events.get_or_create(&ByResult { result: "dropped" }).inc();
        }
    }
}
