//! Guards of executions' rows and of their lock rows.

use orchestrator_worker::{
    domain::{
        id::{Beat, ExecutionId},
        lease::Renewal,
        recovery::{Cause, TakeOver},
    },
    ports::{
        control::Control,
        executions::{Advance, Advanced, Batch, ExecutionStore},
    },
};

use super::{Scene, found, guarded, harmless};
use crate::{
    contract::{world::*, writes::*},
    mysql::Server,
    nemesis::history::{Rule, What},
    proxy::Spoil,
    stores::on_both_servers,
};

on_both_servers! {
    a_claim_of_what_runs_that_nothing_stops_is_found
    a_claim_of_what_the_go_service_has_locked_is_found
    a_late_end_that_no_fence_stops_is_found
    a_late_hand_back_that_no_fence_stops_is_found
    a_second_takeover_that_nothing_stops_is_found
    a_takeover_that_stamps_what_has_succeeded_is_found
    an_end_over_a_cancellation_that_no_status_stops_is_found
    a_late_renewal_that_nothing_stops_keeps_nothing
    a_late_burial_that_nothing_stops_is_found
    a_late_start_after_a_retry_that_raised_no_fence_is_found
    a_retry_that_takes_back_a_success_is_found
    a_go_service_that_meets_no_mark_of_an_end_is_found
}

/// What a watcher has seen of a lock row.
const SEEN: Spoil = Spoil(
    "WHERE lock_key=? AND ((ow_fence=? AND ow_beat=? AND ow_fence > 0)",
    "WHERE lock_key=? AND (((ow_fence=? OR 1) AND (ow_beat=? OR 1) AND ow_fence > 0)",
);

/// Fence or claim of an execution's row, which guard the same thing.
fn either() -> [Spoil; 2] {
    [
        Spoil("AND ow_fence=? AND ow_claim=?", "AND (ow_fence=? OR 1) AND ow_claim=?"),
        Spoil("AND ow_fence=? AND ow_claim=?", "AND ow_fence=? AND (ow_claim=? OR 1)"),
    ]
}

async fn a_claim_of_what_runs_that_nothing_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let batch = scene.late.claim(&who("c"), 10).await.unwrap_or_default();
        if let Some(second) = batch.claims.first() {
            scene.does(What::Start, second, "one");
        }
        scene.finish(&mut first).await;
    }
    let status =
        Spoil("WHERE status='pending' AND ow_", "WHERE status IN ('pending','running') AND ow_");
    let lock = Spoil(
        "WHERE lock_key IN (?) AND owner=? AND ow_fence=?",
        "WHERE lock_key IN (?) AND (owner=? OR 1) AND (ow_fence=? OR 1)",
    );
    found(scene::<S>, &[status, lock], Rule::Overlap).await;
    harmless(scene::<S>, status).await;
    harmless(scene::<S>, lock).await;
}

/// A claim clears lock rows that have expired or are marked, and no others.
async fn a_claim_of_what_the_go_service_has_locked_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let template = scene.world.apply(&workflow("w", chain(&["one"]))).await;
        let id: ExecutionId = scene.world.submit(&template).await;
        let dir = tempfile::tempdir().expect("a folder");
        let mut twin = scene.twin(dir.path());
        assert!(twin.finds_pending(id.as_str()).await && twin.locks(id.as_str()).await);
        let batch = scene.late.claim(&who("a"), 10).await.expect("an answer");
        if let Some(claim) = batch.claims.first() {
            scene.does(What::Start, claim, "one");
        }
        twin.run_locked(id.as_str()).await;
        scene.takes_in(dir.path());
    }
    let spoil =
        Spoil("AND (owner LIKE '~%' OR (expires_at", "AND (1 OR owner LIKE '~%' OR (expires_at");
    found(scene::<S>, &[spoil], Rule::TwoRunners).await;
}

async fn a_late_end_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let mut second = scene.take_over(&first, "one").await;
        let late = Advance { finish: Some(failure()), ..advance(&first) };
        send(&scene.late, &late).await.ok();
        scene.finish(&mut second).await;
    }
    let both = Spoil(
        "ow_owner='' WHERE ((id=? AND ow_fence=? AND ow_claim=?)) AND status IN ('running', ?)",
        "ow_owner='' WHERE ((id=? AND (ow_fence=? OR 1) AND (ow_claim=? OR 1))) \
         AND status IN ('running', ?)",
    );
    found(scene::<S>, &[both], Rule::NotEnded).await;
    let [fence, nonce] = either();
    harmless(scene::<S>, fence).await;
    harmless(scene::<S>, nonce).await;
}

async fn a_late_hand_back_that_no_fence_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let mut second = scene.take_over(&first, "one").await;
        if hand_back(&scene.late, &first).await == Ok(Advanced::Recorded) {
            let execution = &first.lease.execution;
            let third = only(scene.world.b_takes_over(execution, Cause::Released).await);
            scene.does(What::Start, &third, "one");
        }
        scene.finish(&mut second).await;
    }
    let both = Spoil(
        "WHERE id=? AND ow_fence=? AND ow_claim=? AND status='running'",
        "WHERE id=? AND (ow_fence=? OR 1) AND (ow_claim=? OR 1) AND status='running'",
    );
    found(scene::<S>, &[both], Rule::Overlap).await;
    let [fence, nonce] = either();
    harmless(scene::<S>, fence).await;
    harmless(scene::<S>, nonce).await;
}

async fn a_second_takeover_that_nothing_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let seen = scene.world.held(&first.lease.execution).await.expect("it is held");
        let mut second = scene.take_over(&first, "one").await;
        let stale = TakeOver { seen, cause: Cause::LeaseExpired };
        let batch: Batch = scene.late.take_over(&who("c"), &[stale]).await.expect("an answer");
        if let Some(third) = batch.claims.first() {
            scene.does(What::Start, third, "one");
        }
        scene.finish(&mut second).await;
    }
    // The execution's row and the lock row each stop it alone.
    let row = Spoil(
        "(id=? AND ow_fence=? AND ow_owner=?)",
        "(id=? AND (ow_fence=? OR 1) AND (ow_owner=? OR 1))",
    );
    found(scene::<S>, &[row, SEEN], Rule::Overlap).await;
    harmless(scene::<S>, row).await;
    harmless(scene::<S>, SEEN).await;
}

async fn a_takeover_that_stamps_what_has_succeeded_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let end = scene.end(&first, "one");
        assert_eq!(send(&scene.world.b, &end).await, Ok(Advanced::Recorded));
        let second = only(scene.late_takes_over(&first, Cause::LeaseExpired).await);
        scene.does(What::Start, &second, "two");
        let sent = Advance { finish: Some(success()), ..scene.end(&second, "two") };
        assert_eq!(send(&scene.world.b, &sent).await, Ok(Advanced::Recorded));
    }
    let spoil = Spoil(
        "SET ow_fence=? WHERE execution_id IN (?) AND (status IS NULL OR status NOT IN \
         ('success','failed','skipped'))",
        "SET ow_fence=? WHERE execution_id IN (?)",
    );
    found(scene::<S>, &[spoil], Rule::ForeignOutput).await;
}

async fn an_end_over_a_cancellation_that_no_status_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        scene.cancel(&first).await;
        let end = Advance { finish: Some(failure()), ..advance(&first) };
        send(&scene.late, &end).await.expect("it is ours");
    }
    let spoil = Spoil(
        "ow_owner='' WHERE ((id=? AND ow_fence=? AND ow_claim=?)) AND status IN ('running', ?)",
        "ow_owner='' WHERE ((id=? AND ow_fence=? AND ow_claim=?)) AND (status IN ('running', ?) OR 1)",
    );
    found(scene::<S>, &[spoil], Rule::NotCancelled).await;
}

/// Whether a lease is held is read off the execution's row as well.
async fn a_late_renewal_that_nothing_stops_keeps_nothing<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let mut second = scene.take_over(&first, "one").await;
        let renewed = scene.late.renew(TTL, Beat(9), std::slice::from_ref(&first.lease)).await;
        assert_eq!(renewed.expect("an answer"), [Renewal::Lost]);
        scene.finish(&mut second).await;
    }
    let spoil = Spoil(
        "WHERE owner=? AND ((lock_key=? AND ow_fence=?))",
        "WHERE (owner=? OR 1) AND ((lock_key=? AND (ow_fence=? OR 1)))",
    );
    guarded(scene::<S>).await;
    harmless(scene::<S>, spoil).await;
}

/// Of what was cancelled, retried, claimed and cancelled again, a watcher ends what it has seen at first.
async fn a_late_burial_that_nothing_stops_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let id = &first.lease.execution;
        scene.cancel(&first).await;
        let seen = scene.world.held(id).await.expect("it is held");
        scene.bury(id).await;
        scene.world.b.retry(id).await.expect("it is retried");
        let second = claim_one(&scene.world.b, "b").await;
        scene.does(What::Start, &second, "one");
        scene.cancel(&second).await;
        let stale = TakeOver { seen, cause: Cause::LeaseExpired };
        let batch: Batch = scene.late.take_over(&who("c"), &[stale]).await.expect("an answer");
        if batch.tidied.contains(id) {
            scene.notes(What::Cancelled, &second);
        }
        scene.does(What::Tick, &second, "one");
        let end = Advance { finish: Some(failure()), ..advance(&second) };
        send(&scene.world.b, &end).await.ok();
        scene.notes(What::Cancelled, &second);
    }
    let row = Spoil(
        "WHERE id=? AND status=? AND ow_fence=? AND ow_owner=?",
        "WHERE id=? AND status=? AND (ow_fence=? OR 1) AND (ow_owner=? OR 1)",
    );
    let end = Spoil(
        "WHERE id=? AND status='cancelled' AND ow_fence=? AND ow_owner=?",
        "WHERE id=? AND status='cancelled' AND (ow_fence=? OR 1) AND (ow_owner=? OR 1)",
    );
    found(scene::<S>, &[row, SEEN, end], Rule::AfterCancel).await;
    for guard in [row, SEEN, end] {
        harmless(scene::<S>, guard).await;
    }
}

async fn a_late_start_after_a_retry_that_raised_no_fence_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let mut first = scene.claim().await;
        let id = first.lease.execution.clone();
        let end = scene.end(&first, "one");
        assert_eq!(send(&scene.late, &end).await, Ok(Advanced::Recorded));
        scene.world.b.cancel(&id).await.expect("it is cancelled");
        scene.bury(&id).await;
        scene.late.retry(&id).await.expect("it is retried");
        let late = Advance { started: vec![start(&first, "two")], ..advance(&first) };
        let is_begun = send(&scene.late, &late).await == Ok(Advanced::Recorded);
        if is_begun {
            scene.begins(&mut first, &late.started[0], "two");
        }
        let second = claim_one(&scene.world.b, "b").await;
        scene.does(What::Start, &second, "two");
        if is_begun {
            scene.does(What::Tick, &first, "two");
        }
        let sent = Advance { finish: Some(success()), ..scene.end(&second, "two") };
        send(&scene.world.b, &sent).await.ok();
    }
    let spoil = Spoil("ow_fence=ow_fence+1", "ow_fence=ow_fence");
    found(scene::<S>, &[spoil], Rule::Overlap).await;
}

async fn a_retry_that_takes_back_a_success_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let first = scene.claim().await;
        let id = &first.lease.execution;
        let sent = Advance {
            finish: Some(failure()),
            skipped: vec![skip(&first, "two")],
            ..scene.end(&first, "one")
        };
        assert_eq!(send(&scene.late, &sent).await, Ok(Advanced::Recorded));
        scene.late.retry(id).await.expect("it is retried");
        let mut second = claim_one(&scene.world.b, "b").await;
        let begun = started(&second);
        for step in &begun {
            scene.does(What::Start, &second, step);
        }
        if begun == ["one"] {
            return scene.finish(&mut second).await;
        }
        let sent = Advance { finish: Some(success()), ..scene.end(&second, "two") };
        send(&scene.world.b, &sent).await.ok();
    }
    let spoil = Spoil(
        "WHERE e.id=? AND (s.status IS NULL OR s.status<>'success')",
        "WHERE e.id=? AND (s.status IS NULL OR s.status<>'success' OR 1)",
    );
    found(scene::<S>, &[spoil], Rule::RunAgain).await;
}

/// It has read `pending` before the claim, and reaches for the lock after the end.
async fn a_go_service_that_meets_no_mark_of_an_end_is_found<S: Server>() {
    async fn scene<S: Server>(scene: &mut Scene<S>) {
        let template = scene.world.apply(&workflow("w", chain(&["one"]))).await;
        let id: ExecutionId = scene.world.submit(&template).await;
        let dir = tempfile::tempdir().expect("a folder");
        let mut twin = scene.twin(dir.path());
        assert!(twin.finds_pending(id.as_str()).await);
        let claim = claim_one(&scene.late, "a").await;
        scene.does(What::Start, &claim, "one");
        let end = Advance { finish: Some(success()), ..scene.end(&claim, "one") };
        assert_eq!(send(&scene.late, &end).await, Ok(Advanced::Recorded));
        twin.run_found(id.as_str()).await;
        scene.takes_in(dir.path());
    }
    let spoil = Spoil(
        "expires_at=NOW(3)+INTERVAL ? MICROSECOND, updated_at=NOW(3) WHERE (lock_key=?",
        "expires_at=NOW(3)-INTERVAL ? MICROSECOND, updated_at=NOW(3) WHERE (lock_key=?",
    );
    found(scene::<S>, &[spoil], Rule::TwoRunners).await;
}
