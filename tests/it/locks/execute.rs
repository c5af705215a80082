//! Executions that a program runs itself, by their ids.

use std::{sync::Arc, time::Duration};

use orchestrator_worker::{
    adapters::{mysql::Settings, runners::func::FuncRegistry},
    domain::{
        definition::RecordedStep,
        execution::ExecutionState,
        id::{ExecutionId, Owner},
    },
    orchestrator::{Database as Place, ExecuteError, Executed, LockConfig, Orchestrator},
    ports::{
        control::{About, Control, Pausable, Start, Submission},
        executions::{ExecutionStore, Named},
    },
};
use secrecy::SecretString;
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use crate::{contract::world::*, crash::Served, proxy::CEILING, stores::on_every_store};

on_every_store! {
    an_execution_runs_to_its_end_on_the_caller_and_no_second_time
    a_failed_step_is_told_with_the_end
    of_two_who_ask_for_an_execution_one_runs_it_and_the_other_is_told_who
    an_execution_is_run_by_its_id_though_it_is_not_due_or_was_held_as_backlog
    an_execution_that_somebody_has_locked_is_left_alone
    an_execution_that_the_orchestrator_runs_is_left_alone
    an_execution_whose_template_is_paused_does_not_begin
    a_caller_that_stops_waiting_has_its_execution_handed_back_and_the_next_one_goes_on
    a_closed_orchestrator_hands_back_what_it_runs
    what_waits_beside_it_is_left_alone
}

fn place<S: Served>(world: &World<S>) -> Place {
    let url = world.subject.url();
    match url.strip_prefix("sqlite://") {
        Some(path) => std::path::PathBuf::from(path).into(),
        None => Settings::new(SecretString::from(url)).into(),
    }
}

/// A function that tells when it begins, and ends when it is let.
#[derive(Clone)]
struct Gate {
    begun: Arc<Notify>,
    let_through: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { begun: Arc::default(), let_through: Arc::new(Semaphore::new(0)) }
    }

    fn functions(&self) -> FuncRegistry {
        let mut functions = FuncRegistry::default();
        let gate = self.clone();
        functions.register("gate", move |_| {
            let gate = gate.clone();
            async move {
                gate.begun.notify_one();
                gate.let_through.acquire().await.expect("it is never closed").forget();
                Ok("through".into())
            }
        });
        functions
    }

    async fn has_begun(&self) {
        timeout(CEILING, self.begun.notified()).await.expect("the step begins");
    }
}

fn orchestrator<S: Served>(world: &World<S>, name: &str, functions: FuncRegistry) -> Orchestrator {
    let config = LockConfig { default_retry_count: 0, ..LockConfig::default() };
    Orchestrator::builder(place(world))
        .lock_config(config)
        .owner(Owner::try_new(name).expect("a name"))
        .functions(functions)
        .build()
        .expect("it is good")
}

fn plain<S: Served>(world: &World<S>, name: &str) -> Orchestrator {
    orchestrator(world, name, FuncRegistry::default())
}

async fn execute(orchestrator: &Orchestrator, id: &ExecutionId) -> Executed {
    let executed = timeout(CEILING, orchestrator.execute_workflow(id.as_str())).await;
    executed.expect("it ends").expect("an answer")
}

const SUCCESS: Executed = Executed::Ended { state: ExecutionState::Success, error: None };

fn calling(function: &str) -> RecordedStep {
    let parameters = Some(format!(r#"{{"func":"{function}"}}"#));
    RecordedStep { parameters, ..step(function) }
}

pub async fn an_execution_runs_to_its_end_on_the_caller_and_no_second_time<S: Served>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one", "two"]).await;
    let orchestrator = plain(&world, "a");
    assert_eq!(execute(&orchestrator, &id).await, SUCCESS);
    assert_eq!(world.status(&id).await, "success");
    assert_eq!(world.steps(&id, &["one", "two"]).await, ["success", "success"]);
    let before = Executed::EndedBefore { state: ExecutionState::Success };
    assert_eq!(execute(&orchestrator, &id).await, before);
    let refused = orchestrator.execute_workflow("nonsense").await;
    assert!(matches!(&refused, Err(ExecuteError::NoExecution(id)) if id == "nonsense"));
}

pub async fn a_failed_step_is_told_with_the_end<S: Served>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", vec![calling("fail")])).await;
    let id = world.submit(&template).await;
    match execute(&plain(&world, "a"), &id).await {
        Executed::Ended { state: ExecutionState::Failed, error: Some(error) } => {
            assert!(error.contains("fail"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

pub async fn of_two_who_ask_for_an_execution_one_runs_it_and_the_other_is_told_who<S: Served>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", vec![calling("gate")])).await;
    let id = world.submit(&template).await;
    let gate = Gate::new();
    let a = orchestrator(&world, "a", gate.functions());
    let (executed, ()) = tokio::join!(execute(&a, &id), async {
        gate.has_begun().await;
        for name in ["b", "a"] {
            let other = execute(&plain(&world, name), &id).await;
            assert_eq!(other, Executed::HeldElsewhere { owner: "a".into() });
        }
        gate.let_through.add_permits(1);
    });
    assert_eq!(executed, SUCCESS);
}

pub async fn an_execution_is_run_by_its_id_though_it_is_not_due_or_was_held_as_backlog<
    S: Served,
>() {
    let world = World::<S>::new().await;
    let later = world.submit_chain(&["one"]).await;
    world.edit(&later, &format!("ow_not_before={}", S::moved(S::now(), 3_600_000))).await;
    let old = world.submit(&"template-chain".into()).await;
    world.edit(&old, &format!("created_at={}", S::moved(S::now(), -10 * 86_400_000))).await;
    assert!(is_nothing(&world.b.claim(&who("b"), 10).await.expect("a look")), "neither is due");
    let orchestrator = plain(&world, "a");
    for id in [&later, &old] {
        assert_eq!(execute(&orchestrator, id).await, SUCCESS);
    }
}

pub async fn an_execution_that_somebody_has_locked_is_left_alone<S: Served>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    let (a, b) = (plain(&world, "a"), plain(&world, "b"));
    let handle = a.lock_workflow_execution(id.as_str()).await.expect("it is free");
    let held = Executed::HeldElsewhere { owner: "a".into() };
    assert_eq!(execute(&b, &id).await, held);
    assert_eq!(world.status(&id).await, "pending");
    handle.release().await.expect("it was held");
    assert_eq!(execute(&b, &id).await, SUCCESS);
}

pub async fn an_execution_that_the_orchestrator_runs_is_left_alone<S: Served>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    world.edit(&id, "status='running'").await;
    world.foreign_lock(&id, "go-1", 60).await;
    let held = Executed::HeldElsewhere { owner: "go-1".into() };
    assert_eq!(execute(&plain(&world, "a"), &id).await, held);
    assert_eq!(world.status(&id).await, "running");
}

pub async fn an_execution_whose_template_is_paused_does_not_begin<S: Served>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    world.a.pause(&Pausable::All).await.expect("it is paused");
    let executed = execute(&plain(&world, "a"), &id).await;
    assert!(matches!(&executed, Executed::NotNow { reason } if reason.contains("paused")));
    assert_eq!(world.status(&id).await, "pending");
    world.a.resume(&Pausable::All).await.expect("it is resumed");
    assert_eq!(execute(&plain(&world, "a"), &id).await, SUCCESS);
}

pub async fn a_caller_that_stops_waiting_has_its_execution_handed_back_and_the_next_one_goes_on<
    S: Served,
>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", vec![calling("gate")])).await;
    let id = world.submit(&template).await;
    let gate = Gate::new();
    let a = orchestrator(&world, "a", gate.functions());
    tokio::select! {
        executed = execute(&a, &id) => panic!("it ended: {executed:?}"),
        () = gate.has_begun() => {}
    }
    let b = orchestrator(&world, "b", gate.functions());
    let went_on = async {
        loop {
            match execute(&b, &id).await {
                Executed::HeldElsewhere { owner } => assert_eq!(owner, "a"),
                other => return other,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (executed, ()) = tokio::join!(went_on, async {
        gate.has_begun().await;
        gate.let_through.add_permits(1);
    });
    assert_eq!(executed, SUCCESS);
    let attempt = world.attempt(&id, "gate", 1).await;
    assert!(attempt.as_ref().is_some_and(|it| it.starts_with("drained")), "{attempt:?}");
}

pub async fn a_closed_orchestrator_hands_back_what_it_runs<S: Served>() {
    let world = World::<S>::new().await;
    let template = world.apply(&workflow("w", vec![calling("gate")])).await;
    let id = world.submit(&template).await;
    let gate = Gate::new();
    let a = orchestrator(&world, "a", gate.functions());
    let (executed, ()) = tokio::join!(execute(&a, &id), async {
        gate.has_begun().await;
        a.close().await;
    });
    assert_eq!(executed, Executed::HandedBack);
    assert_eq!(world.execution(&id, "ow_owner").await.as_deref(), Some("~released"));
    let refused = a.execute_workflow(id.as_str()).await;
    assert!(matches!(refused, Err(ExecuteError::Closed)), "{refused:?}");
}

pub async fn what_waits_beside_it_is_left_alone<S: Served>() {
    let world = World::<S>::new().await;
    let (first, other) = (world.submit_chain(&["one"]).await, "template-chain".into());
    let other = world.submit(&other).await;
    assert_eq!(execute(&plain(&world, "a"), &other).await, SUCCESS);
    assert_eq!(world.status(&first).await, "pending");
    // The verb itself says what it found.
    let missing = world.a.claim_named(&who("a"), &"nonsense".into()).await;
    assert!(matches!(missing, Ok(Named::Missing)), "{missing:?}");
    let ended = world.a.claim_named(&who("a"), &other).await;
    assert!(matches!(&ended, Ok(Named::Stands(row)) if row.status == "success"), "{ended:?}");
    let met = world.a.claim_named(&who("a"), &first).await;
    let Ok(Named::Met(batch)) = met else { panic!("{met:?}") };
    assert_eq!(only(batch).lease.execution, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_a_workflow_is_put_in_submitted_and_run_without_a_server() {
    let orchestrator = Orchestrator::in_memory();
    let control = orchestrator.control().await.expect("it opens");
    let definition = workflow("w", chain(&["one", "two"]));
    control.apply(&definition, &About::default()).await.expect("it is applied");
    let submission = Submission {
        template: definition.template.to_string(),
        created_by: String::new(),
        start: Start::Now,
        traceparent: None,
    };
    let id = control.submit(&submission).await.expect("it is submitted").execution;
    assert_eq!(execute(&orchestrator, &id).await, SUCCESS);
}
