//! What is left of a script whose guardian was killed.
//!
//! **Invariant:** only processes that carry the attempt's own marks, or belong to the session of
//! its guardian, are killed.

use std::{collections::HashSet, fs, path::PathBuf, time::Duration};

use rustix::process::{Pid, Signal, getpid};

use super::{
    folder,
    processes::{Stat, all, send},
};

/// Rounds of killing before giving up, and the pause between two: three seconds in all, which is
/// the time a lease leaves for it.
const ROUNDS: u32 = 300;
const PAUSE: Duration = Duration::from_millis(10);

/// Kills what is left and removes the folder. `marks` are entries of the environment that only
/// processes of this attempt have, all together.
pub async fn clear(guardian: Pid, marks: Vec<Vec<u8>>, folder: PathBuf) {
    let cleared = tokio::task::spawn_blocking(move || {
        let left = kill_all(guardian, &marks);
        if left > 0 {
            tracing::error!(left, "processes of a script whose guardian died cannot be killed");
        }
        if let Err(error) = folder::remove(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "cannot remove a step's folder");
        }
    });
    if let Err(error) = cleared.await {
        tracing::error!(%error, "cannot clear up after a guardian that died");
    }
}

/// Returns how many could not be killed.
fn kill_all(guardian: Pid, marks: &[Vec<u8>]) -> usize {
    for _ in 0..ROUNDS {
        let left = find(guardian, marks);
        if left.is_empty() {
            return 0;
        }
        for pid in left {
            send(pid, Signal::KILL);
        }
        std::thread::sleep(PAUSE);
    }
    find(guardian, marks).len()
}

fn find(guardian: Pid, marks: &[Vec<u8>]) -> Vec<Pid> {
    let session = guardian.as_raw_nonzero().get();
    all()
        .into_iter()
        .filter(|pid| *pid != getpid())
        .filter(|pid| {
            Stat::of(*pid).is_some_and(|stat| {
                !stat.ended && (stat.session == session || has_marks(*pid, marks))
            })
        })
        .collect()
}

/// The environment that it was started with cannot be read of others' processes: no match.
fn has_marks(pid: Pid, marks: &[Vec<u8>]) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let entries: HashSet<&[u8]> = environment.split(|byte| *byte == 0).collect();
    marks.iter().all(|mark| entries.contains(&**mark))
}
