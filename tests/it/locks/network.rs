//! Plain keys over a network that loses answers, requests, and connections: what was asked is asked
//! again, and is done once.

use std::time::Duration;

use orchestrator_worker::{
    adapters::mysql::{MySqlStore, Settings},
    domain::id::ExecutionId,
    ports::{
        control::{About, Control, Start, Submission},
        executions::{ExecutionStore, Named, StoreError},
        lock::{Acquire, Acquired, KeyLease, LockError, LockProvider, Renewed},
    },
};
use secrecy::SecretString;
use tokio::{
    task::{JoinSet, block_in_place},
    time::{Instant, timeout},
};

use super::{faults, key, ours, wish};
use crate::{
    contract::{Subject, world::*},
    mysql::{Database, Server},
    own_server::OwnServer,
    proxy::{CEILING, Mode, Proxy},
    stores::on_both_servers,
};

on_both_servers! {
    an_acquisition_that_lost_any_one_answer_is_made_once_when_it_is_asked_for_again
    an_acquisition_whose_commit_never_arrived_is_made_when_it_is_asked_for_again
    a_renewal_that_went_unanswered_is_sent_again
    a_release_that_went_unanswered_has_freed_the_key
    a_refused_connection_is_an_error_at_once_and_the_next_call_works
    locks_and_fences_outlive_a_restart_of_the_server
    a_claim_by_id_whose_commit_went_unanswered_is_adopted
    a_claim_by_id_whose_commit_never_arrived_leaves_it_pending
}

/// Of an acquisition: a look, the begin, the row, its fence, the commit.
const REQUESTS: u32 = 5;

/// A provider through a proxy, with one connection for everything and one for renewals, and one that
/// is near.
struct Net<S: Server> {
    database: Database<S>,
    proxy: Proxy,
    far: MySqlStore,
    near: MySqlStore,
}

impl<S: Server> Net<S> {
    async fn new() -> Self {
        let database = Database::<S>::make().await;
        let near = database.open(None).await;
        near.migrate(false).await.expect("it is migrated");
        let proxy = Proxy::start(Database::<S>::address()).await;
        let url = SecretString::from(database.url(Some(proxy.address())));
        let far = Settings { work_lanes: 1, lease_lanes: 1, ..Settings::new(url) };
        let far = MySqlStore::open(far).await.expect("a store");
        let net = Self { database, proxy, far, near };
        // From here on the server has every statement prepared.
        let warm = net.take(&wish(&key("warm"), "a")).await;
        assert_eq!(LockProvider::renew(&net.far, &warm, HOUR).await, Ok(Renewed::Held));
        assert_eq!(net.far.release(&warm).await, Ok(true));
        net
    }

    async fn take(&self, wish: &Acquire) -> KeyLease {
        ours(self.far.acquire(wish).await.expect("an answer"))
    }

    /// Asks until there is an answer.
    async fn take_in_the_end(&self, wish: &Acquire) -> KeyLease {
        let asked = async {
            loop {
                match self.far.acquire(wish).await {
                    Ok(acquired) => return ours(acquired),
                    Err(error) => assert!(error.is_passing(), "{error}"),
                }
            }
        };
        timeout(CEILING, asked).await.expect("it is answered in the end")
    }

    /// It is held under this lease, in one row, and freed by it.
    async fn is_held_once(&self, lease: &KeyLease) {
        let held = self.near.inspect(&lease.key).await.expect("an answer").expect("it is held");
        assert_eq!(held.fence, lease.fence);
        let rows = self.database.one("SELECT COUNT(*) FROM distributed_locks").await;
        assert_eq!(rows.as_deref(), Some("1"));
        let other = self.near.acquire(&wish(&lease.key, "b")).await;
        assert!(matches!(other, Ok(Acquired::Theirs(_))), "{other:?}");
        assert_eq!(self.near.release(lease).await, Ok(true));
    }
}

pub async fn an_acquisition_that_lost_any_one_answer_is_made_once_when_it_is_asked_for_again<
    S: Server,
>() {
    let mut all = JoinSet::new();
    for lost in 1..=REQUESTS {
        all.spawn(async move {
            let net = Net::<S>::new().await;
            let wish = wish(&key("k"), "a");
            net.proxy.set(Mode::HoldAnswerOf(lost));
            let unheard = net.far.acquire(&wish).await;
            net.proxy.has_silenced().await;
            assert!(unheard.as_ref().is_err_and(LockError::is_passing), "{lost}: {unheard:?}");
            let lease = net.take_in_the_end(&wish).await;
            net.is_held_once(&lease).await;
        });
    }
    all.join_all().await;
    let net = Net::<S>::new().await;
    net.proxy.set(Mode::HoldAnswerOf(REQUESTS + 1));
    net.take(&wish(&key("k"), "a")).await;
    let next = net.far.inspect(&key("k")).await;
    assert!(next.is_err(), "those were all requests of an acquisition, this is the next: {next:?}");
}

pub async fn an_acquisition_whose_commit_never_arrived_is_made_when_it_is_asked_for_again<
    S: Server,
>() {
    let net = Net::<S>::new().await;
    let wish = wish(&key("k"), "a");
    net.proxy.set(Mode::LoseRequest("\u{3}COMMIT"));
    let unheard = net.far.acquire(&wish).await;
    assert!(unheard.as_ref().is_err_and(LockError::is_passing), "{unheard:?}");
    assert_eq!(net.near.inspect(&wish.key).await, Ok(None));
    let lease = net.take_in_the_end(&wish).await;
    net.is_held_once(&lease).await;
}

pub async fn a_renewal_that_went_unanswered_is_sent_again<S: Server>() {
    let net = Net::<S>::new().await;
    let lease = net.take(&wish(&key("k"), "a")).await;
    let ttl = Duration::from_secs(6);
    net.proxy.set(Mode::HoldAnswerOf(1));
    let began = Instant::now();
    let unheard = LockProvider::renew(&net.far, &lease, ttl).await;
    assert!(unheard.as_ref().is_err_and(LockError::is_passing), "{unheard:?}");
    assert!(began.elapsed() < ttl / 3, "there is time for others: {:?}", began.elapsed());
    net.proxy.set(Mode::Pass);
    assert_eq!(LockProvider::renew(&net.far, &lease, HOUR).await, Ok(Renewed::Held));
    net.is_held_once(&lease).await;
}

pub async fn a_release_that_went_unanswered_has_freed_the_key<S: Server>() {
    let net = Net::<S>::new().await;
    let lease = net.take(&wish(&key("k"), "a")).await;
    net.proxy.set(Mode::HoldAnswerOf(1));
    let unheard = net.far.release(&lease).await;
    assert!(unheard.as_ref().is_err_and(LockError::is_passing), "{unheard:?}");
    net.proxy.set(Mode::Pass);
    assert_eq!(net.near.inspect(&lease.key).await, Ok(None));
    assert_eq!(net.far.release(&lease).await, Ok(false), "sent twice it frees once");
    let next = net.take(&wish(&key("k"), "a")).await;
    assert!(next.fence > lease.fence);
}

pub async fn a_refused_connection_is_an_error_at_once_and_the_next_call_works<S: Server>() {
    let net = Net::<S>::new().await;
    net.proxy.set(Mode::Refuse);
    net.proxy.has_at_most(0).await;
    let wish = wish(&key("k"), "a");
    for _ in 0..2 {
        let began = Instant::now();
        let refused = net.far.acquire(&wish).await;
        assert!(refused.as_ref().is_err_and(LockError::is_passing), "{refused:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "nobody waits for a closed door");
    }
    net.proxy.set(Mode::Pass);
    let lease = net.take_in_the_end(&wish).await;
    net.is_held_once(&lease).await;
}

pub async fn locks_and_fences_outlive_a_restart_of_the_server<S: Server>() {
    let mut server = block_in_place(|| OwnServer::<S>::start(&[], &[], |_| {}));
    server.exec("CREATE DATABASE locks").await;
    let url = format!("{}locks", server.url("127.0.0.1"));
    let store = MySqlStore::open(Settings::new(url.into())).await.expect("a store");
    store.migrate(false).await.expect("it is migrated");
    faults::locks_and_fences_outlive_a_restart(&store, || server.restart()).await;
}

async fn submit<S: Server>(net: &Net<S>) -> ExecutionId {
    let definition = workflow("net", chain(&["one"]));
    net.near.apply(&definition, &About::default()).await.expect("it is applied");
    let submission = Submission {
        template: definition.template.to_string(),
        created_by: String::new(),
        start: Start::Now,
        traceparent: None,
    };
    net.near.submit(&submission).await.expect("it is submitted").execution
}

pub async fn a_claim_by_id_whose_commit_went_unanswered_is_adopted<S: Server>() {
    let net = Net::<S>::new().await;
    let id = submit(&net).await;
    net.proxy.set(Mode::HoldAnswer("\u{3}COMMIT"));
    let met = net.far.claim_named(&who("a"), &id).await;
    let Ok(Named::Met(batch)) = met else { panic!("{met:?}") };
    let claim = only(batch);
    let row = format!("SELECT ow_claim FROM workflow_executions WHERE id='{id}'");
    assert_eq!(net.database.one(&row).await.as_deref(), Some(claim.lease.nonce.as_str()));
    let again = net.far.claim_named(&who("a"), &id).await;
    assert!(matches!(&again, Ok(Named::Stands(row)) if row.by == "a"), "{again:?}");
}

pub async fn a_claim_by_id_whose_commit_never_arrived_leaves_it_pending<S: Server>() {
    let net = Net::<S>::new().await;
    let id = submit(&net).await;
    net.proxy.set(Mode::LoseRequest("\u{3}COMMIT"));
    let unmade = net.far.claim_named(&who("a"), &id).await;
    assert!(matches!(unmade, Err(StoreError::Unavailable(_))), "{unmade:?}");
    let met = net.near.claim_named(&who("b"), &id).await;
    let Ok(Named::Met(batch)) = met else { panic!("{met:?}") };
    assert_eq!(only(batch).slots[0].attempt, 1);
}
