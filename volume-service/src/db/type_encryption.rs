//! Table `volume_type_encryption`: how volumes of a type are encrypted.

use database::{Result, Tx, now_us, params};
use uuid::Uuid;

use super::Source;

/// The encryption of one volume type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeEncryption {
    pub id: Uuid,
    pub volume_type_id: Uuid,
    /// The encryptor's class, `luks` for instance.
    pub provider: String,
    /// `front-end` or `back-end`.
    pub control_location: String,
    /// `aes-xts-plain64`
    pub cipher: Option<String>,
    /// Bits.
    pub key_size: Option<i64>,
    pub created_at: i64,
    pub updated_at: Option<i64>,
}

/// The encryption of a type, if it has any.
pub async fn get<'a>(
    from: impl Into<Source<'a>>,
    volume_type_id: Uuid,
) -> Result<Option<TypeEncryption>> {
    let sql = "SELECT id, volume_type_id, provider, control_location, cipher, key_size, created_at, updated_at \
               FROM volume_type_encryption WHERE volume_type_id = ?";
    let row = from
        .into()
        .fetch_optional(sql, params![volume_type_id])
        .await?;
    row.map(|row| {
        Ok(TypeEncryption {
            id: row.get("id")?,
            volume_type_id: row.get("volume_type_id")?,
            provider: row.get("provider")?,
            control_location: row.get("control_location")?,
            cipher: row.get("cipher")?,
            key_size: row.get("key_size")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
        })
    })
    .transpose()
}

/// Inserts it. `Error::Constraint` when the type has one.
pub async fn insert(tx: &mut Tx, new: &TypeEncryption) -> Result<()> {
    let sql = "INSERT INTO volume_type_encryption (id, volume_type_id, provider, control_location, cipher, key_size, \
               created_at) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let values = params![
        new.id,
        new.volume_type_id,
        &new.provider,
        &new.control_location,
        &new.cipher,
        new.key_size,
        new.created_at,
    ];
    tx.execute(sql, values).await?;
    Ok(())
}

/// Writes everything but ids and times.
pub async fn update(tx: &mut Tx, changed: &TypeEncryption) -> Result<()> {
    let sql = "UPDATE volume_type_encryption SET provider = ?, control_location = ?, cipher = ?, key_size = ?, \
               updated_at = ? WHERE volume_type_id = ?";
    let values = params![
        &changed.provider,
        &changed.control_location,
        &changed.cipher,
        changed.key_size,
        now_us(),
        changed.volume_type_id,
    ];
    tx.execute(sql, values).await?;
    Ok(())
}

/// Removes it; whether there was any.
pub async fn delete(tx: &mut Tx, volume_type_id: Uuid) -> Result<bool> {
    let sql = "DELETE FROM volume_type_encryption WHERE volume_type_id = ?";
    Ok(tx.execute(sql, params![volume_type_id]).await? > 0)
}
