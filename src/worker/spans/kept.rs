//! Spans of a lease that are not sent yet.
//!
//! **Invariant:** what is kept is told by whoever takes the lease over: it is sent only once a renewal
//! that was asked for later, or the end of the lease, has been taken by the store.

use std::{sync::Mutex, time::Duration};

use crate::ports::spans::Span;

/// More is not kept. What a lease has to tell beyond this is sent at once, and told twice if its holder
/// is killed before the next renewal.
const MOST: usize = 256;

#[derive(Default)]
pub struct Kept(Mutex<Spans>);

#[derive(Default)]
struct Spans {
    kept: Vec<Span>,
    /// Of all that were ever added, those that are not kept any more.
    gone: u64,
    /// The time given last.
    until: Duration,
}

/// What there was to tell at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoFar {
    /// So many spans were ever added.
    spans: u64,
    /// What ended by then, since 1970, was among them.
    pub until: Duration,
}

impl Kept {
    /// Keeps spans; returns those that there is no room for. `until`: with them all is told that ended by
    /// then.
    pub fn add(&self, spans: Vec<Span>, until: Option<Duration>) -> Vec<Span> {
        let mut all = self.0.lock().expect("no panic while it is held");
        all.until = until.unwrap_or(all.until);
        all.kept.extend(spans);
        let surplus = all.kept.len().saturating_sub(MOST);
        all.oldest(surplus)
    }

    pub fn so_far(&self) -> SoFar {
        let all = self.0.lock().expect("no panic while it is held");
        SoFar { spans: all.gone + all.kept.len() as u64, until: all.until }
    }

    /// Those that were there by then.
    pub fn take(&self, so_far: SoFar) -> Vec<Span> {
        let mut all = self.0.lock().expect("no panic while it is held");
        let count = so_far.spans.saturating_sub(all.gone);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(all.kept.len());
        all.oldest(count)
    }
}

impl Spans {
    fn oldest(&mut self, count: usize) -> Vec<Span> {
        self.gone += count as u64;
        self.kept.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::trace::{TraceParent, TraceParentError},
        ports::spans::SpanKind,
    };

    fn spans(names: &[&str]) -> Result<Vec<Span>, TraceParentError> {
        let place: TraceParent =
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
        let span = |name: &&str| Span {
            trace: place.trace,
            id: place.span,
            parent: None,
            name: (*name).to_owned().into(),
            kind: SpanKind::Internal,
            start: Duration::ZERO,
            end: Duration::ZERO,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        };
        Ok(names.iter().map(span).collect())
    }

    fn names(spans: &[Span]) -> Vec<&str> {
        spans.iter().map(|span| &*span.name).collect()
    }

    #[test]
    fn a_renewal_sends_what_was_there_when_it_was_asked_for() -> Result<(), TraceParentError> {
        let kept = Kept::default();
        assert!(kept.add(spans(&["a", "b"])?, None).is_empty());
        let asked = kept.so_far();
        assert!(kept.add(spans(&["c"])?, None).is_empty());
        assert_eq!(names(&kept.take(asked)), ["a", "b"]);
        assert!(kept.take(asked).is_empty(), "once");
        assert_eq!(names(&kept.take(kept.so_far())), ["c"]);
        Ok(())
    }

    #[test]
    fn the_oldest_go_at_once_where_there_are_too_many() -> Result<(), TraceParentError> {
        let kept = Kept::default();
        let asked = kept.so_far();
        assert!(kept.add(spans(&["a"; MOST])?, None).is_empty());
        let all = kept.so_far();
        let half = SoFar { spans: all.spans - 100, ..all };
        assert_eq!(names(&kept.add(spans(&["b"; 150])?, None)), ["a"; 150]);
        assert!(kept.take(asked).is_empty());
        assert_eq!(names(&kept.take(half)), ["a"; MOST - 100 - 150]);
        assert_eq!(names(&kept.take(kept.so_far())), [&["a"; 100][..], &["b"; 150]].concat());
        Ok(())
    }
}
