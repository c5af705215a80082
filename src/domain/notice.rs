//! What happens to a worker that somebody who looks at its pod should know, and how it is told there.
//!
//! **Invariant:** what waits to be told is bounded, in number and in age, and what is alike waits as one; a
//! note is never longer than the API server takes.

use std::{collections::VecDeque, time::Duration};

use super::{doctor::counted, id::ExecutionId, lease::BootTime};

/// One thing that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub what: What,
    /// To which execution, if to one.
    pub execution: Option<ExecutionId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A lease of this worker has ended before its work, which was stopped.
    ClaimLost(LostBy),
    /// The time of a drain was over before the work.
    DrainTimedOut(Left),
    /// This worker goes on with what another held; `from`: who, if that is known, and why.
    LeasesReclaimed { from: Option<String>, cause: String },
    /// The database cannot be worked with, for this reason.
    SchemaMismatch(Unfit, String),
    /// So many old executions are not claimed.
    BacklogHeld(u64),
}

/// Why a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostBy {
    /// It was not renewed in time.
    Deadline,
    /// There is a newer holder.
    Taken,
    /// What would have to be recorded is refused.
    Unrecordable,
}

/// What became of work that a drain did not wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    HandedBack,
    /// There was no time for that either.
    Abandoned,
}

/// What a person has to do about a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    NotMigrated,
    TooNew,
    /// A table, a right, or a setting is missing.
    Unusable,
}

/// As the API server takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub reason: &'static str,
    pub action: &'static str,
    pub is_warning: bool,
    /// At most [`NOTE`] bytes.
    pub note: String,
    /// What it is about beside the pod: the first of several.
    pub execution: Option<ExecutionId>,
}

/// Bytes of a note.
pub const NOTE: usize = 1024;
/// Executions that a note names.
const NAMED: usize = 10;

impl What {
    const fn reason(&self) -> &'static str {
        match self {
            Self::ClaimLost(_) => "ClaimLost",
            Self::DrainTimedOut(_) => "DrainTimedOut",
            Self::LeasesReclaimed { .. } => "LeasesReclaimed",
            Self::SchemaMismatch(..) => "SchemaMismatch",
            Self::BacklogHeld(_) => "BacklogHeld",
        }
    }

    /// Of two events with one reason, one action and one execution the API server is told the first note alone.
    const fn action(&self) -> &'static str {
        match self {
            Self::ClaimLost(_) => "StopWork",
            Self::DrainTimedOut(Left::HandedBack) => "HandBack",
            Self::DrainTimedOut(Left::Abandoned) => "Abandon",
            Self::LeasesReclaimed { .. } => "TakeOver",
            Self::SchemaMismatch(Unfit::NotMigrated, _) => "WaitForMigration",
            Self::SchemaMismatch(Unfit::TooNew, _) => "WaitForUpgrade",
            Self::SchemaMismatch(Unfit::Unusable, _) => "WaitForRepair",
            Self::BacklogHeld(_) => "HoldBack",
        }
    }

    const fn is_warning(&self) -> bool {
        match self {
            Self::ClaimLost(_) | Self::DrainTimedOut(_) | Self::SchemaMismatch(..) => true,
            Self::LeasesReclaimed { .. } | Self::BacklogHeld(_) => false,
        }
    }

    /// `which`: the executions, in words.
    fn note(&self, which: &str) -> String {
        match self {
            Self::ClaimLost(by) => {
                let why = match by {
                    LostBy::Deadline => "the lease could not be renewed in time",
                    LostBy::Taken => "there is a newer holder",
                    LostBy::Unrecordable => "the database refuses what would have to be recorded",
                };
                format!("lost {which}: {why}; its work here was stopped, and others go on with it")
            }
            Self::DrainTimedOut(Left::HandedBack) => format!(
                "the drain deadline was near: the work on {which} was stopped, and handed back for \
                 other workers"
            ),
            Self::DrainTimedOut(Left::Abandoned) => format!(
                "the drain deadline was over, and {which} could not be handed back: other workers go \
                 on when the lease has ended"
            ),
            Self::LeasesReclaimed { from: Some(from), cause } => {
                format!("took over {which} of {from}: {cause}")
            }
            Self::LeasesReclaimed { from: None, cause } => format!("took over {which}: {cause}"),
            Self::SchemaMismatch(_, sentence) => sentence.clone(),
            Self::BacklogHeld(count) => format!(
                "{} pending for more than a day when the tables were first migrated: not claimed until \
                 `orchestrator-worker backlog release`, or claim.backlog: run, says so",
                counted(*count, "execution")
            ),
        }
    }
}

/// What waits to be told.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Alike>,
}

#[derive(Debug)]
struct Alike {
    what: What,
    since: BootTime,
    named: Vec<ExecutionId>,
    more: usize,
}

impl Outbox {
    /// Different things that wait at most.
    const MOST: usize = 32;
    /// What has waited for longer is news to nobody.
    const STALE: Duration = Duration::from_secs(600);

    /// Whether there is room for it.
    #[must_use]
    pub fn add(&mut self, notice: Notice, now: BootTime) -> bool {
        let Notice { what, execution } = notice;
        if let Some(alike) = self.waiting.iter_mut().find(|one| one.what == what) {
            alike.add(execution);
        } else if self.waiting.len() < Self::MOST {
            let mut one = Alike { what, since: now, named: Vec::new(), more: 0 };
            one.add(execution);
            self.waiting.push_back(one);
        } else {
            return false;
        }
        true
    }

    /// Returns how many were dropped: they have waited for too long.
    #[must_use]
    pub fn drop_stale(&mut self, now: BootTime) -> u64 {
        self.retain(|one| now.since(one.since) < Self::STALE)
    }

    /// What is told next. `untold`: how many things before it were dropped.
    pub fn first(&self, untold: u64) -> Option<Event> {
        self.waiting.front().map(|one| one.event(untold))
    }

    /// The first was told.
    pub fn told(&mut self) {
        self.waiting.pop_front();
    }

    /// Returns how many were dropped: nobody wants them.
    #[must_use]
    pub fn clear(&mut self) -> u64 {
        self.retain(|_| false)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn retain(&mut self, keeps: impl Fn(&Alike) -> bool) -> u64 {
        let dropped = self.waiting.iter().filter(|one| !keeps(one)).map(Alike::count).sum();
        self.waiting.retain(keeps);
        dropped
    }
}

impl Alike {
    fn add(&mut self, execution: Option<ExecutionId>) {
        let Some(execution) = execution.filter(|id| !self.named.contains(id)) else { return };
        if self.named.len() < NAMED {
            self.named.push(execution);
        } else {
            self.more += 1;
        }
    }

    fn count(&self) -> u64 {
        (self.named.len() + self.more).max(1) as u64
    }

    fn which(&self) -> String {
        let names: Vec<&str> = self.named.iter().map(ExecutionId::as_str).collect();
        match (&names[..], self.more) {
            ([name], 0) => format!("execution {name}"),
            (names, 0) => format!("{} executions ({})", names.len(), names.join(", ")),
            (names, more) => {
                format!("{} executions ({} and {more} more)", names.len() + more, names.join(", "))
            }
        }
    }

    fn event(&self, untold: u64) -> Event {
        let tail = match untold {
            0 => String::new(),
            untold => format!(" ({} before this could not be told)", counted(untold, "thing")),
        };
        let mut note = self.what.note(&self.which());
        note.truncate(note.floor_char_boundary(NOTE - tail.len()));
        note.push_str(&tail);
        Event {
            reason: self.what.reason(),
            action: self.what.action(),
            is_warning: self.what.is_warning(),
            note,
            execution: self.named.first().cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(what: What, execution: &str) -> Notice {
        Notice { what, execution: Some(execution.into()) }
    }

    fn told(notices: Vec<Notice>) -> Vec<Event> {
        let mut outbox = Outbox::default();
        for notice in notices {
            assert!(outbox.add(notice, at(0)));
        }
        let mut told = Vec::new();
        while let Some(event) = outbox.first(0) {
            told.push(event);
            outbox.told();
        }
        told
    }

    const fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(seconds))
    }

    fn reclaimed(from: Option<&str>) -> What {
        let cause = "oom_killed (exit code 137, node n)".into();
        What::LeasesReclaimed { from: from.map(Into::into), cause }
    }

    #[test]
    fn each_thing_is_told_in_plain_words() {
        let unfit = |unfit| What::SchemaMismatch(unfit, "migrate it".into());
        for (what, kind, action, note) in [
            (
                What::ClaimLost(LostBy::Deadline),
                "Warning ClaimLost",
                "StopWork",
                "lost execution e: the lease could not be renewed in time; its work here was stopped, \
                 and others go on with it",
            ),
            (
                What::ClaimLost(LostBy::Taken),
                "Warning ClaimLost",
                "StopWork",
                "lost execution e: there is a newer holder; its work here was stopped, and others go \
                 on with it",
            ),
            (
                What::DrainTimedOut(Left::HandedBack),
                "Warning DrainTimedOut",
                "HandBack",
                "the drain deadline was near: the work on execution e was stopped, and handed back for \
                 other workers",
            ),
            (
                What::DrainTimedOut(Left::Abandoned),
                "Warning DrainTimedOut",
                "Abandon",
                "the drain deadline was over, and execution e could not be handed back: other workers \
                 go on when the lease has ended",
            ),
            (
                reclaimed(Some("w-1")),
                "Normal LeasesReclaimed",
                "TakeOver",
                "took over execution e of w-1: oom_killed (exit code 137, node n)",
            ),
            (
                reclaimed(None),
                "Normal LeasesReclaimed",
                "TakeOver",
                "took over execution e: oom_killed (exit code 137, node n)",
            ),
            (unfit(Unfit::NotMigrated), "Warning SchemaMismatch", "WaitForMigration", "migrate it"),
            (unfit(Unfit::TooNew), "Warning SchemaMismatch", "WaitForUpgrade", "migrate it"),
            (unfit(Unfit::Unusable), "Warning SchemaMismatch", "WaitForRepair", "migrate it"),
            (
                What::BacklogHeld(1),
                "Normal BacklogHeld",
                "HoldBack",
                "1 execution pending for more than a day when the tables were first migrated: not \
                 claimed until `orchestrator-worker backlog release`, or claim.backlog: run, says so",
            ),
        ] {
            let [event] = &told(vec![of(what, "e")])[..] else { panic!("{note}") };
            let of_kind = if event.is_warning { "Warning" } else { "Normal" };
            assert_eq!(format!("{of_kind} {}", event.reason), kind);
            assert_eq!((event.action, event.note.as_str()), (action, note));
            assert_eq!(event.execution, Some("e".into()));
        }
    }

    #[test]
    fn what_is_alike_is_told_once_and_names_what_it_is_about() {
        let lost = || What::ClaimLost(LostBy::Deadline);
        let both = told(vec![
            of(reclaimed(Some("w-1")), "a"),
            of(lost(), "x"),
            of(reclaimed(Some("w-2")), "b"),
            of(reclaimed(Some("w-1")), "c"),
            of(reclaimed(Some("w-1")), "c"),
        ]);
        let notes: Vec<&str> = both.iter().map(|event| event.note.as_str()).collect();
        let [first, _, other] = notes[..] else { panic!("{notes:?}") };
        assert!(first.starts_with("took over 2 executions (a, c) of w-1: "), "{first}");
        assert!(other.starts_with("took over execution b of w-2: "), "{other}");
        assert_eq!(both[0].execution, Some("a".into()));

        let many = told((0..200).map(|n| of(lost(), &format!("e{n}"))).collect());
        let begin = "lost 200 executions (e0, e1, e2, e3, e4, e5, e6, e7, e8, e9 and 190 more): ";
        assert!(many.len() == 1 && many[0].note.starts_with(begin), "{many:?}");
    }

    #[test]
    fn a_note_is_never_too_long_and_says_at_its_end_what_was_dropped() {
        let mut outbox = Outbox::default();
        let long = What::SchemaMismatch(Unfit::Unusable, "ä".repeat(NOTE));
        assert!(outbox.add(Notice { what: long, execution: None }, at(0)));
        for (untold, end) in [
            (0, "ää"),
            (1, "ä (1 thing before this could not be told)"),
            (u64::MAX, "things before this could not be told)"),
        ] {
            let note = outbox.first(untold).expect("it waits").note;
            assert!(note.ends_with(end) && note.len() <= NOTE, "{note}");
        }
    }

    #[test]
    fn what_finds_no_room_or_has_waited_for_too_long_is_dropped_and_counted() {
        let mut outbox = Outbox::default();
        let held = |count| Notice { what: What::BacklogHeld(count), execution: None };
        for count in 0..32 {
            assert!(outbox.add(held(count), at(count)));
        }
        assert!(!outbox.add(held(99), at(40)));
        assert!(outbox.add(held(5), at(40)), "one like it waits");
        assert_eq!(outbox.drop_stale(at(610)), 11, "those up to 10");
        assert!(outbox.add(held(99), at(610)));
        let first = outbox.first(0).expect("some wait").note;
        assert!(first.starts_with("11 executions "), "{first}");
        assert_eq!(outbox.clear(), 22);
        assert!(outbox.is_empty());
    }
}
