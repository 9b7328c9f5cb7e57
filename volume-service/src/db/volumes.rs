//! Table `volumes`.

use std::collections::HashMap;

use database::{Result, Row, Tx, now_us, params};
use uuid::Uuid;

use super::{
    Change, Outcome, Source, attachments, exports, metadata, placeholders, placements, status,
};

/// One live volume.
#[derive(Debug, Clone)]
pub struct Volume {
    pub id: Uuid,
    pub user_id: String,
    pub project_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    /// The status to go back to after a backup, an upload, a retype.
    pub previous_status: Option<String>,
    pub attach_status: String,
    pub migration_status: Option<String>,
    pub size_gib: u32,
    pub availability_zone: String,
    /// `host@backend#pool`; none until the scheduler has chosen.
    pub host: Option<String>,
    pub service_uuid: Option<Uuid>,
    pub volume_type_id: Uuid,
    /// The group it belongs to.
    pub group_id: Option<Uuid>,
    pub snapshot_id: Option<Uuid>,
    pub source_volid: Option<Uuid>,
    pub bootable: bool,
    pub multiattach: bool,
    /// The admin metadata `readonly`; none until somebody set it.
    pub readonly: Option<bool>,
    pub replication_status: Option<String>,
    pub provider_id: Option<String>,
    /// The id in the name of its image, where that is not its own.
    pub name_id: Option<Uuid>,
    /// The key manager's name of its key; none: not encrypted.
    pub encryption_key_id: Option<Uuid>,
    /// Temporary volumes do not count against the project's quota.
    pub consumes_quota: bool,
    /// Microseconds since the epoch, as all times here.
    pub created_at: i64,
    pub updated_at: Option<i64>,
    pub scheduled_at: Option<i64>,
    pub launched_at: Option<i64>,
    pub terminated_at: Option<i64>,
}

pub(crate) const COLUMNS: &str = "id, user_id, project_id, name, description, status, previous_status, \
    attach_status, migration_status, size_gib, availability_zone, host, service_uuid, volume_type_id, \
    group_id, snapshot_id, source_volid, bootable, multiattach, readonly, replication_status, provider_id, \
    name_id, encryption_key_id, consumes_quota, created_at, updated_at, scheduled_at, launched_at, terminated_at";

impl Volume {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(Volume {
            id: row.get("id")?,
            user_id: row.get("user_id")?,
            project_id: row.get("project_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            status: row.get("status")?,
            previous_status: row.get("previous_status")?,
            attach_status: row.get("attach_status")?,
            migration_status: row.get("migration_status")?,
            size_gib: row.get("size_gib")?,
            availability_zone: row.get("availability_zone")?,
            host: row.get("host")?,
            service_uuid: row.get("service_uuid")?,
            volume_type_id: row.get("volume_type_id")?,
            group_id: row.get("group_id")?,
            snapshot_id: row.get("snapshot_id")?,
            source_volid: row.get("source_volid")?,
            bootable: row.get("bootable")?,
            multiattach: row.get("multiattach")?,
            readonly: row.get("readonly")?,
            replication_status: row.get("replication_status")?,
            provider_id: row.get("provider_id")?,
            name_id: row.get("name_id")?,
            encryption_key_id: row.get("encryption_key_id")?,
            consumes_quota: row.get("consumes_quota")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
            scheduled_at: row.get("scheduled_at")?,
            launched_at: row.get("launched_at")?,
            terminated_at: row.get("terminated_at")?,
        })
    }

    /// The id in the name of its image.
    pub fn image_id(&self) -> Uuid {
        self.name_id.unwrap_or(self.id)
    }
}

/// A new volume, as the API inserts it: status `creating`, detached.
#[derive(Debug, Clone)]
pub struct NewVolume {
    pub id: Uuid,
    pub user_id: String,
    pub project_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub size_gib: u32,
    pub availability_zone: String,
    pub host: Option<String>,
    pub volume_type_id: Uuid,
    pub snapshot_id: Option<Uuid>,
    pub source_volid: Option<Uuid>,
    pub multiattach: bool,
    pub encryption_key_id: Option<Uuid>,
    pub consumes_quota: bool,
}

/// Inserts a volume in status `creating`; returns it.
pub async fn insert(tx: &mut Tx, new: NewVolume) -> Result<Volume> {
    let volume = Volume {
        id: new.id,
        user_id: new.user_id,
        project_id: new.project_id,
        name: new.name,
        description: new.description,
        status: status::CREATING.to_owned(),
        previous_status: None,
        attach_status: status::DETACHED.to_owned(),
        migration_status: None,
        size_gib: new.size_gib,
        availability_zone: new.availability_zone,
        host: new.host,
        service_uuid: None,
        volume_type_id: new.volume_type_id,
        group_id: None,
        snapshot_id: new.snapshot_id,
        source_volid: new.source_volid,
        bootable: false,
        multiattach: new.multiattach,
        readonly: None,
        replication_status: None,
        provider_id: None,
        name_id: None,
        encryption_key_id: new.encryption_key_id,
        consumes_quota: new.consumes_quota,
        created_at: now_us(),
        updated_at: None,
        scheduled_at: None,
        launched_at: None,
        terminated_at: None,
    };
    tx.execute(
        "INSERT INTO volumes (id, user_id, project_id, name, description, status, attach_status, size_gib, \
         availability_zone, host, volume_type_id, snapshot_id, source_volid, bootable, multiattach, \
         encryption_key_id, consumes_quota, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            volume.id,
            &volume.user_id,
            &volume.project_id,
            &volume.name,
            &volume.description,
            &volume.status,
            &volume.attach_status,
            volume.size_gib,
            &volume.availability_zone,
            &volume.host,
            volume.volume_type_id,
            volume.snapshot_id,
            volume.source_volid,
            volume.bootable,
            volume.multiattach,
            volume.encryption_key_id,
            volume.consumes_quota,
            volume.created_at,
        ],
    )
    .await?;
    Ok(volume)
}

/// The volume `id`, deleted or not.
pub(crate) async fn even_deleted(tx: &mut Tx, id: Uuid) -> Result<Option<Volume>> {
    let sql = format!("SELECT {COLUMNS} FROM volumes WHERE id = ?");
    let row = tx.fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Volume::from_row).transpose()
}

/// The live volume `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<Volume>> {
    let sql = format!("SELECT {COLUMNS} FROM volumes WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Volume::from_row).transpose()
}

/// The live volumes among `ids`, in no order.
pub async fn get_many<'a>(from: impl Into<Source<'a>>, ids: &[Uuid]) -> Result<Vec<Volume>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let list = placeholders(ids.len());
    let sql = format!("SELECT {COLUMNS} FROM volumes WHERE id IN ({list}) AND deleted_at IS NULL");
    let values: Vec<_> = ids.iter().map(database::Value::from).collect();
    let rows = from.into().fetch_all(&sql, &values).await?;
    rows.iter().map(Volume::from_row).collect()
}

/// The live volumes whose images have these ids in their names.
pub async fn of_images<'a>(from: impl Into<Source<'a>>, image_ids: &[Uuid]) -> Result<Vec<Volume>> {
    if image_ids.is_empty() {
        return Ok(Vec::new());
    }
    let list = placeholders(image_ids.len());
    let sql = format!(
        "SELECT {COLUMNS} FROM volumes WHERE deleted_at IS NULL \
         AND (name_id IN ({list}) OR (name_id IS NULL AND id IN ({list})))"
    );
    let values: Vec<_> = image_ids
        .iter()
        .chain(image_ids)
        .map(database::Value::from)
        .collect();
    let rows = from.into().fetch_all(&sql, &values).await?;
    rows.iter().map(Volume::from_row).collect()
}

/// Marks the volume deleted and drops its metadata and attachments: the last record of a delete flow. It no
/// longer counts against the quota. Anything but [`Outcome::Done`] means it was gone already.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<Outcome> {
    let now = now_us();
    let change = Change::volume(id)
        .status(status::DELETED)
        .set("deleted_at = ?", now)
        .set("terminated_at = ?", now);
    let outcome = change.apply(tx).await?;
    metadata::delete_all(tx, metadata::Kind::Volume, id).await?;
    metadata::delete_all(tx, metadata::Kind::VolumeImage, id).await?;
    attachments::delete_of_volume(tx, id).await?;
    exports::delete_of_volume(tx, id).await?;
    placements::delete(tx, id).await?;
    Ok(outcome)
}

/// Whether any live volume has this type.
pub async fn any_of_type(tx: &mut Tx, volume_type_id: Uuid) -> Result<bool> {
    let sql = "SELECT id FROM volumes WHERE volume_type_id = ? AND deleted_at IS NULL LIMIT 1";
    Ok(tx
        .fetch_optional(sql, params![volume_type_id])
        .await?
        .is_some())
}

/// How many live volumes each host (`host@backend#pool`) has; hosts without any are absent.
pub async fn count_by_host<'a>(from: impl Into<Source<'a>>) -> Result<HashMap<String, u64>> {
    let sql = "SELECT host, COUNT(*) AS n FROM volumes WHERE deleted_at IS NULL AND host IS NOT NULL GROUP BY host";
    let rows = from.into().fetch_all(sql, params![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("host")?, row.get("n")?)))
        .collect()
}

/// The live volumes on `host` (`host@backend#pool`).
pub async fn of_host<'a>(from: impl Into<Source<'a>>, host: &str) -> Result<Vec<Volume>> {
    let sql = format!("SELECT {COLUMNS} FROM volumes WHERE host = ? AND deleted_at IS NULL");
    let rows = from.into().fetch_all(&sql, params![host]).await?;
    rows.iter().map(Volume::from_row).collect()
}

/// The sum of the sizes of live volumes on `host` (`host@backend#pool`), in GiB.
pub async fn allocated_gib<'a>(from: impl Into<Source<'a>>, host: &str) -> Result<u64> {
    let sql = "SELECT COALESCE(SUM(size_gib), 0) AS total FROM volumes WHERE host = ? AND deleted_at IS NULL";
    from.into()
        .fetch_one(sql, params![host])
        .await?
        .get("total")
}
