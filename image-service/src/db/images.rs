//! The table `images`: reading one image, and the conditional updates that move its status.

use database::{Database, Result, Row, Tx, now_us, params};
use uuid::Uuid;

use super::properties;
use crate::image::{Image, Status, Visibility};

/// The columns that [`from_row`] reads, of the table aliased `i`.
pub const COLUMNS: &str = "i.id, i.name, i.status, i.visibility, i.owner, i.protected, i.os_hidden, \
    i.container_format, i.disk_format, i.min_ram_mib, i.min_disk_gib, i.size_bytes, \
    i.virtual_size_bytes, i.checksum, i.os_hash_algo, i.os_hash_value, i.upload_id, \
    i.created_at, i.updated_at";

/// An image without its properties and tags.
pub fn from_row(row: &Row) -> Result<Image> {
    let unknown = |column: &str, word: &str| database::Error::Decode {
        column: column.to_owned(),
        reason: format!("{word:?} is unknown"),
    };
    let status: String = row.get("status")?;
    let visibility: String = row.get("visibility")?;
    Ok(Image {
        id: row.get("id")?,
        name: row.get("name")?,
        status: Status::parse(&status).ok_or_else(|| unknown("status", &status))?,
        visibility: Visibility::parse(&visibility)
            .ok_or_else(|| unknown("visibility", &visibility))?,
        owner: row.get("owner")?,
        protected: row.get("protected")?,
        os_hidden: row.get("os_hidden")?,
        container_format: row.get("container_format")?,
        disk_format: row.get("disk_format")?,
        min_ram_mib: row.get("min_ram_mib")?,
        min_disk_gib: row.get("min_disk_gib")?,
        size_bytes: row.get("size_bytes")?,
        virtual_size_bytes: row.get("virtual_size_bytes")?,
        checksum: row.get("checksum")?,
        os_hash_algo: row.get("os_hash_algo")?,
        os_hash_value: row.get("os_hash_value")?,
        upload_id: row.get("upload_id")?,
        created_at_us: row.get("created_at")?,
        updated_at_us: row.get("updated_at")?,
        properties: Default::default(),
        tags: Default::default(),
    })
}

/// The live image with its properties and tags.
pub async fn find(database: &Database, id: Uuid) -> Result<Option<Image>> {
    let sql = format!("SELECT {COLUMNS} FROM images i WHERE i.id = ? AND i.deleted_at IS NULL");
    let Some(row) = database.fetch_optional(&sql, params![id]).await? else {
        return Ok(None);
    };
    let mut images = vec![from_row(&row)?];
    properties::load(database, &mut images).await?;
    Ok(images.pop())
}

/// Locks the live image for the rest of the transaction and reads it: the update comes first, so
/// that on every server two writers of one image come one after the other.
pub async fn find_locked(tx: &mut Tx, id: Uuid) -> Result<Option<Image>> {
    let lock = "UPDATE images SET updated_at = updated_at WHERE id = ? AND deleted_at IS NULL";
    if tx.execute(lock, params![id]).await? == 0 {
        return Ok(None);
    }
    let sql = format!("SELECT {COLUMNS} FROM images i WHERE i.id = ? AND i.deleted_at IS NULL");
    let Some(row) = tx.fetch_optional(&sql, params![id]).await? else {
        return Ok(None);
    };
    let mut image = from_row(&row)?;
    properties::load_one(tx, &mut image).await?;
    Ok(Some(image))
}

/// A new row with properties and tags. [`database::Error::Constraint`]: the id was given out before.
pub async fn insert(tx: &mut Tx, image: &Image) -> Result<()> {
    let sql = "INSERT INTO images (id, name, status, visibility, owner, protected, os_hidden, \
        container_format, disk_format, min_ram_mib, min_disk_gib, size_bytes, virtual_size_bytes, \
        checksum, os_hash_algo, os_hash_value, created_at, updated_at) \
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    tx.execute(
        sql,
        params![
            image.id,
            &image.name,
            image.status.as_str(),
            image.visibility.as_str(),
            &image.owner,
            image.protected,
            image.os_hidden,
            &image.container_format,
            &image.disk_format,
            image.min_ram_mib,
            image.min_disk_gib,
            bytes_column(image.size_bytes),
            bytes_column(image.virtual_size_bytes),
            &image.checksum,
            &image.os_hash_algo,
            &image.os_hash_value,
            image.created_at_us,
            image.updated_at_us,
        ],
    )
    .await?;
    properties::replace(tx, image).await
}

/// Writes what a client may change, properties and tags included, and sets `updated_at`.
pub async fn update(tx: &mut Tx, image: &mut Image) -> Result<()> {
    image.updated_at_us = now_us();
    let sql = "UPDATE images SET name = ?, visibility = ?, owner = ?, protected = ?, os_hidden = ?, \
        container_format = ?, disk_format = ?, min_ram_mib = ?, min_disk_gib = ?, updated_at = ? \
        WHERE id = ? AND deleted_at IS NULL";
    tx.execute(
        sql,
        params![
            &image.name,
            image.visibility.as_str(),
            &image.owner,
            image.protected,
            image.os_hidden,
            &image.container_format,
            &image.disk_format,
            image.min_ram_mib,
            image.min_disk_gib,
            image.updated_at_us,
            image.id,
        ],
    )
    .await?;
    properties::replace(tx, image).await
}

/// Moves the status if it is `from` now. `false`: it is another one, or the image is gone.
pub async fn move_status(tx: &mut Tx, id: Uuid, from: Status, to: Status) -> Result<bool> {
    let sql = "UPDATE images SET status = ?, updated_at = ? \
        WHERE id = ? AND status = ? AND deleted_at IS NULL";
    let moved = tx
        .execute(sql, params![to.as_str(), now_us(), id, from.as_str()])
        .await?;
    Ok(moved == 1)
}

/// queued → saving for one upload. `false`: the image is not queued any more.
pub async fn begin_upload(tx: &mut Tx, id: Uuid, upload_id: Uuid) -> Result<bool> {
    let sql = "UPDATE images SET status = 'saving', upload_id = ?, updated_at = ? \
        WHERE id = ? AND status = 'queued' AND deleted_at IS NULL \
        AND container_format IS NOT NULL AND disk_format IS NOT NULL";
    Ok(tx.execute(sql, params![upload_id, now_us(), id]).await? == 1)
}

/// queued → uploading for data that is staged. `false`: the image is not queued any more.
pub async fn begin_stage(tx: &mut Tx, id: Uuid, upload_id: Uuid) -> Result<bool> {
    let sql = "UPDATE images SET status = 'uploading', upload_id = ?, updated_at = ? \
        WHERE id = ? AND status = 'queued' AND deleted_at IS NULL";
    Ok(tx.execute(sql, params![upload_id, now_us(), id]).await? == 1)
}

/// The data is staged: the status stays `uploading`, and the upload is over. `false`: the image
/// was deleted.
pub async fn finish_stage(tx: &mut Tx, id: Uuid, upload_id: Uuid, size_bytes: u64) -> Result<bool> {
    let sql = "UPDATE images SET upload_id = NULL, size_bytes = ?, updated_at = ? \
        WHERE id = ? AND status = 'uploading' AND upload_id = ? AND deleted_at IS NULL";
    let values = params![bytes_column(Some(size_bytes)), now_us(), id, upload_id];
    Ok(tx.execute(sql, values).await? == 1)
}

/// What an upload has found out about the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data<'a> {
    pub size_bytes: u64,
    pub virtual_size_bytes: Option<u64>,
    pub checksum: &'a str,
    pub os_hash_algo: &'a str,
    pub os_hash_value: &'a str,
}

/// saving → active. `false`: the image was deleted, or belongs to another upload.
pub async fn finish_upload(
    tx: &mut Tx,
    id: Uuid,
    upload_id: Uuid,
    data: &Data<'_>,
) -> Result<bool> {
    let sql = "UPDATE images SET status = 'active', upload_id = NULL, size_bytes = ?, \
        virtual_size_bytes = ?, checksum = ?, os_hash_algo = ?, os_hash_value = ?, updated_at = ? \
        WHERE id = ? AND status = 'saving' AND upload_id = ? AND deleted_at IS NULL";
    let finished = tx
        .execute(
            sql,
            params![
                bytes_column(Some(data.size_bytes)),
                bytes_column(data.virtual_size_bytes),
                data.checksum,
                data.os_hash_algo,
                data.os_hash_value,
                now_us(),
                id,
                upload_id,
            ],
        )
        .await?;
    Ok(finished == 1)
}

/// Hashes of the data of an image that has none yet, and has not been deleted.
pub async fn set_hashes(
    tx: &mut Tx,
    id: Uuid,
    checksum: &str,
    algorithm: &str,
    value: &str,
) -> Result<()> {
    let sql = "UPDATE images SET checksum = ?, os_hash_algo = ?, os_hash_value = ?, updated_at = ? \
        WHERE id = ? AND status IN ('active', 'deactivated') AND checksum IS NULL \
        AND deleted_at IS NULL";
    let values = params![checksum, algorithm, value, now_us(), id];
    tx.execute(sql, values).await.map(|_| ())
}

/// saving or uploading → queued, with nothing left of the data's attributes. Does nothing for
/// another upload.
pub async fn abandon_upload(tx: &mut Tx, id: Uuid, upload_id: Uuid) -> Result<()> {
    let sql = "UPDATE images SET status = 'queued', upload_id = NULL, size_bytes = NULL, \
        virtual_size_bytes = NULL, checksum = NULL, os_hash_algo = NULL, os_hash_value = NULL, \
        updated_at = ? \
        WHERE id = ? AND status IN ('saving', 'uploading') AND upload_id = ? \
        AND deleted_at IS NULL";
    tx.execute(sql, params![now_us(), id, upload_id])
        .await
        .map(|_| ())
}

/// Whether the upload still owns the image: `false` once the image is deleted or the upload ended.
pub async fn is_uploading(database: &Database, id: Uuid, upload_id: Uuid) -> Result<bool> {
    let sql = "SELECT id FROM images WHERE id = ? AND upload_id = ? AND deleted_at IS NULL";
    Ok(database
        .fetch_optional(sql, params![id, upload_id])
        .await?
        .is_some())
}

/// Marks the image deleted and drops its properties, tags and members. Its locations stay until
/// the data is gone. `false`: it is deleted already, or protected.
pub async fn mark_deleted(tx: &mut Tx, id: Uuid) -> Result<bool> {
    let now = now_us();
    let sql = "UPDATE images SET status = 'deleted', upload_id = NULL, deleted_at = ?, updated_at = ? \
        WHERE id = ? AND protected = 0 AND deleted_at IS NULL";
    if tx.execute(sql, params![now, now, id]).await? == 0 {
        return Ok(false);
    }
    for table in ["image_properties", "image_tags", "image_members"] {
        tx.execute(
            &format!("DELETE FROM {table} WHERE image_id = ?"),
            params![id],
        )
        .await?;
    }
    Ok(true)
}

/// Sizes are checked against `image_size_cap` before they get here, so that they fit.
pub(super) fn bytes_column(bytes: Option<u64>) -> Option<i64> {
    bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
}
