//! The survey: what every worker sees of what all of them hold.

use std::{collections::BTreeMap, time::Duration};

use orchestrator_worker::{
    domain::{
        id::{Beat, ExecutionId, Fence},
        recovery::{Held, Holder, LockSeen},
    },
    ports::executions::{Advance, Advanced, ExecutionStore},
};

use super::{Subject, world::*, writes::*};

async fn survey(store: &impl ExecutionStore) -> BTreeMap<ExecutionId, Held> {
    let all = store.survey().await.expect("a survey");
    let count = all.len();
    let all = all.into_iter().map(untimed);
    let by_id: BTreeMap<_, _> = all.map(|it| (it.execution.clone(), it)).collect();
    assert_eq!(by_id.len(), count, "none twice");
    by_id
}

pub async fn all_that_is_held_is_seen_as_it_is_held<S: Subject>() {
    let world = World::<S>::new().await;
    let mut all = Vec::new();
    for _ in 0..7 {
        all.push(world.a_claims(chain(&["one"])).await.lease);
    }
    let ids: Vec<ExecutionId> = all.iter().map(|lease| lease.execution.clone()).collect();
    let ttl = Duration::from_millis(12_345);
    let renewed = world.a.renew(ttl, Beat(41), &all[1..2]).await;
    assert_eq!(renewed.map(|it| it.len()), Ok(1));
    world.drop_lock(&ids[2]).await;
    world.edit(&ids[3], "status='cancelled'").await;
    world.edit_lock(&ids[4], "ow_fence=77, ow_beat=5, owner='x'").await;
    world.edit(&ids[0], "ow_owner_uid='u-1/00000007.1'").await;
    world.edit(&ids[5], "ow_owner='~released'").await;
    world.edit_lock(&ids[6], "owner='go-1', ow_fence=0, ow_beat=0").await;

    let seen = |place: usize| Held {
        execution: ids[place].clone(),
        fence: all[place].fence,
        by: Holder::Owner("a".into()),
        uid: String::new(),
        cancelled: false,
        elsewhere: None,
        lock: Some(LockSeen { fence: all[place].fence, beat: Beat(1), ttl: TTL, expires_ms: 0 }),
    };
    let expected = [
        Held { uid: "u-1/00000007.1".into(), ..seen(0) },
        Held {
            lock: Some(LockSeen { fence: all[1].fence, beat: Beat(41), ttl, expires_ms: 0 }),
            ..seen(1)
        },
        Held { lock: None, ..seen(2) },
        Held { cancelled: true, ..seen(3) },
        Held {
            lock: Some(LockSeen { fence: Fence(77), beat: Beat(5), ttl: TTL, expires_ms: 0 }),
            ..seen(4)
        },
        Held { by: Holder::Released, ..seen(5) },
        Held {
            lock: Some(LockSeen { fence: Fence(0), beat: Beat(0), ttl: TTL, expires_ms: 0 }),
            ..seen(6)
        },
    ];
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|held| (held.execution.clone(), held)).collect();
    assert_eq!(survey(&world.a).await, expected, "its own too");
    assert_eq!(survey(&world.b).await, expected);

    // Times that pass change nothing of what was seen: nobody compares two clocks.
    world.pass(HOUR).await;
    assert_eq!(survey(&world.b).await, expected);
}

pub async fn what_nobody_holds_is_not_seen<S: Subject>() {
    let world = World::<S>::new().await;
    let ended = world.a_claims(chain(&["one"])).await;
    let end = Advance {
        ended: vec![succeeded(&ended, "one")],
        finish: Some(success()),
        ..advance(&ended)
    };
    assert_eq!(send(&world.a, &end).await, Ok(Advanced::Recorded));
    for set in [
        // Begun by the Go service, which may be alive.
        "status='running', ow_owner='', ow_fence=0",
        "status='cancelled', ow_owner=''",
        "status='pending', ow_owner=''",
        "status='success', ow_owner='a'",
    ] {
        let claim = world.a_claims(chain(&["one"])).await;
        world.edit(&claim.lease.execution, set).await;
        assert_eq!(survey(&world.b).await, BTreeMap::new(), "{set}");
        world.edit(&claim.lease.execution, "status='failed'").await;
    }
}
