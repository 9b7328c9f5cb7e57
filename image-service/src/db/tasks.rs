//! The table `image_tasks`: what clients watch imports and added locations by.

use database::{Database, Error, Result, Row, Tx, Value, now_us, params};
use rest::list_query::{Clause, Column, Columns, Order, Select};
use uuid::Uuid;

use crate::image::{Task, TaskStatus};

const COLUMNS: &str = "t.id, t.type, t.status, t.owner, t.image_id, t.request_id, t.user_id, \
    t.input, t.result, t.message, t.expires_at, t.created_at, t.updated_at";

/// What a list may be sorted by.
pub const SORT_COLUMNS: Columns = Columns {
    columns: &[
        Column::text("status", "t.status"),
        Column::text("type", "t.type"),
        Column::text("owner", "t.owner"),
        Column::int("created_at", "t.created_at"),
        Column::int("updated_at", "t.updated_at"),
        Column::int("expires_at", "t.expires_at").nullable(),
    ],
    id: Column::text("id", "t.id"),
};

fn from_row(row: &Row) -> Result<Task> {
    let decode = |column: &str, reason: String| Error::Decode {
        column: column.to_owned(),
        reason,
    };
    let status: String = row.get("status")?;
    let input: String = row.get("input")?;
    let result: Option<String> = row.get("result")?;
    let json = |column: &'static str, text: &str| {
        serde_json::from_str(text).map_err(|error| decode(column, error.to_string()))
    };
    Ok(Task {
        id: row.get("id")?,
        kind: row.get("type")?,
        status: TaskStatus::parse(&status)
            .ok_or_else(|| decode("status", format!("{status:?} is unknown")))?,
        owner: row.get("owner")?,
        image_id: row.get("image_id")?,
        request_id: row.get("request_id")?,
        user_id: row.get("user_id")?,
        input: json("input", &input)?,
        result: result.map(|text| json("result", &text)).transpose()?,
        message: row.get("message")?,
        expires_at_us: row.get("expires_at")?,
        created_at_us: row.get("created_at")?,
        updated_at_us: row.get("updated_at")?,
    })
}

/// A task that waits for its flow. Expired ones go at the same time.
pub async fn insert(tx: &mut Tx, task: &Task) -> Result<()> {
    let expired = "DELETE FROM image_tasks WHERE expires_at < ?";
    tx.execute(expired, params![now_us()]).await?;
    let sql = "INSERT INTO image_tasks (id, type, status, owner, image_id, request_id, user_id, \
        input, message, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let values = params![
        task.id,
        &task.kind,
        task.status.as_str(),
        &task.owner,
        task.image_id,
        &task.request_id,
        &task.user_id,
        task.input.to_string(),
        &task.message,
        task.created_at_us,
        task.updated_at_us,
    ];
    tx.execute(sql, values).await.map(|_| ())
}

/// The flow has begun.
pub async fn start(tx: &mut Tx, id: Uuid) -> Result<()> {
    let sql = "UPDATE image_tasks SET status = 'processing', updated_at = ? \
        WHERE id = ? AND status = 'pending'";
    tx.execute(sql, params![now_us(), id]).await.map(|_| ())
}

/// How far the flow is, for people.
pub async fn tell(database: &Database, id: Uuid, message: &str) -> Result<()> {
    let sql = "UPDATE image_tasks SET message = ?, updated_at = ? \
        WHERE id = ? AND status = 'processing'";
    let told = database.execute(sql, params![message, now_us(), id]).await;
    told.map(|_| ())
}

/// The flow has ended; what it says stays until it expires.
pub async fn end(
    tx: &mut Tx,
    id: Uuid,
    status: TaskStatus,
    message: &str,
    result: Option<&serde_json::Value>,
    keep_h: u32,
) -> Result<()> {
    let now = now_us();
    let expires_at = now.saturating_add(i64::from(keep_h).saturating_mul(3_600_000_000));
    let sql = "UPDATE image_tasks SET status = ?, message = ?, result = ?, expires_at = ?, \
        updated_at = ? WHERE id = ? AND status IN ('pending', 'processing')";
    let result = result.map(serde_json::Value::to_string);
    let values = params![status.as_str(), message, result, expires_at, now, id];
    tx.execute(sql, values).await.map(|_| ())
}

/// The task, as it is in this transaction.
pub async fn find_in(tx: &mut Tx, id: Uuid) -> Result<Option<Task>> {
    let sql = format!("SELECT {COLUMNS} FROM image_tasks t WHERE t.id = ?");
    let row = tx.fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(from_row).transpose()
}

pub async fn find(database: &Database, id: Uuid) -> Result<Option<Task>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM image_tasks t \
         WHERE t.id = ? AND (t.expires_at IS NULL OR t.expires_at >= ?)"
    );
    let row = database.fetch_optional(&sql, params![id, now_us()]).await?;
    row.as_ref().map(from_row).transpose()
}

/// The tasks of one image, oldest first.
pub async fn of_image(database: &Database, image_id: Uuid) -> Result<Vec<Task>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM image_tasks t \
         WHERE t.image_id = ? AND (t.expires_at IS NULL OR t.expires_at >= ?) \
         ORDER BY t.created_at, t.id"
    );
    let rows = database
        .fetch_all(&sql, params![image_id, now_us()])
        .await?;
    rows.iter().map(from_row).collect()
}

/// A list request, parsed.
#[derive(Debug, Clone)]
pub struct TaskQuery {
    pub status: Option<TaskStatus>,
    pub kind: Option<String>,
    pub order: Order,
    pub marker: Option<Task>,
    pub limit: u32,
}

/// One page of tasks.
pub async fn page(database: &Database, query: TaskQuery) -> Result<Vec<Task>> {
    let marker = query.marker.as_ref();
    let marker = marker.map(|marker| marker_values(&query.order, marker));
    let status = query.status.map(TaskStatus::as_str);
    let live = Clause::raw(
        "(t.expires_at IS NULL OR t.expires_at >= ?)",
        vec![now_us().into()],
    );
    let mut select = Select::new(COLUMNS, "image_tasks t")
        .filter(live)
        .filters(status.map(|status| Clause::equal("t.status", status)))
        .filters(query.kind.map(|kind| Clause::equal("t.type", kind)))
        .order(query.order)
        .limit(query.limit, 0);
    if let Some(marker) = marker {
        select = select.after(marker);
    }
    let (sql, params) = select.build();
    let rows = database.fetch_all(&sql, &params).await?;
    rows.iter().map(from_row).collect()
}

/// The marker's place in the order.
fn marker_values(order: &Order, task: &Task) -> Vec<Value> {
    let value = |column: Column| match column.key {
        "status" => Value::from(task.status.as_str()),
        "type" => Value::from(&task.kind),
        "owner" => Value::from(&task.owner),
        "created_at" => Value::from(task.created_at_us),
        "updated_at" => Value::from(task.updated_at_us),
        "expires_at" => Value::from(task.expires_at_us),
        _ => Value::from(task.id),
    };
    order.marker_columns().map(value).collect()
}
