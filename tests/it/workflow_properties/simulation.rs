//! A worker's life with one execution, told by a script, against a model of what may happen.
//!
//! **Invariant:** the model knows a step only by its row and its definition; it shares no code with
//! [`plan`] and checks each of its plans before it takes it over.

use std::collections::BTreeSet;

use orchestrator_worker::domain::{
    execution::ExecutionState,
    plan::{End, Finish, Plan, Progress, Recorded, plan},
    step::Resume,
    workflow::{NodeId, OnFailure, RunMode, Workflow},
};

/// Something that happens while an execution runs. `which` picks one of the running steps.
#[derive(Clone, Debug)]
pub enum Event {
    Succeed {
        which: usize,
    },
    Fail {
        which: usize,
    },
    /// Somebody cancels.
    Cancel,
    /// The worker starts no more steps; what runs may still end.
    Drain,
    /// The worker is gone; another one goes on, with its own `at_once`.
    Crash {
        at_once: usize,
    },
}

/// What became of an execution.
#[derive(Debug)]
pub struct Told {
    pub finish: Finish,
    pub rows: Vec<Recorded>,
    /// Starts of each step.
    pub starts: Vec<usize>,
    pub plans: usize,
}

pub struct Simulation<'a> {
    workflow: &'a Workflow,
    progress: Progress,
    at_once: usize,
    /// What the store holds.
    rows: Vec<Recorded>,
    running: BTreeSet<NodeId>,
    starts: Vec<usize>,
    plans: usize,
    cancelled: bool,
    /// Running steps were asked to stop, in this worker's life and for this reason.
    asked_to_stop: bool,
    /// The failure that came first, while a single worker has seen them all.
    first_abort: Option<NodeId>,
    /// Workers so far, of whom nobody knows what the one before has seen.
    lives: usize,
    plans_in_this_life: usize,
    finish: Option<Finish>,
}

impl<'a> Simulation<'a> {
    pub fn new(workflow: &'a Workflow, at_once: usize) -> Self {
        let rows = vec![Recorded::Unstarted; workflow.nodes().len()];
        Self { lives: 1, ..Self::resumed(workflow, rows, at_once) }
    }

    /// Goes on from rows that somebody else has left.
    pub fn resumed(workflow: &'a Workflow, rows: Vec<Recorded>, at_once: usize) -> Self {
        Self {
            workflow,
            progress: Progress::new(workflow, &rows),
            at_once,
            starts: vec![0; rows.len()],
            rows,
            running: BTreeSet::new(),
            plans: 0,
            cancelled: false,
            asked_to_stop: false,
            first_abort: None,
            lives: 2,
            plans_in_this_life: 0,
            finish: None,
        }
    }

    /// Follows the script, then lets everything that runs succeed until the execution has ended.
    pub fn tell(mut self, script: &[Event]) -> Told {
        self.next_plan();
        for event in script {
            if self.finish.is_some() {
                break;
            }
            self.happen(event);
        }
        if self.finish.is_none() && self.at_once == 0 {
            self.happen(&Event::Crash { at_once: 1 });
        }
        for _ in 0..self.rows.len() {
            if self.finish.is_some() {
                break;
            }
            self.happen(&Event::Succeed { which: 0 });
        }
        let finish = self.finish.expect("each further event ends a step, so it has ended by now");
        Told { finish, rows: self.rows, starts: self.starts, plans: self.plans }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Succeed { which } => self.end(*which, End::Success),
            Event::Fail { which } => {
                self.end(*which, End::Failed { reason: format!("reason {which}") });
            }
            Event::Cancel => {
                self.cancelled = true;
                self.asked_to_stop = false;
                self.progress.cancel();
            }
            Event::Drain => self.at_once = 0,
            Event::Crash { at_once } => self.resume(*at_once),
        }
        self.next_plan();
    }

    fn end(&mut self, which: usize, end: End) {
        let Some(&id) = self.running.iter().nth(which % self.running.len().max(1)) else { return };
        self.running.remove(&id);
        self.progress.ended(self.workflow, id, &end);
        self.progress.ended(self.workflow, id, &end); // told twice, it counts once
        self.rows[id.index()] = match end {
            End::Success => Recorded::Success,
            End::Failed { reason } => {
                if self.workflow.node(id).on_failure == OnFailure::Abort {
                    self.first_abort.get_or_insert(id);
                }
                Recorded::Failed { reason }
            }
        };
    }

    fn resume(&mut self, at_once: usize) {
        self.at_once = at_once;
        self.running.clear();
        self.asked_to_stop = false;
        self.lives += 1;
        self.plans_in_this_life = 0;
        self.progress = Progress::new(self.workflow, &self.rows);
        if self.cancelled {
            self.progress.cancel();
        }
    }

    fn next_plan(&mut self) {
        let next = plan(self.workflow, &mut self.progress, self.at_once);
        self.plans += 1;
        self.take_failed(&next);
        if self.is_ending() {
            self.take_end(&next);
        } else {
            self.take_starts(&next);
        }
        self.take_finish(next);
        self.plans_in_this_life += 1;
        let again = plan(self.workflow, &mut self.progress, self.at_once);
        assert_eq!(again, Plan::default(), "a plan is handed out once");
        assert_eq!(self.progress.running().collect::<BTreeSet<_>>(), self.running);
    }

    fn take_failed(&mut self, next: &Plan) {
        let in_flight =
            |id: &NodeId| self.rows[id.index()] == Recorded::InFlight && !self.running.contains(id);
        let must_not_rerun =
            |id: &NodeId| in_flight(id) && self.workflow.node(*id).step.resume == Resume::Fail;
        let lost: BTreeSet<NodeId> = self.workflow.ids().filter(must_not_rerun).collect();
        let failed: BTreeSet<NodeId> = next.fail.iter().map(|(id, _)| *id).collect();
        assert_eq!(failed.len(), next.fail.len(), "each is failed once");
        assert!(failed.is_superset(&lost), "an in-flight step that must not rerun is failed");
        assert!(failed.iter().all(in_flight), "only what was in flight is failed by a plan");
        assert!(self.plans_in_this_life == 0 || lost.is_empty(), "it is failed at once");
        for (id, reason) in &next.fail {
            self.rows[id.index()] = Recorded::Failed { reason: reason.clone() };
            if lost.contains(id) && self.workflow.node(*id).on_failure == OnFailure::Abort {
                self.first_abort.get_or_insert(*id);
            }
        }
        assert!(failed == lost || self.is_ending(), "an in-flight step reruns unless it must not");
    }

    fn take_starts(&mut self, next: &Plan) {
        assert!(next.stop.is_empty() && next.skip.is_empty(), "nothing is to end: {next:?}");
        for &id in &next.start {
            assert_eq!(self.first_ready(), Some(id), "no step overtakes a ready one before it");
            let node = self.workflow.node(id);
            let alone = node.mode == RunMode::Serial || self.runs_serial();
            assert!(!alone || self.running.is_empty(), "a serial step runs alone");
            self.running.insert(id);
            self.starts[id.index()] += 1;
            self.rows[id.index()] = Recorded::InFlight;
        }
        assert!(
            next.start.is_empty() || self.running.len() <= self.at_once,
            "no more at once than allowed"
        );
        assert!(
            self.running.len() >= self.at_once || self.runs_serial() || self.waits_for_serial(),
            "a slot is free, a step is ready, and nothing starts it"
        );
    }

    fn take_end(&mut self, next: &Plan) {
        assert!(next.start.is_empty(), "nothing starts in an execution that ends");
        let stopped: BTreeSet<NodeId> = next.stop.iter().copied().collect();
        if self.asked_to_stop {
            assert!(stopped.is_empty() && next.skip.is_empty(), "it is asked once");
        } else {
            assert_eq!(stopped, self.running, "all that runs is asked to stop");
        }
        self.asked_to_stop = true;
        for id in &next.skip {
            assert_eq!(self.rows[id.index()], Recorded::Unstarted, "only the unstarted is skipped");
            self.rows[id.index()] = Recorded::Skipped;
        }
        assert!(!self.rows.contains(&Recorded::Unstarted), "all that has not started is skipped");
        let open = self.rows.iter().filter(|row| **row == Recorded::InFlight).count();
        assert_eq!(open, self.running.len(), "what is in flight nowhere is closed");
    }

    fn take_finish(&mut self, next: Plan) {
        let all_final = self.rows.iter().all(is_final);
        assert_eq!(next.finish.is_some(), all_final, "it ends with its last step: {:?}", self.rows);
        let Some(finish) = next.finish else { return };
        let failed = |wanted: OnFailure| -> Vec<&str> {
            let node = |id: &NodeId| self.workflow.node(*id);
            let is_failed = |id: &NodeId| matches!(self.row(*id), Recorded::Failed { .. });
            let ids = self.workflow.ids().filter(is_failed);
            ids.filter(|id| node(id).on_failure == wanted)
                .map(|id| self.workflow.node(id).step.name.as_str())
                .collect()
        };
        let aborting = failed(OnFailure::Abort);
        match finish.state {
            ExecutionState::Cancelled => assert!(self.cancelled && finish.error.is_none()),
            ExecutionState::Success => {
                assert!(!self.cancelled && aborting.is_empty());
                let skipped = failed(OnFailure::Skip);
                let error = finish.error.as_deref().unwrap_or_default();
                assert_eq!(error.is_empty(), skipped.is_empty());
                assert!(skipped.iter().take(20).all(|name| error.contains(&format!("{name} ("))));
            }
            ExecutionState::Failed => {
                let error = finish.error.as_deref().expect("a failure has a reason");
                let names = |name: &str| error.starts_with(&format!("step {name} failed: "));
                assert!(!self.cancelled && aborting.iter().any(|name| names(name)), "{error}");
                let first = self.first_abort.map(|id| self.workflow.node(id).step.name.as_str());
                assert!(
                    self.lives > 1 || first.is_some_and(names),
                    "{error} but {first:?} came first"
                );
            }
            ExecutionState::Pending | ExecutionState::Running => panic!("{finish:?} is no end"),
        }
        self.finish = Some(finish);
    }

    fn row(&self, id: NodeId) -> &Recorded {
        &self.rows[id.index()]
    }

    /// The first step that could start if there were a slot for it.
    fn first_ready(&self) -> Option<NodeId> {
        self.workflow.ids().find(|id| {
            let node = self.workflow.node(*id);
            !is_final(self.row(*id))
                && !self.running.contains(id)
                && node.dependencies.iter().all(|dependency| is_final(self.row(*dependency)))
        })
    }

    fn runs_serial(&self) -> bool {
        self.running.iter().any(|id| self.workflow.node(*id).mode == RunMode::Serial)
    }

    /// The next step is none, or one that waits for what runs.
    fn waits_for_serial(&self) -> bool {
        self.first_ready().is_none_or(|id| {
            self.workflow.node(id).mode == RunMode::Serial && !self.running.is_empty()
        })
    }

    fn is_ending(&self) -> bool {
        self.cancelled
            || self.workflow.ids().any(|id| {
                matches!(self.row(id), Recorded::Failed { .. })
                    && self.workflow.node(id).on_failure == OnFailure::Abort
            })
    }
}

fn is_final(row: &Recorded) -> bool {
    match row {
        Recorded::Unstarted | Recorded::InFlight => false,
        Recorded::Success | Recorded::Skipped | Recorded::Failed { .. } => true,
    }
}
