//! Claims, fencing, locks, history.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use database::{now_us, params};
use uuid::Uuid;

use super::{Make, Named, Toy, World};
use crate::claim::{self, Claimed, Claimer};
use crate::machine::{Environment, Kind, KindOf, Stop};
use crate::prune::{Keep, prune};
use crate::{Filter, NewFlow, TaskError, list, reject, requeue, show, state, waiting};

fn claimer(world: &World, owner: &str, lease_us: i64) -> Claimer<Toy> {
    let kind: Box<dyn Kind<Toy>> = Box::new(KindOf::<Make>(PhantomData));
    Claimer {
        database: world.database.clone(),
        context: world.toy.clone(),
        kinds: HashMap::from([("toy:make", kind)]),
        owner: owner.to_owned(),
        lease_us,
        stopping: Arc::new(AtomicBool::new(false)),
        witness: None,
    }
}

async fn drive(world: &World, claimed: Claimed) -> Stop {
    let environment = Environment {
        database: world.database.clone(),
        lease_us: 30_000_000,
        listeners: Arc::from([]),
        witness: None,
        probe: None,
    };
    claimed.machine.drive(claimed.claim, environment).await
}

async fn pending(world: &World) -> Vec<Uuid> {
    let queues = ["other".to_owned(), "q".to_owned()];
    let found = claim::pending(&world.database, &queues, 100).await.unwrap();
    found.iter().map(|candidate| candidate.id()).collect()
}

#[tokio::test]
async fn a_worker_that_wakes_up_late_can_neither_write_nor_revert() {
    let world = World::new().await;
    let id = world.request("ball").await;
    // The first worker's lease is over at once: it was paused after its claim.
    let (slow, quick) = (
        claimer(&world, "slow", -1),
        claimer(&world, "quick", 30_000_000),
    );
    let queues = ["q".to_owned()];
    let found = claim::pending(&world.database, &queues, 9).await.unwrap();
    let late = slow.take(found, false).await.unwrap().pop().unwrap();
    let found = claim::interrupted(&world.database, &queues, "quick", false, 9)
        .await
        .unwrap();
    let stale = claim::interrupted(&world.database, &queues, "third", false, 9)
        .await
        .unwrap();
    let taken = quick.take(found, false).await.unwrap().pop().unwrap();
    assert_eq!(taken.claim.lease.generation, 2);
    // Who saw the flow before it was taken does not get it.
    assert!(
        claimer(&world, "third", 1)
            .take(stale, false)
            .await
            .unwrap()
            .is_empty()
    );

    assert!(matches!(drive(&world, late).await, Stop::Lost));
    assert!(
        world.toy.log().is_empty(),
        "the lost flow neither went on nor reverted"
    );
    assert_eq!(world.status("ball").await, "new");
    assert!(matches!(drive(&world, taken).await, Stop::Ended));
    assert_eq!(world.state(id).await, state::SUCCESS);
}

#[tokio::test]
async fn losing_the_claim_during_a_task_stops_the_flow_without_a_revert() {
    let world = Arc::new(World::new().await);
    let id = world.request("ball").await;
    world
        .toy
        .deaf
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let found = claim::by_id(&world.database, id).await.unwrap().unwrap();
    let slow = claimer(&world, "slow", 30_000_000);
    let late = slow.take(vec![found], false).await.unwrap().pop().unwrap();
    let running = tokio::spawn({
        let world = world.clone();
        async move { drive(&world, late).await }
    });
    world.toy.begun.notified().await;
    let sql = "UPDATE flows SET generation = generation + 1, owner = 'quick' WHERE id = ?";
    world.database.execute(sql, params![id]).await.unwrap();
    world.toy.gate.notify_one();
    assert!(matches!(running.await.unwrap(), Stop::Lost));
    assert_eq!(world.toy.log(), ["allocate", "shape"]);
    assert_eq!(world.state(id).await, state::RUNNING);
}

#[tokio::test]
async fn the_same_name_takes_over_only_when_it_says_so() {
    let world = World::new().await;
    world.request("ball").await;
    let before = claimer(&world, "host", 30_000_000);
    let queues = ["q".to_owned()];
    let found = claim::pending(&world.database, &queues, 9).await.unwrap();
    assert_eq!(before.take(found, false).await.unwrap().len(), 1);
    let others = claim::interrupted(&world.database, &queues, "other", true, 9)
        .await
        .unwrap();
    assert!(others.is_empty());
    let running = claim::interrupted(&world.database, &queues, "host", false, 9)
        .await
        .unwrap();
    assert!(running.is_empty());
    let restarted = claim::interrupted(&world.database, &queues, "host", true, 9)
        .await
        .unwrap();
    let again = before.take(restarted, true).await.unwrap().pop().unwrap();
    assert!(matches!(drive(&world, again).await, Stop::Ended));
}

#[tokio::test]
async fn locks_follow_the_order_of_insertion() {
    let world = World::new().await;
    let flow = |name: &str| {
        NewFlow::of::<Make>(&Named {
            name: name.to_owned(),
        })
        .unwrap()
        .queue("q")
    };
    let key = "snapshot/1";
    let reader_1 = world.insert("a", flow("a").lock_shared(key)).await;
    let reader_2 = world.insert("b", flow("b").lock_shared(key)).await;
    let writer = world
        .insert("c", flow("c").lock_shared(key).lock_exclusive(key))
        .await;
    let reader_3 = world.insert("d", flow("d").lock_shared(key)).await;
    let other = world
        .insert("e", flow("e").lock_exclusive("snapshot/2"))
        .await;

    assert_eq!(pending(&world).await, [reader_1, reader_2, other]);
    let waits = show(&world.database, writer).await.unwrap().waits_for;
    assert_eq!(waits.len(), 2);
    for (id, then) in [
        (reader_1, vec![reader_2, other]),
        (reader_2, vec![writer, other]),
        (writer, vec![reader_3, other]),
    ] {
        let found = claim::by_id(&world.database, id).await.unwrap().unwrap();
        let claimer = claimer(&world, "host", 30_000_000);
        let claimed = claimer
            .take(vec![found], false)
            .await
            .unwrap()
            .pop()
            .unwrap();
        assert!(matches!(drive(&world, claimed).await, Stop::Ended));
        assert_eq!(pending(&world).await, then);
    }
}

#[tokio::test]
async fn a_flow_waits_for_its_time_and_its_queue() {
    let world = World::new().await;
    let later = now_us() + 3_600_000_000;
    let flow = |name: &str| {
        NewFlow::of::<Make>(&Named {
            name: name.to_owned(),
        })
        .unwrap()
    };
    world
        .insert("later", flow("later").queue("q").not_before(later))
        .await;
    let elsewhere = world
        .insert("elsewhere", flow("elsewhere").queue("elsewhere"))
        .await;
    let scheduled = world
        .insert("scheduled", flow("scheduled").queue("scheduler"))
        .await;
    assert!(pending(&world).await.is_empty());

    let seen = waiting(&world.database, "scheduler", 10).await.unwrap();
    assert_eq!((seen.len(), seen[0].info.id), (1, scheduled));
    let mut tx = world.database.begin().await.unwrap();
    assert!(requeue(&mut tx, scheduled, "scheduler", "q").await.unwrap());
    assert!(!requeue(&mut tx, scheduled, "scheduler", "q").await.unwrap());
    let error = TaskError::new("NoValidBackend", "no back end has room");
    assert!(
        reject(&mut tx, elsewhere, "elsewhere", &error)
            .await
            .unwrap()
    );
    assert!(
        !reject(&mut tx, elsewhere, "elsewhere", &error)
            .await
            .unwrap()
    );
    tx.commit().await.unwrap();
    assert_eq!(pending(&world).await, [scheduled]);
    let rejected = show(&world.database, elsewhere).await.unwrap().summary;
    assert_eq!(
        (rejected.state.as_str(), rejected.failure.unwrap().error),
        (state::REVERTED, error)
    );
}

#[tokio::test]
async fn ended_flows_are_pruned_and_unfinished_ones_are_not() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for number in 0..250 {
        ids.push(world.request(&number.to_string()).await);
    }
    let mut tx = world.database.begin().await.unwrap();
    for (age, id) in ids.iter().enumerate().skip(1) {
        let sql = "UPDATE flows SET state = 'SUCCESS', finished_at = ? WHERE id = ?";
        let finished_at = now_us() - 3_600_000_000 * i64::try_from(age).unwrap();
        tx.execute(sql, params![finished_at, id]).await.unwrap();
    }
    tx.commit().await.unwrap();
    let left = async || {
        list(&world.database, &Filter::default())
            .await
            .unwrap()
            .len()
    };
    assert_eq!(
        prune(
            &world.database,
            Keep {
                days: 10,
                newest: 1_000
            }
        )
        .await
        .unwrap(),
        10
    );
    assert_eq!(left().await, 240);
    assert_eq!(
        prune(
            &world.database,
            Keep {
                days: 10,
                newest: 20
            }
        )
        .await
        .unwrap(),
        219
    );
    assert_eq!(
        prune(
            &world.database,
            Keep {
                days: 10,
                newest: 20
            }
        )
        .await
        .unwrap(),
        0
    );
    let unfinished = Filter {
        unfinished: true,
        ..Filter::default()
    };
    let unfinished = list(&world.database, &unfinished).await.unwrap();
    assert_eq!((unfinished.len(), unfinished[0].info.id), (1, ids[0]));
    assert_eq!(left().await, 21);
}

/// The plan of each query that runs every second reads indexes, never the table: as SQLite
/// tells it, whose plans do not depend on how much is stored.
#[tokio::test]
async fn scans_stay_cheap_however_long_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let database = database::testing::migrated_file(folder.path());
    let database = database.await.unwrap();
    let queues = ["a".to_owned(), "b".to_owned()];
    for (sql, values) in [
        claim::pending_query(&queues, 64),
        claim::interrupted_query(&queues, "host", true, 64),
    ] {
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let plan = database.fetch_all(&explain, &values);
        let plan: Vec<String> = plan
            .await
            .unwrap()
            .iter()
            .map(|row| row.get("detail").unwrap())
            .collect();
        let reads: Vec<_> = plan.iter().filter(|line| line.contains(" f ")).collect();
        assert!(
            !reads.is_empty() && reads.iter().all(|line| line.contains("flows_claim")),
            "{plan:?}"
        );
        for lock in plan.iter().filter(|line| line.contains("earlier")) {
            assert!(lock.starts_with("SEARCH"), "{plan:?}");
        }
    }
}
