//! What is wrong with a database, its server or its rows, and what mends it.
//!
//! **Invariant:** every problem and every warning says what to do about it; what the store could not
//! be asked is told once, and never passed over as if it were well.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;

use super::{
    drain_contract::{LongestStep, PodTerms},
    eligibility::Backlog,
    lock_table::LockTable,
};

mod clock;
mod drain;
mod export;
mod kubernetes;
mod locks;
mod rights;
mod rows;
mod schema;
mod server;
mod templates;

pub use clock::{Clock, wrong_zone};
pub use export::{Export, export, leases};
pub use kubernetes::{Allowed, Feature, kubernetes};
pub use locks::RoundTrip;
pub use rights::{DELETED, Rights, Verb, grants};
pub use rows::Rows;
pub use schema::{Tables, names};
pub use server::{Caution, CautionKind, MySql, Server, Statements, cautions};
pub use templates::{Stored, template};

/// All that a store tells about itself.
#[derive(Clone, Debug)]
pub struct Facts {
    pub server: Answer<Server>,
    pub tables: Answer<Tables>,
    pub clock: Answer<Clock>,
    pub round_trip: Answer<RoundTrip>,
    pub rows: Answer<Rows>,
    /// `None`: no template has a step.
    pub longest_step: Answer<Option<LongestStep>>,
}

/// What a worker looks at once, before it begins.
#[derive(Clone, Debug)]
pub struct Circumstances {
    pub server: Server,
    /// As in [`Clock`].
    pub orchestrator_ms: Option<i64>,
    /// As in [`Facts`].
    pub longest_step: Option<LongestStep>,
}

pub type Answer<T> = Result<T, Unanswered>;

/// Why a store could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The tables are not there: what they are is told by themselves.
    NotMigrated,
    /// In one sentence.
    Because(String),
}

/// What the configuration says about a worker.
#[derive(Clone, Debug)]
pub struct View {
    pub backlog: Backlog,
    pub unknown_after: Duration,
    /// It deletes what ended long ago.
    pub retention: bool,
    /// `database.time_offset`; `None` for a store that keeps UTC.
    pub time_offset: Option<String>,
    pub lock_table: LockTable,
    pub drain_deadline: Duration,
    /// What the pod is given, if that is known.
    pub pod: Option<PodTerms>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Workers work; somebody should know it.
    Warning,
    /// A person has to mend it.
    Problem,
}

impl Verdict {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable word for programs: `schema`.
    pub check: &'static str,
    /// The template that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    pub verdict: Verdict,
    pub found: String,
    /// What to do about it; `None` where all is well.
    pub repair: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, template: None, verdict: Verdict::Ok, found: found.into(), repair: None }
    }

    pub fn warning(
        check: &'static str,
        found: impl Into<String>,
        repair: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Warning, repair: Some(repair.into()), ..Self::ok(check, found) }
    }

    pub fn problem(
        check: &'static str,
        found: impl Into<String>,
        repair: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Problem, ..Self::warning(check, found, repair) }
    }

    /// From the sentence of an error: those say what is wrong, and behind the last semicolon what to do.
    pub fn of_error(check: &'static str, sentence: &str) -> Self {
        match sentence.rsplit_once("; ") {
            Some((found, repair)) => Self::problem(check, found, repair),
            None => Self::problem(check, sentence, "mend that, then run `doctor` again"),
        }
    }
}

/// What `doctor` mends itself: nothing that another command of this program does not do as well,
/// and nothing that takes anything away which somebody may want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// As `migrate`.
    pub migrate: bool,
    /// As `locks clean`.
    pub clean: bool,
}

pub fn repairs(facts: &Facts) -> Repairs {
    let is_behind = |tables: &Tables| !tables.pending.is_empty() && tables.hidden.is_empty();
    Repairs {
        migrate: facts.tables.as_ref().is_ok_and(is_behind),
        clean: facts.rows.as_ref().is_ok_and(|rows| rows.expired_locks > 0),
    }
}

/// What became of the repairs.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// The steps that were done, or why they could not be.
    pub migrated: Option<Result<Vec<String>, String>>,
    /// How many lock rows were deleted, or why none could be.
    pub cleaned: Option<Result<u64, String>>,
}

/// What there is to say about a store, in the order in which it would have to be mended.
pub fn diagnose(facts: &Facts, view: &View, repaired: &Repaired) -> Vec<Finding> {
    let server = of_answer("server", &facts.server, server::findings);
    if matches!(facts.server, Err(Unanswered::Because(_))) {
        return server;
    }
    let tables = &facts.tables;
    let all = [
        server,
        of_answer("schema", tables, |tables| schema::findings(tables, repaired)),
        of_answer("indexes", tables, schema::index_findings),
        of_answer("grants", tables, |tables| rights::findings(tables, view)),
        of_answer("clock", &facts.clock, clock::findings),
        of_answer("zone", &facts.clock, |clock| clock::zone_findings(clock, view)),
        of_answer("lock", &facts.round_trip, locks::findings),
        of_answer("rows", &facts.rows, |rows| rows::findings(rows, view)),
        of_answer("locks", &facts.rows, |rows| locks::expired(rows, repaired)),
        of_answer("drain", &facts.longest_step, |longest| drain::findings(longest.as_ref(), view)),
    ];
    let named = |text: &str| view.lock_table.named(text).into_owned();
    let findings = all.concat().into_iter().map(|finding| Finding {
        found: named(&finding.found),
        repair: finding.repair.as_deref().map(named),
        ..finding
    });
    once_each(findings)
}

fn of_answer<T>(
    check: &'static str,
    answer: &Answer<T>,
    findings: impl FnOnce(&T) -> Vec<Finding>,
) -> Vec<Finding> {
    match answer {
        Ok(facts) => findings(facts),
        Err(Unanswered::NotMigrated) => Vec::new(),
        Err(Unanswered::Because(sentence)) => vec![Finding::of_error(check, sentence)],
    }
}

/// One cause may keep several things from being asked.
fn once_each(findings: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let mut told = BTreeSet::new();
    let is_new = |finding: &Finding| {
        finding.verdict != Verdict::Problem || told.insert(finding.found.clone())
    };
    findings.filter(is_new).collect()
}

/// `a, b, c and 4 more`
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    const MOST: usize = 3;
    let first: Vec<&str> = names.iter().take(MOST).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(MOST) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// `1 execution`, `2 executions`.
pub(super) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests;
