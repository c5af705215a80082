//! The idempotency key of a step's attempts, through a whole worker: it changes after a definite
//! answer and never while an effect may have happened unseen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::sqlite::{Settings as SqliteSettings, SqlitePath, SqliteStore},
    domain::{
        definition::RecordedStep, id::Owner, intake::Supported, lease::LeaseTerms, pod::PodProcess,
        retention::Retention, retry::Backoff, step::Action,
    },
    instruments::Instruments,
    ports::{
        control::{About, Control, Start, Submission},
        runner::{Attempt, Outcome, Reason, StepRunner},
    },
    worker::{Settings, Shutdown, Worker, health::Health},
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;

use crate::contract::world::{step, workflow};

/// How an attempt at a step ends, as its parameters say.
const DEFINITE: &str = "failed";
const UNKNOWN: [&str; 2] = ["unanswered", "killed"];
const PANICS: &str = "panics";
/// Until its timeout, which is a second.
const HANGS: &str = "hangs";

/// Plays what steps are to go through and keeps the keys that it was given.
#[derive(Clone, Default)]
struct Player {
    keys: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

#[async_trait]
impl StepRunner for Player {
    fn supported(&self) -> Supported {
        Supported { kinds: ["func".to_owned()].into(), functions: ["play".to_owned()].into() }
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        let Action::Func { parameters, .. } = &attempt.step.action else { panic!("a function") };
        let tries = {
            let mut keys = self.keys.lock().expect("no panic");
            let keys = keys.entry(attempt.step.name.clone()).or_default();
            keys.push(attempt.idempotency_key.clone());
            keys.len()
        };
        let (error, output, retry_after, code) = (Reason::from("no"), None, None, None);
        match parameters["endings"][tries - 1].as_str() {
            Some("failed") => Outcome::Failed { error, output, retry_after, code },
            Some("unanswered") => Outcome::Unanswered { error, output, retry_after, code },
            Some("killed") => Outcome::Stopped { output },
            Some(PANICS) => panic!("as told"),
            Some(_) => {
                attempt.halt.stop.cancelled().await;
                Outcome::Failed { error, output, retry_after, code }
            }
            None => Outcome::Success { output: String::new(), code },
        }
    }
}

fn settings() -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        owner: Owner::try_new("a").expect("a name"),
        process: PodProcess::default(),
        slots: 100,
        poll_interval: Duration::from_millis(50),
        terms: LeaseTerms::try_new(seconds(30), seconds(5)).expect("the defaults"),
        claim_batch: 50,
        eligibility: Arc::default(),
        unknown_after: seconds(1),
        drain_deadline: seconds(60),
        steps_at_once: 1,
        backoff: Backoff { base: Duration::ZERO, cap: Duration::ZERO },
        poison_claims: 10,
        retention: Retention::default(),
        adopt_orphans: false,
        until_idle: true,
    }
}

/// A step that goes through these endings and then succeeds.
fn playing(name: &str, endings: &[&str]) -> RecordedStep {
    RecordedStep {
        parameters: Some(json!({"func": "play", "endings": endings}).to_string()),
        retries: Some(i64::try_from(endings.len()).expect("few")),
        timeout: Some(1),
        ..step(name)
    }
}

/// Runs each sequence as an execution; returns the keys of its attempts.
async fn play(sequences: &[Vec<&str>]) -> Vec<Vec<String>> {
    let settings_of_store = SqliteSettings { path: SqlitePath::Memory { name: None } };
    let store = Arc::new(SqliteStore::open(settings_of_store).await.expect("memory"));
    store.migrate(false).await.expect("it is migrated");
    let names: Vec<String> = (0..sequences.len()).map(|n| format!("s{n}")).collect();
    for (name, endings) in names.iter().zip(sequences) {
        let definition = workflow(name, vec![playing(name, endings)]);
        store.apply(&definition, &About::default()).await.expect("it is applied");
        let template = definition.template.to_string();
        let submission = Submission {
            template,
            created_by: String::new(),
            start: Start::Now,
            traceparent: None,
        };
        store.submit(&submission).await.expect("it is submitted");
    }
    let player = Player::default();
    let runner = Arc::new(player.clone());
    let instruments = Arc::new(Instruments::new());
    let worker =
        Worker::new(store, runner, settings(), instruments, Health::new(Duration::from_millis(50)));
    let summary = worker.run(Shutdown::default()).await.expect("it works");
    assert_eq!(summary.succeeded, sequences.len() as u64, "{:?}", summary.finished);
    let mut keys = player.keys.lock().expect("no panic");
    names.iter().map(|name| keys.remove(name).expect("it ran")).collect()
}

/// One more key after each definite answer, one key otherwise.
fn assert_keys(sequences: &[Vec<&str>], played: &[Vec<String>]) {
    for (endings, keys) in sequences.iter().zip(played) {
        assert_eq!(keys.len(), endings.len() + 1, "{endings:?}");
        for (ending, pair) in endings.iter().zip(keys.windows(2)) {
            assert_eq!(pair[0] != pair[1], *ending == DEFINITE, "{ending} in {endings:?}");
        }
        let definite = endings.iter().filter(|ending| **ending == DEFINITE).count();
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), definite + 1, "none comes back");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn a_key_outlives_every_unknown_outcome_and_no_definite_answer(
        sequences in vec(vec(select(vec![DEFINITE, UNKNOWN[0], UNKNOWN[1]]), 0..8), 30)
    ) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        assert_keys(&sequences, &runtime.block_on(play(&sequences)));
    }
}

#[tokio::test]
async fn an_attempt_that_timed_out_is_an_unknown_outcome_whatever_it_says_at_its_end() {
    let sequences = [vec![HANGS, DEFINITE], vec![UNKNOWN[0], HANGS]];
    assert_keys(&sequences, &play(&sequences).await);
}

#[tokio::test]
async fn an_attempt_whose_runner_panics_is_an_unknown_outcome_and_the_worker_goes_on() {
    let sequences = [vec![PANICS, DEFINITE, PANICS], vec![]];
    assert_keys(&sequences, &play(&sequences).await);
}
