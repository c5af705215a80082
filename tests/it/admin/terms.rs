//! A worker in a pod that gives it too little time, or whose steps take longer than its drain.

use super::{metrics, ok, ready_until};
use crate::{
    contract::world::{World, step_id},
    crash::Served,
    process::Worker,
    stores::on_every_store,
};

on_every_store! {
    what_of_a_pods_terms_does_not_fit_the_drain_is_told_with_what_mends_it
}

const GRACE: &str = "ORCHESTRATOR_WORKER__POD__TERMINATION_GRACE_PERIOD";

async fn contract(worker: &Worker) -> f64 {
    ready_until(worker, |said| *said == ok()).await;
    metrics::of(worker).await.value("orchestrator_worker_drain_contract_ok", "")
}

async fn what_of_a_pods_terms_does_not_fit_the_drain_is_told_with_what_mends_it<S: Served>() {
    let world = World::<S>::new().await;
    world.submit_chain(&["quick", "slow"]).await;
    let url = world.subject.url();
    let drain = ("ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "40s");
    let hook = ("ORCHESTRATOR_WORKER__POD__PRE_STOP", "5s");
    let budget = |is| ("ORCHESTRATOR_WORKER__POD__DISRUPTION_BUDGET", is);

    let well = Worker::start(&url, "well", &[drain, hook, budget("true"), (GRACE, "55s")]);
    assert!((contract(&well).await - 1.0).abs() < f64::EPSILON);
    assert_eq!(well.logged("drain.contract"), 0);

    let slow = format!("UPDATE steps SET timeout=600 WHERE id='{}'", step_id("slow"));
    world.subject.exec(&slow).await;
    let ill = Worker::start(&url, "ill", &[drain, hook, budget("false"), (GRACE, "54s")]);
    assert!(contract(&ill).await.abs() < f64::EPSILON);
    for (found, repair) in [
        ("the pod is killed 54s after", "terminationGracePeriodSeconds to 55 "),
        (r#"step "slow" of "chain" may run for 10m"#, "drain_deadline to 605s"),
        ("no disruption budget", "maxUnavailable 1"),
    ] {
        let is = |line: &serde_json::Value, key: &str, part: &str| {
            line[key].as_str().is_some_and(|text| text.contains(part))
        };
        let told = ill.wait_for_line("drain.contract", |line| is(line, "message", found));
        assert!(is(&told, "repair", repair), "{told}");
        assert_eq!(told["level"], "WARN");
    }
    assert_eq!(ill.logged("drain.contract"), 3);

    let unknown = Worker::start(&url, "unknown", &[drain, budget("false")]);
    assert!((contract(&unknown).await - 1.0).abs() < f64::EPSILON, "nobody said what it gets");
    assert_eq!(unknown.logged("drain.contract"), 0);
}
