//! Section "monitoring" of the lock guide: metrics, and work that stops when its lock is lost.

use std::{error::Error, time::Duration};

use orchestrator_worker::orchestrator::{LeaseHandle, Orchestrator};
use prometheus_client::{encoding::text::encode, registry::Registry};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    print!("{}", run().await?);
    Ok(())
}

pub async fn run() -> Result<String, Box<dyn Error>> {
    let orchestrator = Orchestrator::in_memory();
    let mut registry = Registry::default();
    orchestrator.metrics().register(&mut registry);

    let handle = orchestrator.lock("reports:daily").await?;
    assert!(work_under(&handle).await, "the lock was held to the end");
    handle.release().await?;

    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// `false`: the lock was lost before the end, and the work was stopped.
async fn work_under(handle: &LeaseHandle) -> bool {
    let work = async {
        for _page in 0..3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = work => handle.is_held(),
        why = handle.lost() => {
            eprintln!("stopped: {why}");
            false
        }
    }
}
