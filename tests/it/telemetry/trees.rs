//! Executions of real workers as traces: whole, whatever becomes of the workers.

use std::{collections::BTreeMap, fs, marker::PhantomData, path::PathBuf};

use rustix::process::Signal;
use serde_json::json as value;
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use super::{
    collector::Collector,
    keepers::{Jaeger, Keeper},
    tree::{Kept, assert_linked, draw},
};
use crate::{
    contract::{Subject, sqlite::File, world::World},
    crash::Served,
    http::server::{Act, Server},
    process::{Worker, json, run, wait_until},
};

/// Makes a test of each story with each store and each keeper of spans.
macro_rules! on_all {
    ($($story:ident)*) => {
        crate::stores::tests! { on_sqlite_file, crate::telemetry::trees::Own<crate::contract::sqlite::File>; $($story)* }
        crate::stores::tests! {
            on_mysql, crate::telemetry::trees::Own<crate::mysql::Database<crate::mysql::MySql>>; $($story)*
        }
        crate::stores::tests! {
            on_mariadb, crate::telemetry::trees::Own<crate::mysql::Database<crate::mysql::MariaDb>>; $($story)*
        }
        crate::stores::tests! { on_jaeger, crate::telemetry::trees::InJaeger; $($story)* }
    };
}
pub(super) use on_all;

/// What a story is played on.
pub trait Stage: Send + Sync + 'static {
    type Store: Served;
    type Keeper: Keeper;
}

/// A store, and the tests' own collector.
pub struct Own<S>(PhantomData<S>);

impl<S: Served> Stage for Own<S> {
    type Store = S;
    type Keeper = Collector;
}

/// A file, and a real Jaeger.
pub struct InJaeger;

impl Stage for InJaeger {
    type Store = File;
    type Keeper = Jaeger;
}

on_all! {
    a_worker_that_is_killed_leaves_one_whole_trace
    a_worker_that_goes_away_hands_its_trace_over
    a_cancelled_execution_is_told_by_whoever_lets_go_of_it
    a_cancelled_execution_of_a_dead_owner_is_told_by_whoever_tidies_it
    a_failed_step_that_aborts_its_siblings_is_told_with_them
    a_step_that_is_tried_again_and_an_execution_that_is_run_again_stay_in_one_trace
    a_step_that_is_skipped_over_fails_and_its_execution_succeeds
    an_execution_that_kills_its_workers_is_told_to_its_end
    a_callers_trace_goes_through_requests_and_scripts
    what_cannot_be_run_has_a_trace_that_says_so
    each_lease_has_its_own_trace_where_that_is_asked_for
}

/// A trace is whole by then, or never.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A database, a collector, and a folder in which steps wait for files.
pub struct Scene<S: Stage> {
    pub world: World<S::Store>,
    pub keeper: S::Keeper,
    pub folder: TempDir,
}

impl<S: Stage> Scene<S> {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { world: World::new().await, keeper: S::Keeper::start().await, folder }
    }

    pub fn url(&self) -> String {
        self.world.subject.url()
    }

    pub fn worker(&self, name: &str, more: &[(&str, &str)]) -> Worker {
        self.worker_with_flags(name, more, &[])
    }

    pub fn worker_with_flags(&self, name: &str, more: &[(&str, &str)], flags: &[&str]) -> Worker {
        let endpoint = self.keeper.endpoint();
        let mut env = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("ORCHESTRATOR_WORKER__STEP__BACKOFF__BASE", "1ms"),
        ];
        env.extend(more);
        let worker = Worker::start_with(&self.url(), name, &env, flags);
        worker.wait_for("worker.started");
        worker
    }

    /// Applies a workflow named `it` of these steps, each a line, and submits it.
    pub fn submit(&self, steps: &str, words: &[&str]) -> String {
        let file = self.folder.path().join("it.yaml");
        let steps = steps.replace("DIR", &self.folder.path().display().to_string());
        fs::write(&file, format!("name: it\nsteps:\n{steps}\n")).expect("it can be written");
        json(&self.url(), ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
        let submitted = json(&self.url(), ["submit", "it"].iter().chain(words));
        submitted["execution"].as_str().expect("an id").to_owned()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn wait_for_file(&self, name: &str) {
        wait_until(name, || self.file(name).exists().then_some(()));
    }

    pub fn make(&self, name: &str) {
        fs::write(self.file(name), "").expect("it can be written");
    }

    pub fn wait_for_state(&self, execution: &str, state: &str) {
        wait_until(state, || {
            let shown = json(&self.url(), ["show", execution]);
            (shown["state"] == state && shown["owner"].is_null()).then_some(())
        });
    }

    pub fn trace_id(&self, execution: &str) -> String {
        let shown = json(&self.url(), ["show", execution]);
        shown["trace_id"].as_str().expect("an id").to_owned()
    }

    /// Waits until the trace looks like this.
    pub async fn looks(&self, execution: &str, callers: &[&str], expected: &str) -> Vec<Kept> {
        let trace = self.trace_id(execution);
        looks(callers, expected, async || self.keeper.trace(&trace).await).await
    }

    /// Waits until something is told of this trace.
    pub async fn tells(&self, execution: &str, is: impl Fn(&[Kept]) -> bool) {
        let trace = self.trace_id(execution);
        let began = Instant::now();
        loop {
            let spans = self.keeper.trace(&trace).await;
            if is(&spans) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{spans:#?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn tells_nothing_of(&self, execution: &str) {
        let spans = self.keeper.trace(&self.trace_id(execution)).await;
        assert!(spans.is_empty(), "{spans:#?}");
    }
}

/// Waits until the spans look like this; of their links only [`assert_linked`] holds.
pub async fn looks(
    callers: &[&str],
    expected: &str,
    ask: impl AsyncFn() -> Vec<Kept>,
) -> Vec<Kept> {
    let expected = expected.trim();
    let began = Instant::now();
    loop {
        let spans = ask().await;
        let drawn = draw(&spans, callers);
        if drawn.as_deref() == Ok(expected) {
            assert_linked(&spans);
            return spans;
        }
        if began.elapsed() > PATIENCE {
            assert_eq!(drawn.as_deref(), Ok(expected));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits in a script until a file is there.
fn gated(name: &str) -> String {
    format!("echo > 'DIR/at-{name}'; until [ -e 'DIR/{name}' ]; do sleep 0.05; done")
}

/// Five steps in a row; the third waits.
pub fn five() -> String {
    let step = |n: u32, script: &str| {
        let after = if n == 1 { String::new() } else { format!("s{}", n - 1) };
        format!("- {{name: s{n}, depends_on: [{after}], timeout: 100s, shell: \"{script}\"}}\n")
    };
    [step(1, "true"), step(2, "true"), step(3, &gated("gate")), step(4, "true"), step(5, "true")]
        .concat()
}

pub const KILLED: &str = "
RUN it [success]
  wait it
  hold it [a expired lease_expired]
    step s1 [success]
      sh [1 success]
    step s2 [success]
      sh [1 success]
    step s3 [error worker_lost]
      sh [1 lost worker_lost]
  hold it [b released]
    step s3 [success]
      sh [2 success]
    step s4 [success]
      sh [1 success]
    step s5 [success]
      sh [1 success]
";

async fn a_worker_that_is_killed_leaves_one_whole_trace<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let mut a = scene.worker("a", &[]);
    let id = scene.submit(&five(), &[]);
    scene.wait_for_file("at-gate");
    fs::remove_file(scene.file("at-gate")).expect("it was there");
    let b = scene.worker("b", &[]);
    a.signal(Signal::KILL);
    a.wait();
    scene.wait_for_file("at-gate");
    scene.make("gate");
    let spans = scene.looks(&id, &[], KILLED).await;
    let of = |name: &str| spans.iter().filter(|it| it.name == name).collect::<Vec<_>>();
    let [first, second] = of("hold it")[..] else { panic!("two leases") };
    let (first, second) =
        if first.attributes["cicd.worker.name"] == "a" { (first, second) } else { (second, first) };
    assert_eq!(second.links, [(first.trace.clone(), first.id.clone())]);
    assert_eq!(first.error.as_deref(), Some("lease_expired"));
    assert!(first.end <= second.start + 1_000, "{first:#?} {second:#?}");
    assert_eq!(first.attributes["orchestrator.told_by"], "b");
    let run = of("RUN it")[0];
    assert_eq!((run.kind.as_str(), run.parent.as_deref()), ("server", None));
    assert_eq!(run.attributes["cicd.pipeline.run.id"], id);
    assert_eq!((first.kind.as_str(), of("wait it")[0].kind.as_str()), ("consumer", "internal"));
    for span in spans.iter().filter(|it| it.is_call()) {
        assert!(["sqlite", "mysql"].contains(&span.attributes["db.system.name"].as_str()));
    }
    // The dead worker's own are known to nobody, unless it has renewed its lease after them.
    assert!(!of("claim").is_empty() && of("commit").len() >= 2, "{spans:#?}");
    // Every line of the execution names the trace, whoever wrote it.
    let trace = scene.trace_id(&id);
    for event in ["execution.taken_over", "step.attempt_ended", "execution.finished"] {
        assert_eq!(b.wait_for(event)["trace_id"], trace, "{event}");
    }
    let attempt = b.wait_for("step.attempt_ended");
    assert!(spans.iter().any(|span| attempt["span_id"] == span.id), "{attempt}");
}

async fn a_worker_that_goes_away_hands_its_trace_over<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let mut a = scene.worker("a", &[("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "4s")]);
    let id = scene.submit(&five(), &[]);
    scene.wait_for_file("at-gate");
    let _b = scene.worker("b", &[]);
    a.signal(Signal::TERM);
    assert!(a.wait().success());
    scene.make("gate");
    let spans = scene
        .looks(
            &id,
            &[],
            "
RUN it [success]
  wait it
  hold it [a drained]
    step s1 [success]
      sh [1 success]
    step s2 [success]
      sh [1 success]
    step s3 [cancellation]
      sh [1 drained]
  hold it [b released]
    step s3 [success]
      sh [2 success]
    step s4 [success]
      sh [1 success]
    step s5 [success]
      sh [1 success]
",
        )
        .await;
    assert!(spans.iter().all(|span| span.error.is_none()), "{spans:#?}");
}

async fn a_cancelled_execution_is_told_by_whoever_lets_go_of_it<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let _a = scene.worker("a", &[]);
    let id = scene.submit(&five(), &[]);
    scene.wait_for_file("at-gate");
    json(&scene.url(), ["cancel", &id]);
    let expected = "
RUN it [cancellation]
  wait it
  hold it [a released]
    step s1 [success]
      sh [1 success]
    step s2 [success]
      sh [1 success]
    step s3 [cancellation]
      sh [1 cancelled]
";
    scene.looks(&id, &[], expected).await;
    // One that nobody has claimed has no trace.
    let paused = run(&scene.url(), ["pause", "--all"]);
    assert!(paused.status.success());
    let never = scene.submit(&five(), &[]);
    json(&scene.url(), ["cancel", &never]);
    scene.tells_nothing_of(&never).await;
}

async fn a_cancelled_execution_of_a_dead_owner_is_told_by_whoever_tidies_it<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let mut a = scene.worker("a", &[("ORCHESTRATOR_WORKER__LOCK__RENEW_EVERY", "2s")]);
    let id = scene.submit("- {name: one, timeout: 100s, shell: \"sleep 100\"}", &[]);
    wait_until("it runs", || (json(&scene.url(), ["show", &id])["owner"] == "a").then_some(()));
    scene.tells(&id, |spans| spans.iter().any(|span| span.name == "claim")).await;
    a.signal(Signal::KILL);
    a.wait();
    json(&scene.url(), ["cancel", &id]);
    let _b = scene.worker("b", &[]);
    let expected = "
RUN it [cancellation]
  wait it
  hold it [a expired lease_expired]
    step one [error worker_lost]
      sh [1 lost worker_lost]
";
    scene.looks(&id, &[], expected).await;
}

async fn a_failed_step_that_aborts_its_siblings_is_told_with_them<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let _a = scene.worker("a", &[]);
    let steps = format!(
        "- {{name: bad, mode: parallel, retries: 0, shell: \"{}; exit 7\"}}
- {{name: sibling, mode: parallel, timeout: 100s, shell: \"echo > 'DIR/bad'; sleep 100\"}}
- {{name: never, depends_on: [bad], func: noop}}",
        gated("bad")
    );
    let id = scene.submit(&steps, &[]);
    let expected = "
RUN it [failure step_failed]
  wait it
  hold it [a released]
    step bad [failure failed]
      sh [1 failed failed]
    step sibling [cancellation]
      sh [1 cancelled]
";
    let drawn = scene.looks(&id, &[], expected).await;
    let run = drawn.iter().find(|span| span.name == "RUN it").expect("a run");
    assert_eq!(run.error.as_deref(), Some("step_failed"));
}

async fn a_step_that_is_tried_again_and_an_execution_that_is_run_again_stay_in_one_trace<
    S: Stage,
>() {
    let scene = Scene::<S>::new().await;
    let _a = scene.worker("a", &[]);
    let steps = "- {name: one, func: noop}
- {name: two, depends_on: [one], retries: 1, shell: \"test -e 'DIR/gate'\"}";
    let id = scene.submit(steps, &[]);
    scene.wait_for_state(&id, "failed");
    scene.make("gate");
    json(&scene.url(), ["retry", &id]);
    let spans = scene
        .looks(
            &id,
            &[],
            "
RUN it [failure step_failed]
  wait it
  hold it [a released]
    step one [success]
      noop [1 success]
    step two [failure failed]
      sh [1 failed failed]
      sh [2 failed failed]
RUN it [success]
  hold it [a released]
    step two [success]
      sh [3 success]
",
        )
        .await;
    let noop = spans.iter().find(|span| span.name == "noop").expect("an attempt");
    assert_eq!(
        (noop.kind.as_str(), noop.attributes["code.function.name"].as_str()),
        ("internal", "noop")
    );
}

async fn a_step_that_is_skipped_over_fails_and_its_execution_succeeds<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let _a = scene.worker("a", &[]);
    let steps = "- {name: bad, on_failure: skip, retries: 0, timeout: 1s, shell: \"sleep 100\"}
- {name: good, depends_on: [bad], func: echo}";
    let id = scene.submit(steps, &[]);
    let expected = "
RUN it [success]
  wait it
  hold it [a released]
    step bad [timeout timeout]
      sh [1 timeout timeout]
    step good [success]
      echo [1 success]
";
    scene.looks(&id, &[], expected).await;
}

async fn an_execution_that_kills_its_workers_is_told_to_its_end<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let poison = [("ORCHESTRATOR_WORKER__POISON__CLAIMS", "1")];
    let mut a = scene.worker("a", &poison);
    let steps =
        "- {name: one, timeout: 100s, shell: \"echo > DIR/at-$ORCHESTRATOR_ATTEMPT; sleep 100\"}";
    let id = scene.submit(steps, &[]);
    // What a dead worker has not sent is lost, the lease of the one before it included.
    let leases = async |count: usize| {
        let named = |spans: &[Kept], name| spans.iter().filter(|it| it.name == name).count();
        let is =
            |spans: &[Kept]| named(spans, "claim") == count && named(spans, "hold it") == count - 1;
        scene.tells(&id, is).await;
    };
    scene.wait_for_file("at-1");
    leases(1).await;
    a.signal(Signal::KILL);
    a.wait();
    let mut b = scene.worker("b", &poison);
    scene.wait_for_file("at-2");
    leases(2).await;
    b.signal(Signal::KILL);
    b.wait();
    let _c = scene.worker("c", &poison);
    let expected = "
RUN it [error given_up]
  wait it
  hold it [a expired lease_expired]
    step one [error worker_lost]
      sh [1 lost worker_lost]
  hold it [b expired lease_expired]
    step one [error worker_lost]
      sh [2 lost worker_lost]
";
    scene.looks(&id, &[], expected).await;
}

async fn a_callers_trace_goes_through_requests_and_scripts<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let server = Server::always(Act::ok("")).await;
    let steps = format!(
        "- {{name: ask, http: {{method: POST, url: '{}'}}}}
- {{name: say, depends_on: [ask], shell: 'printenv TRACEPARENT'}}",
        server.url("/hidden?token=hush")
    );
    let _a = scene.worker("a", &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")]);
    let caller = "00f067aa0ba902b7";
    let given = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{caller}-01");
    let id = scene.submit(&steps, &["--traceparent", &given]);
    let expected = "
RUN it [success]
  wait it
  hold it [a released]
    step ask [success]
      POST [1 success]
    step say [success]
      sh [1 success]
";
    let spans = scene.looks(&id, &[caller], expected).await;
    let of = |name: &str| spans.iter().find(|it| it.name == name).expect("it is there");
    assert_eq!(of("RUN it").parent.as_deref(), Some(caller));
    let place = |span: &Kept| format!("00-{}-{}-01", span.trace, span.id);
    assert_eq!(server.seen()[0].header("traceparent"), Some(place(of("POST")).as_str()));
    let shown = json(&scene.url(), ["show", &id]);
    assert_eq!(shown["steps"][1]["output"], format!("{}\n", place(of("sh"))));
    let post = &of("POST").attributes;
    assert_eq!(post["http.request.method"], "POST");
    assert_eq!(
        (post["server.address"].as_str(), post["url.scheme"].as_str()),
        ("127.0.0.1", "http")
    );
    assert_eq!(post["server.port"], server.port().to_string());
    assert_eq!(post["http.response.status_code"], "200");
    assert_eq!(of("sh").attributes["process.exit.code"], "0");
    let output = shown["steps"][1]["output"].as_str().expect("an output").len();
    assert_eq!(of("sh").attributes["output.bytes"], output.to_string());

    // A caller who keeps nothing has nothing kept here, and is told so on.
    let given = given.replace("-01", "-00").replace("4bf92f", "4bf930");
    let id = scene.submit(&steps, &["--traceparent", &given]);
    scene.wait_for_state(&id, "success");
    assert!(server.seen()[1].header("traceparent").expect("it is told").ends_with("-00"));
    let alone = scene.submit(&steps, &[]);
    scene.wait_for_state(&alone, "success");
    for id in [id, alone] {
        scene.tells_nothing_of(&id).await;
    }
}

async fn what_cannot_be_run_has_a_trace_that_says_so<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let id = scene.submit("- {name: one, func: noop}", &[]);
    scene.world.subject.exec("UPDATE steps SET executor_type=NULL").await;
    let a = scene.worker("a", &[]);
    let spans = scene.looks(&id, &[], "RUN it [error refused]\n  wait it").await;
    let run = spans.iter().find(|span| span.name == "RUN it").expect("it is drawn");
    let line = a.wait_for("execution.refused");
    assert_eq!((&line["trace_id"], &line["span_id"]), (&value!(run.trace), &value!(run.id)));
    assert_eq!(
        (line["execution.id"].as_str(), &line["workflow.name"]),
        (Some(&*id), &value!("it"))
    );
}

async fn each_lease_has_its_own_trace_where_that_is_asked_for<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let linked = [
        ("ORCHESTRATOR_WORKER__TRACE__MODE", "linked"),
        ("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "4s"),
    ];
    let mut a = scene.worker("a", &linked);
    let id = scene.submit(&five(), &[]);
    scene.wait_for_file("at-gate");
    let _b = scene.worker("b", &linked);
    a.signal(Signal::TERM);
    assert!(a.wait().success());
    scene.make("gate");
    let own = scene.looks(&id, &[], "RUN it [success]\n  wait it").await;
    let root = own.iter().find(|span| span.name == "RUN it").expect("a root");
    let root = (root.trace.clone(), root.id.clone());

    let began = Instant::now();
    let spans = loop {
        let all = scene.keeper.all().await;
        if all.iter().filter(|span| span.name == "hold it").count() == 2 {
            break all;
        }
        assert!(began.elapsed() < PATIENCE, "{all:#?}");
        sleep(Duration::from_millis(50)).await;
    };
    let mut traces: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
    for span in spans.into_iter().filter(|span| span.trace != root.0) {
        traces.entry(span.trace.clone()).or_default().push(span);
    }
    assert_eq!(traces.len(), 2);
    let mut drawn: Vec<String> = traces.values().map(|it| draw(it, &[]).expect("whole")).collect();
    drawn.sort();
    assert!(drawn[0].starts_with("hold it [a drained]\n  step s1 [success]"), "{drawn:#?}");
    assert!(drawn[1].starts_with("hold it [b released]\n  step s3 [success]"), "{drawn:#?}");
    let hold = |name: &str| {
        let mut holds = traces.values().flatten().filter(|it| it.name == "hold it");
        holds.find(|it| it.attributes["cicd.worker.name"] == name).expect("a lease").clone()
    };
    let (first, second) = (hold("a"), hold("b"));
    assert_eq!(first.links, std::slice::from_ref(&root));
    assert_eq!(second.links, [root, (first.trace.clone(), first.id)]);
    let again = traces[&second.trace]
        .iter()
        .find(|it| it.attributes.get("orchestrator.attempt").is_some_and(|it| it == "2"));
    let again = again.expect("a second attempt");
    assert_eq!(again.links.len(), 1);
    assert_eq!(again.links[0].0, first.trace, "linked across traces");
}
