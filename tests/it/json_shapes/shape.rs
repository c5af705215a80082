//! The shape of JSON texts: keys in their order, types, and the words of closed sets.
//!
//! **Invariant:** a shape is that of all samples it was made of; whatever breaks a rule of
//! `docs/json.md` (a time that is not UTC, a number without a unit, a key twice) is a panic.

use std::{collections::BTreeSet, fmt, fmt::Write};

use orchestrator_worker::domain::execution::ExecutionState;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// A JSON value whose keys are in their order.
#[derive(Debug)]
pub enum Json {
    Null,
    Bool,
    Number,
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Values)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that a command prints: no fractions")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Json::Map(map))
    }
}

/// What samples have in common.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    null: bool,
    /// `None`: nothing but null was met.
    what: Option<What>,
}

#[derive(Clone, Debug)]
enum What {
    Scalar(String),
    List(Box<Shape>),
    Map(Vec<Field>),
}

#[derive(Clone, Debug)]
struct Field {
    key: String,
    shape: Shape,
    always: bool,
}

/// Keys whose numbers count or name something; all others say their unit.
const COUNTS: [&str; 14] = [
    "attempt",
    "attempts",
    "beat",
    "cancelled",
    "cleaned_count",
    "executions",
    "failed",
    "fence",
    "handed_back",
    "held",
    "lost",
    "released",
    "retry_count",
    "succeeded",
];

impl Shape {
    /// `path` is the keys that lead here, for rules and words: `steps.state`.
    pub fn of(path: &str, json: &Json) -> Self {
        let key = path.rsplit('.').next().unwrap_or_default();
        let what = match json {
            Json::Null => None,
            Json::Bool => Some(What::Scalar("true | false".into())),
            Json::Number => {
                assert!(COUNTS.contains(&key) || key.ends_with("_ms"), "{path} says no unit");
                Some(What::Scalar("integer".into()))
            }
            Json::Text(text) => Some(What::Scalar(kind(path, key, text))),
            Json::List(items) => {
                let items = items.iter().map(|item| Self::of(path, item));
                Some(What::List(Box::new(items.fold(Self::default(), Self::and))))
            }
            Json::Map(entries) => Some(What::Map(fields(path, entries))),
        };
        Self { null: what.is_none(), what }
    }

    /// That of both.
    pub fn and(self, other: Self) -> Self {
        let null = self.null || other.null;
        let what = match (self.what, other.what) {
            (None, what) | (what, None) => what,
            (Some(What::List(one)), Some(What::List(other))) => {
                Some(What::List(Box::new(one.and(*other))))
            }
            (Some(What::Map(one)), Some(What::Map(other))) => Some(What::Map(united(one, other))),
            (Some(What::Scalar(one)), Some(What::Scalar(other))) => {
                assert_eq!(one, other, "one key, two types");
                Some(What::Scalar(one))
            }
            (one, other) => panic!("one key, two types: {one:?}, {other:?}"),
        };
        Self { null, what }
    }

    fn draw(&self, indent: usize, drawn: &mut String) {
        let gap = " ".repeat(indent);
        match &self.what {
            None => drawn.push_str(if self.null { "null" } else { "nothing" }),
            Some(What::Scalar(kind)) => drawn.push_str(kind),
            Some(What::List(shape)) => {
                drawn.push('[');
                shape.draw(indent, drawn);
                drawn.push(']');
            }
            Some(What::Map(fields)) => {
                drawn.push_str("{\n");
                for Field { key, shape, always } in fields {
                    let optional = if *always { "" } else { "?" };
                    write!(drawn, "{gap}  {key}{optional}: ").expect("a text takes all");
                    shape.draw(indent + 2, drawn);
                    drawn.push('\n');
                }
                write!(drawn, "{gap}}}").expect("a text takes all");
            }
        }
        if self.null && self.what.is_some() {
            drawn.push_str(" | null");
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut drawn = String::new();
        self.draw(0, &mut drawn);
        f.write_str(&drawn)
    }
}

fn fields(path: &str, entries: &[(String, Json)]) -> Vec<Field> {
    let keys: BTreeSet<&String> = entries.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), entries.len(), "a key twice: {entries:?}");
    let field = |(key, json): &(String, Json)| Field {
        key: key.clone(),
        shape: Shape::of(format!("{path}.{key}").trim_start_matches('.'), json),
        always: true,
    };
    entries.iter().map(field).collect()
}

/// The fields of both, in their order; one that is not in both is optional.
fn united(one: Vec<Field>, mut other: Vec<Field>) -> Vec<Field> {
    let optional = |field: Field| Field { always: false, ..field };
    let mut all = Vec::new();
    for field in one {
        let Some(at) = other.iter().position(|same| same.key == field.key) else {
            all.push(optional(field));
            continue;
        };
        let mut before: Vec<Field> = other.drain(..=at).collect();
        let same = before.pop().expect("it is there");
        all.extend(before.into_iter().map(optional));
        let always = field.always && same.always;
        all.push(Field { shape: field.shape.and(same.shape), always, key: field.key });
    }
    all.extend(other.into_iter().map(optional));
    let keys: BTreeSet<&String> = all.iter().map(|field| &field.key).collect();
    assert_eq!(keys.len(), all.len(), "another order of keys: {all:?}");
    all
}

/// The words of a key that has a closed set of them.
fn words(path: &str, key: &str) -> Option<Vec<&'static str>> {
    let of_executions = ExecutionState::ALL.map(ExecutionState::as_str);
    let of_steps = ["pending", "running", "success", "failed", "skipped"];
    Some(match key {
        "state" if path.starts_with("change.") => [&of_executions[..], &of_steps[4..]].concat(),
        "state" if path == "finished.state" => of_executions[2..].to_vec(),
        "state" if path.contains("steps.") => of_steps.to_vec(),
        "state" => of_executions.to_vec(),
        "was" => vec!["pending", "running", "cancelled"],
        "result" => vec!["created", "changed", "unchanged"],
        "verdict" => vec!["ok", "warning", "problem"],
        "mode" => vec!["serial", "parallel"],
        "on_failure" => vec!["abort", "skip"],
        _ => return None,
    })
}

fn kind(path: &str, key: &str, text: &str) -> String {
    if let Some(words) = words(path, key) {
        assert!(words.contains(&text), "{path} is none of {words:?}: {text:?}");
        return words.join(" | ");
    }
    let is_time = is_time(text);
    assert!(is_time || !key.ends_with("_at"), "{path} is no time in UTC: {text:?}");
    (if is_time { "time" } else { "text" }).into()
}

/// `2026-07-31T12:00:03.045Z`
fn is_time(text: &str) -> bool {
    let mask = |c: char| if c.is_ascii_digit() { '0' } else { c };
    text.chars().map(mask).collect::<String>() == "0000-00-00T00:00:00.000Z"
}

#[test]
fn a_shape_tells_types_nulls_options_and_words_apart() {
    let shape = |texts: &[&str]| {
        let samples = texts.iter().map(|text| serde_json::from_str::<Json>(text).expect("JSON"));
        samples.fold(Shape::default(), |all, json| all.and(Shape::of("", &json))).to_string()
    };
    for (texts, expected) in [
        (
            &[r#"[{"b": "x", "a": null}]"#, r#"[{"b": "y", "a": true}]"#][..],
            "[{\n  b: text\n  a: true | false | null\n}]",
        ),
        (
            &[r#"{"was": "running", "owner": "a"}"#, r#"{"was": "pending"}"#],
            "{\n  was: pending | running | cancelled\n  owner?: text\n}",
        ),
        (
            &[r#"{"took_ms": 1, "s": [], "since": "2026-07-31T12:00:03.045Z"}"#],
            "{\n  took_ms: integer\n  s: [nothing]\n  since: time\n}",
        ),
    ] {
        assert_eq!(shape(texts), expected);
    }
    for texts in [
        &[r#"{"a": 1}"#][..],
        &[r#"{"fence": 1.5}"#],
        &[r#"{"fence": 1, "fence": 2}"#],
        &[r#"{"started_at": "2026-07-31T12:00:03.045+02:00"}"#],
        &[r#"{"state": "resting"}"#],
        &[r#"{"a": "x"}"#, r#"{"a": true}"#],
        &[r#"{"a": "x", "b": "x"}"#, r#"{"b": "x", "a": "x"}"#],
    ] {
        let texts = texts.to_vec();
        std::panic::catch_unwind(|| shape(&texts)).expect_err("it breaks a rule");
    }
}
