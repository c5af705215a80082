//! What the steps themselves wrote, beside what the tables say: whether it can have been one worker at
//! a time, nothing twice, and nothing lost.
//!
//! **Invariant:** the order of effects is that of the lines in their one file, to which every step
//! appends; no clock is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A line that a step has written, or the harness: what, of which execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub what: What,
    pub execution: String,
    pub step: String,
    /// 0 for the Go service's twin.
    pub fence: u64,
    pub attempt: u32,
    pub key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Start,
    /// It runs still.
    Tick,
    End,
    /// The server has said that its execution is there. This and what follows are the harness's lines.
    Submitted,
    /// Somebody is about to cancel it.
    Asked,
    /// The server has said that it is cancelled.
    Promised,
    /// It was cancelled, and nobody holds it any more.
    Cancelled,
}

impl What {
    const fn is_of_a_step(self) -> bool {
        matches!(self, Self::Start | Self::Tick | Self::End)
    }
}

impl Effect {
    /// `start EXECUTION STEP FENCE ATTEMPT KEY`; a line that was cut by a kill is none.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let what = match words.next()? {
            "start" => What::Start,
            "tick" => What::Tick,
            "end" => What::End,
            "submitted" => What::Submitted,
            "asked" => What::Asked,
            "promised" => What::Promised,
            "cancelled" => What::Cancelled,
            _ => return None,
        };
        let mut word = || words.next().map(str::to_owned);
        Some(Self {
            what,
            execution: word()?,
            step: word()?,
            fence: word()?.parse().ok()?,
            attempt: word()?.parse().ok()?,
            key: word()?,
        })
    }

    fn step(&self) -> StepName {
        (self.execution.clone(), self.step.clone())
    }
}

/// An execution and the name of one of its steps.
pub type StepName = (String, String);

/// What the tables say at the end.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Status and error.
    pub executions: BTreeMap<String, (String, String)>,
    pub steps: BTreeMap<StepName, StepRow>,
    /// In the order of their numbers.
    pub attempts: BTreeMap<StepName, Vec<AttemptRow>>,
    /// Which steps of the same execution each waits for.
    pub needs: BTreeMap<StepName, Vec<String>>,
}

#[derive(Clone, Debug, Default)]
pub struct StepRow {
    pub status: String,
    pub attempt: u32,
    pub fence: u64,
    pub output: String,
}

#[derive(Clone, Debug)]
pub struct AttemptRow {
    pub number: u32,
    pub fence: u64,
    /// Empty while it has none.
    pub outcome: String,
}

/// Something that may not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub step: StepName,
    pub how: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    Overlap,
    TwoRunners,
    RunAgain,
    NeverRun,
    StartedTwice,
    Unrecorded,
    FenceShrank,
    ForeignOutput,
    TooEarly,
    Key,
    NotEnded,
    AfterCancel,
    Lost,
    NotCancelled,
    Unasked,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (execution, step) = &self.step;
        write!(f, "{:?}: step {step} of {execution}: {}", self.rule, self.how)
    }
}

/// All that may not be, of a database that lost nothing that it had acknowledged.
pub fn violations(effects: &[Effect], rows: &Rows) -> Vec<Violation> {
    let mut found = one_at_a_time(effects);
    found.extend(in_order(effects, rows));
    found.extend(not_after_cancel(effects));
    found.extend(recorded(effects, rows));
    found.extend(keys(effects, rows));
    found.extend(ended(rows));
    found.extend(kept(effects, rows));
    found
}

/// What holds even where a failover has lost acknowledged writes.
pub fn violations_after_loss(effects: &[Effect], rows: &Rows) -> Vec<Violation> {
    let mut found = one_at_a_time(effects);
    found.extend(ended(rows));
    found
}

fn violation(rule: Rule, step: StepName, how: impl Into<String>) -> Violation {
    Violation { rule, step, how: how.into() }
}

/// No effect under an older fence once one under a newer has begun; none of the twin's beside a
/// worker's.
fn one_at_a_time(effects: &[Effect]) -> Vec<Violation> {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for effect in effects.iter().filter(|effect| effect.what.is_of_a_step()) {
        let newest = newest.entry(&effect.execution).or_insert(effect.fence);
        if (*newest == 0) != (effect.fence == 0) {
            found.push(violation(Rule::TwoRunners, effect.step(), "a worker and the Go service"));
        } else if effect.fence < *newest {
            let how = format!("{:?} under fence {} after {newest}", effect.what, effect.fence);
            found.push(violation(Rule::Overlap, effect.step(), how));
        }
        *newest = effect.fence.max(*newest);
    }
    found
}

/// Each start is a new one, and comes after an end of all that it waits for that was recorded.
fn in_order(effects: &[Effect], rows: &Rows) -> Vec<Violation> {
    let mut ended: BTreeSet<StepName> = BTreeSet::new();
    let is_recorded = |end: &Effect| {
        let mut attempts = rows.attempts.get(&end.step()).into_iter().flatten();
        end.fence == 0
            || attempts.any(|row| {
                (row.number, row.fence) == (end.attempt, end.fence)
                    && ["success", "failed"].contains(&&*row.outcome)
            })
    };
    let mut last: BTreeMap<StepName, (u32, u64)> = BTreeMap::new();
    let mut found = Vec::new();
    for effect in effects {
        let step = effect.step();
        match effect.what {
            What::Start => {
                let needs = rows.needs.get(&step).map_or(&[][..], Vec::as_slice);
                for need in needs {
                    if !ended.contains(&(effect.execution.clone(), need.clone())) {
                        let how = format!("it began before {need} had ended");
                        found.push(violation(Rule::TooEarly, step.clone(), how));
                    }
                }
                if let Some((attempt, fence)) =
                    last.insert(step.clone(), (effect.attempt, effect.fence))
                {
                    if effect.attempt <= attempt {
                        let how = format!("attempt {} after {attempt}", effect.attempt);
                        found.push(violation(Rule::StartedTwice, step.clone(), how));
                    }
                    if effect.fence < fence {
                        let how = format!("fence {} after {fence}", effect.fence);
                        found.push(violation(Rule::FenceShrank, step, how));
                    }
                }
            }
            What::End if is_recorded(effect) => drop(ended.insert(step)),
            _ => {}
        }
    }
    found
}

fn not_after_cancel(effects: &[Effect]) -> Vec<Violation> {
    let mut cancelled: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for effect in effects {
        if effect.what == What::Cancelled {
            cancelled.insert(&effect.execution);
        } else if effect.what.is_of_a_step() && cancelled.contains(&*effect.execution) {
            let how = format!("{:?} under fence {}", effect.what, effect.fence);
            found.push(violation(Rule::AfterCancel, effect.step(), how));
        }
    }
    found
}

/// Every effect was recorded before it began; a recorded success is that of an effect, carries its
/// output, and was the last.
fn recorded(effects: &[Effect], rows: &Rows) -> Vec<Violation> {
    let mut found = Vec::new();
    let of_workers = |effect: &&Effect| effect.fence > 0 && effect.what == What::Start;
    for effect in effects.iter().filter(of_workers) {
        let step = effect.step();
        let attempts = rows.attempts.get(&step).map_or(&[][..], Vec::as_slice);
        let same = |row: &AttemptRow| (row.number, row.fence) == (effect.attempt, effect.fence);
        if !attempts.iter().any(same) {
            let how = format!("attempt {} under fence {}", effect.attempt, effect.fence);
            found.push(violation(Rule::Unrecorded, step, how));
            continue;
        }
        let earlier = attempts.iter().filter(|row| row.number < effect.attempt);
        if let Some(done) = earlier.into_iter().find(|row| row.outcome == "success") {
            let how = format!("attempt {} after {} had succeeded", effect.attempt, done.number);
            found.push(violation(Rule::RunAgain, step, how));
        }
    }
    for (step, attempts) in &rows.attempts {
        if attempts.windows(2).any(|pair| pair[1].fence < pair[0].fence) {
            found.push(violation(Rule::FenceShrank, step.clone(), "in its recorded attempts"));
        }
    }
    let ends = effects.iter().filter(|effect| effect.what == What::End);
    let ends: BTreeSet<(StepName, u64, u32)> =
        ends.map(|end| (end.step(), end.fence, end.attempt)).collect();
    let succeeded = |(_, row): &(&StepName, &StepRow)| row.status == "success" && row.attempt > 0;
    for (step, row) in rows.steps.iter().filter(succeeded) {
        if !ends.contains(&(step.clone(), row.fence, row.attempt)) {
            let how = format!("attempt {} succeeded, and wrote nothing", row.attempt);
            found.push(violation(Rule::NeverRun, step.clone(), how));
        }
        if row.output.trim() != format!("{} {}", row.fence, row.attempt) {
            let how = format!("{:?} under fence {}", row.output, row.fence);
            found.push(violation(Rule::ForeignOutput, step.clone(), how));
        }
    }
    found
}

/// The same key until an attempt has failed with an answer of its own, and then another.
fn keys(effects: &[Effect], rows: &Rows) -> Vec<Violation> {
    let mut last: BTreeMap<StepName, &Effect> = BTreeMap::new();
    let mut found = Vec::new();
    for effect in effects.iter().filter(|effect| effect.what == What::Start && effect.fence > 0) {
        let step = effect.step();
        let Some(before) = last.insert(step.clone(), effect) else { continue };
        let attempts = rows.attempts.get(&step).map_or(&[][..], Vec::as_slice);
        let between = before.attempt..effect.attempt;
        let failed =
            attempts.iter().any(|row| between.contains(&row.number) && row.outcome == "failed");
        if failed == (before.key == effect.key) {
            let changed = if failed { "kept after a failure" } else { "changed without a failure" };
            let how =
                format!("{changed}, between attempts {} and {}", before.attempt, effect.attempt);
            found.push(violation(Rule::Key, step, how));
        }
    }
    found
}

/// Each execution has ended, and well unless somebody cancelled it; then all its steps have too.
fn ended(rows: &Rows) -> Vec<Violation> {
    let is_open = |row: &StepRow| !["success", "failed", "skipped"].contains(&&*row.status);
    let open = rows.steps.iter().filter(|(_, row)| is_open(row));
    let steps = open.map(|(step, row)| {
        violation(Rule::NotEnded, step.clone(), format!("it is {}", row.status))
    });
    let bad = |(_, (status, _)): &(&String, &(String, String))| {
        !["success", "cancelled"].contains(&status.as_str())
    };
    rows.executions
        .iter()
        .filter(bad)
        .map(|(id, (status, error))| {
            violation(Rule::NotEnded, (id.clone(), "-".into()), format!("it is {status}: {error}"))
        })
        .chain(steps)
        .collect()
}

/// What the server has said of an execution holds, and nobody cancels one that was not to be.
fn kept(effects: &[Effect], rows: &Rows) -> Vec<Violation> {
    let said = |what: What| -> BTreeSet<&str> {
        let such = effects.iter().filter(|effect| effect.what == what);
        such.map(|effect| &*effect.execution).collect()
    };
    let status = |id: &str| rows.executions.get(id).map(|(status, _)| &**status);
    let is_cancelled = |id: &&str| status(id) == Some("cancelled");
    let of = |rule, id: &str, how: &str| violation(rule, (id.into(), "-".into()), how);
    let lost = said(What::Submitted).into_iter().filter(|id| status(id).is_none());
    let lost = lost.map(|id| of(Rule::Lost, id, "it was submitted, and is not there"));
    let promised = said(What::Promised).into_iter().filter(|id| !is_cancelled(id));
    let promised = promised.map(|id| {
        let how = format!("it was cancelled, and is {:?}", status(id));
        of(Rule::NotCancelled, id, &how)
    });
    let asked = said(What::Asked);
    let cancelled = rows.executions.keys().map(|id| &**id).filter(is_cancelled);
    let unasked = cancelled.filter(|id| !asked.contains(id));
    let unasked = unasked.map(|id| of(Rule::Unasked, id, "nobody has cancelled it"));
    lost.chain(promised).chain(unasked).collect()
}

/// A history that could be, and each way to spoil it.
#[cfg(test)]
mod tests {
    use super::*;

    /// Step a was lost once and then succeeded; b failed once and then succeeded.
    const GOOD: &str = "start e a 7 1 k1
tick e a 7 1 k1
start e a 8 2 k1
end e a 8 2 k1
start e b 8 1 k2
end e b 8 1 k2
start e b 8 2 k3
end e b 8 2 k3";

    fn parse(text: &str) -> Vec<Effect> {
        text.lines().map(|line| Effect::parse(line).expect("a line")).collect()
    }

    fn name(step: &str) -> StepName {
        ("e".into(), step.into())
    }

    fn rows() -> Rows {
        let attempt =
            |number, fence, outcome: &str| AttemptRow { number, fence, outcome: outcome.into() };
        let done =
            StepRow { status: "success".into(), attempt: 2, fence: 8, output: "8 2\n".into() };
        Rows {
            executions: [("e".into(), ("success".into(), String::new()))].into(),
            steps: [(name("a"), done.clone()), (name("b"), done)].into(),
            attempts: [
                (name("a"), vec![attempt(1, 7, "lost"), attempt(2, 8, "success")]),
                (name("b"), vec![attempt(1, 8, "failed"), attempt(2, 8, "success")]),
            ]
            .into(),
            needs: [(name("b"), vec!["a".into()])].into(),
        }
    }

    fn rules(text: &str, rows: &Rows) -> Vec<Rule> {
        let found: BTreeSet<Rule> =
            violations(&parse(text), rows).into_iter().map(|it| it.rule).collect();
        found.into_iter().collect()
    }

    #[test]
    fn a_good_history_is_passed_and_a_cut_line_is_none() {
        assert_eq!(violations(&parse(GOOD), &rows()), []);
        assert_eq!(Effect::parse("start e a 7"), None);
        assert_eq!(Effect::parse("sta"), None);
    }

    #[test]
    fn what_the_effects_alone_show_is_found() {
        for (from, to, rule) in [
            ("end e a 8 2 k1", "tick e a 7 1 k1\nend e a 8 2 k1", Rule::Overlap),
            ("tick e a 7 1 k1", "tick e a 7 1 k1\nstart e a 0 0 -", Rule::TwoRunners),
            ("start e b 8 2 k3", "start e b 8 1 k3", Rule::StartedTwice),
            (
                "end e a 8 2 k1\nstart e b 8 1 k2",
                "start e b 8 1 k2\nend e a 8 2 k1",
                Rule::TooEarly,
            ),
            ("start e b 8 1 k2", "cancelled e - 0 0 -\nstart e b 8 1 k2", Rule::AfterCancel),
            ("start e a 8 2 k1", "start e a 8 2 k9", Rule::Key),
            ("start e b 8 2 k3", "start e b 8 2 k2", Rule::Key),
            ("end e b 8 2 k3", "end e b 8 1 k3", Rule::NeverRun),
            ("start e b 8 1 k2", "start e b 8 9 k2", Rule::Unrecorded),
            ("tick e a 7 1 k1", "end e a 7 1 k1\nstart e b 7 1 k2", Rule::TooEarly),
            ("start e a 7 1 k1", "submitted f - 0 0 -\nstart e a 7 1 k1", Rule::Lost),
            ("start e a 7 1 k1", "promised e - 0 0 -\nstart e a 7 1 k1", Rule::NotCancelled),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let found = rules(&GOOD.replacen(from, to, 1), &rows());
            assert!(found.contains(&rule), "{rule:?} is not in {found:?}");
        }
    }

    fn row<'a>(rows: &'a mut Rows, of: &str) -> &'a mut StepRow {
        rows.steps.get_mut(&name(of)).expect("a step")
    }

    fn attempts<'a>(rows: &'a mut Rows, of: &str) -> &'a mut Vec<AttemptRow> {
        rows.attempts.get_mut(&name(of)).expect("attempts")
    }

    #[test]
    fn what_the_rows_show_is_found() {
        let spoil = |spoil: fn(&mut Rows)| {
            let mut rows = rows();
            spoil(&mut rows);
            rules(GOOD, &rows)
        };
        let mine = spoil(|rows| row(rows, "a").output = "7 1".into());
        assert_eq!(mine, [Rule::ForeignOutput]);
        let again = spoil(|rows| attempts(rows, "a")[0].outcome = "success".into());
        assert_eq!(again, [Rule::RunAgain]);
        let lost = spoil(|rows| drop(attempts(rows, "b").remove(0)));
        assert!(lost.contains(&Rule::Unrecorded), "{lost:?}");
        let shrank = spoil(|rows| attempts(rows, "a")[0].fence = 9);
        assert!(shrank.contains(&Rule::FenceShrank), "{shrank:?}");
        let open = spoil(|rows| row(rows, "b").status = "running".into());
        assert_eq!(open, [Rule::NotEnded]);
        for (status, rule) in [
            ("running", Rule::NotEnded),
            ("pending", Rule::NotEnded),
            ("failed", Rule::NotEnded),
            ("cancelled", Rule::Unasked),
        ] {
            let mut rows = rows();
            rows.executions.insert("f".into(), (status.into(), "why".into()));
            assert_eq!(rules(GOOD, &rows), [rule]);
        }
        let mut rows = rows();
        rows.executions.insert("f".into(), ("cancelled".into(), String::new()));
        let asked = format!("submitted f - 0 0 -\nasked f - 0 0 -\npromised f - 0 0 -\n{GOOD}");
        assert_eq!(rules(&asked, &rows), []);
    }

    #[test]
    fn of_a_database_that_lost_writes_less_is_asked() {
        let forgotten = Rows { attempts: BTreeMap::new(), ..rows() };
        assert_eq!(violations_after_loss(&parse(GOOD), &forgotten), []);
        let overlap = GOOD.replacen("end e a 8 2 k1", "tick e a 7 1 k1", 1);
        assert_eq!(violations_after_loss(&parse(&overlap), &forgotten)[0].rule, Rule::Overlap);
    }
}
