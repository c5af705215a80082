//! Ends of executions whose worker did not live to tell of them.
//!
//! **Invariant:** however a worker goes away, its executions are told once.

use std::net::TcpListener;

use orchestrator_worker::ports::traced::Untold;
use rustix::process::Signal;
use tokio::time::{Duration, Instant, sleep};

use super::trees::{PATIENCE, Scene, Stage};
use crate::contract::Subject;

super::trees::on_all! {
    an_end_that_a_killed_worker_could_not_tell_is_told_by_another
    an_untold_end_of_what_is_deleted_is_nobodys_any_more
    an_end_is_noted_as_told_at_the_latest_when_its_worker_goes_away
}

const TWO: &str = "- {name: one, func: noop}
- {name: two, depends_on: [one], func: echo, parameters: {x: 1}}";

const TOLD: &str = "
RUN it [success]
  wait it
  hold it [a released]
    step one [success]
      noop [1 success]
    step two [success]
      echo [1 success]
";

/// What stands in the owner's place on an execution's lock row.
async fn mark<S: Stage>(scene: &Scene<S>, execution: &str) -> Option<String> {
    let key = format!("workflow_execution:{execution}");
    let sql = format!("SELECT owner FROM distributed_locks WHERE lock_key='{key}'");
    scene.world.subject.one(&sql).await
}

/// An execution that `a` has ended, and has not told of in the time that it had for that.
async fn untold<S: Stage>(scene: &Scene<S>) -> String {
    // It takes what is sent, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    let mut a = scene.worker("a", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let id = scene.submit(TWO, &[]);
    scene.wait_for_state(&id, "success");
    a.signal(Signal::KILL);
    a.wait();
    assert_eq!(mark(scene, &id).await.as_deref(), Some("~untold:a"));
    let waited = -i64::try_from(Untold::PATIENCE.as_millis()).expect("it is short");
    let expires = S::Store::moved("expires_at", waited);
    scene.world.edit_lock(&id.as_str().into(), &format!("expires_at={expires}")).await;
    id
}

async fn is_noted<S: Stage>(scene: &Scene<S>, execution: &str) {
    let began = Instant::now();
    while mark(scene, execution).await.as_deref() != Some("~finished") {
        assert!(began.elapsed() < PATIENCE, "it is not noted");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn an_end_that_a_killed_worker_could_not_tell_is_told_by_another<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let id = untold(&scene).await;
    let _b = scene.worker("b", &[]);
    // Which function it was no row of an attempt says.
    let by_another = TOLD.replace("noop", "func").replace("echo", "func");
    let spans = scene.looks(&id, &[], &by_another).await;
    let hold = spans.iter().find(|span| span.name == "hold it").expect("it is drawn");
    assert_eq!((hold.error.as_deref(), &*hold.attributes["orchestrator.told_by"]), (None, "b"));
    is_noted(&scene, &id).await;
}

async fn an_untold_end_of_what_is_deleted_is_nobodys_any_more<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let id = untold(&scene).await;
    for (table, key) in [
        ("ow_attempts", "execution_id"),
        ("workflow_step_executions", "execution_id"),
        ("workflow_executions", "id"),
    ] {
        scene.world.subject.exec(&format!("DELETE FROM {table} WHERE {key}='{id}'")).await;
    }
    let _b = scene.worker("b", &[]);
    is_noted(&scene, &id).await;
}

async fn an_end_is_noted_as_told_at_the_latest_when_its_worker_goes_away<S: Stage>() {
    let scene = Scene::<S>::new().await;
    let mut a = scene.worker("a", &[]);
    let id = scene.submit(TWO, &[]);
    scene.wait_for_state(&id, "success");
    a.signal(Signal::TERM);
    assert_eq!(a.wait().code(), Some(0));
    assert_eq!(mark(&scene, &id).await.as_deref(), Some("~finished"));
    scene.looks(&id, &[], TOLD).await;
}
