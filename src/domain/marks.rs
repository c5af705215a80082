//! What a worker's pod says of it to whoever takes pods away.
//!
//! **Invariant:** what a former process has left on the pod is written over, and all of it is taken off as
//! soon as the worker drains, whatever has failed before.

use std::time::Duration;

use super::lease::BootTime;

/// So long after a write it is looked again whether another is due: nobody wants to know by the second.
const EVERY: Duration = Duration::from_secs(30);
/// A pod stays marked as busy for so long at least, so that one with short runs writes no mark for each;
/// and so long after a refusal the next run, or its end, is reason enough to ask again.
const SETTLE: Duration = Duration::from_secs(5);
/// What is refused is asked for again about so often.
pub const REFUSED: Duration = Duration::from_secs(180);

/// What a worker has under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// When each run began, in this process.
    begun: Vec<BootTime>,
    is_draining: bool,
}

/// Each change says whether the marks may have to change at once.
impl Load {
    pub fn begin(&mut self, at: BootTime) -> bool {
        self.begun.push(at);
        self.begun.len() == 1
    }

    pub fn end(&mut self, begun: BootTime) -> bool {
        let Some(run) = self.begun.iter().position(|at| *at == begun) else { return false };
        self.begun.swap_remove(run);
        self.begun.is_empty()
    }

    /// It is never taken back.
    pub fn drain(&mut self) -> bool {
        !std::mem::replace(&mut self.is_draining, true)
    }

    pub fn runs(&self) -> usize {
        self.begun.len()
    }

    pub const fn is_draining(&self) -> bool {
        self.is_draining
    }
}

/// What stands on a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Others go before it where pods are to be fewer, those with the least cost first, and no autoscaler
    /// of nodes takes it away.
    Busy { cost: i32 },
    /// It goes first, and holds nobody up.
    Idle,
    /// Nothing: it is going already.
    Off,
}

impl Marks {
    /// What should stand there: a run that began long ago, and many runs, are worth more than few new ones.
    pub fn of(load: &Load, now: BootTime) -> Self {
        let Some(oldest) = load.begun.iter().min() else {
            return if load.is_draining { Self::Off } else { Self::Idle };
        };
        if load.is_draining {
            return Self::Off;
        }
        let minutes = now.since(*oldest).as_secs() / 60;
        let cost = minutes.saturating_add(load.begun.len() as u64).saturating_add(10);
        Self::Busy { cost: i32::try_from(cost).unwrap_or(i32::MAX) }
    }

    const fn is_of_the_kind_of(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Busy { .. }, Self::Busy { .. })
                | (Self::Idle, Self::Idle)
                | (Self::Off, Self::Off)
        )
    }
}

/// The last try to write marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    pub marks: Marks,
    pub at: BootTime,
    pub became: Became,
}

/// What became of a try, and the pause after one that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    Written,
    /// Nobody knows what stands there now.
    Failed(Duration),
    /// Somebody has to allow it.
    Refused(Duration),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Write(Marks),
    /// After this time, or when the load changes.
    Look(Duration),
    /// Nothing ever again.
    Done,
}

pub fn next(load: &Load, now: BootTime, last: Option<Tried>) -> Next {
    let wanted = Marks::of(load, now);
    let Some(last) = last else { return Next::Write(wanted) };
    let is_edge = !wanted.is_of_the_kind_of(last.marks);
    if is_edge && wanted == Marks::Off {
        return Next::Write(wanted);
    }
    let pause = match last.became {
        Became::Written if wanted == Marks::Off => return Next::Done,
        Became::Written if wanted == last.marks => return Next::Look(EVERY),
        Became::Written if !is_edge => EVERY,
        Became::Written if wanted == Marks::Idle => SETTLE,
        Became::Written => Duration::ZERO,
        Became::Refused(pause) if is_edge => pause.min(SETTLE),
        Became::Failed(pause) | Became::Refused(pause) => pause,
    };
    let left = pause.saturating_sub(now.since(last.at));
    if left.is_zero() { Next::Write(wanted) } else { Next::Look(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(seconds))
    }

    fn load(begun: &[u64]) -> Load {
        Load { begun: begun.iter().map(|seconds| at(*seconds)).collect(), is_draining: false }
    }

    fn draining(begun: &[u64]) -> Load {
        Load { is_draining: true, ..load(begun) }
    }

    const fn tried(marks: Marks, became: Became) -> Tried {
        Tried { marks, at: at(1000), became }
    }

    const BUSY: Marks = Marks::Busy { cost: 11 };
    const PAUSE: Duration = Duration::from_secs(20);

    #[test]
    fn a_pod_is_worth_more_the_longer_and_the_more_it_works() {
        for (begun, now, expected) in [
            (&[][..], 1000, Marks::Idle),
            (&[1000], 1000, Marks::Busy { cost: 11 }),
            (&[1000], 1059, Marks::Busy { cost: 11 }),
            (&[1000], 1060, Marks::Busy { cost: 12 }),
            (&[1060, 1000, 1050], 1120, Marks::Busy { cost: 15 }),
            (&[1000], 900, Marks::Busy { cost: 11 }),
            (&[0], u64::MAX, Marks::Busy { cost: i32::MAX }),
        ] {
            assert_eq!(Marks::of(&load(begun), at(now)), expected, "{begun:?} at {now}");
            assert_eq!(Marks::of(&draining(begun), at(now)), Marks::Off, "{begun:?} in a drain");
        }
    }

    #[test]
    fn only_the_first_run_the_last_end_and_the_drain_are_news() {
        let mut load = Load::default();
        assert!(load.begin(at(1)));
        assert!(!load.begin(at(2)) && !load.begin(at(1)));
        assert!(!load.end(at(1)) && !load.end(at(1)) && !load.end(at(3)));
        assert_eq!(load.runs(), 1);
        assert!(load.end(at(2)));
        assert!(load.drain() && !load.drain());
    }

    #[test]
    fn what_a_former_process_has_left_is_written_over_at_once() {
        for (load, marks) in
            [(load(&[]), Marks::Idle), (load(&[1000]), BUSY), (draining(&[]), Marks::Off)]
        {
            assert_eq!(next(&load, at(1000), None), Next::Write(marks));
        }
    }

    #[test]
    fn an_edge_is_written_at_once_and_all_else_at_most_every_thirty_seconds() {
        let written = |marks| tried(marks, Became::Written);
        let dearer = Marks::Busy { cost: 12 };
        for (what, load, now, last, expected) in [
            ("nothing is new", load(&[]), 1001, Marks::Idle, Next::Look(EVERY)),
            ("nothing is new", load(&[1000]), 1059, BUSY, Next::Look(EVERY)),
            ("it begins", load(&[1000]), 1000, Marks::Idle, Next::Write(BUSY)),
            ("it ends", load(&[]), 1005, BUSY, Next::Write(Marks::Idle)),
            ("it ends soon", load(&[]), 1001, BUSY, Next::Look(Duration::from_secs(4))),
            ("more", load(&[1000, 1001]), 1010, BUSY, Next::Look(Duration::from_secs(20))),
            ("more", load(&[1000, 1001]), 1030, BUSY, Next::Write(dearer)),
            ("longer", load(&[1000]), 1060, BUSY, Next::Write(dearer)),
            ("it drains", draining(&[1000]), 1000, BUSY, Next::Write(Marks::Off)),
            ("it drains", draining(&[]), 1000, Marks::Idle, Next::Write(Marks::Off)),
            ("it has drained", draining(&[]), 1001, Marks::Off, Next::Done),
        ] {
            assert_eq!(
                next(&load, at(now), Some(written(last))),
                expected,
                "{what}: {load:?} at {now}"
            );
        }
    }

    #[test]
    fn what_failed_is_tried_again_after_its_pause_and_whatever_runs_meanwhile() {
        let failed = |marks| tried(marks, Became::Failed(PAUSE));
        for (load, now, last, expected) in [
            (load(&[]), 1001, Marks::Idle, Next::Look(Duration::from_secs(19))),
            (load(&[]), 1020, Marks::Idle, Next::Write(Marks::Idle)),
            (load(&[1000]), 1001, Marks::Idle, Next::Look(Duration::from_secs(19))),
            (load(&[1000]), 1020, Marks::Idle, Next::Write(BUSY)),
            (load(&[1000]), 1020, BUSY, Next::Write(BUSY)),
            (draining(&[1000]), 1000, BUSY, Next::Write(Marks::Off)),
            (draining(&[]), 1000, Marks::Off, Next::Look(PAUSE)),
        ] {
            assert_eq!(next(&load, at(now), Some(failed(last))), expected, "{load:?} at {now}");
        }
    }

    #[test]
    fn what_was_refused_is_asked_for_again_after_a_long_pause_or_at_an_edge() {
        let refused = |marks| tried(marks, Became::Refused(REFUSED));
        for (load, now, last, expected) in [
            (load(&[]), 1030, Marks::Idle, Next::Look(Duration::from_secs(150))),
            (load(&[]), 1180, Marks::Idle, Next::Write(Marks::Idle)),
            (load(&[1000]), 1001, Marks::Idle, Next::Look(Duration::from_secs(4))),
            (load(&[1000]), 1005, Marks::Idle, Next::Write(BUSY)),
            (load(&[]), 1005, BUSY, Next::Write(Marks::Idle)),
            (draining(&[]), 1000, BUSY, Next::Write(Marks::Off)),
        ] {
            assert_eq!(next(&load, at(now), Some(refused(last))), expected, "{load:?} at {now}");
        }
    }
}
