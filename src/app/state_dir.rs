//! The folder of running steps, and in a pod the lock that tells the pod's processes one from the
//! next.
//!
//! **Invariant:** a process has a [`Life`] only while it holds the lock of its volume, and only once
//! nothing of the process before it runs any more.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::AppError;
use crate::{
    adapters::runners::shell,
    domain::pod::{Life, PodProcess},
};

/// Guardians of a process that has just died need moments to kill what they guard.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Holds the lock as long as it lives.
#[derive(Debug)]
pub struct StateDir {
    pub process: PodProcess,
    _lock: Option<File>,
}

impl StateDir {
    /// Makes the folder. In a pod it waits up to five seconds for what another process has left
    /// there; then it goes on without a life, and takes over as everybody else does.
    pub async fn open(folder: &Path, process: &PodProcess) -> Result<Self, AppError> {
        Self::open_within(PATIENCE, folder, process).await
    }

    async fn open_within(
        patience: Duration,
        folder: &Path,
        process: &PodProcess,
    ) -> Result<Self, AppError> {
        let failed = |source| AppError::StateDir { folder: folder.into(), source };
        fs::create_dir_all(folder)
            .and_then(|()| tempfile::tempfile_in(folder).map(drop))
            .map_err(failed)?;
        let without = Self { process: process.clone(), _lock: None };
        if process.uid().is_empty() {
            return Ok(without);
        }
        let path = folder.join(format!("ow-pod-{}.lock", process.uid()));
        let give_up = Instant::now() + patience;
        let (lock, life) = loop {
            if let Some(begun) = begin_life(&path).map_err(failed)? {
                break begun;
            }
            if Instant::now() >= give_up {
                tracing::warn!(
                    event = "state_dir.in_use",
                    path = %path.display(),
                    "another process of this pod works in this folder (state_dir): what it leaves \
                     is taken over when its leases expire"
                );
                return Ok(without);
            }
            sleep(PAUSE).await;
        };
        clear(folder.into(), life.clone());
        Ok(Self { process: process.clone().with_life(life), _lock: Some(lock) })
    }
}

/// Takes the lock and counts this process, unless another one holds it or something of one before still runs.
fn begin_life(path: &Path) -> io::Result<Option<(File, Life)>> {
    let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = options?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut written = String::new();
    // What is no text is no life either.
    (&file).take(64).read_to_string(&mut written).ok();
    let before = written.trim_end().parse::<Life>().ok();
    let life = before.and_then(|life| life.next());
    let life = life.unwrap_or_else(|| Life::first_on(rand::random()));
    if shell::is_guarded_before(&life) {
        return Ok(None);
    }
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{life}")?;
    file.sync_data()?;
    Ok(Some((file, life)))
}

/// Removes, meanwhile, the folders of steps whose process and guardian were killed together.
fn clear(folder: PathBuf, life: Life) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = shell::remove_folders_before(&life, &folder) {
            tracing::warn!(folder = %folder.display(), %error, "cannot clear the state_dir");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodProcess {
        PodProcess::try_new("u-1").expect("a UID")
    }

    #[tokio::test]
    async fn each_process_of_a_pod_comes_after_the_one_before_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut before: Vec<String> = Vec::new();
        for _ in 0..3 {
            let state = StateDir::open(folder.path(), &pod()).await.expect("opened");
            assert!(before.iter().all(|it| state.process.comes_after(it)), "{before:?}");
            before.push(state.process.to_string());
        }
        let path = folder.path().join("ow-pod-u-1.lock");
        for broken in ["", "\n", "x", "00000007.4294967295", "\u{0}", &"9".repeat(1000)] {
            fs::write(&path, broken).expect("written");
            let state = StateDir::open(folder.path(), &pod()).await.expect("opened");
            assert!(state.process.life().is_some(), "{broken}: a new count begins");
            assert!(!before.iter().any(|it| state.process.comes_after(it)), "{broken}");
        }
    }

    #[tokio::test]
    async fn outside_a_pod_nothing_is_locked() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = PodProcess::default();
        let state = StateDir::open(folder.path(), &process).await.expect("opened");
        assert_eq!(state.process, process);
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
    }

    #[tokio::test]
    async fn beside_a_living_process_of_the_pod_there_is_no_life() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = StateDir::open(folder.path(), &pod()).await.expect("opened");
        let second = StateDir::open_within(PAUSE, folder.path(), &pod()).await.expect("opened");
        assert_eq!(second.process, pod());
        drop(first);
        let third = StateDir::open(folder.path(), &pod()).await.expect("opened");
        assert!(third.process.life().is_some());
    }
}
