//! Durable flows: operations of several steps that end as asked or as if never begun, whatever
//! fails or crashes on the way.
//!
//! A [`Flow`] is a kind, parameters and an ordered list of [`Task`]s. A task has an effect
//! outside the database (`execute`, undone by `revert`) and one inside (`record`, undone by
//! `record_revert`). A request inserts a [`NewFlow`] in the transaction that writes the
//! resource's row; a [`Worker`] claims it and runs it. State names are TaskFlow's ([`state`]).
//!
//! **Promises.**
//! - `record` and the journal's word that the task is done are one transaction: it happens
//!   exactly once. The last task's `record` is one transaction with the end of the flow.
//! - `execute` and `revert` happen at least once: each is idempotent. A later task, a revert and
//!   a resumed run see the same journaled output.
//! - Nothing runs that is not journaled: a task is recorded as `RUNNING` before it executes.
//!   When the journal cannot be written the flow stops where it is, without a revert, and is
//!   taken up again when it can.
//! - Every journal write names the claim's fencing token. A worker that lost its claim cannot
//!   write, and the flow stops there for it, without a revert.
//! - When a task fails for good, it and all tasks before it are reverted, newest first. A
//!   revert that keeps failing **parks** the flow (`REVERT_FAILURE`): [`Flow::parked`] writes
//!   the resource's error status, an operator sees it in [`list`] and lets it go on with
//!   [`resume`] or gives it up with [`abandon`]. A flow that cannot run at all (unknown kind,
//!   unreadable parameters, a task list that does not fit the journal) parks as `FAILURE`.
//! - Locks belong to a flow from its insertion to its end, in the order of insertion. A parked
//!   flow keeps them, because what it left half-made is still there; `resume` or `abandon`
//!   ends that.
//!
//! **Relies on.** Idempotent effects that are found again by names derived from the parameters;
//! `record` functions that touch nothing but their transaction (a second writer would wait for
//! the first one for ever); clocks of the workers' hosts that agree to a fraction of the lease;
//! flows that never wait for a later flow which needs one of their locks.
//!
//! **On a crash.** A worker of the same owner name takes up what it held when it starts; others
//! do when the lease ends: those that serve the same queue, or another [`Queue`] of its group.
//! The journal tells the task, which is executed or reverted again. A worker that was only
//! frozen is shut out first, where there is a [`Fence`].
//!
//! **Cost.** One transaction to insert, one to claim (with the first task's start), one for
//! each task with an effect (with the next one's start). Tasks marked [`Task::RECORD_ONLY`]
//! ride along with the task before them.
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use database::{Database, Tx, params};
//! use taskflow::{BoxTask, Flow, NewFlow, Run, Task, TaskError, Worker, boxed};
//!
//! struct Service; // database, store, clients
//! struct CreateVolume;
//! impl Flow for CreateVolume {
//!     const KIND: &'static str = "volume:create";
//!     type Context = Service;
//!     type Params = String; // the volume's id
//!     fn tasks(_: &String) -> Vec<BoxTask<Self>> {
//!         vec![boxed(CreateImage), boxed(Finish)]
//!     }
//! }
//!
//! struct CreateImage;
//! #[async_trait]
//! impl Task<CreateVolume> for CreateImage {
//!     const NAME: &'static str = "create_image";
//!     type Output = ();
//!     async fn execute(&self, run: &Run<CreateVolume>) -> Result<(), TaskError> {
//!         println!("create volume-{} unless it is there", run.params);
//!         Ok(())
//!     }
//!     async fn revert(&self, run: &Run<CreateVolume>, _: Option<&()>) -> Result<(), TaskError> {
//!         println!("remove volume-{} if it is there", run.params);
//!         Ok(())
//!     }
//! }
//!
//! struct Finish;
//! #[async_trait]
//! impl Task<CreateVolume> for Finish {
//!     const NAME: &'static str = "finish";
//!     const RECORD_ONLY: bool = true;
//!     type Output = ();
//!     async fn execute(&self, _: &Run<CreateVolume>) -> Result<(), TaskError> {
//!         Ok(())
//!     }
//!     async fn record(&self, run: &Run<CreateVolume>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
//!         let sql = "UPDATE volumes SET status = 'available' WHERE id = ?";
//!         tx.execute(sql, params![&run.params]).await?;
//!         Ok(())
//!     }
//! }
//!
//! # async fn example(database: Database) -> Result<(), Box<dyn std::error::Error>> {
//! let queues = ["volume:host@backend#pool"];
//! let worker = Worker::builder(database.clone(), Arc::new(Service), "volume-manager:host", queues);
//! let worker = worker.flow::<CreateVolume>().build();
//! let doorbell = worker.doorbell();
//!
//! let mut tx = database.begin().await?; // with the row of the volume
//! let flow = NewFlow::of::<CreateVolume>(&"4f1c".to_owned())?
//!     .queue("volume:host@backend#pool")
//!     .resource("volume", "4f1c")
//!     .lock_exclusive("volume/4f1c");
//! flow.insert(&mut tx).await?;
//! tx.commit().await?;
//! doorbell.wake();
//!
//! worker.run(std::future::pending()).await; // until the future given to it resolves
//! # Ok(())
//! # }
//! ```

mod claim;
mod doorbell;
mod engine;
mod error;
mod fence;
mod flow;
mod journal;
mod listener;
mod machine;
mod new_flow;
mod operators;
mod prune;
mod queue;
mod retry;
mod run;
pub mod state;
pub mod testing;
mod witness;
mod worker;

#[cfg(test)]
mod tests;

pub use doorbell::Doorbell;
pub use error::{Error, Result, TaskError};
pub use fence::Fence;
pub use flow::{BoxTask, Flow, Task, boxed};
pub use listener::{FlowEvent, Listener, What};
pub use new_flow::NewFlow;
pub use operators::{AtomSummary, Filter, FlowDetail, FlowSummary, Waiting};
pub use operators::{abandon, list, reject, requeue, resume, show, waiting};
pub use queue::Queue;
pub use retry::Retry;
pub use run::{Failure, FlowInfo, LeaseWatch, Run};
pub use witness::{Ending, Witness};
pub use worker::{Worker, WorkerBuilder};
