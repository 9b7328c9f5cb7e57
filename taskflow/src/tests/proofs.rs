//! The harness on flows that are right, and on flows that are not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use database::{Database, Tx, params};
use uuid::Uuid;

use super::{Make, Named, Toy, World, set_status};
use crate::testing::{Fixture, exhaust, run_to_end};
use crate::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed, show, state};

struct MakeWorld(World, Uuid);

async fn make_world() -> MakeWorld {
    let world = World::new().await;
    let id = world.request("ball").await;
    MakeWorld(world, id)
}

#[async_trait]
impl Fixture<Make> for MakeWorld {
    fn database(&self) -> &Database {
        &self.0.database
    }
    fn context(&self) -> Arc<Toy> {
        self.0.toy.clone()
    }
    fn flow_id(&self) -> Uuid {
        self.1
    }
    async fn assert_done(&self) {
        assert_eq!(self.0.toy.things(), ["shape ball", "space ball"]);
        let row = self
            .0
            .database
            .fetch_one("SELECT * FROM toys", params![])
            .await
            .unwrap();
        assert_eq!(row.get::<String>("status").unwrap(), "ready");
        assert!(row.get::<Option<String>>("token").unwrap().is_some());
        assert_eq!(
            row.get::<i64>("changes").unwrap(),
            2,
            "each record exactly once"
        );
    }
    async fn assert_reverted(&self) {
        assert!(self.0.toy.things().is_empty());
        let row = self
            .0
            .database
            .fetch_one("SELECT * FROM toys", params![])
            .await
            .unwrap();
        assert_eq!(row.get::<String>("status").unwrap(), "error");
        assert_eq!(row.get::<Option<String>>("token").unwrap(), None);
        let recorded = show(&self.0.database, self.1).await.unwrap();
        let began = recorded.atoms[0].output.is_some();
        assert_eq!(
            row.get::<i64>("changes").unwrap(),
            if began { 2 } else { 1 }
        );
    }
}

#[tokio::test]
async fn a_flow_survives_every_failure_and_crash() {
    exhaust::<Make, _>(make_world).await;
}

/// A flow that only goes forward once `remove` has begun.
struct Remove;

impl Flow for Remove {
    const KIND: &'static str = "toy:remove";
    type Context = Toy;
    type Params = Named;
    fn tasks(_: &Named) -> Vec<BoxTask<Self>> {
        vec![boxed(Mark), boxed(RemoveSpace), boxed(Gone)]
    }
}

struct Mark;
#[async_trait]
impl Task<Remove> for Mark {
    const NAME: &'static str = "mark";
    type Output = ();
    async fn execute(&self, _: &Run<Remove>) -> Result<(), TaskError> {
        Ok(())
    }
    async fn record(&self, run: &Run<Remove>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        set_status(tx, &run.params, "deleting").await
    }
    async fn record_revert(
        &self,
        run: &Run<Remove>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        set_status(tx, &run.params, "error_deleting").await
    }
}

struct RemoveSpace;
#[async_trait]
impl Task<Remove> for RemoveSpace {
    const NAME: &'static str = "remove";
    type Output = ();
    fn retry(&self) -> Retry {
        Retry::forever(60_000)
    }
    async fn execute(&self, run: &Run<Remove>) -> Result<(), TaskError> {
        run.ctx
            .things
            .lock()
            .unwrap()
            .remove(&format!("space {}", run.params.name));
        Ok(())
    }
}

struct Gone;
#[async_trait]
impl Task<Remove> for Gone {
    const NAME: &'static str = "gone";
    const RECORD_ONLY: bool = true;
    type Output = ();
    fn retry(&self) -> Retry {
        Retry::forever(1)
    }
    async fn execute(&self, _: &Run<Remove>) -> Result<(), TaskError> {
        Ok(())
    }
    async fn record(&self, run: &Run<Remove>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        tx.execute("DELETE FROM toys WHERE name = ?", params![&run.params.name])
            .await?;
        Ok(())
    }
}

struct RemoveWorld(World, Uuid);

async fn remove_world() -> RemoveWorld {
    let world = World::new().await;
    world
        .toy
        .things
        .lock()
        .unwrap()
        .insert("space ball".to_owned());
    let flow = NewFlow::of::<Remove>(&Named {
        name: "ball".to_owned(),
    })
    .unwrap();
    let id = world.insert("ball", flow).await;
    RemoveWorld(world, id)
}

#[async_trait]
impl Fixture<Remove> for RemoveWorld {
    fn database(&self) -> &Database {
        &self.0.database
    }
    fn context(&self) -> Arc<Toy> {
        self.0.toy.clone()
    }
    fn flow_id(&self) -> Uuid {
        self.1
    }
    async fn assert_done(&self) {
        assert!(self.0.toy.things().is_empty());
        assert!(
            self.0
                .database
                .fetch_all("SELECT * FROM toys", params![])
                .await
                .unwrap()
                .is_empty()
        );
    }
    async fn assert_reverted(&self) {
        assert_eq!(self.0.toy.things(), ["space ball"]);
        assert_eq!(self.0.status("ball").await, "error_deleting");
    }
}

#[tokio::test]
async fn a_task_that_is_retried_forever_cannot_fail_its_flow() {
    exhaust::<Remove, _>(remove_world).await;
}

/// Flows with one mistake each.
struct Careless<const MISTAKE: u8>;
const NO_REVERT: u8 = 1;
const NOT_IDEMPOTENT: u8 = 2;
const EFFECT_IN_RECORD: u8 = 3;

impl<const MISTAKE: u8> Flow for Careless<MISTAKE> {
    const KIND: &'static str = "toy:careless";
    type Context = Toy;
    type Params = Named;
    fn tasks(_: &Named) -> Vec<BoxTask<Self>> {
        vec![boxed(Carelessly::<MISTAKE>), boxed(Nothing)]
    }
}

struct Carelessly<const MISTAKE: u8>;
#[async_trait]
impl<const MISTAKE: u8> Task<Careless<MISTAKE>> for Carelessly<MISTAKE> {
    const NAME: &'static str = "carelessly";
    type Output = ();
    async fn execute(&self, run: &Run<Careless<MISTAKE>>) -> Result<(), TaskError> {
        let mut things = run.ctx.things.lock().unwrap();
        let thing = match MISTAKE {
            NOT_IDEMPOTENT => format!("thing {}", things.len()),
            EFFECT_IN_RECORD => return Ok(()),
            _ => "thing 0".to_owned(),
        };
        things.insert(thing);
        Ok(())
    }
    async fn record(
        &self,
        run: &Run<Careless<MISTAKE>>,
        _: &(),
        _: &mut Tx,
    ) -> Result<(), TaskError> {
        if MISTAKE == EFFECT_IN_RECORD {
            let mut things = run.ctx.things.lock().unwrap();
            let thing = format!("thing {}", things.len());
            things.insert(thing);
        }
        Ok(())
    }
    async fn revert(&self, run: &Run<Careless<MISTAKE>>, _: Option<&()>) -> Result<(), TaskError> {
        if MISTAKE != NO_REVERT {
            run.ctx.things.lock().unwrap().clear();
        }
        Ok(())
    }
}

struct Nothing;
#[async_trait]
impl<const MISTAKE: u8> Task<Careless<MISTAKE>> for Nothing {
    const NAME: &'static str = "nothing";
    type Output = ();
    async fn execute(&self, _: &Run<Careless<MISTAKE>>) -> Result<(), TaskError> {
        Ok(())
    }
}

struct CarelessWorld(World, Uuid);

#[async_trait]
impl<const MISTAKE: u8> Fixture<Careless<MISTAKE>> for CarelessWorld {
    fn database(&self) -> &Database {
        &self.0.database
    }
    fn context(&self) -> Arc<Toy> {
        self.0.toy.clone()
    }
    fn flow_id(&self) -> Uuid {
        self.1
    }
    async fn assert_done(&self) {
        assert_eq!(self.0.toy.things(), ["thing 0"]);
    }
    async fn assert_reverted(&self) {
        assert!(self.0.toy.things().is_empty());
    }
}

async fn is_caught<const MISTAKE: u8>() -> bool {
    let make = async || {
        let world = World::new().await;
        let flow = NewFlow::of::<Careless<MISTAKE>>(&Named {
            name: "ball".to_owned(),
        })
        .unwrap();
        let id = world.insert("ball", flow).await;
        CarelessWorld(world, id)
    };
    let played = std::panic::AssertUnwindSafe(exhaust::<Careless<MISTAKE>, _>(make));
    futures_util::FutureExt::catch_unwind(played).await.is_err()
}

#[tokio::test]
async fn the_harness_catches_mistakes() {
    assert!(is_caught::<NO_REVERT>().await);
    assert!(is_caught::<NOT_IDEMPOTENT>().await);
    assert!(is_caught::<EFFECT_IN_RECORD>().await);
    assert!(!is_caught::<0>().await);
}

#[tokio::test]
async fn run_to_end_tells_the_end() {
    let MakeWorld(world, id) = make_world().await;
    world.toy.shape_fails.store(3, Ordering::SeqCst);
    let ended = run_to_end::<Make>(&world.database, world.toy.clone(), id).await;
    assert_eq!(ended, state::REVERTED);
    let detail = show(&world.database, id).await.unwrap();
    assert_eq!(detail.summary.failure.unwrap().error.class, "Wobbly");
    assert!(detail.summary.parked.is_none() && detail.summary.finished_at.is_some());
}
