//! Spans that have ended, and where they go.
//!
//! **Invariant:** handing spans over never waits and never fails: what cannot be kept is dropped and
//! counted.

use std::{borrow::Cow, sync::Arc, time::Duration};

use crate::domain::trace::{SpanId, TraceId};

/// Takes spans, and sends them in the order in which it is given them.
pub trait SpanSink: Send + Sync + 'static {
    /// Those that belong together at once; nobody else could tell of them, so they are sent at once.
    fn write(&self, spans: Vec<Span>);

    /// The last of an execution, of which the store knows that they are on their way: they are sent with
    /// others. `gone` is called once they have arrived, or were given up.
    fn write_last(&self, spans: Vec<Span>, gone: Gone);

    /// Nothing follows for now, and somebody waits: what is there is sent at once, and not tried again.
    fn hurry(&self);
}

/// What is done when spans are no longer on their way. It must not wait.
pub type Gone = Box<dyn FnOnce() + Send>;

/// A span from its beginning to its end. Times are since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    pub parent: Option<Parent>,
    pub name: Cow<'static, str>,
    pub kind: SpanKind,
    pub start: Duration,
    pub end: Duration,
    pub attributes: Vec<Attribute>,
    pub links: Vec<Link>,
    /// Why it counts as an error.
    pub error: Option<&'static str>,
}

/// The span above another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub span: SpanId,
    /// Somebody else's.
    pub is_remote: bool,
}

/// Who calls whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    Internal,
    Client,
    Consumer,
    Server,
}

/// A name and a value.
pub type Attribute = (&'static str, Value);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Word(&'static str),
    Text(Arc<str>),
    Number(i64),
    Flag(bool),
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// Another span that this one follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub trace: TraceId,
    pub span: SpanId,
}
