//! Flows that wait for the operator.

use std::sync::atomic::Ordering;

use database::params;

use super::{Make, World};
use crate::testing::run_to_end;
use crate::{Error, abandon, resume, show, state};

async fn parks_as_failure(change: &str, reason: &str) {
    let world = World::new().await;
    let id = world.request("ball").await;
    world.database.execute(change, params![id]).await.unwrap();
    let ended = run_to_end::<Make>(&world.database, world.toy.clone(), id).await;
    assert_eq!(ended, state::FAILURE);
    let detail = show(&world.database, id).await.unwrap();
    let parked = detail.summary.parked.unwrap();
    assert!(parked.contains(reason), "{parked}");
    assert!(world.toy.log().is_empty());
    assert_eq!(detail.locks.len(), 1, "a parked flow keeps its locks");
    abandon(&world.database, id).await.unwrap();
    assert!(show(&world.database, id).await.unwrap().locks.is_empty());
    assert!(matches!(
        resume(&world.database, id).await,
        Err(Error::WrongState { .. })
    ));
}

#[tokio::test]
async fn a_flow_that_cannot_run_parks() {
    parks_as_failure(
        "UPDATE flows SET kind = 'toy:unheard' WHERE id = ?",
        "unknown kind",
    )
    .await;
    parks_as_failure(
        "UPDATE flows SET params = '{\"nom' WHERE id = ?",
        "cannot be read",
    )
    .await;
}

#[tokio::test]
async fn a_changed_task_list_parks_and_runs_on_after_the_repair() {
    let world = World::new().await;
    let id = world.request("ball").await;
    let old_task = "INSERT INTO flow_atoms (flow_id, position, name, state, attempts, started_at) \
                    VALUES (?, 0, 'old_begin', 'RUNNING', 0, 0)";
    world.database.execute(old_task, params![id]).await.unwrap();
    let running = "UPDATE flows SET state = 'RUNNING', generation = 1 WHERE id = ?";
    world.database.execute(running, params![id]).await.unwrap();
    let ended = run_to_end::<Make>(&world.database, world.toy.clone(), id).await;
    assert_eq!(ended, state::FAILURE);
    let parked = show(&world.database, id)
        .await
        .unwrap()
        .summary
        .parked
        .unwrap();
    assert!(parked.contains("old_begin"), "{parked}");
    assert_eq!(world.status("ball").await, "parked");

    let repair = "UPDATE flow_atoms SET name = 'begin' WHERE flow_id = ?";
    world.database.execute(repair, params![id]).await.unwrap();
    resume(&world.database, id).await.unwrap();
    let ended = run_to_end::<Make>(&world.database, world.toy.clone(), id).await;
    assert_eq!(ended, state::SUCCESS);
    assert!(
        show(&world.database, id)
            .await
            .unwrap()
            .summary
            .parked
            .is_none()
    );
}

#[tokio::test]
async fn a_revert_that_keeps_failing_parks_and_can_be_resumed() {
    let world = World::new().await;
    let id = world.request("ball").await;
    world.toy.shape_fails.store(3, Ordering::SeqCst);
    world.toy.revert_fails.store(5, Ordering::SeqCst);
    let ended = run_to_end::<Make>(&world.database, world.toy.clone(), id).await;
    assert_eq!(ended, state::REVERT_FAILURE);
    assert_eq!(
        world.status("ball").await,
        "parked",
        "the hook wrote in the same transaction"
    );
    let detail = show(&world.database, id).await.unwrap();
    assert_eq!(detail.summary.task.as_deref(), Some("allocate"));
    assert!(
        detail
            .summary
            .parked
            .unwrap()
            .contains("the space does not go away")
    );
    assert_eq!(detail.atoms[1].attempts, 5);
    assert_eq!(detail.locks.len(), 1);

    resume(&world.database, id).await.unwrap();
    let ended = run_to_end::<Make>(&world.database, world.toy.clone(), id).await;
    assert_eq!(ended, state::REVERTED);
    assert!(world.toy.things().is_empty());
    assert_eq!(world.status("ball").await, "error");
    assert!(matches!(
        resume(&world.database, id).await,
        Err(Error::WrongState { .. })
    ));
    let nobody = uuid::Uuid::new_v4();
    assert!(matches!(
        resume(&world.database, nobody).await,
        Err(Error::NotFound(_))
    ));
}
