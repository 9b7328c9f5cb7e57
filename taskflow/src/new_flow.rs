//! Flows come into being: inserted in the transaction that writes the resource's row.

use database::{Tx, now_us, params};
use uuid::Uuid;

use crate::{Error, Flow, Result, state};

/// A flow that is about to be inserted.
#[derive(Debug, Clone)]
pub struct NewFlow {
    id: Uuid,
    kind: &'static str,
    params: String,
    queue: String,
    resource_type: String,
    resource_id: String,
    request_id: String,
    project_id: String,
    user_id: String,
    not_before: i64,
    locks: Vec<(String, bool)>,
}

impl NewFlow {
    /// A flow of kind `F`. Its queue is `F::KIND` unless [`NewFlow::queue`] names another.
    pub fn of<F: Flow>(params: &F::Params) -> Result<Self> {
        let json = serde_json::to_string(params).map_err(|error| Error::Params {
            kind: F::KIND,
            reason: error.to_string(),
        })?;
        Ok(NewFlow {
            id: Uuid::new_v4(),
            kind: F::KIND,
            params: json,
            queue: F::KIND.to_owned(),
            resource_type: String::new(),
            resource_id: String::new(),
            request_id: String::new(),
            project_id: String::new(),
            user_id: String::new(),
            not_before: 0,
            locks: Vec::new(),
        })
    }

    /// The id the flow will have.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The workers of this queue run the flow.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into();
        self
    }

    /// What the flow is about, for operators: `("volume", volume_id)`.
    pub fn resource(mut self, kind: impl Into<String>, id: impl ToString) -> Self {
        (self.resource_type, self.resource_id) = (kind.into(), id.to_string());
        self
    }

    /// Who asked for it.
    pub fn request(
        mut self,
        request_id: impl Into<String>,
        project_id: impl Into<String>,
        user_id: impl Into<String>,
    ) -> Self {
        self.request_id = request_id.into();
        self.project_id = project_id.into();
        self.user_id = user_id.into();
        self
    }

    /// Waits until no earlier unfinished flow holds any lock on `resource_key`
    /// (`volume/<id>`), and makes every later one wait.
    pub fn lock_exclusive(self, resource_key: impl Into<String>) -> Self {
        self.lock(resource_key.into(), true)
    }

    /// Waits until no earlier unfinished flow holds an exclusive lock on `resource_key`, and
    /// makes later exclusive ones wait.
    pub fn lock_shared(self, resource_key: impl Into<String>) -> Self {
        self.lock(resource_key.into(), false)
    }

    fn lock(mut self, key: String, exclusive: bool) -> Self {
        match self.locks.iter_mut().find(|(held, _)| *held == key) {
            Some((_, held)) => *held |= exclusive,
            None => self.locks.push((key, exclusive)),
        }
        self
    }

    /// Not claimed before `time_us` (microseconds since the epoch).
    pub fn not_before(mut self, time_us: i64) -> Self {
        self.not_before = time_us;
        self
    }

    /// Inserts the flow; it exists when `tx` commits. Ring the worker's doorbell after that.
    pub async fn insert(self, tx: &mut Tx) -> Result<Uuid> {
        let next = "SELECT COALESCE(MAX(seq), 0) + 1 AS seq FROM flows";
        let seq: i64 = tx.fetch_one(next, params![]).await?.get("seq")?;
        let now = now_us();
        tx.execute(
            "INSERT INTO flows (id, seq, kind, queue, state, params, resource_type, resource_id, \
             request_id, project_id, user_id, generation, progress, not_before, created_at, \
             updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?)",
            params![
                self.id,
                seq,
                self.kind,
                self.queue,
                state::PENDING,
                self.params,
                self.resource_type,
                self.resource_id,
                self.request_id,
                self.project_id,
                self.user_id,
                self.not_before,
                now,
                now
            ],
        )
        .await?;
        for (key, exclusive) in self.locks {
            tx.execute(
                "INSERT INTO flow_locks (flow_id, seq, resource_key, exclusive) VALUES (?, ?, ?, ?)",
                params![self.id, seq, key, exclusive],
            )
            .await?;
        }
        Ok(self.id)
    }
}
