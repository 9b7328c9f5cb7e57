//! Tests that need more than one module, and the toy they share.

mod claims;
mod parking;
mod proofs;
mod succession;
mod workers;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use database::{Database, Tx, params};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed, show};

/// A world outside the database: named things, and switches that make tasks misbehave.
#[derive(Default)]
pub(super) struct Toy {
    pub(super) things: Mutex<BTreeSet<String>>,
    /// Executions and reverts, in order.
    pub(super) log: Mutex<Vec<String>>,
    /// So many executions of `shape` fail, retryable.
    pub(super) shape_fails: AtomicU32,
    pub(super) shape_panics: AtomicBool,
    /// So many reverts of `allocate` fail.
    pub(super) revert_fails: AtomicU32,
    /// `shape` waits for the gate, or for the end of the worker.
    pub(super) gated: AtomicBool,
    /// `shape` waits for the gate and does not listen.
    pub(super) deaf: AtomicBool,
    pub(super) gate: Notify,
    /// Tells that `shape` has begun.
    pub(super) begun: Notify,
}

impl Toy {
    pub(super) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(what.to_owned());
    }

    pub(super) fn things(&self) -> Vec<String> {
        self.things.lock().unwrap().iter().cloned().collect()
    }
}

fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

/// begin (record only), allocate, shape, announce (record only), finish (record only).
pub(super) struct Make;

#[async_trait]
impl Flow for Make {
    const KIND: &'static str = "toy:make";
    type Context = Toy;
    type Params = Named;

    fn tasks(_: &Named) -> Vec<BoxTask<Self>> {
        vec![
            boxed(Begin),
            boxed(Allocate),
            boxed(Shape),
            boxed(Announce),
            boxed(Finish),
        ]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        set_status(tx, &run.params, "parked").await
    }
}

async fn set_status(tx: &mut Tx, toy: &Named, status: &str) -> Result<(), TaskError> {
    let sql = "UPDATE toys SET status = ?, changes = changes + 1 WHERE name = ?";
    match tx.execute(sql, params![status, &toy.name]).await? {
        1 => Ok(()),
        _ => Err(TaskError::new("NoToy", "no such toy")),
    }
}

struct Begin;
#[async_trait]
impl Task<Make> for Begin {
    const NAME: &'static str = "begin";
    const RECORD_ONLY: bool = true;
    type Output = ();
    async fn execute(&self, _: &Run<Make>) -> Result<(), TaskError> {
        Ok(())
    }
    async fn record(&self, run: &Run<Make>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        set_status(tx, &run.params, "making").await
    }
    async fn record_revert(
        &self,
        run: &Run<Make>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        assert!(run.failure().is_some(), "a revert knows why");
        set_status(tx, &run.params, "error").await
    }
}

struct Allocate;
#[async_trait]
impl Task<Make> for Allocate {
    const NAME: &'static str = "allocate";
    /// A token that differs each time: what is journaled must be what later tasks see.
    type Output = String;
    async fn execute(&self, run: &Run<Make>) -> Result<String, TaskError> {
        run.ctx.note("allocate");
        run.ctx
            .things
            .lock()
            .unwrap()
            .insert(format!("space {}", run.params.name));
        Ok(Uuid::new_v4().to_string())
    }
    async fn record(&self, run: &Run<Make>, token: &String, tx: &mut Tx) -> Result<(), TaskError> {
        let sql = "UPDATE toys SET token = ? WHERE name = ?";
        tx.execute(sql, params![token, &run.params.name]).await?;
        Ok(())
    }
    async fn revert(&self, run: &Run<Make>, output: Option<&String>) -> Result<(), TaskError> {
        run.ctx.note("revert allocate");
        if take_one(&run.ctx.revert_fails) {
            return Err(TaskError::new("Stuck", "the space does not go away"));
        }
        let failed_here = run.failed_task() == Some("allocate");
        assert_eq!(output.is_none(), failed_here, "an output unless it failed");
        run.ctx
            .things
            .lock()
            .unwrap()
            .remove(&format!("space {}", run.params.name));
        Ok(())
    }
    async fn record_revert(
        &self,
        run: &Run<Make>,
        _: Option<&String>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        tx.execute(
            "UPDATE toys SET token = NULL WHERE name = ?",
            params![&run.params.name],
        )
        .await?;
        Ok(())
    }
}

struct Shape;
#[async_trait]
impl Task<Make> for Shape {
    const NAME: &'static str = "shape";
    type Output = String;
    fn retry(&self) -> Retry {
        Retry::times(3, 1)
    }
    async fn execute(&self, run: &Run<Make>) -> Result<String, TaskError> {
        run.ctx.note("shape");
        run.progress(0.5).await;
        run.ctx.begun.notify_one();
        let token = run.output::<Allocate>()?;
        run.ctx
            .things
            .lock()
            .unwrap()
            .insert(format!("shape {}", run.params.name));
        if run.ctx.deaf.load(Ordering::SeqCst) {
            run.ctx.gate.notified().await;
        }
        while run.ctx.gated.load(Ordering::SeqCst) {
            if run.is_lost() {
                return Err(TaskError::interrupted());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(
            !run.ctx.shape_panics.load(Ordering::SeqCst),
            "told to panic"
        );
        if take_one(&run.ctx.shape_fails) {
            return Err(TaskError::retryable("Wobbly", "try again"));
        }
        Ok(token.clone())
    }
    async fn revert(&self, run: &Run<Make>, _: Option<&String>) -> Result<(), TaskError> {
        run.ctx.note("revert shape");
        run.output::<Allocate>()?;
        run.ctx
            .things
            .lock()
            .unwrap()
            .remove(&format!("shape {}", run.params.name));
        Ok(())
    }
}

struct Announce;
#[async_trait]
impl Task<Make> for Announce {
    const NAME: &'static str = "announce";
    const RECORD_ONLY: bool = true;
    type Output = String;
    async fn execute(&self, run: &Run<Make>) -> Result<String, TaskError> {
        Ok(run.output::<Shape>()?.clone())
    }
}

struct Finish;
#[async_trait]
impl Task<Make> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();
    async fn execute(&self, run: &Run<Make>) -> Result<(), TaskError> {
        run.output::<Announce>()?;
        Ok(())
    }
    async fn record(&self, run: &Run<Make>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let row = "SELECT token FROM toys WHERE name = ?";
        let recorded: String = tx
            .fetch_one(row, params![&run.params.name])
            .await?
            .get("token")?;
        assert_eq!(
            &recorded,
            run.output::<Announce>()?,
            "the journaled output is the one recorded"
        );
        set_status(tx, &run.params, "ready").await
    }
}

/// A database of its own, a toy world, and the folder that lives as long.
pub(super) struct World {
    pub(super) database: Database,
    pub(super) toy: Arc<Toy>,
    _folder: tempfile::TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = database::testing::migrated_database(folder.path());
        let database = database.await.unwrap();
        let create = "CREATE TABLE toys (name VARCHAR(64) NOT NULL PRIMARY KEY, \
                      status VARCHAR(32) NOT NULL, token CHAR(36), changes BIGINT NOT NULL)";
        database.execute(create, params![]).await.unwrap();
        World {
            database,
            toy: Arc::default(),
            _folder: folder,
        }
    }

    /// Inserts the toy and its flow, as a request would.
    pub(super) async fn request(&self, name: &str) -> Uuid {
        let flow = NewFlow::of::<Make>(&Named {
            name: name.to_owned(),
        })
        .unwrap();
        self.insert(name, flow.queue("q").lock_exclusive(format!("toy/{name}")))
            .await
    }

    pub(super) async fn insert(&self, name: &str, flow: NewFlow) -> Uuid {
        let mut tx = self.database.begin().await.unwrap();
        let toy = "INSERT INTO toys (name, status, changes) VALUES (?, 'new', 0)";
        tx.execute(toy, params![name]).await.unwrap();
        let id = flow
            .resource("toy", name)
            .request("req-1", "p", "u")
            .insert(&mut tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(super) async fn status(&self, name: &str) -> String {
        let sql = "SELECT status FROM toys WHERE name = ?";
        self.database
            .fetch_one(sql, params![name])
            .await
            .unwrap()
            .get("status")
            .unwrap()
    }

    pub(super) async fn state(&self, id: Uuid) -> String {
        show(&self.database, id).await.unwrap().summary.state
    }

    /// Waits until the flow is in `wanted`; far longer than it ever takes, then fails.
    pub(super) async fn until(&self, id: Uuid, wanted: &str) {
        for _ in 0..6_000 {
            if self.state(id).await == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "the flow is not {wanted}: {:?}",
            show(&self.database, id).await.unwrap()
        );
    }
}
