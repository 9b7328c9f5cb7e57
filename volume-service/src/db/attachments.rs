//! Table `volume_attachments`: who has which volume, and what it was told.

use database::{Result, Row, Tx, Value, now_us, params};
use serde_json::Map;
use uuid::Uuid;

use super::{Source, placeholders, status};

/// The mode of an attachment whose client has not said one (Cinder keeps this word).
pub const MODE_UNSET: &str = "null";

/// A JSON object as clients send and read it.
pub type Document = Map<String, serde_json::Value>;

/// One attachment.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub id: Uuid,
    pub volume_id: Uuid,
    /// The server; none for attachments of anything else.
    pub instance_id: Option<Uuid>,
    pub attached_host: Option<String>,
    pub mountpoint: Option<String>,
    /// `reserved`, `attaching`, `attached`, `detaching`, `error_attaching`, `error_detaching`.
    pub attach_status: String,
    /// `rw`, `ro`, or [`MODE_UNSET`].
    pub attach_mode: String,
    pub connector: Option<Document>,
    pub connection_info: Option<Document>,
    pub attached_at: Option<i64>,
    pub created_at: i64,
    pub updated_at: Option<i64>,
}

pub(crate) const COLUMNS: &str = "id, volume_id, instance_id, attached_host, mountpoint, attach_status, attach_mode, \
    connector, connection_info, attached_at, created_at, updated_at";

impl Attachment {
    /// A reservation that is not stored yet.
    pub fn reserved(volume_id: Uuid, instance_id: Option<Uuid>, mode: &str) -> Self {
        Attachment {
            id: Uuid::new_v4(),
            volume_id,
            instance_id,
            attached_host: None,
            mountpoint: None,
            attach_status: status::RESERVED.to_owned(),
            attach_mode: mode.to_owned(),
            connector: None,
            connection_info: None,
            attached_at: None,
            created_at: now_us(),
            updated_at: None,
        }
    }

    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(Attachment {
            id: row.get("id")?,
            volume_id: row.get("volume_id")?,
            instance_id: row.get("instance_id")?,
            attached_host: row.get("attached_host")?,
            mountpoint: row.get("mountpoint")?,
            attach_status: row.get("attach_status")?,
            attach_mode: row.get("attach_mode")?,
            connector: document(row, "connector")?,
            connection_info: document(row, "connection_info")?,
            attached_at: row.get("attached_at")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
        })
    }

    fn values(&self) -> Vec<Value> {
        let json = |document: &Option<Document>| -> Option<String> {
            let document = document.as_ref()?;
            Some(serde_json::Value::Object(document.clone()).to_string())
        };
        params![
            self.instance_id,
            &self.attached_host,
            &self.mountpoint,
            &self.attach_status,
            &self.attach_mode,
            json(&self.connector),
            json(&self.connection_info),
            self.attached_at,
        ]
        .to_vec()
    }
}

fn document(row: &Row, column: &str) -> Result<Option<Document>> {
    let Some(text) = row.get::<Option<String>>(column)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_str(&text).map_err(|error| database::Error::Decode {
        column: column.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Some(parsed))
}

/// Stores a new attachment.
pub async fn insert(tx: &mut Tx, attachment: &Attachment) -> Result<()> {
    let sql = "INSERT INTO volume_attachments (id, volume_id, created_at, instance_id, attached_host, mountpoint, \
               attach_status, attach_mode, connector, connection_info, attached_at) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let mut values = params![attachment.id, attachment.volume_id, attachment.created_at].to_vec();
    values.extend(attachment.values());
    tx.execute(sql, &values).await?;
    Ok(())
}

/// Writes everything that may change; whether the attachment is still there.
pub async fn update(tx: &mut Tx, attachment: &Attachment) -> Result<bool> {
    let sql = "UPDATE volume_attachments SET instance_id = ?, attached_host = ?, mountpoint = ?, attach_status = ?, \
               attach_mode = ?, connector = ?, connection_info = ?, attached_at = ?, updated_at = ? WHERE id = ?";
    let mut values = attachment.values();
    values.extend_from_slice(params![now_us(), attachment.id]);
    Ok(tx.execute(sql, &values).await? > 0)
}

/// The attachment `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<Attachment>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_attachments WHERE id = ?");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Attachment::from_row).transpose()
}

/// The attachments of a volume, oldest first.
pub async fn of_volume<'a>(
    from: impl Into<Source<'a>>,
    volume_id: Uuid,
) -> Result<Vec<Attachment>> {
    of_volumes(from, &[volume_id]).await
}

/// The attachments of many volumes in one read, oldest first.
pub async fn of_volumes<'a>(
    from: impl Into<Source<'a>>,
    volume_ids: &[Uuid],
) -> Result<Vec<Attachment>> {
    if volume_ids.is_empty() {
        return Ok(Vec::new());
    }
    let list = placeholders(volume_ids.len());
    let sql = format!(
        "SELECT {COLUMNS} FROM volume_attachments WHERE volume_id IN ({list}) ORDER BY created_at, id"
    );
    let values: Vec<_> = volume_ids.iter().map(Value::from).collect();
    let rows = from.into().fetch_all(&sql, &values).await?;
    rows.iter().map(Attachment::from_row).collect()
}

/// The `attach_status` that a volume has by its attachments: of those without an error the first
/// in the alphabet (attached, attaching, detaching, reserved); `detached` without any.
pub async fn status_of_volume(tx: &mut Tx, volume_id: Uuid) -> Result<String> {
    let sql = "SELECT MIN(attach_status) AS first_status FROM volume_attachments \
               WHERE volume_id = ? AND attach_status NOT LIKE 'error%'";
    let first: Option<String> = tx
        .fetch_one(sql, params![volume_id])
        .await?
        .get("first_status")?;
    Ok(first.unwrap_or_else(|| status::DETACHED.to_owned()))
}

/// The attachments of one volume are another's, and what they were told names that one.
pub async fn give(tx: &mut Tx, from: Uuid, to: Uuid) -> Result<()> {
    let sql = "UPDATE volume_attachments SET volume_id = ? WHERE id = ?";
    for mut attachment in of_volume(&mut *tx, from).await? {
        tx.execute(sql, params![to, attachment.id]).await?;
        if let Some(info) = &mut attachment.connection_info
            && info.contains_key("volume_id")
        {
            info.insert("volume_id".to_owned(), to.to_string().into());
            update(tx, &attachment).await?;
        }
    }
    Ok(())
}

/// Removes one attachment; whether it was there.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<bool> {
    let sql = "DELETE FROM volume_attachments WHERE id = ?";
    Ok(tx.execute(sql, params![id]).await? > 0)
}

/// Removes all attachments of a volume.
pub async fn delete_of_volume(tx: &mut Tx, volume_id: Uuid) -> Result<()> {
    let sql = "DELETE FROM volume_attachments WHERE volume_id = ?";
    tx.execute(sql, params![volume_id]).await?;
    Ok(())
}
