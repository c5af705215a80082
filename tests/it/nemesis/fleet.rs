//! Worker processes, each behind a proxy of its own.
//!
//! **Invariant:** whoever strikes a member holds it until it works again.

use std::net::SocketAddr;

use rand::{RngExt, rngs::StdRng};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, MutexGuard},
    task::block_in_place,
};

use crate::{
    process::{Worker, is_soak},
    proxy::Proxy,
};

/// One of the workers. Every second one is a pod whose volume outlives its container.
pub struct Member {
    pub worker: Worker,
    pub proxy: Proxy,
    name: String,
    url: String,
    volume: Option<TempDir>,
}

impl Member {
    async fn start(place: usize, server: SocketAddr, url: impl Fn(SocketAddr) -> String) -> Self {
        let proxy = Proxy::start(server).await;
        let (name, url) = (format!("w{place}"), url(proxy.address()));
        let volume = place.is_multiple_of(2).then(|| tempfile::tempdir().expect("a folder"));
        let worker = spawn(&name, &url, volume.as_ref());
        Self { worker, proxy, name, url, volume }
    }

    /// Starts the process again, once it has ended.
    pub fn restart(&mut self) {
        block_in_place(|| self.worker.wait());
        self.worker = spawn(&self.name, &self.url, self.volume.as_ref());
    }
}

fn spawn(name: &str, url: &str, volume: Option<&TempDir>) -> Worker {
    let mut settings = vec![
        ("ORCHESTRATOR_WORKER__SLOTS", if is_soak() { "24" } else { "6" }),
        ("ORCHESTRATOR_WORKER__STEP__BACKOFF__BASE", "100ms"),
        ("ORCHESTRATOR_WORKER__STEP__BACKOFF__CAP", "1s"),
        ("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "4s"),
        // They die oftener than anything deserves to be given up for.
        ("ORCHESTRATOR_WORKER__POISON__CLAIMS", "10000"),
    ];
    if let Some(volume) = volume {
        let folder = volume.path().to_str().expect("UTF-8");
        settings.extend([("POD_UID", name), ("ORCHESTRATOR_WORKER__STATE_DIR", folder)]);
    }
    Worker::start(url, name, &settings)
}

pub struct Fleet {
    members: Vec<Mutex<Member>>,
}

impl Fleet {
    /// `url` says what a worker calls the server at an address.
    pub async fn start(
        size: usize,
        server: SocketAddr,
        url: impl Fn(SocketAddr) -> String,
    ) -> Self {
        let mut members = Vec::with_capacity(size);
        for place in 0..size {
            members.push(Mutex::new(Member::start(place, server, &url).await));
        }
        Self { members }
    }

    /// One that nobody strikes.
    pub async fn any(&self, random: &mut StdRng) -> MutexGuard<'_, Member> {
        let first = random.random_range(0..self.members.len());
        let mut around =
            (0..self.members.len()).map(|n| &self.members[(first + n) % self.members.len()]);
        match around.find_map(|member| member.try_lock().ok()) {
            Some(member) => member,
            None => self.members[first].lock().await,
        }
    }

    /// They go away as they are told, and none had broken before.
    pub fn stop(self) {
        for member in self.members {
            let mut member = member.into_inner();
            member.worker.signal(Signal::TERM);
            let ended = block_in_place(|| member.worker.wait());
            assert!(ended.success(), "{} went away: {ended}", member.name);
            assert_eq!(member.worker.logged("worker.broken"), 0, "{}", member.name);
        }
    }
}
