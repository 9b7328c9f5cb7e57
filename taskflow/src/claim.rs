//! Claims: which flows a worker may take up, and taking them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use database::{Database, Row, Tx, Value, now_us, params};
use uuid::Uuid;

use crate::journal::start_atom;
use crate::machine::{Kind, Machine};
use crate::operators::info;
use crate::run::{Failure, Lease};
use crate::{FlowInfo, Witness, state};

/// The columns of a candidate.
const COLUMNS: &str = "f.id, f.kind, f.queue, f.resource_type, f.resource_id, f.request_id, \
    f.project_id, f.user_id, f.created_at, f.seq, f.state, f.owner, f.generation, f.params, f.failure";

/// No earlier unfinished flow holds a conflicting lock. Only unfinished flows have rows in
/// `flow_locks`, and later flows never get a smaller `seq`: what is free stays free until claimed.
const LOCKS_ARE_FREE: &str = "NOT EXISTS (SELECT 1 FROM flow_locks mine \
    JOIN flow_locks earlier ON earlier.resource_key = mine.resource_key \
    AND earlier.exclusive IN (1, 1 - mine.exclusive) AND earlier.seq < mine.seq \
    WHERE mine.flow_id = f.id)";

/// Nobody holds the claim (parameters: now, owner, whether the owner's own claims count).
const CLAIM_IS_FREE: &str = "(f.owner IS NULL OR f.lease_until < ? OR (f.owner = ? AND 1 = ?))";

/// A flow that looked free to take.
pub(crate) struct Candidate {
    info: FlowInfo,
    seq: i64,
    state: String,
    owner: Option<String>,
    generation: i64,
    params: String,
    failure: Option<String>,
}

/// A task as the journal knows it.
pub(crate) struct Atom {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) output: Option<String>,
    pub(crate) attempts: u32,
}

/// A flow that is ours.
pub(crate) struct Claim {
    pub(crate) info: FlowInfo,
    pub(crate) lease: Arc<Lease>,
    pub(crate) reverting: bool,
    pub(crate) failure: Option<Failure>,
    /// What the journal holds; empty where the flow begins now (its first task is recorded).
    pub(crate) atoms: Vec<Atom>,
}

/// A claim with the code to run it.
pub(crate) struct Claimed {
    pub(crate) claim: Claim,
    pub(crate) machine: Box<dyn Machine>,
    /// Another worker that had the flow and let its lease run out.
    pub(crate) taken_from: Option<String>,
}

/// Takes flows for one owner.
pub(crate) struct Claimer<C> {
    pub(crate) database: Database,
    pub(crate) context: Arc<C>,
    pub(crate) kinds: HashMap<&'static str, Box<dyn Kind<C>>>,
    pub(crate) owner: String,
    pub(crate) lease_us: i64,
    /// Set when the worker shuts down.
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) witness: Option<Arc<dyn Witness>>,
}

/// Finds flows that nobody has started, oldest first, at most `limit` of each queue.
pub(crate) async fn pending(
    database: &Database,
    queues: &[String],
    limit: usize,
) -> Result<Vec<Candidate>, database::Error> {
    if queues.is_empty() {
        return Ok(Vec::new());
    }
    let (sql, values) = pending_query(queues, limit);
    candidates(database, &sql, &values).await
}

/// One query per queue reads its index in order and stops at the limit.
pub(crate) fn pending_query(queues: &[String], limit: usize) -> (String, Vec<Value>) {
    let (mut sql, mut values) = (String::new(), Vec::new());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    for (position, queue) in queues.iter().enumerate() {
        let union = if position == 0 { "" } else { " UNION ALL " };
        sql.push_str(&format!(
            "{union}SELECT * FROM (SELECT {COLUMNS} FROM flows f WHERE f.state = 'PENDING' \
             AND f.queue = ? AND f.not_before <= ? AND {LOCKS_ARE_FREE} \
             ORDER BY f.seq LIMIT ?) AS q{position}"
        ));
        values.extend_from_slice(params![queue, now_us(), limit]);
    }
    (sql, values)
}

/// Finds flows that were started and that nobody works on: released, or the lease ran out; with
/// `own`, also those that `owner` claimed before (it has restarted).
pub(crate) async fn interrupted(
    database: &Database,
    queues: &[String],
    owner: &str,
    own: bool,
    limit: usize,
) -> Result<Vec<Candidate>, database::Error> {
    if queues.is_empty() {
        return Ok(Vec::new());
    }
    let (sql, values) = interrupted_query(queues, owner, own, limit);
    candidates(database, &sql, &values).await
}

pub(crate) fn interrupted_query(
    queues: &[String],
    owner: &str,
    own: bool,
    limit: usize,
) -> (String, Vec<Value>) {
    let marks = vec!["?"; queues.len()].join(", ");
    let sql = format!(
        "SELECT {COLUMNS} FROM flows f WHERE f.state IN ('RUNNING', 'REVERTING') \
         AND f.queue IN ({marks}) AND f.not_before <= ? AND {CLAIM_IS_FREE} \
         ORDER BY f.seq LIMIT ?"
    );
    let mut values: Vec<Value> = queues.iter().map(Value::from).collect();
    let (now, limit) = (now_us(), i64::try_from(limit).unwrap_or(i64::MAX));
    values.extend_from_slice(params![now, now, owner, own, limit]);
    (sql, values)
}

/// One flow by its id, whoever holds it, unless it has ended or is parked.
pub(crate) async fn by_id(
    database: &Database,
    id: Uuid,
) -> Result<Option<Candidate>, database::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM flows f WHERE f.id = ? \
         AND f.state IN ('PENDING', 'RUNNING', 'REVERTING')"
    );
    Ok(candidates(database, &sql, params![id]).await?.pop())
}

async fn candidates(
    database: &Database,
    sql: &str,
    values: &[Value],
) -> Result<Vec<Candidate>, database::Error> {
    let rows = database.fetch_all(sql, values).await?;
    let mut found = rows.iter().map(candidate).collect::<Result<Vec<_>, _>>()?;
    found.sort_by_key(|candidate| candidate.seq);
    Ok(found)
}

fn candidate(row: &Row) -> Result<Candidate, database::Error> {
    Ok(Candidate {
        info: info(row)?,
        seq: row.get("seq")?,
        state: row.get("state")?,
        owner: row.get("owner")?,
        generation: row.get("generation")?,
        params: row.get("params")?,
        failure: row.get("failure")?,
    })
}

impl Candidate {
    pub(crate) fn id(&self) -> Uuid {
        self.info.id
    }

    pub(crate) fn generation(&self) -> i64 {
        self.generation
    }
}

impl<C: Send + Sync + 'static> Claimer<C> {
    /// Takes the candidates that are still free, in one transaction. One that cannot run is
    /// parked. With `own`, a claim of this owner is taken over.
    pub(crate) async fn take(
        &self,
        candidates: Vec<Candidate>,
        own: bool,
    ) -> Result<Vec<Claimed>, database::Error> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let mut taken = Vec::with_capacity(candidates.len());
        let mut tx = self.database.begin().await?;
        for candidate in candidates {
            match self.open(&candidate) {
                Ok(machine) => taken.extend(self.take_one(&mut tx, candidate, machine, own).await?),
                Err(reason) => self.park(&mut tx, &candidate, &reason, own).await?,
            }
        }
        tx.commit().await?;
        Ok(taken)
    }

    fn open(&self, candidate: &Candidate) -> Result<Box<dyn Machine>, String> {
        let kind = self.kinds.get(candidate.info.kind.as_str());
        let kind = kind.ok_or_else(|| format!("unknown kind of flow {}", candidate.info.kind))?;
        kind.open(self.context.clone(), &candidate.params)
    }

    async fn take_one(
        &self,
        tx: &mut Tx,
        candidate: Candidate,
        machine: Box<dyn Machine>,
        own: bool,
    ) -> Result<Option<Claimed>, database::Error> {
        let reverting = candidate.state == state::REVERTING;
        let begun = if reverting {
            state::REVERTING
        } else {
            state::RUNNING
        };
        let now = now_us();
        let (until, generation) = (now.saturating_add(self.lease_us), candidate.generation + 1);
        let set = "state = ?, owner = ?, lease_until = ?, generation = ?, updated_at = ?";
        let mut values = params![begun, &self.owner, until, generation, now].to_vec();
        if !self
            .update_free(tx, set, &mut values, &candidate, own)
            .await?
        {
            return Ok(None);
        }
        let id = candidate.info.id;
        let atoms = match candidate.state.as_str() {
            state::PENDING => Vec::new(),
            _ => read_atoms(tx, id).await?,
        };
        if atoms.is_empty() {
            start_atom(tx, id, 0, machine.first_task()).await?;
            if let Some(witness) = &self.witness {
                witness.began(&candidate.info, tx).await?;
            }
        }
        let failure = candidate
            .failure
            .as_deref()
            .map(serde_json::from_str)
            .transpose();
        let lease = Lease::new(&self.owner, generation, until, self.stopping.clone());
        let claim = Claim {
            info: candidate.info,
            lease: Arc::new(lease),
            reverting,
            failure: failure.ok().flatten(),
            atoms,
        };
        Ok(Some(Claimed {
            claim,
            machine,
            taken_from: candidate.owner.filter(|owner| *owner != self.owner),
        }))
    }

    /// Parks a flow that this release cannot run.
    async fn park(
        &self,
        tx: &mut Tx,
        candidate: &Candidate,
        reason: &str,
        own: bool,
    ) -> Result<(), database::Error> {
        let set = "state = 'FAILURE', parked = ?, owner = NULL, lease_until = NULL, updated_at = ?";
        let mut values = params![reason, now_us()].to_vec();
        if self
            .update_free(tx, set, &mut values, candidate, own)
            .await?
        {
            let FlowInfo {
                id,
                kind,
                request_id,
                ..
            } = &candidate.info;
            tracing::error!(flow = %id, kind, request_id, reason, "flow cannot run and is parked");
        }
        Ok(())
    }

    /// Updates the candidate's row if it is as it was seen, and free. True if it was.
    async fn update_free(
        &self,
        tx: &mut Tx,
        set: &str,
        values: &mut Vec<Value>,
        candidate: &Candidate,
        own: bool,
    ) -> Result<bool, database::Error> {
        // Servers differ about an alias in UPDATE.
        let free = CLAIM_IS_FREE.replace("f.", "");
        let sql = format!(
            "UPDATE flows SET {set} WHERE id = ? AND state = ? AND queue = ? AND generation = ? \
             AND {free}"
        );
        let FlowInfo { id, queue, .. } = &candidate.info;
        values.extend_from_slice(params![
            id,
            candidate.state.as_str(),
            queue,
            candidate.generation
        ]);
        values.extend_from_slice(params![now_us(), &self.owner, own]);
        Ok(tx.execute(&sql, values).await? == 1)
    }
}

async fn read_atoms(tx: &mut Tx, id: Uuid) -> Result<Vec<Atom>, database::Error> {
    let sql = "SELECT name, state, output, attempts FROM flow_atoms \
               WHERE flow_id = ? ORDER BY position";
    let rows = tx.fetch_all(sql, params![id]).await?;
    let read = |row: &Row| {
        Ok(Atom {
            name: row.get("name")?,
            state: row.get("state")?,
            output: row.get("output")?,
            attempts: row.get("attempts")?,
        })
    };
    rows.iter().map(read).collect()
}
