//! What the probes are told.
//!
//! **Invariant:** liveness is the loops' own beat and never the database; a busy worker is ready, and
//! an idle one is alive however seldom it looks for work.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

/// Shared by the worker's loops and the admin port.
#[derive(Debug)]
pub struct Health {
    /// The longest pause between two looks for work.
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    started: bool,
    draining: bool,
    beat: Instant,
    /// When the database last answered.
    answered: Option<Instant>,
    /// Why it is not answering, or what it lacks.
    problem: Option<String>,
}

impl Health {
    /// A loop that has not come round for so long after its pause is stuck; longer than any call it
    /// makes.
    const STUCK: Duration = Duration::from_secs(90);
    /// A database that has not answered for so long makes the worker not ready: longer than a fail-over
    /// and the pause after it. Where nobody has asked meanwhile, a pause may come on top.
    const SILENT: Duration = Duration::from_secs(30);

    /// `pause` is the longest between two looks for work.
    pub fn new(pause: Duration) -> Arc<Self> {
        let state = State {
            started: false,
            draining: false,
            beat: Instant::now(),
            answered: None,
            problem: None,
        };
        Arc::new(Self { pause, state: Mutex::new(state) })
    }

    /// The process listens and its configuration is good.
    pub fn set_started(&self) {
        self.state().started = true;
    }

    pub fn set_draining(&self) {
        self.state().draining = true;
    }

    /// The claim loop came round.
    pub fn beat(&self) {
        self.state().beat = Instant::now();
    }

    pub fn database_answered(&self) {
        let mut state = self.state();
        state.answered = Some(Instant::now());
        state.problem = None;
    }

    pub fn database_failed(&self, problem: String) {
        self.state().problem = Some(problem);
    }

    pub fn started(&self) -> bool {
        self.state().started
    }

    pub fn alive(&self) -> bool {
        self.alive_at(Instant::now())
    }

    /// `Err` holds the reasons, each a sentence.
    pub fn ready(&self) -> Result<(), Vec<String>> {
        self.ready_at(Instant::now())
    }

    fn alive_at(&self, now: Instant) -> bool {
        now.duration_since(self.state().beat) < self.pause + Self::STUCK
    }

    fn ready_at(&self, now: Instant) -> Result<(), Vec<String>> {
        let state = self.state();
        let mut reasons = Vec::new();
        if state.draining {
            reasons.push("draining: nothing new is claimed".to_owned());
        }
        let pause = if state.problem.is_some() { Duration::ZERO } else { self.pause };
        let problem = state.problem.clone().unwrap_or_default();
        match state.answered.map(|at| now.duration_since(at)) {
            None if problem.is_empty() => reasons.push("the database was not asked yet".into()),
            None => reasons.push(problem),
            Some(silence) if silence > pause + Self::SILENT => reasons.push(format!(
                "the database has not answered for {} s: {problem}",
                silence.as_secs()
            )),
            Some(_) => {}
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(2);

    #[test]
    fn ready_means_answered_lately_and_not_draining() {
        let health = Health::new(PAUSE);
        assert!(health.ready().is_err());
        health.database_failed("no table".into());
        assert_eq!(health.ready(), Err(vec!["no table".to_owned()]));
        health.database_answered();
        assert_eq!(health.ready(), Ok(()));
        let later = Instant::now() + PAUSE + Health::SILENT + Duration::from_secs(1);
        assert!(health.ready_at(later).is_err());
        health.set_draining();
        assert!(health.ready().is_err());
    }

    #[test]
    fn a_database_that_was_asked_and_failed_is_waited_for_without_the_pause() {
        let health = Health::new(PAUSE);
        health.database_answered();
        let silent = Instant::now() + Health::SILENT + Duration::from_secs(1);
        assert_eq!(health.ready_at(silent), Ok(()), "it may be pausing");
        health.database_failed("gone".into());
        assert_eq!(health.ready(), Ok(()), "a fail-over is no reason");
        let [said] = health.ready_at(silent).expect_err("it is silent").try_into().expect("one");
        assert!(said.ends_with("gone"), "{said}");
        health.database_answered();
        assert_eq!(health.ready_at(silent), Ok(()));
    }

    #[test]
    fn a_silent_database_leaves_the_worker_alive_and_a_stuck_loop_does_not() {
        let health = Health::new(PAUSE);
        health.database_failed("gone".into());
        assert!(health.alive());
        assert!(health.alive_at(Instant::now() + Health::STUCK), "it may be pausing");
        let later = Instant::now() + PAUSE + Health::STUCK;
        assert!(!health.alive_at(later));
    }
}
