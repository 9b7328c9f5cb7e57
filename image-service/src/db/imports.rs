//! The marks of an operation that runs on an image: properties that clients see and cannot write,
//! and the status that goes with them. One of them is the lock: its value is the task's id.

use std::collections::BTreeSet;

use database::{Database, Result, Tx, now_us, params};
use uuid::Uuid;

use super::images::{self, Data};
use crate::image::{Image, Status};

/// The task that works on the image.
pub const LOCK: &str = "os_glance_import_task";
/// The stores that data still goes to, separated by commas.
pub const IMPORTING: &str = "os_glance_importing_to_stores";
/// The stores that could not be written, separated by commas.
pub const FAILED: &str = "os_glance_failed_import";

/// Whether an operation runs on the image.
pub fn is_locked(image: &Image) -> bool {
    image.properties.contains_key(LOCK)
}

/// Marks an image that [`images::find_locked`] has just read as worked on by the task. Its status
/// becomes `to`, if that is given.
pub async fn lock(
    tx: &mut Tx,
    image: &Image,
    task_id: Uuid,
    to: Option<Status>,
    stores: &[String],
) -> Result<()> {
    set_property(tx, image.id, LOCK, &task_id.to_string()).await?;
    if !stores.is_empty() {
        add_stores(tx, image.id, IMPORTING, stores).await?;
        remove_stores(tx, image.id, FAILED, stores).await?;
    }
    if let Some(to) = to {
        images::move_status(tx, image.id, image.status, to).await?;
    }
    Ok(())
}

/// Takes the task's mark away. `false`: it is not there (any more).
pub async fn unlock(tx: &mut Tx, image_id: Uuid, task_id: Uuid) -> Result<bool> {
    let sql = "DELETE FROM image_properties WHERE image_id = ? AND name = ? AND value = ?";
    let values = params![image_id, LOCK, task_id.to_string()];
    Ok(tx.execute(sql, values).await? == 1)
}

/// Whether the task still works on the image: `false` once the image is deleted.
pub async fn holds_lock(database: &Database, image_id: Uuid, task_id: Uuid) -> Result<bool> {
    let sql = "SELECT image_id FROM image_properties WHERE image_id = ? AND name = ? AND value = ?";
    let values = params![image_id, LOCK, task_id.to_string()];
    Ok(database.fetch_optional(sql, values).await?.is_some())
}

/// As [`holds_lock`], for a transaction that goes on to write.
pub async fn still_locked(tx: &mut Tx, image_id: Uuid, task_id: Uuid) -> Result<bool> {
    let sql = "UPDATE image_properties SET value = value \
        WHERE image_id = ? AND name = ? AND value = ?";
    let values = params![image_id, LOCK, task_id.to_string()];
    Ok(tx.execute(sql, values).await? == 1)
}

/// The stores have their data, or will not get it: nothing goes to them any more.
pub async fn end_stores(
    tx: &mut Tx,
    image_id: Uuid,
    stores: &[String],
    failed: &[String],
) -> Result<()> {
    remove_stores(tx, image_id, IMPORTING, stores).await?;
    add_stores(tx, image_id, FAILED, failed).await
}

async fn stores_of(tx: &mut Tx, image_id: Uuid, name: &str) -> Result<BTreeSet<String>> {
    let sql = "SELECT value FROM image_properties WHERE image_id = ? AND name = ?";
    let row = tx.fetch_optional(sql, params![image_id, name]).await?;
    let value: Option<String> = row.map(|row| row.get("value")).transpose()?.flatten();
    let words = value.unwrap_or_default();
    let stores = words.split(',').filter(|store| !store.is_empty());
    Ok(stores.map(str::to_owned).collect())
}

async fn add_stores(tx: &mut Tx, image_id: Uuid, name: &str, stores: &[String]) -> Result<()> {
    let mut listed = stores_of(tx, image_id, name).await?;
    listed.extend(stores.iter().filter(|store| !store.is_empty()).cloned());
    write_stores(tx, image_id, name, &listed).await
}

async fn remove_stores(tx: &mut Tx, image_id: Uuid, name: &str, stores: &[String]) -> Result<()> {
    let mut listed = stores_of(tx, image_id, name).await?;
    listed.retain(|store| !stores.contains(store));
    write_stores(tx, image_id, name, &listed).await
}

async fn write_stores(
    tx: &mut Tx,
    image_id: Uuid,
    name: &str,
    stores: &BTreeSet<String>,
) -> Result<()> {
    let stores: Vec<&str> = stores.iter().map(String::as_str).collect();
    set_property(tx, image_id, name, &stores.join(",")).await
}

/// Writes one property of an image that is still there.
async fn set_property(tx: &mut Tx, image_id: Uuid, name: &str, value: &str) -> Result<()> {
    let update = "UPDATE image_properties SET value = ? WHERE image_id = ? AND name = ?";
    if tx.execute(update, params![value, image_id, name]).await? == 1 {
        return Ok(());
    }
    let insert = "INSERT INTO image_properties (image_id, name, value) \
        SELECT id, ?, ? FROM images WHERE id = ? AND deleted_at IS NULL";
    let written = tx.execute(insert, params![name, value, image_id]).await;
    written.map(|_| ())
}

/// importing → active with what is known of the data. `false`: the image was deleted.
pub async fn activate(tx: &mut Tx, id: Uuid, data: &Data<'_>) -> Result<bool> {
    let sql = "UPDATE images SET status = 'active', size_bytes = ?, virtual_size_bytes = ?, \
        checksum = ?, os_hash_algo = ?, os_hash_value = ?, updated_at = ? \
        WHERE id = ? AND status = 'importing' AND deleted_at IS NULL";
    let values = params![
        images::bytes_column(Some(data.size_bytes)),
        images::bytes_column(data.virtual_size_bytes),
        data.checksum,
        data.os_hash_algo,
        data.os_hash_value,
        now_us(),
        id,
    ];
    Ok(tx.execute(sql, values).await? == 1)
}

/// importing (or active, where a location made it so) → queued, with nothing left of the data.
pub async fn back_to_queued(tx: &mut Tx, id: Uuid) -> Result<()> {
    let sql = "UPDATE images SET status = 'queued', size_bytes = NULL, virtual_size_bytes = NULL, \
        checksum = NULL, os_hash_algo = NULL, os_hash_value = NULL, updated_at = ? \
        WHERE id = ? AND status IN ('importing', 'active') AND deleted_at IS NULL";
    tx.execute(sql, params![now_us(), id]).await.map(|_| ())
}

/// What a location brings to a queued image.
#[derive(Debug, Clone, Copy)]
pub struct LocationData<'a> {
    pub size_bytes: Option<u64>,
    pub os_hash_algo: Option<&'a str>,
    pub os_hash_value: Option<&'a str>,
    /// Whether the image is active now, or importing until its hash is verified.
    pub is_final: bool,
}

/// queued → active or importing. `false`: the image is not queued any more.
pub async fn begin_location(tx: &mut Tx, id: Uuid, data: &LocationData<'_>) -> Result<bool> {
    let to = match data.is_final {
        true => Status::Active,
        false => Status::Importing,
    };
    let sql = "UPDATE images SET status = ?, size_bytes = ?, os_hash_algo = ?, os_hash_value = ?, \
        updated_at = ? WHERE id = ? AND status = 'queued' AND deleted_at IS NULL";
    let values = params![
        to.as_str(),
        images::bytes_column(data.size_bytes),
        data.os_hash_algo,
        data.os_hash_value,
        now_us(),
        id,
    ];
    Ok(tx.execute(sql, values).await? == 1)
}

/// importing or active → active, with MD5 and hash of the data; `None`: it could not be read.
pub async fn finish_location(tx: &mut Tx, id: Uuid, hashes: Option<(&str, &str)>) -> Result<()> {
    let algorithm = match hashes {
        Some(_) => "os_hash_algo",
        None => "NULL",
    };
    let (checksum, value) = hashes.unzip();
    let sql = format!(
        "UPDATE images SET status = 'active', checksum = ?, os_hash_algo = {algorithm}, \
         os_hash_value = ?, updated_at = ? \
         WHERE id = ? AND status IN ('importing', 'active') AND deleted_at IS NULL"
    );
    let values = params![checksum, value, now_us(), id];
    tx.execute(&sql, values).await.map(|_| ())
}

/// What the first location of a queued image says of the data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchedData {
    pub size_bytes: Option<u64>,
    pub checksum: Option<String>,
    pub os_hash_algo: Option<String>,
    pub os_hash_value: Option<String>,
}

/// queued → active, by a location that a client wrote.
pub async fn activate_patched(tx: &mut Tx, id: Uuid, data: &PatchedData) -> Result<()> {
    let sql = "UPDATE images SET status = 'active', size_bytes = ?, checksum = ?, \
        os_hash_algo = ?, os_hash_value = ?, updated_at = ? \
        WHERE id = ? AND status = 'queued' AND deleted_at IS NULL";
    let values = params![
        images::bytes_column(data.size_bytes),
        &data.checksum,
        &data.os_hash_algo,
        &data.os_hash_value,
        now_us(),
        id,
    ];
    tx.execute(sql, values).await.map(|_| ())
}
