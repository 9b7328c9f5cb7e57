//! Table `volume_exports`: which names may be opened over NBD, and what they open. Whoever knows
//! a name may use it, so names hold a secret.

use database::{Result, Row, Tx, now_us, params};
use uuid::Uuid;

use super::Source;

/// One name that may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    pub name: String,
    pub volume_id: Uuid,
    /// `None`: made by `os-initialize_connection`.
    pub attachment_id: Option<Uuid>,
    /// The client's host, as its connector names it.
    pub client_host: String,
    pub read_only: bool,
}

const COLUMNS: &str = "name, volume_id, attachment_id, client_host, read_only";

impl Export {
    /// A new name for a volume: `volume-<volume id>.<64 random hexadecimal digits>`.
    pub fn new(
        volume_id: Uuid,
        attachment_id: Option<Uuid>,
        client_host: &str,
        read_only: bool,
    ) -> Self {
        let secret = [Uuid::new_v4(), Uuid::new_v4()].map(|random| random.simple().to_string());
        Export {
            name: format!("volume-{volume_id}.{}", secret.concat()),
            volume_id,
            attachment_id,
            client_host: client_host.to_owned(),
            read_only,
        }
    }

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Export {
            name: row.get("name")?,
            volume_id: row.get("volume_id")?,
            attachment_id: row.get("attachment_id")?,
            client_host: row.get("client_host")?,
            read_only: row.get("read_only")?,
        })
    }
}

/// Stores a name.
pub async fn insert(tx: &mut Tx, export: &Export) -> Result<()> {
    let sql = "INSERT INTO volume_exports (name, volume_id, attachment_id, client_host, read_only, created_at) \
               VALUES (?, ?, ?, ?, ?, ?)";
    let values = params![
        &export.name,
        export.volume_id,
        export.attachment_id,
        &export.client_host,
        export.read_only,
        now_us(),
    ];
    tx.execute(sql, values).await?;
    Ok(())
}

/// What a name opens.
pub async fn find<'a>(from: impl Into<Source<'a>>, name: &str) -> Result<Option<Export>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_exports WHERE name = ?");
    let row = from.into().fetch_optional(&sql, params![name]).await?;
    row.as_ref().map(Export::from_row).transpose()
}

/// The name that a host was given without an attachment.
pub async fn of_host(tx: &mut Tx, volume_id: Uuid, client_host: &str) -> Result<Option<Export>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM volume_exports WHERE volume_id = ? AND client_host = ? AND attachment_id IS NULL"
    );
    let row = tx
        .fetch_optional(&sql, params![volume_id, client_host])
        .await?;
    row.as_ref().map(Export::from_row).transpose()
}

/// The names of an attachment open nothing any more.
pub async fn delete_of_attachment(tx: &mut Tx, attachment_id: Uuid) -> Result<()> {
    let sql = "DELETE FROM volume_exports WHERE attachment_id = ?";
    tx.execute(sql, params![attachment_id]).await?;
    Ok(())
}

/// Takes back the names given without an attachment: one host's, or (`None`) every host's.
pub async fn delete_unattached(
    tx: &mut Tx,
    volume_id: Uuid,
    client_host: Option<&str>,
) -> Result<()> {
    match client_host {
        Some(host) => {
            let sql = "DELETE FROM volume_exports WHERE volume_id = ? AND client_host = ? AND attachment_id IS NULL";
            tx.execute(sql, params![volume_id, host]).await?;
        }
        None => {
            let sql = "DELETE FROM volume_exports WHERE volume_id = ? AND attachment_id IS NULL";
            tx.execute(sql, params![volume_id]).await?;
        }
    }
    Ok(())
}

/// The names of one volume open another one.
pub async fn give(tx: &mut Tx, from: Uuid, to: Uuid) -> Result<()> {
    let sql = "UPDATE volume_exports SET volume_id = ? WHERE volume_id = ?";
    tx.execute(sql, params![to, from]).await?;
    Ok(())
}

/// No name opens the volume any more.
pub async fn delete_of_volume(tx: &mut Tx, volume_id: Uuid) -> Result<()> {
    let sql = "DELETE FROM volume_exports WHERE volume_id = ?";
    tx.execute(sql, params![volume_id]).await?;
    Ok(())
}
