//! How many statements and commits work takes, counted on their way to the server.

use orchestrator_worker::ports::executions::{Advance, Advanced, ExecutionStore};
use rustix::process::Signal;

use super::{Database, Server};
use crate::{
    contract::{world::*, writes::*},
    process::{Worker, wait_until},
    proxy::Proxy,
};

pub async fn a_batch_of_50_takes_15_statements_to_claim_and_6_to_end<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let proxy = Proxy::start(Database::<S>::address()).await;
    let worker = world.subject.open(Some(proxy.address())).await;
    let template = world.apply(&workflow("w", chain(&["one"]))).await;
    // A connection that is new is set up first, by statements of its own.
    for _ in 0..10 {
        let made = proxy.made();
        for _ in 0..50 {
            world.submit(&template).await;
        }
        let before = proxy.statements();
        let all = worker.claim(&who("a"), 50).await.expect("a claim").claims;
        let between = proxy.statements();
        assert_eq!(all.len(), 50);
        let end = |claim| Advance {
            ended: vec![succeeded(claim, "one")],
            finish: Some(success()),
            ..advance(claim)
        };
        let answers = worker.advance(&all.iter().map(end).collect::<Vec<_>>()).await;
        assert_eq!(answers, vec![Ok(Advanced::Recorded); 50]);
        if proxy.made() == made {
            let (claim, end) = (between - before, proxy.statements() - between);
            assert_eq!((claim, end), (15, 6));
            return;
        }
    }
    panic!("each time a connection was made");
}

/// Each step begins with the end of the one before it, the first with the claim.
pub async fn a_chain_of_five_steps_takes_six_commits<S: Server>() {
    let world = World::<Database<S>>::new().await;
    let proxy = Proxy::start(Database::<S>::address()).await;
    let names = ["one", "two", "three", "four", "five"];
    let template = world.apply(&workflow("w", chain(&names))).await;
    let mut worker = Worker::start(&world.subject.url(Some(proxy.address())), "a", &[]);
    // The first of a worker is no measure: it also keeps the plan, and whatever else comes once.
    let mut before = 0;
    for _ in 0..2 {
        before = proxy.commits();
        let ended = worker.logged("execution.finished");
        let id = world.submit(&template).await;
        wait_until("it ends", || (worker.logged("execution.finished") > ended).then_some(()));
        assert_eq!(world.status(&id).await, "success");
    }
    assert_eq!(proxy.commits() - before, 6);
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}
