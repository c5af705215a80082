//! Trace and span ids of an execution, whether its spans are kept, and what its steps are told.
//!
//! **Invariant:** every worker that ever holds an execution computes the same ids for it, whether
//! spans are sent or not; two executions never share an id of a span, even where one caller's trace
//! holds both.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    id::{ExecutionId, Fence, StepExecutionId},
    key::hex,
};

/// Which trace; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// Which span of a trace; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A place in a trace: W3C's `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    /// Whoever began the trace keeps its spans.
    pub sampled: bool,
}

/// Why a text is no `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceParentError {
    #[error(
        "{0:?} is no traceparent; give version, trace, parent and flags in lower-case hexadecimal, \
         such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    )]
    Shape(String),
    #[error("the version ff of a traceparent is forbidden; give one that begins with 00")]
    Version,
    #[error("a traceparent's {0} must not be all zeros; give the one of the caller's own span")]
    Zero(&'static str),
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    /// Of later versions, what this one knows of them is read.
    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let shape = || TraceParentError::Shape(text.chars().take(100).collect());
        let mut parts = text.splitn(5, '-');
        let mut next = || parts.next().ok_or_else(shape);
        let version: [u8; 1] = unhex(next()?).ok_or_else(shape)?;
        let trace: [u8; 16] = unhex(next()?).ok_or_else(shape)?;
        let span: [u8; 8] = unhex(next()?).ok_or_else(shape)?;
        let flags: [u8; 1] = unhex(next()?).ok_or_else(shape)?;
        if version == [0xff] {
            return Err(TraceParentError::Version);
        }
        if version == [0] && parts.next().is_some() {
            return Err(shape());
        }
        if trace == [0; 16] {
            return Err(TraceParentError::Zero("trace"));
        }
        if span == [0; 8] {
            return Err(TraceParentError::Zero("parent"));
        }
        Ok(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags[0] & 1 == 1 })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Lower-case hexadecimal of exactly `N` bytes.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes?.try_into().ok()
}

/// What the rows say of where an execution comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The database's name.
    pub schema: Arc<str>,
    /// When it was created, in milliseconds since 1970; `None` where no such time is stored.
    pub created_ms: Option<i64>,
    /// When this run of it was first claimed, in the same way; `None` before.
    pub started_ms: Option<i64>,
    /// How often an operator has had it run again (`ow_run`).
    pub run: u32,
    /// `ow_traceparent`: anybody may have written it.
    pub traceparent: String,
}

/// The trace of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: TraceId,
    caller: Option<TraceParent>,
    /// The trace id that it has without a caller: its spans' ids come from this one, so that two
    /// executions of one caller have none in common.
    own: TraceId,
    run: u32,
}

impl Trace {
    /// A caller's trace is continued; what is stored and is no `traceparent` counts for nothing.
    pub fn of(execution: &ExecutionId, origin: &Origin) -> Self {
        let created = origin.created_ms.unwrap_or_default().to_be_bytes();
        let own =
            TraceId(hashed(&[origin.schema.as_bytes(), execution.as_str().as_bytes(), &created]));
        let caller: Option<TraceParent> = origin.traceparent.parse().ok();
        let id = caller.map_or(own, |caller| caller.trace);
        Self { id, caller, own, run: origin.run }
    }

    pub const fn id(&self) -> TraceId {
        self.id
    }

    pub const fn caller(&self) -> Option<TraceParent> {
        self.caller
    }

    /// The span of this run: all others are below it.
    pub fn root(&self) -> SpanId {
        SpanId(hashed(&[&self.own.0, &self.run.to_be_bytes()]))
    }

    /// The trace of one lease on it and of what was done under that.
    pub fn term(&self, fence: Fence, mode: Mode) -> TraceId {
        match mode {
            Mode::Continuous => self.id,
            Mode::Linked => TraceId(hashed(&[&self.own.0, b"term", &fence.0.to_be_bytes()])),
        }
    }

    /// The span of the time before its first claim.
    pub fn wait(&self) -> SpanId {
        self.span("wait", &[])
    }

    /// The span of one lease on it.
    pub fn hold(&self, fence: Fence) -> SpanId {
        self.span("hold", &[&fence.0.to_be_bytes()])
    }

    /// The span of a step, as far as it went under one lease.
    pub fn step(&self, fence: Fence, step: &StepExecutionId) -> SpanId {
        self.span("step", &[&fence.0.to_be_bytes(), step.as_str().as_bytes()])
    }

    /// The span of one attempt at a step; no attempt of it has the same number.
    pub fn attempt(&self, step: &StepExecutionId, number: u32) -> SpanId {
        self.span("attempt", &[step.as_str().as_bytes(), &number.to_be_bytes()])
    }

    /// The span of a call of the database; `number` counts those of one lease.
    pub fn call(&self, fence: Fence, number: u32) -> SpanId {
        self.span("call", &[&fence.0.to_be_bytes(), &number.to_be_bytes()])
    }

    fn span(&self, kind: &str, parts: &[&[u8]]) -> SpanId {
        SpanId(hashed(&[&[&self.own.0, kind.as_bytes()], parts].concat()))
    }
}

/// How many traces an execution has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One, whoever holds it.
    #[default]
    Continuous,
    /// One a lease, linked to each other: for executions of hours.
    Linked,
}

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// A caller who has decided decides for us.
    parent_based: bool,
    /// Of 2^63 traces without a caller.
    keeps: u64,
}

impl Default for Sampling {
    /// All, unless a caller has decided otherwise.
    fn default() -> Self {
        Self { parent_based: true, keeps: Self::ALL }
    }
}

impl Sampling {
    const ALL: u64 = 1 << 63;

    /// By the words of `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`; `None` if there is no
    /// such sampler or its argument is none.
    pub fn parse(name: &str, argument: Option<&str>) -> Option<Self> {
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let keeps = match root {
            "always_on" => Self::ALL,
            "always_off" => 0,
            "traceidratio" => part_of_all(argument.map_or(Ok(1.0), str::parse).ok()?)?,
            _ => return None,
        };
        Some(Self { parent_based, keeps })
    }

    /// The same for every worker. Ratios agree with those of others who go by the trace id.
    pub fn keeps(self, trace: &Trace) -> bool {
        match trace.caller {
            Some(caller) if self.parent_based => caller.sampled,
            Some(_) | None => {
                let low = trace.id.0.last_chunk().expect("an id has more than eight bytes");
                u64::from_be_bytes(*low) >> 1 < self.keeps
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "as every sampler by ratio does it, so that all agree"
)]
fn part_of_all(ratio: f64) -> Option<u64> {
    (0.0..=1.0).contains(&ratio).then_some((ratio * Sampling::ALL as f64) as u64)
}

/// The beginning of a hash of the parts, each preceded by its length so that no two lists share a
/// text; never zero, which is no id.
fn hashed<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut id = [0; N];
    id.copy_from_slice(&hash.finalize()[..N]);
    if id == [0; N] {
        id[N - 1] = 1;
    }
    id
}

/// What a step is told of its trace, by the names of environment variables: `TRACEPARENT`;
/// `TRACESTATE`, in which this worker's entry names the execution; and `BAGGAGE` for whoever wants
/// to say whose work it does.
pub fn carried(
    context: TraceParent,
    execution: &ExecutionId,
    workflow: &str,
    step: &str,
) -> BTreeMap<String, String> {
    let mut carried = BTreeMap::from([("TRACEPARENT".to_owned(), context.to_string())]);
    if is_plain(execution.as_str()) {
        carried.insert("TRACESTATE".into(), format!("orchestrator-worker={execution}"));
    }
    let baggage =
        [("execution.id", execution.as_str()), ("workflow.name", workflow), ("step.name", step)];
    let entries = baggage.map(|(key, value)| format!("{key}={}", percent_encoded(value)));
    let baggage = entries.join(",");
    if baggage.len() <= LONGEST_BAGGAGE {
        carried.insert("BAGGAGE".into(), baggage);
    }
    carried
}

/// Whoever passes baggage on must pass on so many bytes.
const LONGEST_BAGGAGE: usize = 8192;

/// May stand in a `tracestate` as it is.
fn is_plain(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b',' | b'='))
}

fn percent_encoded(text: &str) -> String {
    use fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn origin(traceparent: &str) -> Origin {
        Origin {
            schema: "orchestrator".into(),
            created_ms: Some(1_785_499_203_045),
            started_ms: None,
            run: 0,
            traceparent: traceparent.into(),
        }
    }

    #[test]
    fn a_traceparent_is_read_and_written_as_it_was() {
        let parsed: TraceParent = GIVEN.parse().expect("it is one");
        assert_eq!(parsed.to_string(), GIVEN);
        assert!(parsed.sampled);
        let unsampled = GIVEN.replace("-01", "-00");
        assert!(!unsampled.parse::<TraceParent>().expect("it is one").sampled);
        for later in [
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more-of-it",
        ] {
            let parsed: TraceParent = later.parse().expect("a later version");
            assert_eq!(parsed.to_string(), GIVEN, "what we pass on is our version");
        }
    }

    #[test]
    fn what_is_no_traceparent_says_what_would_be_one() {
        let of = |text: &str| text.parse::<TraceParent>().expect_err(text);
        let long = "x".repeat(1000);
        for bad in [
            "",
            "00",
            "00-nonsense",
            &GIVEN.to_uppercase(),
            &GIVEN[1..],
            &GIVEN[..54],
            &format!("{GIVEN}-01"),
            &format!(" {GIVEN}"),
            &GIVEN.replace('4', "g"),
            &GIVEN.replace("4b", "ü"),
            &long,
        ] {
            let error = of(bad);
            assert!(matches!(error, TraceParentError::Shape(_)), "{bad}: {error:?}");
            assert!(error.to_string().contains(GIVEN), "{error}");
            assert!(error.to_string().len() < 500, "{error}");
        }
        assert_eq!(of(&GIVEN.replacen("00", "ff", 1)), TraceParentError::Version);
        let zero = GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        assert_eq!(of(&zero), TraceParentError::Zero("trace"));
        let zero = GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16));
        assert_eq!(of(&zero), TraceParentError::Zero("parent"));
    }

    #[test]
    fn an_executions_own_trace_depends_on_its_database_its_id_and_its_birth_alone() {
        let execution = "e".into();
        let own = Trace::of(&execution, &origin(""));
        assert_eq!(own.caller(), None);
        // Whoever else writes `ow_traceparent` may write anything.
        assert_eq!(Trace::of(&execution, &origin("nonsense")), own);
        let again = Trace::of(&execution, &Origin { run: 1, ..origin("") });
        assert_eq!(again.id(), own.id(), "a retry stays in its trace");
        assert_ne!(again.root(), own.root(), "and has a root of its own");
        let others = [
            Trace::of(&"f".into(), &origin("")),
            Trace::of(&execution, &Origin { schema: "other".into(), ..origin("") }),
            Trace::of(&execution, &Origin { created_ms: Some(1), ..origin("") }),
            Trace::of(&execution, &Origin { created_ms: None, ..origin("") }),
        ];
        let ids: BTreeSet<TraceId> = others.iter().chain([&own]).map(Trace::id).collect();
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn a_callers_trace_is_continued_and_executions_in_it_share_no_span() {
        let caller: TraceParent = GIVEN.parse().expect("it is one");
        let (one, two) =
            (Trace::of(&"1".into(), &origin(GIVEN)), Trace::of(&"2".into(), &origin(GIVEN)));
        let mut spans = BTreeSet::new();
        for trace in [one, two] {
            assert_eq!((trace.id(), trace.caller()), (caller.trace, Some(caller)));
            let (s, t) = ("s".into(), "t".into());
            spans.extend([trace.root(), trace.wait()]);
            for fence in [Fence(1), Fence(2)] {
                spans.extend([trace.hold(fence), trace.step(fence, &s), trace.step(fence, &t)]);
                spans.extend([trace.call(fence, 1), trace.call(fence, 2)]);
            }
            spans.extend([trace.attempt(&s, 1), trace.attempt(&s, 2), trace.attempt(&t, 1)]);
        }
        assert_eq!(spans.len(), 20 + 10);
    }

    #[test]
    fn each_lease_has_a_trace_of_its_own_only_where_that_is_asked_for() {
        let trace = Trace::of(&"e".into(), &origin(GIVEN));
        assert_eq!(trace.term(Fence(1), Mode::Continuous), trace.id());
        let linked = [Fence(1), Fence(2)].map(|fence| trace.term(fence, Mode::Linked));
        let ids: BTreeSet<TraceId> = linked.into_iter().chain([trace.id()]).collect();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn a_ratio_keeps_its_part_of_the_traces_and_a_caller_decides_for_his_own() {
        let kept = |sampling: Sampling, traceparent: &str| {
            let trace = |n: u32| Trace::of(&n.to_string().into(), &origin(traceparent));
            (0..20_000).filter(|n| sampling.keeps(&trace(*n))).count()
        };
        let (yes, no) = (GIVEN, GIVEN.replace("-01", "-00"));
        for (name, argument, alone, of_yes, of_no) in [
            ("always_on", None, 20_000, 20_000, 20_000),
            ("always_off", Some("1"), 0, 0, 0),
            ("parentbased_always_on", None, 20_000, 20_000, 0),
            ("parentbased_always_off", None, 0, 20_000, 0),
            ("parentbased_traceidratio", Some("0"), 0, 20_000, 0),
            ("parentbased_traceidratio", None, 20_000, 20_000, 0),
        ] {
            let sampling = Sampling::parse(name, argument).expect(name);
            let found = [kept(sampling, ""), kept(sampling, yes), kept(sampling, &no)];
            assert_eq!(found, [alone, of_yes, of_no], "{name} {argument:?}");
        }
        let tenth = Sampling::parse("traceidratio", Some("0.1")).expect("a ratio");
        assert!((1_900..2_100).contains(&kept(tenth, "")), "{}", kept(tenth, ""));
        // The same decision for all of one trace, whoever asks.
        assert!([0, 20_000].contains(&kept(tenth, yes)));
        for (name, argument) in [
            ("", None),
            ("jaeger_remote", None),
            ("traceidratio", Some("2")),
            ("traceidratio", Some("-0.1")),
            ("traceidratio", Some("NaN")),
            ("traceidratio", Some("much")),
            ("parentbased_", None),
        ] {
            assert_eq!(Sampling::parse(name, argument), None, "{name} {argument:?}");
        }
        assert_eq!(Sampling::parse("parentbased_always_on", None), Some(Sampling::default()));
    }

    #[test]
    fn a_step_is_told_its_place_in_the_trace_and_whose_work_it_is() {
        let context = GIVEN.parse().expect("it is one");
        let told = carried(context, &"0197c2d4-5a3e".into(), "nightly, import", "größe=1");
        let expected = [
            (
                "BAGGAGE",
                "execution.id=0197c2d4-5a3e,workflow.name=nightly%2C%20import,\
                 step.name=gr%C3%B6%C3%9Fe%3D1",
            ),
            ("TRACEPARENT", GIVEN),
            ("TRACESTATE", "orchestrator-worker=0197c2d4-5a3e"),
        ];
        assert_eq!(told, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        // A row may be named anything.
        for hostile in ["a,b", "a=b", "a b", "ü", "\n", ""] {
            let told = carried(context, &hostile.into(), "w", "s");
            assert!(!told.contains_key("TRACESTATE"), "{hostile:?}");
        }
        let told = carried(context, &"e".into(), &"w".repeat(9000), "s");
        assert!(!told.contains_key("BAGGAGE"), "nobody would pass it on");
    }
}
