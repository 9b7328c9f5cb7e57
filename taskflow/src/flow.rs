//! What an author of flows writes: [`Flow`] and its [`Task`]s.

use std::any::Any;

use async_trait::async_trait;
use database::Tx;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Retry, Run, TaskError};

/// A kind of flow: its parameters and the ordered list of its tasks.
#[async_trait]
pub trait Flow: Sized + Send + Sync + 'static {
    /// The kind in the journal, `volume:create` for instance. Stable across releases.
    const KIND: &'static str;
    /// What the tasks work with: database, store, clients.
    type Context: Send + Sync + 'static;
    /// Journaled as JSON when the flow is inserted. No secrets. A later release must still be
    /// able to read it (new fields with `#[serde(default)]`).
    type Params: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The tasks in order; each type at most once. Depends on nothing but `params`: a resumed
    /// run must get the same list.
    fn tasks(params: &Self::Params) -> Vec<BoxTask<Self>>;

    /// Called in the transaction that parks the flow as `REVERT_FAILURE` or `FAILURE`: the place
    /// to put the resource into its error status. An error here is logged and changes nothing.
    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        let _ = (run, tx);
        Ok(())
    }
}

/// One step of a flow.
#[async_trait]
pub trait Task<F: Flow>: Send + Sync + 'static {
    /// The task's name in the journal. Stable across releases, unique in its flow.
    const NAME: &'static str;
    /// Says that `execute` and `revert` have no effect outside the database and are quick (they
    /// compute the output from parameters and earlier outputs; all the work is in `record`).
    /// The engine then runs the task inside the transaction that records the task before it,
    /// which saves a commit. True for most `Finish` tasks.
    const RECORD_ONLY: bool = false;
    /// Journaled as JSON; later tasks, reverts and resumed runs see the value read back.
    type Output: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What happens when `execute` or `record` fails.
    fn retry(&self) -> Retry {
        Retry::Never
    }

    /// What happens when `revert` or `record_revert` fails; every failure counts as retryable.
    /// When it gives up, the flow parks as `REVERT_FAILURE`.
    fn revert_retry(&self) -> Retry {
        Retry::times(5, 500)
    }

    /// The effect outside the database. Idempotent: after a crash it runs again, so it finds or
    /// redoes what an earlier run made, by names derived from the flow's parameters.
    async fn execute(&self, run: &Run<F>) -> Result<Self::Output, TaskError>;

    /// The effect in the database: one transaction with the journal's record of success, so it
    /// happens exactly once. It touches nothing but `tx`; it may be called again after a
    /// rollback.
    async fn record(
        &self,
        run: &Run<F>,
        output: &Self::Output,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let _ = (run, output, tx);
        Ok(())
    }

    /// Undoes `execute`. Also called for the task that failed, with `output` `None`: its effect
    /// may be absent, half-made or complete. Idempotent.
    async fn revert(&self, run: &Run<F>, output: Option<&Self::Output>) -> Result<(), TaskError> {
        let _ = (run, output);
        Ok(())
    }

    /// Undoes `record` (which did not happen where `output` is `None`) or writes the error
    /// status: one transaction with the journal's record of the revert.
    async fn record_revert(
        &self,
        run: &Run<F>,
        output: Option<&Self::Output>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let _ = (run, output, tx);
        Ok(())
    }
}

/// A task of flow `F`, ready for the list that [`Flow::tasks`] returns; made by [`boxed`].
pub struct BoxTask<F: Flow>(pub(crate) Box<dyn AnyTask<F>>);

/// Wraps a task for the list that [`Flow::tasks`] returns.
pub fn boxed<F: Flow, T: Task<F>>(task: T) -> BoxTask<F> {
    BoxTask(Box::new(Typed(task)))
}

/// An output whose type only its task knows.
pub(crate) type AnyOutput = Box<dyn Any + Send + Sync>;

/// A [`Task`] without its output type.
#[async_trait]
pub(crate) trait AnyTask<F: Flow>: Send + Sync {
    fn name(&self) -> &'static str;
    fn record_only(&self) -> bool;
    fn retry(&self) -> Retry;
    fn revert_retry(&self) -> Retry;
    /// Reads an output back from the journal's JSON.
    fn decode(&self, json: &str) -> Result<AnyOutput, String>;
    /// Executes and returns the output as JSON.
    async fn execute(&self, run: &Run<F>) -> Result<String, TaskError>;
    async fn record(&self, run: &Run<F>, out: &AnyOutput, tx: &mut Tx) -> Result<(), TaskError>;
    async fn revert(&self, run: &Run<F>, out: Option<&AnyOutput>) -> Result<(), TaskError>;
    async fn record_revert(
        &self,
        run: &Run<F>,
        out: Option<&AnyOutput>,
        tx: &mut Tx,
    ) -> Result<(), TaskError>;
}

struct Typed<T>(T);

/// The output as `T`. A mismatch cannot happen: the same task decoded it.
fn typed<T: 'static>(out: &AnyOutput) -> Result<&T, TaskError> {
    out.downcast_ref()
        .ok_or_else(|| TaskError::new("Output", "an output of another task's type"))
}

#[async_trait]
impl<F: Flow, T: Task<F>> AnyTask<F> for Typed<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn record_only(&self) -> bool {
        T::RECORD_ONLY
    }

    fn retry(&self) -> Retry {
        self.0.retry()
    }

    fn revert_retry(&self) -> Retry {
        self.0.revert_retry()
    }

    fn decode(&self, json: &str) -> Result<AnyOutput, String> {
        let output: T::Output = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Ok(Box::new(output))
    }

    async fn execute(&self, run: &Run<F>) -> Result<String, TaskError> {
        let output = self.0.execute(run).await?;
        serde_json::to_string(&output).map_err(|error| TaskError::new("Output", error.to_string()))
    }

    async fn record(&self, run: &Run<F>, out: &AnyOutput, tx: &mut Tx) -> Result<(), TaskError> {
        self.0.record(run, typed(out)?, tx).await
    }

    async fn revert(&self, run: &Run<F>, out: Option<&AnyOutput>) -> Result<(), TaskError> {
        self.0.revert(run, out.map(typed).transpose()?).await
    }

    async fn record_revert(
        &self,
        run: &Run<F>,
        out: Option<&AnyOutput>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        self.0
            .record_revert(run, out.map(typed).transpose()?, tx)
            .await
    }
}
