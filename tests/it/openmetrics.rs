//! Reads an `OpenMetrics` text as a scraper would, and is as strict as the format.
//!
//! **Invariant:** what this accepts, Prometheus accepts.

use std::collections::{BTreeMap, BTreeSet};

/// Metrics by the names of their families.
#[derive(Debug)]
pub struct Metrics(pub BTreeMap<String, Family>);

#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub unit: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    /// Panics with what is wrong.
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the text ends with its end");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let [word, name, rest] = three(comment);
                if name != current {
                    assert!(!families.contains_key(name), "{name} is in two places");
                    name.clone_into(&mut current);
                }
                let family = families.entry(current.clone()).or_default();
                assert!(family.samples.is_empty(), "{line} comes after its samples");
                let field = match word {
                    "HELP" => &mut family.help,
                    "TYPE" => &mut family.kind,
                    "UNIT" => &mut family.unit,
                    _ => panic!("{line}"),
                };
                assert!(field.is_empty() && !rest.is_empty(), "{line}");
                rest.clone_into(field);
            } else {
                let sample = sample(line);
                let family = families.get_mut(&current).unwrap_or_else(|| panic!("{line}"));
                let suffix = sample.name.strip_prefix(&current);
                let suffix = suffix.unwrap_or_else(|| panic!("{line} is not of {current}"));
                assert!(suffixes(&family.kind).contains(&suffix), "{line} is no {}", family.kind);
                family.samples.push(sample);
            }
        }
        for (name, family) in &families {
            family.check(name);
        }
        Self(families)
    }

    /// A sample's value by its name and all of its labels, `a="b",c="d"`; 0 where it is not there
    /// yet.
    pub fn value(&self, name: &str, labels: &str) -> f64 {
        let labels = self::labels(labels);
        let mut all = self.0.values().flat_map(|family| &family.samples);
        all.find(|s| s.name == name && s.labels == labels).map_or(0.0, |sample| sample.value)
    }
}

impl Family {
    fn check(&self, name: &str) {
        assert!(!self.kind.is_empty() && self.help.ends_with('.'), "{name}: {self:?}");
        assert!(self.unit.is_empty() || name.ends_with(&format!("_{}", self.unit)), "{name}");
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            assert!(seen.insert((&sample.name, &sample.labels)), "{sample:?} stands twice");
            match self.kind.as_str() {
                "counter" | "histogram" => assert!(sample.value >= 0.0, "{sample:?}"),
                "info" => assert!((sample.value - 1.0).abs() < f64::EPSILON, "{sample:?}"),
                _ => {}
            }
        }
        if self.kind == "histogram" {
            self.check_histograms(name);
        }
    }

    /// Buckets grow, and the last one holds all.
    fn check_histograms(&self, name: &str) {
        let mut last: BTreeMap<BTreeMap<String, String>, (f64, f64)> = BTreeMap::new();
        for Sample { name: sample, labels, value } in &self.samples {
            let mut labels = labels.clone();
            if sample.ends_with("_bucket") {
                let edge = labels.remove("le").expect("a bucket has an edge");
                let edge =
                    if edge == "+Inf" { f64::INFINITY } else { edge.parse().expect("a number") };
                let before = last.insert(labels, (edge, *value));
                assert!(before.is_none_or(|(e, v)| e < edge && v <= *value), "{name}: {self:?}");
            }
        }
        for sample in self.samples.iter().filter(|sample| sample.name.ends_with("_count")) {
            let (edge, all) = last[&sample.labels];
            assert!(edge.is_infinite() && (all - sample.value).abs() < 0.5, "{name}: {self:?}");
        }
    }
}

fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count"],
        other => panic!("{other} is a kind that nobody here makes"),
    }
}

fn three(text: &str) -> [&str; 3] {
    let mut words = text.splitn(3, ' ');
    [(); 3].map(|()| words.next().unwrap_or_else(|| panic!("three words in {text:?}")))
}

fn sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let (name, labels) = head.split_once('{').map_or((head, ""), |(name, rest)| {
        (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}")))
    });
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    assert!(!name.is_empty() && name.chars().all(is_name), "{line}");
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    Sample { name: name.to_owned(), labels: self::labels(labels), value }
}

/// `a="b",c="d"`; quotes and backslashes in a value are escaped.
fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("{text}")) {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => panic!("{text}"),
                },
                (_, plain) => value.push(plain),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "{name} stands twice in {text}");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}
