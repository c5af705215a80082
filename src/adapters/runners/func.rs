//! Steps that are Rust functions, by name.
//!
//! **Invariant:** a function that panics fails its step and nothing else; one that is stopped is
//! dropped before the attempt is answered.

use std::{any::Any, collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::Value;

use super::{
    output::{ERROR_BYTES, fit},
    unanswered,
};
use crate::{
    adapters::texts::TEXT_BYTES,
    domain::{
        id::{ExecutionId, Fence, StepExecutionId},
        intake::Supported,
        step::Action,
    },
    ports::runner::{Attempt, Halt, Outcome, StepRunner},
};

/// What a function is called with.
#[derive(Clone, Debug)]
pub struct FuncCall {
    pub execution: ExecutionId,
    pub step_execution: StepExecutionId,
    /// The step's `parameters`: a JSON object.
    pub parameters: Value,
    /// 1 at the first start of the step.
    pub attempt: u32,
    /// The same as long as the outcome of the effect is unknown.
    pub idempotency_key: String,
    pub fence: Fence,
    /// `traceparent`, `tracestate` and `baggage`, as a propagator reads them.
    pub trace: BTreeMap<String, String>,
}

type Func = Arc<dyn Fn(FuncCall) -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// Functions by name.
#[derive(Clone)]
pub struct FuncRegistry {
    functions: BTreeMap<String, Func>,
}

impl Default for FuncRegistry {
    /// With the built-in functions `noop`, `sleep`, `echo` and `fail`.
    fn default() -> Self {
        let mut registry = Self::empty();
        registry.register("noop", async |_| Ok(String::new()));
        registry.register("sleep", sleep);
        registry.register("echo", echo);
        registry.register("fail", fail);
        registry
    }
}

impl FuncRegistry {
    pub const fn empty() -> Self {
        Self { functions: BTreeMap::new() }
    }

    /// Adds a function; one of the same name is replaced. `Ok` is the step's output, `Err` its
    /// error. A stopped attempt drops the future at its next `await`, so a function must not
    /// leave threads or tasks of its own behind.
    pub fn register<F, R>(&mut self, name: impl Into<String>, function: F) -> &mut Self
    where
        F: Fn(FuncCall) -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, String>> + Send + 'static,
    {
        self.functions.insert(name.into(), Arc::new(move |call| function(call).boxed()));
        self
    }
}

/// Runs `func` steps.
#[derive(Clone)]
pub struct FuncRunner {
    registry: FuncRegistry,
}

impl FuncRunner {
    pub const fn new(registry: FuncRegistry) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl StepRunner for FuncRunner {
    fn supported(&self) -> Supported {
        Supported {
            kinds: ["func".to_owned()].into(),
            functions: self.registry.functions.keys().cloned().collect(),
        }
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        let Action::Func { name, parameters } = &attempt.step.action else {
            return unanswered(format!("a {} step is no function", attempt.step.action.kind()));
        };
        let Some(function) = self.registry.functions.get(name).cloned() else {
            return unanswered(format!("this worker has no function {name:?}"));
        };
        let call = FuncCall {
            execution: attempt.execution.clone(),
            step_execution: attempt.step_execution.clone(),
            parameters: parameters.clone(),
            attempt: attempt.number,
            idempotency_key: attempt.idempotency_key.clone(),
            fence: attempt.fence,
            trace: lower_case(&attempt.trace),
        };
        until_halted(&attempt.halt, call_safely(function, call)).await
    }
}

fn lower_case(trace: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    trace.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect()
}

async fn until_halted(halt: &Halt, function: impl Future<Output = Outcome>) -> Outcome {
    tokio::select! {
        biased;
        () = halt.kill.cancelled() => Outcome::Stopped { output: None },
        () = halt.stop.cancelled() => Outcome::Stopped { output: None },
        outcome = function => outcome,
    }
}

async fn call_safely(function: Func, call: FuncCall) -> Outcome {
    // The function is called within the future, so that a panic before its first await counts too.
    let called = AssertUnwindSafe(async move { function(call).await }).catch_unwind().await;
    match called {
        Ok(Ok(output)) => Outcome::Success { output: fit(&output, TEXT_BYTES), code: None },
        Ok(Err(error)) => failed(&error),
        Err(panic) => panicked(&*panic),
    }
}

fn failed(error: &str) -> Outcome {
    let error = fit(error, ERROR_BYTES).into();
    Outcome::Failed { error, output: None, retry_after: None, code: None }
}

/// Nobody knows how far it came.
fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    unanswered(fit(&format!("the function panicked: {}", panic_text(panic)), ERROR_BYTES))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it gave no reason")
}

/// `parameters.seconds` (may have a fraction) or `parameters.ms`.
async fn sleep(call: FuncCall) -> Result<String, String> {
    let duration = sleep_duration(&call.parameters)?;
    tokio::time::sleep(duration).await;
    Ok(format!("slept {duration:?}"))
}

fn sleep_duration(parameters: &Value) -> Result<Duration, String> {
    let expected = "sleep needs parameters.seconds or parameters.ms, a number of zero or more";
    match (parameters.get("seconds"), parameters.get("ms")) {
        (Some(seconds), None) => {
            seconds.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        }
        (None, Some(ms)) => ms.as_u64().map(Duration::from_millis),
        (Some(_), Some(_)) | (None, None) => None,
    }
    .ok_or_else(|| expected.to_owned())
}

/// `parameters.message` if there is one, else all parameters as JSON.
async fn echo(call: FuncCall) -> Result<String, String> {
    Ok(match call.parameters.get("message") {
        Some(Value::String(message)) => message.clone(),
        Some(other) => other.to_string(),
        None => call.parameters.to_string(),
    })
}

/// Fails with `parameters.error`; with `parameters.times`, only that many attempts.
async fn fail(call: FuncCall) -> Result<String, String> {
    let times = call.parameters.get("times").and_then(Value::as_u64);
    if times.is_some_and(|times| u64::from(call.attempt) > times) {
        return Ok(format!("attempt {} does not fail", call.attempt));
    }
    Err(match call.parameters.get("error") {
        Some(Value::String(error)) => error.clone(),
        Some(other) => other.to_string(),
        None => "it was asked to fail".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;
    use tokio::sync::Notify;

    use super::{super::testing::Bench, *};

    fn action(name: &str, parameters: Value) -> Action {
        Action::Func { name: name.into(), parameters }
    }

    async fn run(name: &str, parameters: Value) -> Outcome {
        let runner = FuncRunner::new(FuncRegistry::default());
        runner.run(Bench::default().attempt(action(name, parameters))).await
    }

    fn success(output: &str) -> Outcome {
        Outcome::Success { output: output.to_owned(), code: None }
    }

    #[tokio::test]
    async fn the_built_in_functions_do_what_their_names_say() {
        let table = [
            ("noop", json!({}), success("")),
            ("sleep", json!({"seconds": 0.02}), success("slept 20ms")),
            ("sleep", json!({"ms": 20}), success("slept 20ms")),
            ("echo", json!({"message": "hi"}), success("hi")),
            ("echo", json!({"message": [1]}), success("[1]")),
            ("echo", json!({"a": 1}), success("{\"a\":1}")),
            ("echo", json!({"message": "a\0b"}), success("a\u{fffd}b")),
            ("fail", json!({}), failed("it was asked to fail")),
            ("fail", json!({"error": "no"}), failed("no")),
            ("fail", json!({"times": 0}), success("attempt 1 does not fail")),
            ("fail", json!({"times": 1}), failed("it was asked to fail")),
            ("nosuch", json!({}), unanswered("this worker has no function \"nosuch\"".into())),
        ];
        for (name, parameters, expected) in table {
            assert_eq!(run(name, parameters.clone()).await, expected, "{name} {parameters}");
        }
    }

    #[test]
    fn a_sleep_is_given_in_seconds_or_in_milliseconds() {
        let table = [
            (json!({"seconds": 3600}), Some(Duration::from_secs(3600))),
            (json!({"seconds": 1.5}), Some(Duration::from_millis(1500))),
            (json!({"ms": 20}), Some(Duration::from_millis(20))),
            (json!({}), None),
            (json!({"seconds": -1}), None),
            (json!({"seconds": 1e300}), None),
            (json!({"ms": "20"}), None),
            (json!({"ms": 20, "seconds": 1}), None),
        ];
        for (parameters, expected) in table {
            assert_eq!(sleep_duration(&parameters).ok(), expected, "{parameters}");
        }
    }

    #[tokio::test]
    async fn an_embedder_registers_its_own_and_they_see_their_call() {
        let mut registry = FuncRegistry::default();
        registry.register("whoami", async |call: FuncCall| {
            Ok(format!("{} {} {}", call.idempotency_key, call.fence, call.attempt))
        });
        let runner = FuncRunner::new(registry);
        assert!(runner.supported().functions.contains("whoami"));
        let outcome = runner.run(Bench::default().attempt(action("whoami", json!({})))).await;
        assert_eq!(outcome, success("key 7 1"));
    }

    #[tokio::test]
    async fn a_panic_fails_the_step_with_its_text() {
        let mut registry = FuncRegistry::empty();
        registry.register("early", |_| -> BoxFuture<'static, Result<String, String>> {
            panic!("before the first await")
        });
        registry.register("late", async |call: FuncCall| {
            tokio::task::yield_now().await;
            panic!("in attempt {}", call.attempt)
        });
        let runner = FuncRunner::new(registry);
        for (name, text) in [("early", "before the first await"), ("late", "in attempt 1")] {
            let outcome = runner.run(Bench::default().attempt(action(name, json!({})))).await;
            let error = format!("the function panicked: {text}");
            assert_eq!(outcome, unanswered(error), "{name}: nobody knows how far it came");
        }
    }

    #[tokio::test]
    async fn a_stopped_or_killed_function_is_dropped_before_the_answer() {
        struct OnDrop(Arc<AtomicBool>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        for kill in [false, true] {
            let (began, dropped) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
            let mut registry = FuncRegistry::empty();
            let seen = (Arc::clone(&began), Arc::clone(&dropped));
            registry.register("forever", move |_| {
                let (began, dropped) = seen.clone();
                async move {
                    let _on_drop = OnDrop(dropped);
                    began.notify_one();
                    std::future::pending().await
                }
            });
            let runner = FuncRunner::new(registry);
            let bench = Bench::default();
            let halt = async {
                began.notified().await;
                if kill { bench.kill.cancel() } else { bench.stop.cancel() }
            };
            let attempt = bench.attempt(action("forever", json!({})));
            let (outcome, ()) = tokio::join!(runner.run(attempt), halt);
            assert_eq!(outcome, Outcome::Stopped { output: None });
            assert!(dropped.load(Ordering::SeqCst));
        }
    }

    #[tokio::test]
    async fn a_long_answer_is_cut_to_what_the_columns_hold() {
        let long = "x".repeat(100_000);
        match run("echo", json!({"message": long})).await {
            Outcome::Success { output, .. } => assert!(output.len() <= TEXT_BYTES),
            other => panic!("{other:?}"),
        }
        match run("fail", json!({"error": long})).await {
            Outcome::Failed { error, .. } => assert!(error.to_string().len() <= ERROR_BYTES),
            other => panic!("{other:?}"),
        }
    }
}
