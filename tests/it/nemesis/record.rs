//! What a run has seen, and how it is told.

use std::{collections::BTreeMap, time::Duration};

use super::{faults::Fault, phase::Phase, say, twin::Fared};

/// How the run went.
#[derive(Default)]
pub struct Record {
    pub struck: BTreeMap<Fault, (u32, Duration)>,
    /// Faults that met nothing, and were tried again.
    pub missed: u32,
    /// Executions that were under way as it struck.
    pub met: BTreeMap<(Fault, Phase), u32>,
    pub fared: BTreeMap<Fared, u32>,
    pub submitted: u32,
    pub cancelled: u32,
    /// By their status in the end.
    pub ended: BTreeMap<String, u32>,
    /// Attempts that another had to make again.
    pub lost: usize,
    pub effects: usize,
    pub took: Duration,
}

impl Record {
    /// Of another server at the same time.
    pub fn add(&mut self, other: Self) {
        for (fault, (count, time)) in other.struck {
            let (all, in_all) = self.struck.entry(fault).or_default();
            (*all, *in_all) = (*all + count, *in_all + time);
        }
        add(&mut self.met, other.met);
        add(&mut self.fared, other.fared);
        add(&mut self.ended, other.ended);
        self.missed += other.missed;
        self.submitted += other.submitted;
        self.cancelled += other.cancelled;
        self.lost += other.lost;
        self.effects += other.effects;
        self.took = self.took.max(other.took);
    }

    pub fn faults(&self) -> u32 {
        self.struck.values().map(|(count, _)| count).sum()
    }

    pub fn executions(&self) -> u32 {
        self.ended.values().sum()
    }

    /// What happened, printed even where the test passes.
    pub fn tell(&self) {
        for (fault, (count, time)) in &self.struck {
            let (name, seconds) = (format!("{fault:?}"), time.as_secs_f64());
            say(&format!("{name:<20} {count:>5} times, {seconds:>6.1} s in all"));
            let met = self.met.iter().filter(|((met, _), _)| met == fault);
            let met: Vec<String> =
                met.map(|((_, phase), count)| format!("{count} {phase}")).collect();
            say(&format!("{:<20}       {}", "  as it struck:", met.join(", ")));
        }
        for (fared, count) in &self.fared {
            say(&format!("{:<20} {count:>5} times by the Go service", format!("{fared:?}")));
        }
        say(&format!(
            "{} faults ({} more met nothing), {} executions ({:?}), {} submitted, {} cancelled, \
             {} effects, {:.0} s",
            self.faults(),
            self.missed,
            self.executions(),
            self.ended,
            self.submitted,
            self.cancelled,
            self.effects,
            self.took.as_secs_f64()
        ));
    }
}

fn add<K: Ord>(all: &mut BTreeMap<K, u32>, others: BTreeMap<K, u32>) {
    for (key, count) in others {
        *all.entry(key).or_default() += count;
    }
}
