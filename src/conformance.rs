//! What every lock provider promises, and what the library makes of it, as a test that anybody can run
//! against a provider of their own.
//!
//! ```no_run
//! # use std::sync::Arc;
//! use orchestrator_worker::{adapters::memory::MemoryLocks, conformance, ports::lock::LockProvider};
//!
//! struct Memory(MemoryLocks);
//!
//! #[async_trait::async_trait]
//! impl conformance::Subject for Memory {
//!     async fn provider(&self) -> Arc<dyn LockProvider> {
//!         Arc::new(self.0.beside())
//!     }
//! }
//!
//! # #[tokio::main] async fn main() {
//! conformance::check(Memory(MemoryLocks::default())).await;
//! # }
//! ```
//!
//! **Invariant:** a promise asks for keys that no other run asks for, so that a table in use may be
//! checked; it waits for events, and a slow provider breaks none but that of [`CEILING`].

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    domain::{
        id::Owner,
        lock::{LockNonce, PlainKey},
    },
    ports::lock::{Acquire, Acquired, Inspected, KeyLease, LockProvider, Renewed},
};

mod exclusion;
mod handles;
mod keys;
mod time;

/// A lock table to be checked.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// A provider that shares nothing with those before but the table, as another process has it.
    async fn provider(&self) -> Arc<dyn LockProvider>;

    /// The shortest time that it can hold a key for.
    fn shortest_ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Whether it says since when a key is held.
    fn tells_age(&self) -> bool {
        true
    }

    /// How many ask for one key at one time.
    fn contenders(&self) -> usize {
        50
    }

    /// How many keys are held at one time.
    fn keys(&self) -> usize {
        self.contenders().max(200)
    }
}

/// No promise may take longer.
pub const CEILING: Duration = Duration::from_secs(600);

/// Checks every promise, all at one time, and panics with those that are broken. Needs a tokio
/// runtime.
pub async fn check(subject: impl Subject) {
    let ground = Arc::new(Ground::new(subject).await);
    let mut all = JoinSet::new();
    for promise in PROMISES {
        let kept = (promise.check)(ground.clone());
        all.spawn(async move {
            let kept = timeout(CEILING, AssertUnwindSafe(kept).catch_unwind()).await;
            let why = match kept {
                Ok(Ok(())) => return None,
                Ok(Err(panic)) => said(&*panic),
                Err(_) => format!("it took more than {CEILING:?}"),
            };
            Some(format!("{}: {why}", promise.name))
        });
    }
    let broken: Vec<String> = all.join_all().await.into_iter().flatten().collect();
    assert!(broken.is_empty(), "promises of a lock provider are broken:\n{}", broken.join("\n"));
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

struct Promise {
    name: &'static str,
    check: fn(Arc<Ground>) -> BoxFuture<'static, ()>,
}

macro_rules! promises {
    ($($file:ident { $($name:ident)* })*) => {
        const PROMISES: &[Promise] = &[
            $($(Promise {
                name: stringify!($name),
                check: |ground| Box::pin(async move { $file::$name(&ground).await }),
            },)*)*
        ];
    };
}

promises! {
    exclusion {
        a_free_key_is_taken_and_seen
        a_held_key_is_refused_and_its_holder_named
        of_many_at_one_moment_one_takes_a_key
        of_many_contenders_one_at_a_time_holds_a_key
        a_fence_grows_with_every_acquisition
        a_release_frees_at_once_and_sent_twice_frees_once
        a_wish_sent_twice_is_one_acquisition
        nothing_is_done_under_another_lease
        a_closed_provider_refuses_and_frees_nothing
    }
    time {
        a_key_goes_to_another_when_its_time_is_past_and_not_before
        a_key_that_is_renewed_stays_held
        what_is_past_its_time_is_not_renewed
        a_former_holder_changes_nothing_of_the_next_one
    }
    handles {
        a_handle_renews_itself_for_as_long_as_it_lives
        a_handle_that_does_not_renew_itself_is_lost_before_another_takes_its_key
        a_loss_is_reported_in_time_though_the_provider_never_answers
        a_lock_is_entered_again_by_its_incarnation_and_the_last_handle_frees_it
        a_held_key_is_asked_for_as_often_as_was_said
        a_handle_that_is_dropped_is_released_in_the_background
        callers_that_stop_waiting_leave_nothing_locked
    }
    keys {
        keys_differ_byte_by_byte
        many_keys_are_held_at_once
    }
}

/// What a promise stands on: three processes' views of one table.
struct Ground {
    subject: Box<dyn Subject>,
    providers: [Patient; 3],
}

impl Ground {
    /// Whether an age is told, if it is to be, and is one that can be.
    fn tells(&self, age: Option<Duration>, can_be: impl Fn(Duration) -> bool) -> bool {
        age.map_or(!self.subject.tells_age(), can_be)
    }

    async fn new(subject: impl Subject) -> Self {
        let providers =
            [subject.provider().await, subject.provider().await, subject.provider().await];
        Self { subject: Box::new(subject), providers: providers.map(Patient) }
    }

    fn a(&self) -> &Patient {
        &self.providers[0]
    }

    fn b(&self) -> &Patient {
        &self.providers[1]
    }

    /// Those of many contenders, in turn.
    fn of(&self, contender: usize) -> Patient {
        self.providers[contender % self.providers.len()].clone()
    }
}

/// Long enough for no lock of a promise that is not about time to end meanwhile.
const LONG: Duration = Duration::from_secs(600);
/// Between two looks at what another does.
const PAUSE: Duration = Duration::from_millis(20);
/// About as long as a key is held in a crowd.
const A_TURN: Duration = Duration::from_millis(2);

/// A key of no other run.
fn key(name: &str) -> PlainKey {
    let unique = uuid::Uuid::new_v4().simple();
    PlainKey::try_new(&format!("conformance:{unique}:{name}")).expect("it is short")
}

fn owner(name: &str) -> Owner {
    Owner::try_new(name).expect("a name")
}

/// A new wish.
fn wish(key: &PlainKey, who: &str, ttl: Duration) -> Acquire {
    let nonce = LockNonce::of(rand::random());
    Acquire { key: key.clone(), owner: owner(who), ttl, nonce }
}

/// A provider whose verbs are asked again while they fail for what passes, as a program does.
#[derive(Clone)]
struct Patient(Arc<dyn LockProvider>);

/// The answer of a verb.
macro_rules! answer {
    ($ask:expr) => {
        loop {
            match $ask.await {
                Ok(answer) => break answer,
                Err(error) if error.is_passing() => sleep(PAUSE).await,
                Err(error) => panic!("the provider refused: {error}"),
            }
        }
    };
}

impl Patient {
    async fn acquire(&self, wish: &Acquire) -> Acquired {
        answer!(self.0.acquire(wish))
    }

    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Renewed {
        answer!(self.0.renew(lease, ttl))
    }

    async fn release(&self, lease: &KeyLease) -> bool {
        answer!(self.0.release(lease))
    }

    async fn inspect(&self, key: &PlainKey) -> Option<Inspected> {
        answer!(self.0.inspect(key))
    }

    async fn is_locked(&self, key: &PlainKey) -> Option<String> {
        answer!(self.0.is_locked(key))
    }

    /// Takes a key that is free.
    async fn take(&self, wish: &Acquire) -> KeyLease {
        match self.acquire(wish).await {
            Acquired::Ours(lease) => lease,
            Acquired::Theirs(held) => panic!("{} is not free: {held:?}", wish.key),
        }
    }

    /// Takes a key as soon as it is free.
    async fn take_when_free(&self, wish: &Acquire) -> KeyLease {
        self.take_beside(wish, 0).await
    }

    /// The same where others want it too: whoever is refused waits, the longer the more they are, and
    /// not for as long as the next one, or a server answers refusals only.
    async fn take_beside(&self, wish: &Acquire, others: usize) -> KeyLease {
        let longest = PAUSE.max(A_TURN.saturating_mul(u32::try_from(others).unwrap_or(u32::MAX)));
        loop {
            if let Acquired::Ours(lease) = self.acquire(wish).await {
                return lease;
            }
            sleep(longest.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
    }
}

/// How long since; times of a table may be cut to milliseconds.
fn at_least(since: Instant, ttl: Duration) -> bool {
    since.elapsed() + Duration::from_millis(5) >= ttl
}
