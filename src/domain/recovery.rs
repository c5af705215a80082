//! When another worker's execution is taken over.
//!
//! **Invariant:** only what this process itself has watched, on its own monotonic clock, ends
//! somebody's lease; no timestamps of different writers are compared. A handed-back execution is
//! free at once, and so is one whose holder can only be dead: because this process lives, or because the
//! kubelet of its pod says so.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    death::{News, PodEnd},
    id::{Beat, ExecutionId, Fence, RELEASED},
    lease::LeaseTerms,
    pod::{PodProcess, kept_in, pod_of},
};

/// An execution that some worker holds, as the survey read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub execution: ExecutionId,
    pub fence: Fence,
    pub by: Holder,
    /// Of the owner ([`PodProcess`]), as it is written.
    pub uid: String,
    /// Cancelled by somebody and not yet tidied by its holder.
    pub cancelled: bool,
    /// Its lock row; `None` if there is none.
    pub lock: Option<LockSeen>,
    /// Its lease in the provider that this process asks; `None` where that is in the lock table, or in
    /// another provider.
    pub elsewhere: Option<Elsewhere>,
}

/// A lease that is kept outside the database, as its provider tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    Held {
        /// By the provider's clock.
        ends_in: Duration,
    },
    Free,
}

/// The owner column of an execution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    Released,
    /// No worker: the orchestrator itself has started it.
    Orchestrator,
    Owner(String),
}

impl Holder {
    /// The owner's name, if one holds it.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Released | Self::Orchestrator => None,
            Self::Owner(name) => Some(name.clone()),
        }
    }

    /// The word in the owner column.
    pub fn word(&self) -> &str {
        match self {
            Self::Released => RELEASED,
            Self::Orchestrator => "",
            Self::Owner(name) => name,
        }
    }
}

/// What the survey saw of a lock row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockSeen {
    pub fence: Fence,
    pub beat: Beat,
    /// `expires_at - updated_at` of the row: its writer's own TTL.
    pub ttl: Duration,
    /// Its `expires_at` in milliseconds since 1970. Told in traces; nothing is decided by it.
    pub expires_ms: i64,
}

impl LockSeen {
    /// Its last renewal in milliseconds since 1970.
    pub fn renewed_ms(&self) -> i64 {
        let ttl = i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX);
        self.expires_ms.saturating_sub(ttl)
    }
}

/// Why an execution is taken over (`ow_attempts.cause` of the attempt that was lost).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its owner handed it back.
    Released,
    /// The process before this one in the same pod held it.
    ContainerRestarted,
    /// Its lease was not renewed for its whole time.
    LeaseExpired,
    /// The same, and nobody heard of its node, if that has a name.
    NodeLost(Option<Arc<str>>),
    /// Its lock row was gone for that long.
    LeaseMissing,
    /// The orchestrator itself ran it, and its lock has expired.
    OrchestratorSilent,
    /// Its owner's pod has ended, or the container before this one, as its kubelet says.
    PodEnded(PodEnd),
}

impl Cause {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::ContainerRestarted => "container_restarted",
            Self::LeaseExpired => "lease_expired",
            Self::NodeLost(_) => "node_lost",
            Self::LeaseMissing => "lease_missing",
            Self::OrchestratorSilent => "orchestrator_silent",
            Self::PodEnded(end) => end.by.as_str(),
        }
    }

    /// As it stands on the row.
    pub fn told(&self) -> String {
        match self {
            Self::PodEnded(PodEnd { by, exit_code, node: Some(node) }) => {
                format!("{} (exit code {exit_code}, node {node})", by.as_str())
            }
            Self::PodEnded(PodEnd { by, exit_code, node: None }) => {
                format!("{} (exit code {exit_code})", by.as_str())
            }
            Self::NodeLost(Some(node)) => format!("node_lost (node {node})"),
            other => other.as_str().into(),
        }
    }

    /// Its holder is dead, however much of its lease is left.
    pub const fn is_a_proved_death(&self) -> bool {
        matches!(self, Self::ContainerRestarted | Self::PodEnded(_))
    }

    /// A hand-back is a clean end, and so is one that the cluster wanted, whatever the pod was doing: it
    /// counts nothing against the execution.
    pub const fn is_clean(&self) -> bool {
        match self {
            Self::Released => true,
            Self::PodEnded(end) => end.by.is_of_the_cluster(),
            Self::ContainerRestarted
            | Self::LeaseExpired
            | Self::NodeLost(_)
            | Self::LeaseMissing
            | Self::OrchestratorSilent => false,
        }
    }

    /// Unclean ends in a row, the one that led to this takeover included (`ow_claims`).
    /// `progressed`: a step came to its end under the fence that ends now.
    pub const fn unclean_ends(&self, so_far: u32, progressed: bool) -> u32 {
        match (self.is_clean(), progressed) {
            (true, _) => so_far,
            (false, true) => 1,
            (false, false) => so_far.saturating_add(1),
        }
    }
}

/// Why an execution that was lost so often is failed instead of taken over; `last` lost it last.
pub fn poisoned(times: u32, last: &[String]) -> String {
    let lost = format!("its workers were lost {times} times in a row while it made no progress");
    if last.is_empty() { lost } else { format!("{lost}; the last were {}", last.join(", ")) }
}

/// What to take over. The store does it only if the rows still are as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeOver {
    pub seen: Held,
    pub cause: Cause,
}

/// How long an execution of the orchestrator's may stand untouched whose lock row is gone: longer than
/// its lock, which it renews once, to ten minutes.
pub const ORCHESTRATOR_SILENT: Duration = Duration::from_secs(15 * 60);

impl TakeOver {
    /// The claim that ends by it, where a worker made it.
    pub fn former(&self) -> Option<Fence> {
        match self.seen.by {
            Holder::Released | Holder::Owner(_) => Some(self.seen.fence),
            Holder::Orchestrator => None,
        }
    }

    /// The lock row as it was seen, if that proves it dead should it still be the same: it was
    /// watched for its whole time, or lies under the very fence of the holder that is known to be
    /// gone. A row without a fence is the orchestrator's, which does not count its renewals.
    pub fn dead_lock(&self) -> Option<LockSeen> {
        let was_watched = match self.cause {
            Cause::Released | Cause::ContainerRestarted | Cause::PodEnded(_) => false,
            Cause::LeaseExpired
            | Cause::NodeLost(_)
            | Cause::LeaseMissing
            | Cause::OrchestratorSilent => true,
        };
        let lock = self.seen.lock.filter(|lock| lock.fence > Fence(0))?;
        (was_watched || lock.fence == self.seen.fence).then_some(lock)
    }
}

/// How long a lock row that was never seen may be missing.
pub const UNSEEN_TTL: Duration = Duration::from_secs(60);

/// How a lease has stood since it was first seen under this fence and owner.
#[derive(Clone, Debug)]
struct Sighting {
    fence: Fence,
    by: Holder,
    watch: Watch,
}

#[derive(Clone, Debug)]
enum Watch {
    Row {
        lock: Option<(Fence, Beat)>,
        /// When the reply that first showed it like this had come.
        since: Duration,
        /// The last TTL seen at this fence.
        ttl: Option<Duration>,
    },
    Elsewhere {
        /// When the reply that first showed it free had come, if it was not held since.
        free_since: Option<Duration>,
        /// How much of its time it had left when it was last seen held.
        left: Option<Duration>,
    },
}

/// What this process has seen of other workers' leases over time.
#[derive(Debug, Default)]
pub struct Observations {
    seen: HashMap<ExecutionId, Sighting>,
    told: Told,
}

/// What was told of pods, by their UID.
#[derive(Debug, Default)]
struct Told {
    ended: HashMap<String, PodEnd>,
    /// With the node that nobody hears of.
    lost: HashMap<String, Option<Arc<str>>>,
    /// How the process before this one has ended.
    former: Option<PodEnd>,
}

/// More pods than this are remembered only if they still hold something.
const MOST_PODS: usize = 1_000;

impl Observations {
    /// Takes in one survey and says what may be taken over now.
    ///
    /// `sent` and `replied` are ages of this process, before the survey was sent and after its
    /// answer; `own_ttl` is this process's own setting; `own` is itself, and `mine` says whether it
    /// holds an execution under that fence.
    pub fn observe(
        &mut self,
        sent: Duration,
        replied: Duration,
        own_ttl: Duration,
        own: &PodProcess,
        survey: &[Held],
        mine: impl Fn(&ExecutionId, Fence) -> bool,
    ) -> Vec<TakeOver> {
        let mut before = std::mem::take(&mut self.seen);
        let mut due = Vec::new();
        for held in survey {
            if mine(&held.execution, held.fence) {
                continue;
            }
            if let Some(cause) = gone(held, own, &self.told) {
                due.push(TakeOver { seen: held.clone(), cause });
                continue;
            }
            let Some(sighting) = sight(before.remove(&held.execution), held, replied) else {
                continue;
            };
            if let Some(cause) = sighting.dead(held, sent, own_ttl) {
                let cause = self.told.why(held, cause);
                due.push(TakeOver { seen: held.clone(), cause });
            }
            self.seen.insert(held.execution.clone(), sighting);
        }
        self.told.keep_those_of(survey);
        due
    }

    /// Whether that is news.
    pub fn note(&mut self, news: News) -> bool {
        let told = &mut self.told;
        match news {
            News::Ended(death) => told.ended.insert(death.uid, death.end).is_none(),
            News::NodeLost { uid, node } => told.lost.insert(uid, node).is_none(),
            News::Former(end) => told.former.replace(end).is_none(),
        }
    }

    /// Another primary answers: what the former one showed of leases proves nothing.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

impl Told {
    fn keep_those_of(&mut self, survey: &[Held]) {
        if self.ended.len().max(self.lost.len()) > MOST_PODS {
            let holders: HashSet<&str> = survey.iter().map(|held| pod_of(&held.uid)).collect();
            self.ended.retain(|uid, _| holders.contains(uid.as_str()));
            self.lost.retain(|uid, _| holders.contains(uid.as_str()));
        }
    }

    /// Why a lease was not renewed.
    fn why(&self, held: &Held, cause: Cause) -> Cause {
        match (cause, self.lost.get(pod_of(&held.uid))) {
            (Cause::LeaseExpired, Some(node)) => Cause::NodeLost(node.clone()),
            (cause, _) => cause,
        }
    }
}

impl Sighting {
    /// Why its holder cannot act under it any more.
    fn dead(&self, held: &Held, sent: Duration, own_ttl: Duration) -> Option<Cause> {
        match &self.watch {
            Watch::Row { since, ttl, .. } => {
                let cause =
                    if held.lock.is_some() { Cause::LeaseExpired } else { Cause::LeaseMissing };
                let has_stood = sent.saturating_sub(*since) >= patience(own_ttl, *ttl);
                has_stood.then_some(cause)
            }
            Watch::Elsewhere { free_since, left } => {
                let free_for = sent.saturating_sub((*free_since)?);
                // The row of the claim tells its writer's time.
                let ttl = own_ttl.max(held.lock.map_or(Duration::ZERO, |lock| lock.ttl));
                let ttl = ttl.min(LeaseTerms::LONGEST_TTL);
                match left {
                    Some(left) if *left <= ttl / RUNNING_OUT => Some(Cause::LeaseExpired),
                    Some(_) => (free_for >= ttl).then_some(Cause::LeaseMissing),
                    None => (free_for >= UNSEEN_TTL).then_some(Cause::LeaseMissing),
                }
            }
        }
    }
}

/// A lease that is renewed in time is never seen with only this part of its time left, since there are three
/// renewals in it at least. So one that was, and is free, has come to its end; any other was lost by its
/// provider, and its holder may put it back, or act under it until its time is past.
const RUNNING_OUT: u32 = 3;

/// No worker has a longer TTL than the longest, whatever somebody has written into its row.
fn patience(own_ttl: Duration, ttl: Option<Duration>) -> Duration {
    own_ttl.max(ttl.unwrap_or(UNSEEN_TTL).min(LeaseTerms::LONGEST_TTL))
}

/// Why nobody has to be watched to know that its holder is gone.
fn gone(held: &Held, own: &PodProcess, told: &Told) -> Option<Cause> {
    match held.by {
        Holder::Released => Some(Cause::Released),
        Holder::Owner(_) if own.comes_after(&held.uid) => {
            Some(told.former.clone().map_or(Cause::ContainerRestarted, Cause::PodEnded))
        }
        Holder::Owner(_) => told.ended.get(pod_of(&held.uid)).cloned().map(Cause::PodEnded),
        Holder::Orchestrator => None,
    }
}

/// The former sighting goes on if nothing changed since, else a new one begins. `None`: the lease is kept
/// where this process does not look, and nothing that it sees says anything about it.
fn sight(before: Option<Sighting>, held: &Held, replied: Duration) -> Option<Sighting> {
    let before = before.filter(|old| old.fence == held.fence && old.by == held.by);
    let before = before.as_ref().map(|old| &old.watch);
    let watch = match (held.elsewhere, kept_in(&held.uid)) {
        (Some(now), _) => sight_elsewhere(before, now, replied),
        (None, Some(_)) => return None,
        (None, None) => sight_row(before, held, replied),
    };
    Some(Sighting { fence: held.fence, by: held.by.clone(), watch })
}

fn sight_row(before: Option<&Watch>, held: &Held, replied: Duration) -> Watch {
    let lock = held.lock.map(|lock| (lock.fence, lock.beat));
    let ttl_now = held.lock.map(|lock| lock.ttl);
    let Some(Watch::Row { lock: old_lock, since, ttl }) = before else {
        return Watch::Row { lock, since: replied, ttl: ttl_now };
    };
    let since = if *old_lock == lock { *since } else { replied };
    Watch::Row { lock, since, ttl: ttl_now.or(*ttl) }
}

fn sight_elsewhere(before: Option<&Watch>, now: Elsewhere, replied: Duration) -> Watch {
    let (free_since, left) = match before {
        Some(Watch::Elsewhere { free_since, left }) => (*free_since, *left),
        _ => (None, None),
    };
    match now {
        Elsewhere::Held { ends_in } => Watch::Elsewhere { free_since: None, left: Some(ends_in) },
        Elsewhere::Free => {
            Watch::Elsewhere { free_since: Some(free_since.unwrap_or(replied)), left }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            death::{Death, EndedBy},
            pod::Life,
        },
        *,
    };

    const TTL: Duration = Duration::from_secs(30);

    fn oom_kill() -> PodEnd {
        PodEnd { by: EndedBy::OomKill, exit_code: 137, node: Some("worker-2".into()) }
    }

    fn held(beat: Option<u64>) -> Held {
        Held {
            execution: "e".into(),
            fence: Fence(7),
            by: Holder::Owner("a".into()),
            uid: String::new(),
            cancelled: false,
            lock: beat.map(|beat| LockSeen {
                fence: Fence(7),
                beat: Beat(beat),
                ttl: TTL,
                expires_ms: 0,
            }),
            elsewhere: None,
        }
    }

    /// `left`: of its time, in seconds; `None`: its provider says that it is free.
    fn held_elsewhere(left: Option<u64>) -> Held {
        let elsewhere = left
            .map_or(Elsewhere::Free, |left| Elsewhere::Held { ends_in: Duration::from_secs(left) });
        // The row of the claim, which nobody renews.
        Held { uid: "u-1@redis".into(), elsewhere: Some(elsewhere), ..held(Some(1)) }
    }

    /// Surveys at the given seconds; returns the second of the first takeover and its cause.
    fn first_takeover(own_ttl: Duration, surveys: &[(u64, Held)]) -> Option<(u64, Cause)> {
        let mut observations = Observations::default();
        surveys.iter().find_map(|(at, held)| {
            let at_age = Duration::from_secs(*at);
            let due = observations.observe(
                at_age,
                at_age,
                own_ttl,
                &PodProcess::default(),
                std::slice::from_ref(held),
                |_, _| false,
            );
            due.first().map(|take_over| (*at, take_over.cause.clone()))
        })
    }

    fn every_second(held: impl Fn(u64) -> Held) -> Vec<(u64, Held)> {
        (0..200).map(|at| (at, held(at))).collect()
    }

    #[test]
    fn what_a_dead_pod_held_is_free_at_once_whichever_of_its_processes_held_it() {
        let end = oom_kill();
        let mut observations = Observations::default();
        let death = News::Ended(Death { uid: "u-1".into(), end: end.clone() });
        assert!(observations.note(death.clone()));
        assert!(!observations.note(death), "that is known");
        let mut due = |uid: &str, by| {
            let held = Held { uid: uid.into(), by, ..held(Some(1)) };
            let (at, own) = (Duration::ZERO, PodProcess::default());
            let due = observations.observe(at, at, TTL, &own, &[held], |_, _| false);
            due.first().map(|take_over| take_over.cause.clone())
        };
        let owner = || Holder::Owner("a".into());
        for uid in ["u-1", "u-1/00000007.2", "u-1@redis", "u-1/00000007.2@etcd"] {
            assert_eq!(due(uid, owner()), Some(Cause::PodEnded(end.clone())), "{uid}");
        }
        for uid in ["", "u-2", "u", "u-12", "/u-1"] {
            assert_eq!(due(uid, owner()), None, "{uid}");
        }
        assert_eq!(due("u-1", Holder::Orchestrator), None);
        assert_eq!(due("u-1", Holder::Released), Some(Cause::Released));
        let told = Cause::PodEnded(end);
        let on_the_row = "oom_killed (exit code 137, node worker-2)";
        assert_eq!((told.as_str(), &*told.told()), ("oom_killed", on_the_row));
        assert_eq!(told.unclean_ends(3, false), 4);
        let drained = Cause::PodEnded(PodEnd { by: EndedBy::Drain, exit_code: 143, node: None });
        assert_eq!(drained.unclean_ends(3, false), 3, "the cluster wanted it");
    }

    #[test]
    fn deaths_are_forgotten_of_those_who_hold_nothing_once_there_are_many() {
        let mut observations = Observations::default();
        for number in 0..=MOST_PODS {
            let (uid, end) = (format!("u-{number}"), oom_kill());
            assert!(observations.note(News::NodeLost { uid: uid.clone(), node: None }));
            assert!(observations.note(News::Ended(Death { uid, end })));
        }
        let holds = Held { uid: "u-7/00000007.1".into(), ..held(Some(1)) };
        let (at, own) = (Duration::ZERO, PodProcess::default());
        observations.observe(at, at, TTL, &own, &[holds], |_, _| false);
        assert_eq!(observations.told.ended.keys().collect::<Vec<_>>(), ["u-7"]);
        assert_eq!(observations.told.lost.keys().collect::<Vec<_>>(), ["u-7"]);
    }

    #[test]
    fn a_lost_node_frees_nothing_and_is_the_cause_once_the_lease_has_stood_its_time() {
        let mut observations = Observations::default();
        let node: Option<Arc<str>> = Some("worker-2".into());
        assert!(observations.note(News::NodeLost { uid: "u-1".into(), node: node.clone() }));
        let mut due = |at, uid: &str| {
            let (at, own) = (Duration::from_secs(at), PodProcess::default());
            let held = Held { uid: uid.into(), ..held(Some(1)) };
            let due = observations.observe(at, at, TTL, &own, &[held], |_, _| false);
            due.first().map(|take_over| take_over.cause.clone())
        };
        assert_eq!((due(0, "u-1/00000007.2"), due(29, "u-1/00000007.2")), (None, None));
        let cause = due(30, "u-1/00000007.2").expect("it has stood its time");
        assert_eq!(cause, Cause::NodeLost(node));
        assert_eq!((cause.as_str(), &*cause.told()), ("node_lost", "node_lost (node worker-2)"));
        assert!(!cause.is_clean() && !cause.is_a_proved_death());
        assert_eq!(due(30, "u-2"), Some(Cause::LeaseExpired), "another pod's node is well");
    }

    #[test]
    fn a_lease_that_stands_still_for_its_time_is_taken_over_and_a_beating_one_never() {
        let still = every_second(|_| held(Some(1)));
        assert_eq!(first_takeover(TTL, &still), Some((30, Cause::LeaseExpired)));
        let beating = every_second(|at| held(Some(at / 20)));
        assert_eq!(first_takeover(TTL, &beating), None);
    }

    #[test]
    fn the_longer_of_both_ttls_counts() {
        let still = every_second(|_| held(Some(1)));
        let longer = Duration::from_secs(60);
        assert_eq!(first_takeover(longer, &still), Some((60, Cause::LeaseExpired)));
        let shorter = Duration::from_secs(8);
        assert_eq!(first_takeover(shorter, &still), Some((30, Cause::LeaseExpired)));
    }

    #[test]
    fn a_ttl_that_no_worker_can_have_is_not_waited_for() {
        let lock = LockSeen { fence: Fence(7), beat: Beat(1), ttl: Duration::MAX, expires_ms: 0 };
        let still = every_second(|_| Held { lock: Some(lock), ..held(None) });
        assert_eq!(first_takeover(TTL, &still), Some((60, Cause::LeaseExpired)));
    }

    #[test]
    fn a_missing_lock_row_waits_for_the_last_ttl_seen_or_sixty_seconds() {
        let never_seen = every_second(|_| held(None));
        assert_eq!(first_takeover(TTL, &never_seen), Some((60, Cause::LeaseMissing)));
        let gone_at_ten = every_second(|at| held((at < 10).then_some(at)));
        assert_eq!(first_takeover(TTL, &gone_at_ten), Some((40, Cause::LeaseMissing)));
    }

    #[test]
    fn a_new_fence_or_owner_begins_a_new_wait() {
        let mut other = held(Some(1));
        other.fence = Fence(8);
        let surveys = every_second(|at| if at < 20 { held(Some(1)) } else { other.clone() });
        assert_eq!(first_takeover(TTL, &surveys), Some((50, Cause::LeaseExpired)));
    }

    #[test]
    fn what_was_handed_back_is_free_at_once_and_what_is_mine_never() {
        let mut released = held(Some(1));
        released.by = Holder::Released;
        assert_eq!(
            first_takeover(TTL, &every_second(|_| released.clone())),
            Some((0, Cause::Released))
        );
        let mut observations = Observations::default();
        let (own, late) = (PodProcess::default(), Duration::from_secs(1000));
        for at in [Duration::ZERO, late] {
            assert_eq!(observations.observe(at, at, TTL, &own, &[held(Some(1))], |_, _| true), []);
        }
    }

    #[test]
    fn what_the_process_before_this_one_held_is_free_at_once() {
        let pod = || PodProcess::try_new("u-1").expect("a UID");
        let first = Life::first_on(7);
        let second = first.next().expect("a number");
        let (before, own) = (pod().with_life(first), pod().with_life(second));
        let now = Duration::ZERO;
        for (uid, by, expected) in [
            (before.to_string(), Holder::Owner("a".into()), Some(Cause::ContainerRestarted)),
            (before.to_string(), Holder::Released, Some(Cause::Released)),
            (own.to_string(), Holder::Owner("a".into()), None),
            (pod().to_string(), Holder::Owner("a".into()), None),
        ] {
            let held = Held { by, uid, ..held(Some(1)) };
            let mut observations = Observations::default();
            let cause = |observations: &mut Observations| {
                let held = std::slice::from_ref(&held);
                let due = observations.observe(now, now, TTL, &own, held, |_, _| false);
                due.first().map(|it| it.cause.clone())
            };
            assert_eq!(cause(&mut observations), expected);
            observations.note(News::Former(oom_kill()));
            let told = match expected {
                Some(Cause::ContainerRestarted) => Some(Cause::PodEnded(oom_kill())),
                other => other,
            };
            assert_eq!(cause(&mut observations), told, "its kubelet says by what");
        }
    }

    #[test]
    fn a_lease_elsewhere_that_ran_out_is_taken_over_as_soon_as_it_is_free() {
        let dies_at_ten = |at: u64| held_elsewhere((at < 38).then(|| 38 - at.max(8)));
        assert_eq!(
            first_takeover(TTL, &every_second(dies_at_ten)),
            Some((38, Cause::LeaseExpired))
        );
        let lives = |at| held_elsewhere(Some(30 - at % 5));
        assert_eq!(first_takeover(TTL, &every_second(lives)), None);
    }

    #[test]
    fn a_lease_that_its_provider_lost_is_its_holders_until_its_time_is_past() {
        // A failover forgets it at 10, and its holder puts it back at 14.
        let put_back = |at: u64| held_elsewhere((!(10..14).contains(&at)).then_some(28));
        assert_eq!(first_takeover(TTL, &every_second(put_back)), None);
        let forgotten = |at: u64| held_elsewhere((at < 10).then_some(28));
        assert_eq!(first_takeover(TTL, &every_second(forgotten)), Some((40, Cause::LeaseMissing)));
        let longer = Duration::from_secs(45);
        let forgotten = every_second(forgotten);
        assert_eq!(first_takeover(longer, &forgotten), Some((55, Cause::LeaseMissing)));
    }

    #[test]
    fn a_lease_elsewhere_that_was_never_seen_held_waits_for_the_longest_time() {
        let never = every_second(|_| held_elsewhere(None));
        assert_eq!(first_takeover(TTL, &never), Some((60, Cause::LeaseMissing)));
    }

    #[test]
    fn what_is_kept_where_nobody_looks_is_never_taken_for_dead_and_free_when_handed_back() {
        let unknown = Held { elsewhere: None, ..held_elsewhere(None) };
        assert_eq!(first_takeover(TTL, &every_second(|_| unknown.clone())), None);
        let released = Held { by: Holder::Released, ..unknown };
        assert_eq!(
            first_takeover(TTL, &every_second(|_| released.clone())),
            Some((0, Cause::Released))
        );
    }

    #[test]
    fn only_unclean_ends_without_progress_count() {
        for (cause, so_far, progressed, expected) in [
            (Cause::Released, 4, false, 4),
            (Cause::Released, 4, true, 4),
            (Cause::LeaseExpired, 4, false, 5),
            (Cause::LeaseMissing, 4, true, 1),
            (Cause::ContainerRestarted, 4, false, 5),
            (Cause::LeaseExpired, u32::MAX, false, u32::MAX),
        ] {
            assert_eq!(cause.unclean_ends(so_far, progressed), expected, "{cause:?}");
        }
    }

    #[test]
    fn a_lock_is_dead_as_it_was_watched_or_under_the_fence_that_was_handed_back() {
        let lock = |fence| LockSeen { fence: Fence(fence), beat: Beat(1), ttl: TTL, expires_ms: 0 };
        for (cause, seen, is_dead) in [
            (Cause::LeaseExpired, Some(lock(7)), true),
            (Cause::LeaseExpired, Some(lock(8)), true),
            (Cause::LeaseExpired, Some(lock(0)), false),
            (Cause::Released, Some(lock(7)), true),
            (Cause::Released, Some(lock(8)), false),
            (Cause::LeaseMissing, None, false),
            (Cause::ContainerRestarted, Some(lock(7)), true),
            (Cause::ContainerRestarted, Some(lock(8)), false),
        ] {
            let take_over = TakeOver { seen: Held { lock: seen, ..held(None) }, cause };
            assert_eq!(take_over.dead_lock(), seen.filter(|_| is_dead), "{take_over:?}");
        }
    }

    #[test]
    fn only_time_between_an_answer_and_the_next_question_counts() {
        let mut observations = Observations::default();
        let own = PodProcess::default();
        let (sent, slow_reply) = (Duration::ZERO, Duration::from_secs(25));
        observations.observe(sent, slow_reply, TTL, &own, &[held(Some(1))], |_, _| false);
        let at = Duration::from_secs(50);
        assert_eq!(observations.observe(at, at, TTL, &own, &[held(Some(1))], |_, _| false), []);
    }
}
