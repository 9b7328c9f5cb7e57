//! What operators and the scheduler do with flows from outside: list, show, resume, requeue.

use database::{Database, Row, Tx, now_us, params};
use uuid::Uuid;

use crate::{Error, Failure, FlowInfo, Result, TaskError};

/// Which flows [`list`] returns; empty: the newest of all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub state: Option<String>,
    pub kind: Option<String>,
    pub queue: Option<String>,
    pub resource_id: Option<String>,
    /// Only flows that have not ended (running, waiting or parked).
    pub unfinished: bool,
    /// At most so many, newest first; 0 means 1000.
    pub limit: u32,
}

/// One line about a flow.
#[derive(Debug, Clone)]
pub struct FlowSummary {
    pub info: FlowInfo,
    /// A name of [`crate::state`].
    pub state: String,
    /// The task that runs or reverts, or was the last to.
    pub task: Option<String>,
    /// When that task began, microseconds since the epoch.
    pub task_since: Option<i64>,
    /// The worker that has the flow.
    pub owner: Option<String>,
    pub lease_until: Option<i64>,
    pub generation: i64,
    /// 0 to 100.
    pub progress_percent: u8,
    /// Why it reverts or reverted.
    pub failure: Option<Failure>,
    /// Why it waits for the operator.
    pub parked: Option<String>,
    pub not_before: i64,
    pub updated_at: i64,
    pub finished_at: Option<i64>,
}

/// Everything about a flow.
#[derive(Debug, Clone)]
pub struct FlowDetail {
    pub summary: FlowSummary,
    /// JSON.
    pub params: String,
    /// The tasks that were started, in order.
    pub atoms: Vec<AtomSummary>,
    /// Resource key, exclusive.
    pub locks: Vec<(String, bool)>,
    /// Earlier unfinished flows whose locks this one waits for.
    pub waits_for: Vec<Uuid>,
}

/// One task of a flow.
#[derive(Debug, Clone)]
pub struct AtomSummary {
    pub name: String,
    /// A name of [`crate::state`].
    pub state: String,
    /// JSON.
    pub output: Option<String>,
    /// The newest error, also of an attempt that was repeated.
    pub failure: Option<TaskError>,
    /// Failed attempts in this state.
    pub attempts: u32,
    pub started_at: i64,
    pub finished_at: Option<i64>,
}

/// A flow that waits in a queue for a decision (of the scheduler).
#[derive(Debug, Clone)]
pub struct Waiting {
    pub info: FlowInfo,
    /// JSON of the flow's `Params`.
    pub params: String,
}

/// Flows by `filter`, newest first.
pub async fn list(database: &Database, filter: &Filter) -> Result<Vec<FlowSummary>> {
    let mut sql = format!("SELECT {SUMMARY} FROM flows f WHERE 1 = 1");
    let mut values = Vec::new();
    let equal = [
        ("state", &filter.state),
        ("kind", &filter.kind),
        ("queue", &filter.queue),
        ("resource_id", &filter.resource_id),
    ];
    for (column, wanted) in equal {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" AND f.{column} = ?"));
            values.push(wanted.into());
        }
    }
    if filter.unfinished {
        sql.push_str(" AND f.finished_at IS NULL");
    }
    sql.push_str(" ORDER BY f.seq DESC LIMIT ?");
    values.push(
        if filter.limit == 0 {
            1000
        } else {
            filter.limit
        }
        .into(),
    );
    let rows = database.fetch_all(&sql, &values).await?;
    rows.iter().map(summary).collect()
}

/// Everything about one flow.
pub async fn show(database: &Database, id: Uuid) -> Result<FlowDetail> {
    let sql = format!("SELECT {SUMMARY}, f.params FROM flows f WHERE f.id = ?");
    let row = database
        .fetch_optional(&sql, params![id])
        .await?
        .ok_or(Error::NotFound(id))?;
    let atoms = "SELECT name, state, output, failure, attempts, started_at, finished_at \
                 FROM flow_atoms WHERE flow_id = ? ORDER BY position";
    let atoms = database.fetch_all(atoms, params![id]).await?;
    let locks =
        "SELECT resource_key, exclusive FROM flow_locks WHERE flow_id = ? ORDER BY resource_key";
    let locks = database.fetch_all(locks, params![id]).await?;
    let waits = database.fetch_all(WAITS_FOR, params![id]).await?;
    Ok(FlowDetail {
        summary: summary(&row)?,
        params: row.get("params")?,
        atoms: atoms.iter().map(atom).collect::<Result<_>>()?,
        locks: locks
            .iter()
            .map(|lock| Ok((lock.get("resource_key")?, lock.get("exclusive")?)))
            .collect::<Result<_>>()?,
        waits_for: waits
            .iter()
            .map(|row| Ok(row.get("flow_id")?))
            .collect::<Result<_>>()?,
    })
}

/// Lets a parked flow run again from where it stopped: it goes on reverting if it had begun to,
/// otherwise it goes on forward, with fresh retry counts. Ring the doorbell afterwards.
/// Errors: [`Error::NotFound`], [`Error::WrongState`] where the flow is not parked.
pub async fn resume(database: &Database, id: Uuid) -> Result<()> {
    let mut tx = database.begin().await?;
    let changed = tx
        .execute(
            "UPDATE flows SET state = CASE WHEN failure IS NULL THEN 'RUNNING' ELSE 'REVERTING' END, \
             parked = NULL, owner = NULL, lease_until = NULL, not_before = 0, updated_at = ? \
             WHERE id = ? AND state IN ('REVERT_FAILURE', 'FAILURE') AND finished_at IS NULL",
            params![now_us(), id],
        )
        .await?;
    if changed == 0 {
        return Err(not_changed(&mut tx, id, "parked").await?);
    }
    tx.execute(
        "UPDATE flow_atoms SET state = 'REVERTING', attempts = 0 \
         WHERE flow_id = ? AND state = 'REVERT_FAILURE'",
        params![id],
    )
    .await?;
    Ok(tx.commit().await?)
}

/// Gives a parked flow up: it ends as `FAILURE` and its locks are released. For the operator
/// who has cleaned up by hand; what the flow left half-made stays.
/// Errors: [`Error::NotFound`], [`Error::WrongState`] where the flow is not parked.
pub async fn abandon(database: &Database, id: Uuid) -> Result<()> {
    let mut tx = database.begin().await?;
    let changed = tx
        .execute(
            "UPDATE flows SET state = 'FAILURE', finished_at = ?, updated_at = ? \
             WHERE id = ? AND state IN ('REVERT_FAILURE', 'FAILURE') AND finished_at IS NULL",
            params![now_us(), now_us(), id],
        )
        .await?;
    if changed == 0 {
        return Err(not_changed(&mut tx, id, "parked").await?);
    }
    tx.execute("DELETE FROM flow_locks WHERE flow_id = ?", params![id])
        .await?;
    Ok(tx.commit().await?)
}

/// The oldest flows that nobody has started in `queue`, at most `limit`: the scheduler's work.
pub async fn waiting(database: &Database, queue: &str, limit: u32) -> Result<Vec<Waiting>> {
    let rows = database
        .fetch_all(
            "SELECT id, kind, queue, resource_type, resource_id, request_id, project_id, user_id, \
         created_at, params FROM flows \
         WHERE state = 'PENDING' AND queue = ? AND not_before <= ? ORDER BY seq LIMIT ?",
            params![queue, now_us(), limit],
        )
        .await?;
    let read = |row: &Row| {
        Ok(Waiting {
            info: info(row)?,
            params: row.get("params")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Hands a flow that nobody has started from one queue to another, together with what else
/// `tx` holds. False: it is not waiting in queue `from` (any more). Ring the doorbell after the
/// commit.
pub async fn requeue(tx: &mut Tx, id: Uuid, from: &str, to: &str) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE flows SET queue = ?, updated_at = ? WHERE id = ? AND queue = ? AND state = 'PENDING'",
        params![to, now_us(), id, from],
    ).await?;
    Ok(changed == 1)
}

/// Ends a flow that nobody has started as `REVERTED`, with `error` as its failure, together
/// with what else `tx` holds (the resource's error status). False: it is not waiting in `queue`.
pub async fn reject(tx: &mut Tx, id: Uuid, queue: &str, error: &TaskError) -> Result<bool> {
    let failure = Failure {
        task: queue.to_owned(),
        error: error.clone(),
    };
    let now = now_us();
    let changed = tx
        .execute(
            "UPDATE flows SET state = 'REVERTED', failure = ?, finished_at = ?, updated_at = ? \
         WHERE id = ? AND queue = ? AND state = 'PENDING'",
            params![
                serde_json::to_string(&failure).unwrap_or_default(),
                now,
                now,
                id,
                queue
            ],
        )
        .await?;
    if changed == 0 {
        return Ok(false);
    }
    tx.execute("DELETE FROM flow_locks WHERE flow_id = ?", params![id])
        .await?;
    Ok(true)
}

const SUMMARY: &str = "f.id, f.kind, f.queue, f.resource_type, f.resource_id, f.request_id, \
    f.project_id, f.user_id, f.created_at, f.state, f.owner, f.lease_until, f.generation, \
    f.progress, f.failure, f.parked, f.not_before, f.updated_at, f.finished_at, \
    (SELECT a.name FROM flow_atoms a WHERE a.flow_id = f.id AND a.state <> 'REVERTED' \
     ORDER BY a.position DESC LIMIT 1) AS task, \
    (SELECT a.started_at FROM flow_atoms a WHERE a.flow_id = f.id AND a.state <> 'REVERTED' \
     ORDER BY a.position DESC LIMIT 1) AS task_since";

const WAITS_FOR: &str = "SELECT DISTINCT earlier.flow_id FROM flow_locks mine \
    JOIN flow_locks earlier ON earlier.resource_key = mine.resource_key \
    AND earlier.exclusive IN (1, 1 - mine.exclusive) AND earlier.seq < mine.seq \
    WHERE mine.flow_id = ?";

/// Reads the columns that tell what a flow is about.
pub(crate) fn info(row: &Row) -> Result<FlowInfo, database::Error> {
    Ok(FlowInfo {
        id: row.get("id")?,
        kind: row.get("kind")?,
        queue: row.get("queue")?,
        resource_type: row.get("resource_type")?,
        resource_id: row.get("resource_id")?,
        request_id: row.get("request_id")?,
        project_id: row.get("project_id")?,
        user_id: row.get("user_id")?,
        created_at: row.get("created_at")?,
    })
}

fn summary(row: &Row) -> Result<FlowSummary> {
    let failure: Option<String> = row.get("failure")?;
    Ok(FlowSummary {
        info: info(row)?,
        state: row.get("state")?,
        task: row.get("task")?,
        task_since: row.get("task_since")?,
        owner: row.get("owner")?,
        lease_until: row.get("lease_until")?,
        generation: row.get("generation")?,
        progress_percent: row.get("progress")?,
        failure: failure.and_then(|json| serde_json::from_str(&json).ok()),
        parked: row.get("parked")?,
        not_before: row.get("not_before")?,
        updated_at: row.get("updated_at")?,
        finished_at: row.get("finished_at")?,
    })
}

fn atom(row: &Row) -> Result<AtomSummary> {
    let failure: Option<String> = row.get("failure")?;
    Ok(AtomSummary {
        name: row.get("name")?,
        state: row.get("state")?,
        output: row.get("output")?,
        failure: failure.and_then(|json| serde_json::from_str(&json).ok()),
        attempts: row.get("attempts")?,
        started_at: row.get("started_at")?,
        finished_at: row.get("finished_at")?,
    })
}

/// Why a conditional update changed nothing: no such flow, or another state.
async fn not_changed(tx: &mut Tx, id: Uuid, wanted: &'static str) -> Result<Error> {
    let row = tx
        .fetch_optional("SELECT state FROM flows WHERE id = ?", params![id])
        .await?;
    Ok(match row {
        None => Error::NotFound(id),
        Some(row) => Error::WrongState {
            id,
            state: row.get("state")?,
            wanted,
        },
    })
}
