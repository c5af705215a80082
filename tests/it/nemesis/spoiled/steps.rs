//! Guards of steps' rows.

use orchestrator_worker::{
    domain::recovery::{Cause, TakeOver},
    ports::executions::{Advance, Advanced, Claimant, ExecutionStore, StepStart},
};

use super::{Scene, found};
use crate::{
    contract::{world::*, writes::*},
    mysql::Server,
    nemesis::history::{Rule, What},
    proxy::Spoil,
    stores::on_both_servers,
};

on_both_servers! {
    a_late_success_that_no_fence_stops_is_found
    late_successes_together_that_no_fence_stops_are_found
    a_late_start_that_no_fence_stops_is_found
    a_late_retry_that_no_fence_stops_is_found
    a_success_of_what_waits_under_a_newer_fence_is_found
    a_copy_of_an_end_that_no_attempt_stops_is_found
    a_copy_of_a_start_that_no_status_stops_is_found
    a_copy_of_a_start_that_no_attempt_stops_is_found
    a_late_skip_that_no_fence_stops_is_found
    late_output_that_no_status_stops_is_found
}

async fn a_late_success_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let late = scene.end(&first, "one");
        let mut second = scene.take_over(&first, "one").await;
        scene.finish(&mut second).await;
        send(&scene.late, &late).await.ok();
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND ow_attempt=? AND status IN ('running', ?)",
        "WHERE ((id=? AND (ow_fence=? OR 1))) AND (ow_attempt=? OR 1) AND status IN ('running', ?)",
    );
    found(scene::<S>, &[spoil], Rule::ForeignOutput).await;
}

async fn late_successes_together_that_no_fence_stops_are_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut late = Vec::new();
        for _ in 0..2 {
            let first = scene.claim().await;
            late.push(scene.end(&first, "one"));
            let mut second = scene.take_over(&first, "one").await;
            scene.finish(&mut second).await;
        }
        scene.late.advance(&late).await;
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?) OR (id=? AND ow_fence=?)) AND ow_attempt=? \
         AND status IN ('running', ?)",
        "WHERE ((id=? AND (ow_fence=? OR 1)) OR (id=? AND (ow_fence=? OR 1))) \
         AND (ow_attempt=? OR 1) AND status IN ('running', ?)",
    );
    found(scene::<S>, &[spoil], Rule::ForeignOutput).await;
}

async fn a_late_start_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let end = scene.end(&first, "one");
        assert_eq!(send(&scene.late, &end).await, Ok(Advanced::Recorded));
        let mut late = advance(&first);
        late.started.push(start(&first, "two"));
        let second = scene.take_over(&first, "two").await;
        if send(&scene.late, &late).await == Ok(Advanced::Recorded) {
            scene.begins(&mut first, &late.started[0], "two");
        }
        let sent = Advance { finish: Some(success()), ..scene.end(&second, "two") };
        send(&scene.world.b, &sent).await.ok();
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND (status IS NULL OR status NOT IN \
         ('success','failed','skipped')) AND ow_attempt IN (?, ?)",
        "WHERE ((id=? AND (ow_fence=? OR 1))) AND (status IS NULL OR status NOT IN \
         ('success','failed','skipped')) AND ow_attempt IN (?, ?)",
    );
    found(scene::<S>, &[spoil], Rule::Overlap).await;
}

async fn a_late_retry_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let second = scene.take_over(&first, "one").await;
        let late = Advance { retrying: vec![retry(&first, "one")], ..advance(&first) };
        send(&scene.late, &late).await.ok();
        let mut third = scene.take_over(&second, "one").await;
        scene.finish(&mut third).await;
    }
    let spoil = Spoil(
        "WHERE id=? AND ow_fence=? AND status='running' AND (ow_attempt=? OR (ow_attempt=? AND \
         ow_key_gen=? AND retry_count=?))",
        "WHERE id=? AND (ow_fence=? OR 1) AND status='running' AND (ow_attempt=? OR 1 OR \
         (ow_attempt=? AND ow_key_gen=? AND retry_count=?))",
    );
    found(scene::<S>, &[spoil], Rule::Key).await;
}

async fn a_success_of_what_waits_under_a_newer_fence_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim_of(fan(&["one", "beside"])).await;
        let late = scene.end(&first, "beside");
        // Whoever takes it over begins one step at a time.
        let seen = scene.world.held(&first.lease.execution).await.expect("it is held");
        let slow = Claimant { steps_at_once: 1, ..who("b") };
        let gone = TakeOver { seen, cause: Cause::LeaseExpired };
        let mut second = only(scene.world.b.take_over(&slow, &[gone]).await.expect("an answer"));
        scene.does(What::Start, &second, "one");
        send(&scene.late, &late).await.ok();
        scene.finish_with(&mut second, "beside").await;
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND ow_attempt=? AND status IN ('running', ?)",
        "WHERE ((id=? AND (ow_fence=? OR 1))) AND ow_attempt=? AND status IN ('running', ?)",
    );
    found(scene::<S>, &[spoil], Rule::ForeignOutput).await;
}

async fn a_copy_of_an_end_that_no_attempt_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let mut copy = succeeded(&first, "one");
        copy.output = Some(format!("{} 1", first.lease.fence));
        scene.try_again(&mut first).await;
        scene.finish(&mut first).await;
        send(&scene.late, &Advance { ended: vec![copy], ..advance(&first) }).await.ok();
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND ow_attempt=? AND status IN ('running', ?)",
        "WHERE ((id=? AND ow_fence=?)) AND (ow_attempt=? OR 1) AND status IN ('running', ?)",
    );
    found(scene::<S>, &[spoil], Rule::ForeignOutput).await;
}

async fn a_copy_of_a_start_that_no_status_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let copy = StepStart::of(slot(&first, "one"));
        scene.finish(&mut first).await;
        send(&scene.late, &Advance { started: vec![copy], ..advance(&first) }).await.ok();
    }
    let spoil = Spoil(
        "AND (status IS NULL OR status NOT IN ('success','failed','skipped')) AND ow_attempt IN (?, ?)",
        "AND ow_attempt IN (?, ?)",
    );
    found(scene::<S>, &[spoil], Rule::NotEnded).await;
}

async fn a_copy_of_a_start_that_no_attempt_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let copy = StepStart::of(slot(&first, "one"));
        scene.try_again(&mut first).await;
        send(&scene.late, &Advance { started: vec![copy], ..advance(&first) }).await.ok();
        scene.finish(&mut first).await;
    }
    let spoil = Spoil("AND ow_attempt IN (?, ?)", "AND (ow_attempt IN (?, ?) OR 1)");
    found(scene::<S>, &[spoil], Rule::NotEnded).await;
}

async fn a_late_skip_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let mut second = scene.take_over(&first, "one").await;
        let late = Advance { skipped: vec![skip(&first, "two")], ..advance(&first) };
        send(&scene.late, &late).await.ok();
        scene.finish(&mut second).await;
    }
    let spoil = Spoil(
        "WHERE ((id=? AND ow_fence=?)) AND (status IS NULL OR status NOT IN \
         ('success','failed','running'))",
        "WHERE ((id=? AND (ow_fence=? OR 1))) AND (status IS NULL OR status NOT IN \
         ('success','failed','running'))",
    );
    found(scene::<S>, &[spoil], Rule::NotEnded).await;
}

async fn late_output_that_no_status_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let one = slot(&first, "one").clone();
        scene.finish(&mut first).await;
        let noted = scene.late.note_output(&first.lease, &one.id, one.attempt, "half of it").await;
        noted.expect("an answer");
    }
    let spoil = Spoil(
        "WHERE id=? AND ow_fence=? AND ow_attempt=? AND status='running'",
        "WHERE id=? AND ow_fence=? AND ow_attempt=?",
    );
    found(scene::<S>, &[spoil], Rule::ForeignOutput).await;
}
