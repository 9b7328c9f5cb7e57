//! Whole workers: concurrency, retries, failing journals, shutdown.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use database::params;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Make, Toy, World};
use crate::{FlowEvent, Listener, What, Worker, WorkerBuilder, show, state};

/// A worker that runs in the background until told to stop.
struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Running {
    fn start(builder: WorkerBuilder<Toy>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = builder.flow::<Make>().build();
        let ended = tokio::spawn(worker.run(async {
            let _ = stopped.await;
        }));
        Running { stop, ended }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.ended.await.unwrap();
    }
}

fn builder(world: &World, owner: &str) -> WorkerBuilder<Toy> {
    Worker::builder(world.database.clone(), world.toy.clone(), owner, ["q"]).sweep_ms(20)
}

#[tokio::test]
async fn two_workers_share_a_queue_and_each_flow_runs_once() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for number in 0..60 {
        ids.push(world.request(&number.to_string()).await);
    }
    let one = Running::start(builder(&world, "one").concurrency(4));
    let two = Running::start(builder(&world, "two").concurrency(4));
    for id in ids {
        world.until(id, state::SUCCESS).await;
    }
    one.stop().await;
    two.stop().await;
    let executed = world.toy.log();
    assert_eq!(
        executed.iter().filter(|what| *what == "allocate").count(),
        60
    );
    assert_eq!(executed.iter().filter(|what| *what == "shape").count(), 60);
}

#[tokio::test]
async fn a_ring_starts_a_flow_without_a_sweep() {
    let world = World::new().await;
    let hour_ms = 3_600_000;
    let worker = builder(&world, "host").sweep_ms(hour_ms);
    let doorbell = crate::Doorbell::new();
    let first = world.request("first").await;
    let running = Running::start(worker.doorbell(doorbell.clone()));
    world.until(first, state::SUCCESS).await;
    let second = world.request("second").await;
    doorbell.wake();
    world.until(second, state::SUCCESS).await;
    running.stop().await;
}

#[tokio::test]
async fn failures_are_retried_then_reverted_and_a_panic_is_a_failure() {
    let world = World::new().await;
    let running = Running::start(builder(&world, "host"));
    world.toy.shape_fails.store(2, Ordering::SeqCst);
    let id = world.request("wobbly").await;
    world.until(id, state::SUCCESS).await;
    let shaped = &show(&world.database, id).await.unwrap().atoms[2];
    assert_eq!(
        (
            shaped.attempts,
            shaped.failure.as_ref().unwrap().class.as_str()
        ),
        (2, "Wobbly")
    );

    world.toy.shape_panics.store(true, Ordering::SeqCst);
    let id = world.request("panicky").await;
    world.until(id, state::REVERTED).await;
    let failure = show(&world.database, id)
        .await
        .unwrap()
        .summary
        .failure
        .unwrap();
    assert_eq!(
        (failure.task.as_str(), failure.error.class.as_str()),
        ("shape", "Panic")
    );
    assert_eq!(failure.error.message, "told to panic");
    assert_eq!(world.toy.things(), ["shape wobbly", "space wobbly"]);
    running.stop().await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_stops_the_flow_until_it_can() {
    let world = World::new().await;
    let id = world.request("ball").await;
    world.toy.gated.store(true, Ordering::SeqCst);
    let running = Running::start(builder(&world, "host"));
    world.toy.begun.notified().await;
    let hide = "ALTER TABLE flow_atoms RENAME TO hidden_atoms";
    world.database.execute(hide, params![]).await.unwrap();
    world.toy.gated.store(false, Ordering::SeqCst);
    // The task is done, its record refused; the worker tries to take the flow up again.
    let generation = "SELECT generation FROM flows WHERE id = ?";
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(
            world.toy.log(),
            ["allocate", "shape"],
            "nothing runs unrecorded"
        );
        assert_eq!(world.status("ball").await, "making");
        let row = world
            .database
            .fetch_one(generation, params![id])
            .await
            .unwrap();
        assert_eq!(row.get::<i64>("generation").unwrap(), 1);
    }
    let restore = "ALTER TABLE hidden_atoms RENAME TO flow_atoms";
    world.database.execute(restore, params![]).await.unwrap();
    world.until(id, state::SUCCESS).await;
    running.stop().await;
    assert_eq!(world.toy.log(), ["allocate", "shape", "shape"]);
    assert_eq!(world.status("ball").await, "ready");
}

async fn is_handed_over(world: &World, builder: WorkerBuilder<Toy>) {
    let id = world.request("ball").await;
    let running = Running::start(builder);
    world.toy.begun.notified().await;
    running.stop().await;
    let left = show(&world.database, id).await.unwrap().summary;
    assert_eq!((left.state.as_str(), left.owner), (state::RUNNING, None));
    assert_eq!(left.progress_percent, 50);
    world.toy.gated.store(false, Ordering::SeqCst);
    world.toy.deaf.store(false, Ordering::SeqCst);
    // Another name gets it at once: nobody waits for the lease.
    let running = Running::start(self::builder(world, "another"));
    world.until(id, state::SUCCESS).await;
    running.stop().await;
    assert_eq!(world.toy.log(), ["allocate", "shape", "shape"]);
}

#[tokio::test]
async fn shutdown_hands_over_a_task_that_listens() {
    let world = World::new().await;
    world.toy.gated.store(true, Ordering::SeqCst);
    is_handed_over(&world, builder(&world, "host")).await;
}

#[tokio::test]
async fn shutdown_cuts_off_a_task_that_does_not_listen() {
    let world = World::new().await;
    world.toy.deaf.store(true, Ordering::SeqCst);
    is_handed_over(
        &world,
        builder(&world, "host").grace(Duration::from_millis(10)),
    )
    .await;
}

#[tokio::test]
async fn a_lease_is_renewed_while_a_long_task_runs() {
    let world = World::new().await;
    world.toy.deaf.store(true, Ordering::SeqCst);
    let id = world.request("ball").await;
    let slow = Running::start(builder(&world, "slow").lease(Duration::from_millis(3_000)));
    world.toy.begun.notified().await;
    let first = show(&world.database, id).await.unwrap().summary.lease_until;
    let rival = Running::start(builder(&world, "rival"));
    while show(&world.database, id).await.unwrap().summary.lease_until == first {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let kept = show(&world.database, id).await.unwrap().summary;
    assert_eq!((kept.owner.as_deref(), kept.generation), (Some("slow"), 1));
    world.toy.gate.notify_one();
    world.until(id, state::SUCCESS).await;
    slow.stop().await;
    rival.stop().await;
    assert_eq!(world.toy.log(), ["allocate", "shape"]);
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Listener for Heard {
    fn on_event(&self, event: &FlowEvent<'_>) {
        assert_eq!(event.flow.request_id, "req-1");
        let what = match event.what {
            What::Claimed { resumed } => format!("claimed {resumed}"),
            What::TaskStarted { task } => format!("started {task}"),
            What::TaskDone { task } => format!("done {task}"),
            What::Succeeded => "succeeded".to_owned(),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(what);
    }
}

#[tokio::test]
async fn listeners_hear_each_step_in_order() {
    let world = World::new().await;
    let heard = Arc::new(Heard::default());
    let id = world.request("ball").await;
    let running = Running::start(builder(&world, "host").listener(heard.clone()));
    world.until(id, state::SUCCESS).await;
    running.stop().await;
    let expected = [
        "claimed false",
        "started begin",
        "done begin",
        "started allocate",
        "done allocate",
        "started shape",
        "done shape",
        "done announce",
        "done finish",
        "succeeded",
    ];
    assert_eq!(*heard.0.lock().unwrap(), expected);
}

/// Writes what it sees into a table, and can be made to fail.
struct Scribe {
    fails: std::sync::atomic::AtomicI64,
}

#[async_trait::async_trait]
impl crate::Witness for Scribe {
    async fn began(&self, flow: &crate::FlowInfo, tx: &mut database::Tx) -> database::Result<()> {
        self.write(flow, "began", tx).await
    }

    async fn ended(
        &self,
        flow: &crate::FlowInfo,
        ending: crate::Ending,
        tx: &mut database::Tx,
    ) -> database::Result<()> {
        self.write(flow, &format!("{ending:?}"), tx).await
    }
}

impl Scribe {
    async fn write(
        &self,
        flow: &crate::FlowInfo,
        what: &str,
        tx: &mut database::Tx,
    ) -> database::Result<()> {
        let sql = "INSERT INTO seen (flow_id, what, seen_at) VALUES (?, ?, ?)";
        tx.execute(sql, params![flow.id, what, database::now_us()])
            .await?;
        if self.fails.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Err(database::Error::Unavailable("on purpose".to_owned()));
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_witness_sees_each_beginning_and_end_once_also_when_it_fails() {
    let world = World::new().await;
    let mut tx = world.database.begin().await.unwrap();
    let sql = "CREATE TABLE seen (flow_id CHAR(36), what VARCHAR(20), seen_at BIGINT)";
    tx.execute(sql, params![]).await.unwrap();
    tx.commit().await.unwrap();
    let fails = std::sync::atomic::AtomicI64::new(1);
    let scribe = Arc::new(Scribe { fails });
    let running = Running::start(builder(&world, "host").witness(scribe.clone()));
    let good = world.request("good").await;
    world.until(good, state::SUCCESS).await;
    scribe.fails.store(1, Ordering::SeqCst);
    world.toy.shape_fails.store(100, Ordering::SeqCst);
    let bad = world.request("bad").await;
    world.until(bad, state::REVERTED).await;
    running.stop().await;
    for (id, expected) in [(good, ["began", "Succeeded"]), (bad, ["began", "Reverted"])] {
        let sql = "SELECT what FROM seen WHERE flow_id = ? ORDER BY seen_at";
        let rows = world.database.fetch_all(sql, params![id]).await.unwrap();
        let seen: Vec<String> = rows.iter().map(|row| row.get("what").unwrap()).collect();
        assert_eq!(seen, expected);
    }
}
