//! Section "several replicas" of the lock guide: of two that are given one execution, one runs it; a lock
//! whose holder is gone goes to the next one when its time is past.

use std::{env, error::Error, time::Duration};

use orchestrator_worker::{
    domain::id::Owner,
    orchestrator::{Database, Executed, LockOptions, Orchestrator},
};

#[path = "quick_start.rs"]
#[expect(dead_code, reason = "it is a program of its own")]
pub mod quick_start;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run(env::temp_dir().join("two-replicas.db").into()).await
}

pub async fn run(database: Database) -> Result<(), Box<dyn Error>> {
    let replica = |name: &str| -> Result<Orchestrator, Box<dyn Error>> {
        Ok(Orchestrator::builder(database.clone()).owner(Owner::try_new(name)?).build()?)
    };
    let (one, two) = (replica("replica-1")?, replica("replica-2")?);

    let id = quick_start::submit(&one).await?;
    let both = tokio::join!(one.execute_workflow(&id), two.execute_workflow(&id));
    let ran = [both.0?, both.1?].into_iter().filter(|executed| match executed {
        Executed::Ended { .. } => true,
        // Which it is depends on whether the other is still at work: neither is an error.
        Executed::HeldElsewhere { .. } | Executed::EndedBefore { .. } => false,
        other => panic!("{other:?}"),
    });
    assert_eq!(ran.count(), 1, "one of them");

    // A holder that is cut off: it does not renew, and does not release.
    let second = Duration::from_secs(1);
    let cut_off = LockOptions { ttl: second, auto_renew: false, ..one.locks().await?.options() };
    let held = one.lock_with("reports:daily", cut_off).await?;
    let patient = LockOptions { retry_count: 100, retry_delay: second / 10, ..cut_off };
    let (lost, next) = tokio::join!(held.lost(), two.lock_with("reports:daily", patient));
    println!("replica-1 knows: {lost}");
    let next = next?;
    assert!(next.fence() > held.fence(), "whoever looks at fences refuses the former holder");
    next.release().await?;
    Ok(())
}
