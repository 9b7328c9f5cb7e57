//! The journal of one claimed flow: every write names the claim's fencing token.

use std::sync::Arc;

use database::{Database, Tx, now_us, params};
use uuid::Uuid;

use crate::machine::Stop;
use crate::run::{Failure, Lease};
use crate::{TaskError, state};

/// Writes the journal of one flow under one claim.
pub(crate) struct Journal {
    pub(crate) database: Database,
    pub(crate) flow_id: Uuid,
    pub(crate) lease: Arc<Lease>,
    pub(crate) lease_us: i64,
}

/// What a transaction does to the flow's own row.
pub(crate) enum Change<'a> {
    /// Goes on; renews the lease.
    Keep,
    /// Begins to revert.
    Revert(&'a Failure),
    /// Ends as `SUCCESS` or `REVERTED` and gives its locks back.
    End(&'static str),
    /// Waits for the operator, with its locks.
    Park {
        state: &'static str,
        reason: &'a str,
    },
    /// Lets any worker of the queue take it up, from `not_before` on.
    Release { not_before: i64 },
}

/// A transaction that has passed the fence.
pub(crate) struct Fenced {
    pub(crate) tx: Tx,
    flow_id: Uuid,
    /// The lease's end, if this transaction renews it.
    until: Option<i64>,
}

impl Journal {
    /// Begins a transaction with `change`. [`Stop::Lost`] where the claim does not hold any
    /// more: then nothing that follows may happen.
    pub(crate) async fn begin(&self, change: Change<'_>) -> Result<Fenced, Stop> {
        let now = now_us();
        let until = now.saturating_add(self.lease_us);
        let ends = matches!(change, Change::End(_));
        let renews = matches!(change, Change::Keep | Change::Revert(_));
        let (set, mut values) = match change {
            Change::Keep => ("lease_until = ?", params![until].to_vec()),
            Change::Revert(failure) => {
                let failure = serde_json::to_string(failure).unwrap_or_default();
                let set = "state = 'REVERTING', failure = ?, lease_until = ?";
                (set, params![failure, until].to_vec())
            }
            Change::End(ended) => {
                let percent = if ended == state::SUCCESS { 100 } else { 0 };
                let set =
                    "state = ?, progress = ?, finished_at = ?, owner = NULL, lease_until = NULL";
                (set, params![ended, percent, now].to_vec())
            }
            Change::Park { state, reason } => {
                let set = "state = ?, parked = ?, owner = NULL, lease_until = NULL";
                (set, params![state, reason].to_vec())
            }
            Change::Release { not_before } => {
                let set = "not_before = ?, owner = NULL, lease_until = NULL";
                (set, params![not_before].to_vec())
            }
        };
        let sql = format!(
            "UPDATE flows SET {set}, updated_at = ? WHERE id = ? AND owner = ? AND generation = ?"
        );
        values.extend_from_slice(params![
            now,
            self.flow_id,
            &self.lease.owner,
            self.lease.generation
        ]);
        let mut tx = self.database.begin().await?;
        if tx.execute(&sql, &values).await? == 0 {
            self.lease.mark_lost();
            return Err(Stop::Lost);
        }
        if ends {
            tx.execute(
                "DELETE FROM flow_locks WHERE flow_id = ?",
                params![self.flow_id],
            )
            .await?;
        }
        Ok(Fenced {
            tx,
            flow_id: self.flow_id,
            until: renews.then_some(until),
        })
    }

    /// Makes the transaction durable.
    pub(crate) async fn commit(&self, fenced: Fenced) -> Result<(), Stop> {
        fenced.tx.commit().await?;
        if let Some(until) = fenced.until {
            self.lease.renewed(until);
        }
        Ok(())
    }

    /// A transaction of nothing but `change`.
    pub(crate) async fn change(&self, change: Change<'_>) -> Result<(), Stop> {
        let fenced = self.begin(change).await?;
        self.commit(fenced).await
    }
}

/// The new state of a task that was started.
#[derive(Default)]
pub(crate) struct AtomChange<'a> {
    pub(crate) state: &'static str,
    /// JSON; `None` keeps what is there.
    pub(crate) output: Option<&'a str>,
    /// `None` keeps what is there.
    pub(crate) failure: Option<&'a TaskError>,
    pub(crate) attempts: u32,
}

impl Fenced {
    /// Changes the row of a task that was started.
    pub(crate) async fn atom(
        &mut self,
        position: usize,
        change: AtomChange<'_>,
    ) -> Result<(), Stop> {
        let ended = !matches!(change.state, state::RUNNING | state::REVERTING);
        let failure = change
            .failure
            .and_then(|error| serde_json::to_string(error).ok());
        self.tx
            .execute(
                "UPDATE flow_atoms SET state = ?, output = COALESCE(?, output), \
                 failure = COALESCE(?, failure), attempts = ?, finished_at = ? \
                 WHERE flow_id = ? AND position = ?",
                params![
                    change.state,
                    change.output.map(str::to_owned),
                    failure,
                    change.attempts,
                    ended.then(now_us),
                    self.flow_id,
                    column(position)
                ],
            )
            .await?;
        Ok(())
    }

    /// Records that a task runs from now on.
    pub(crate) async fn start(&mut self, position: usize, name: &str) -> Result<(), Stop> {
        Ok(start_atom(&mut self.tx, self.flow_id, position, name).await?)
    }

    /// Records a task that began and succeeded within this transaction.
    pub(crate) async fn done_at_once(
        &mut self,
        position: usize,
        name: &str,
        output: &str,
    ) -> Result<(), Stop> {
        let now = now_us();
        self.tx
            .execute(
                "INSERT INTO flow_atoms (flow_id, position, name, state, output, attempts, \
                 started_at, finished_at) VALUES (?, ?, ?, 'SUCCESS', ?, 0, ?, ?)",
                params![self.flow_id, column(position), name, output, now, now],
            )
            .await?;
        Ok(())
    }
}

/// Inserts the row of a task that runs from now on.
pub(crate) async fn start_atom(
    tx: &mut Tx,
    flow_id: Uuid,
    position: usize,
    name: &str,
) -> Result<(), database::Error> {
    tx.execute(
        "INSERT INTO flow_atoms (flow_id, position, name, state, attempts, started_at) \
         VALUES (?, ?, ?, 'RUNNING', 0, ?)",
        params![flow_id, column(position), name, now_us()],
    )
    .await?;
    Ok(())
}

/// A task's position as the journal stores it.
fn column(position: usize) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}
