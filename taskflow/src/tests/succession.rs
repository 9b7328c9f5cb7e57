//! Workers that die or freeze, and those that go on with what they left.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::{Make, Toy, World};
use crate::{Fence, Queue, Worker, WorkerBuilder, state};

const LEASE_MS: u64 = 400;

/// Those who were shut out.
#[derive(Default)]
struct Gate(Mutex<Vec<String>>);

#[async_trait]
impl Fence for Gate {
    async fn shut_out(&self, owner: &str) {
        self.0.lock().unwrap().push(owner.to_owned());
    }
}

fn worker(world: &World, owner: &str, queue: Queue) -> WorkerBuilder<Toy> {
    Worker::builder(world.database.clone(), world.toy.clone(), owner, [queue])
        .sweep_ms(20)
        .lease(Duration::from_millis(LEASE_MS))
        .flow::<Make>()
}

/// Runs until it is aborted, which is how it dies.
fn run(builder: WorkerBuilder<Toy>) -> JoinHandle<()> {
    tokio::spawn(builder.build().run(std::future::pending()))
}

async fn leases_ran_out() {
    tokio::time::sleep(Duration::from_millis(3 * LEASE_MS)).await;
}

#[tokio::test]
async fn a_worker_of_the_group_inherits_what_was_begun_and_what_was_not() {
    let world = World::new().await;
    world.toy.gated.store(true, Ordering::SeqCst);
    let begun = world.request("begun").await;
    let dying = run(worker(&world, "dying", Queue::of_group("q", "g")).concurrency(1));
    world.toy.begun.notified().await;
    let waiting = world.request("waiting").await;
    dying.abort();
    world.toy.gated.store(false, Ordering::SeqCst);
    let gate = Arc::new(Gate::default());
    let heir = worker(&world, "heir", Queue::of_group("other", "g"));
    let heir = run(heir.fence(gate.clone()));
    world.until(begun, state::SUCCESS).await;
    world.until(waiting, state::SUCCESS).await;
    heir.abort();
    // Only what had been begun had to be taken away from it.
    assert_eq!(*gate.0.lock().unwrap(), ["dying"]);
}

#[tokio::test]
async fn a_queue_that_is_served_is_not_inherited() {
    let world = World::new().await;
    world.toy.gated.store(true, Ordering::SeqCst);
    let first = world.request("first").await;
    let busy = run(worker(&world, "busy", Queue::of_group("q", "g")).concurrency(1));
    world.toy.begun.notified().await;
    let second = world.request("second").await;
    let other = run(worker(&world, "other", Queue::of_group("other", "g")));
    leases_ran_out().await;
    assert_eq!(world.state(second).await, state::PENDING);
    world.toy.gated.store(false, Ordering::SeqCst);
    world.until(first, state::SUCCESS).await;
    world.until(second, state::SUCCESS).await;
    busy.abort();
    other.abort();
}

#[tokio::test]
async fn nobody_inherits_from_another_group_or_from_none() {
    for left in [Queue::of_group("q", "g"), Queue::from("q")] {
        let world = World::new().await;
        let gone = run(worker(&world, "gone", left));
        tokio::time::sleep(Duration::from_millis(LEASE_MS)).await;
        gone.abort();
        let id = world.request("ball").await;
        let others = run(worker(&world, "other", Queue::of_group("other", "h")));
        leases_ran_out().await;
        assert_eq!(world.state(id).await, state::PENDING);
        others.abort();
    }
}

#[tokio::test]
async fn a_worker_that_takes_up_its_own_flows_is_not_shut_out() {
    let world = World::new().await;
    world.toy.gated.store(true, Ordering::SeqCst);
    let id = world.request("ball").await;
    let before = run(worker(&world, "host", Queue::from("q")));
    world.toy.begun.notified().await;
    before.abort();
    world.toy.gated.store(false, Ordering::SeqCst);
    let gate = Arc::new(Gate::default());
    let after = run(worker(&world, "host", Queue::from("q")).fence(gate.clone()));
    world.until(id, state::SUCCESS).await;
    after.abort();
    assert!(gate.0.lock().unwrap().is_empty());
}
