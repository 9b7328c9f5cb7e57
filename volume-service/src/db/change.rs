//! The one shared conditional update: `UPDATE … WHERE id = ? AND status IN (…)`, told apart into
//! done, not found and wrong state.

use database::{Result, Tx, Value, now_us, params};
use uuid::Uuid;

use super::placeholders;

/// What a conditional update came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The row was in one of the expected states and is changed.
    Done,
    /// No live row has this id.
    NotFound,
    /// The row is there and unchanged: it is in this status, or misses an extra condition.
    WrongState { status: String },
}

impl Outcome {
    /// Whether the row was changed.
    pub fn is_done(&self) -> bool {
        *self == Outcome::Done
    }
}

/// A conditional update of one volume, snapshot, backup, group or group snapshot. `updated_at` is always set.
///
/// ```ignore
/// Change::volume(id).when(&["available", "error"]).status("deleting").apply(&mut tx).await?
/// ```
#[derive(Debug)]
pub struct Change {
    table: &'static str,
    id: Uuid,
    assignments: Vec<&'static str>,
    values: Vec<Value>,
    expected: Vec<&'static str>,
    conditions: Vec<&'static str>,
    condition_values: Vec<Value>,
}

impl Change {
    /// A change of the volume `id`; unconditional until [`Change::when`] says otherwise.
    pub fn volume(id: Uuid) -> Self {
        Self::of("volumes", id)
    }

    /// A change of the snapshot `id`.
    pub fn snapshot(id: Uuid) -> Self {
        Self::of("snapshots", id)
    }

    /// A change of the backup `id`.
    pub fn backup(id: Uuid) -> Self {
        Self::of("backups", id)
    }

    /// A change of the group `id`.
    pub fn group(id: Uuid) -> Self {
        Self::of("volume_groups", id)
    }

    /// A change of the group snapshot `id`.
    pub fn group_snapshot(id: Uuid) -> Self {
        Self::of("group_snapshots", id)
    }

    fn of(table: &'static str, id: Uuid) -> Self {
        Change {
            table,
            id,
            assignments: Vec::new(),
            values: Vec::new(),
            expected: Vec::new(),
            conditions: Vec::new(),
            condition_values: Vec::new(),
        }
    }

    /// Only while the row's status is one of these.
    pub fn when(mut self, expected: &[&'static str]) -> Self {
        self.expected.extend_from_slice(expected);
        self
    }

    /// Only while this SQL condition on the row holds (`attach_status = ?`).
    pub fn and(mut self, condition: &'static str, values: &[Value]) -> Self {
        self.conditions.push(condition);
        self.condition_values.extend_from_slice(values);
        self
    }

    /// Sets the status.
    pub fn status(self, status: &str) -> Self {
        self.set("status = ?", status)
    }

    /// One assignment with one value: `.set("size_gib = ?", 5)`.
    pub fn set(mut self, assignment: &'static str, value: impl Into<Value>) -> Self {
        self.assignments.push(assignment);
        self.values.push(value.into());
        self
    }

    /// One assignment from other columns: `.set_expression("previous_status = status")`. It sees
    /// the row before the change, so it stands before any assignment of what it reads (MySQL
    /// assigns from left to right).
    pub fn set_expression(mut self, assignment: &'static str) -> Self {
        self.assignments.insert(0, assignment);
        self
    }

    /// Runs the update.
    pub async fn apply(self, tx: &mut Tx) -> Result<Outcome> {
        let mut sql = format!("UPDATE {} SET ", self.table);
        for assignment in &self.assignments {
            sql.push_str(assignment);
            sql.push_str(", ");
        }
        sql.push_str("updated_at = ? WHERE id = ? AND deleted_at IS NULL");
        let mut values = self.values;
        values.extend_from_slice(params![now_us(), self.id]);
        if !self.expected.is_empty() {
            sql.push_str(&format!(
                " AND status IN ({})",
                placeholders(self.expected.len())
            ));
            values.extend(self.expected.iter().map(|status| Value::from(*status)));
        }
        for condition in &self.conditions {
            sql.push_str(&format!(" AND ({condition})"));
        }
        values.extend(self.condition_values);
        if tx.execute(&sql, &values).await? > 0 {
            return Ok(Outcome::Done);
        }
        let sql = format!(
            "SELECT status FROM {} WHERE id = ? AND deleted_at IS NULL",
            self.table
        );
        match tx.fetch_optional(&sql, params![self.id]).await? {
            None => Ok(Outcome::NotFound),
            Some(row) => Ok(Outcome::WrongState {
                status: row.get("status")?,
            }),
        }
    }
}
