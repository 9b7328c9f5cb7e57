//! Volumes: find, list, summarise, update, metadata.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use database::{Tx, Value, now_us, params};
use rest::RequestContext;
use rest::list_query::{Column, Columns};
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::{parse_id, sees};
use crate::db::attachments::Attachment;
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::volumes::{self, Volume};
use crate::db::{self, groups, services, status, volume_types};
use crate::{Error, Result, VolumeService};

/// A volume with all that its view shows.
#[derive(Debug, Clone)]
pub struct VolumeDetails {
    pub volume: Volume,
    pub type_name: Option<String>,
    pub metadata: Metadata,
    /// What it has from an image; empty for volumes that are not from one.
    pub image_metadata: Metadata,
    /// Also those that are not complete.
    pub attachments: Vec<Attachment>,
    /// Its group is one of the consistency group API.
    pub in_consistency_group: bool,
    /// `cluster@backend#pool`
    pub cluster_name: Option<String>,
}

/// What lists of volumes may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name").nullable(),
        Column::text("display_name", "name").nullable(),
        Column::text("status", "status"),
        Column::text("attach_status", "attach_status"),
        Column::text("availability_zone", "availability_zone"),
        Column::text("host", "host").nullable(),
        Column::int("size", "size_gib"),
        Column::int("bootable", "bootable"),
        Column::text("volume_type_id", "volume_type_id"),
        Column::text("user_id", "user_id"),
        Column::text("project_id", "project_id"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Volume",
    name: "volumes",
    columns: volumes::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

/// "Volume … could not be found."
pub fn not_found(id: impl std::fmt::Display) -> Error {
    Error::no_such("Volume", id)
}

/// The volume of this id, if the caller may see it; otherwise it does not exist.
pub async fn get(service: &VolumeService, context: &RequestContext, id: &str) -> Result<Volume> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let found = volumes::get(&service.database, uuid).await?;
    let volume = found
        .filter(|volume| sees(context, &volume.project_id))
        .ok_or_else(|| not_found(id))?;
    if !service
        .policy
        .allows(context, "volume:get", &volume.project_id)
    {
        return Err(not_found(id));
    }
    Ok(volume)
}

/// One page of volumes.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<Volume>> {
    listing::fetch(&service.database, &TABLE, query, Volume::from_row).await
}

/// Adds what views of volumes show, in a few reads however many they are.
pub async fn with_details(
    service: &VolumeService,
    rows: Vec<Volume>,
) -> Result<Vec<VolumeDetails>> {
    let database = &service.database;
    let ids: Vec<Uuid> = rows.iter().map(|volume| volume.id).collect();
    let type_ids: BTreeSet<Uuid> = rows.iter().map(|volume| volume.volume_type_id).collect();
    let type_names = volume_types::names(database, &type_ids).await?;
    let group_ids: HashSet<Uuid> = rows.iter().filter_map(|volume| volume.group_id).collect();
    let consistency_groups = groups::consistency_groups(database, &group_ids).await?;
    let mut user_metadata = metadata::of_many(database, Kind::Volume, &ids).await?;
    let mut image_metadata = metadata::of_many(database, Kind::VolumeImage, &ids).await?;
    let mut attachments: HashMap<Uuid, Vec<Attachment>> = HashMap::new();
    for attachment in db::attachments::of_volumes(database, &ids).await? {
        let of_volume = attachments.entry(attachment.volume_id).or_default();
        of_volume.push(attachment);
    }
    let clusters = services::clusters_by_host(database).await?;
    let join = |volume: Volume| VolumeDetails {
        cluster_name: cluster_of(&volume, &clusters),
        attachments: attachments.remove(&volume.id).unwrap_or_default(),
        type_name: type_names.get(&volume.volume_type_id).cloned(),
        metadata: user_metadata.remove(&volume.id).unwrap_or_default(),
        image_metadata: image_metadata.remove(&volume.id).unwrap_or_default(),
        in_consistency_group: volume
            .group_id
            .is_some_and(|id| consistency_groups.contains(&id)),
        volume,
    };
    Ok(rows.into_iter().map(join).collect())
}

/// `cluster@backend#pool` of a volume whose host belongs to a cluster.
fn cluster_of(volume: &Volume, clusters: &HashMap<String, String>) -> Option<String> {
    let (host, pool) = volume.host.as_deref()?.split_once('#')?;
    let cluster = clusters.get(host)?;
    Some(format!("{cluster}#{pool}"))
}

/// Adds what the view of one volume shows.
pub async fn details(service: &VolumeService, volume: Volume) -> Result<VolumeDetails> {
    let id = volume.id;
    with_details(service, vec![volume])
        .await?
        .pop()
        .ok_or_else(|| not_found(id))
}

/// Totals of a project, or of all.
#[derive(Debug, Default)]
pub struct Summary {
    pub count: u64,
    pub size_gib: u64,
    /// Every metadata key with its distinct values.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
}

/// Counts and sums live volumes (`project_id` none: of all projects).
pub async fn summary(
    service: &VolumeService,
    project_id: Option<&str>,
    with_metadata: bool,
) -> Result<Summary> {
    let (scope, values): (&str, Vec<Value>) = match project_id {
        Some(project_id) => (" AND volumes.project_id = ?", vec![project_id.into()]),
        None => ("", Vec::new()),
    };
    let sql = format!(
        "SELECT COUNT(*) AS n, COALESCE(SUM(size_gib), 0) AS gib FROM volumes WHERE deleted_at IS NULL{scope}"
    );
    let row = service.database.fetch_one(&sql, &values).await?;
    let mut summary = Summary {
        count: row.get("n")?,
        size_gib: row.get("gib")?,
        ..Summary::default()
    };
    if with_metadata {
        let sql = format!(
            "SELECT DISTINCT meta_key, meta_value FROM volume_metadata JOIN volumes \
             ON volumes.id = volume_metadata.volume_id WHERE volumes.deleted_at IS NULL{scope}"
        );
        for row in service.database.fetch_all(&sql, &values).await? {
            summary
                .metadata
                .entry(row.get("meta_key")?)
                .or_default()
                .insert(row.get("meta_value")?);
        }
    }
    Ok(summary)
}

/// What an update changes; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pub name: Option<Option<String>>,
    pub description: Option<Option<String>>,
    /// Replaces all metadata.
    pub metadata: Option<Metadata>,
}

/// Writes name, description and metadata of a row of `table` (volumes, snapshots, backups alike).
pub(crate) async fn write_changes(
    tx: &mut Tx,
    table: &'static str,
    kind: Kind,
    id: Uuid,
    changes: &Changes,
) -> Result<bool> {
    let mut sql = format!("UPDATE {table} SET updated_at = ?");
    let mut values = params![now_us()].to_vec();
    for (column, change) in [
        ("name", &changes.name),
        ("description", &changes.description),
    ] {
        if let Some(value) = change {
            sql.push_str(&format!(", {column} = ?"));
            values.push(value.into());
        }
    }
    sql.push_str(" WHERE id = ? AND deleted_at IS NULL");
    values.push(id.into());
    if tx.execute(&sql, &values).await? == 0 {
        return Ok(false);
    }
    if let Some(entries) = &changes.metadata {
        metadata::replace(tx, kind, id, entries).await?;
    }
    Ok(true)
}

/// Changes name, description and metadata.
pub async fn update(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    changes: &Changes,
) -> Result<VolumeDetails> {
    let mut tx = service.database.begin().await?;
    let volume = volumes::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    if volume.status == status::MAINTENANCE {
        return Err(Error::invalid_volume(
            "The volume cannot be updated during maintenance.",
        ));
    }
    let notices = &service.notices;
    notices.volume(&mut tx, id, "update.start", context).await?;
    write_changes(&mut tx, "volumes", Kind::Volume, id, changes).await?;
    notices.volume(&mut tx, id, "update.end", context).await?;
    let volume = volumes::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    tx.commit().await?;
    details(service, volume).await
}

/// Whether a stored state of the metadata is the one that the caller has seen.
pub type Precondition<'a> = &'a (dyn Fn(&Metadata) -> bool + Send + Sync);

/// How metadata is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Adds and replaces keys.
    Merge,
    /// Leaves nothing but what is given.
    Replace,
}

/// Writes the user's metadata; returns all there is afterwards. The precondition is checked in
/// the same transaction.
pub async fn write_metadata(
    service: &VolumeService,
    id: Uuid,
    entries: &Metadata,
    write: Write,
    precondition: Precondition<'_>,
) -> Result<Metadata> {
    let mut tx = service.database.begin().await?;
    refuse_busy(&mut tx, id, "Updating").await?;
    if !precondition(&metadata::get(&mut tx, Kind::Volume, id).await?) {
        return Err(Error::PreconditionFailed);
    }
    match write {
        Write::Merge => metadata::merge(&mut tx, Kind::Volume, id, entries).await?,
        Write::Replace => metadata::replace(&mut tx, Kind::Volume, id, entries).await?,
    }
    let all = metadata::get(&mut tx, Kind::Volume, id).await?;
    tx.commit().await?;
    Ok(all)
}

/// Removes one key of the user's metadata.
pub async fn delete_metadata(service: &VolumeService, id: Uuid, key: &str) -> Result<()> {
    let mut tx = service.database.begin().await?;
    refuse_busy(&mut tx, id, "Deleting").await?;
    if !metadata::delete_key(&mut tx, Kind::Volume, id, key).await? {
        return Err(no_metadata(id, key));
    }
    Ok(tx.commit().await?)
}

/// "Volume … has no metadata with key …."
pub fn no_metadata(id: Uuid, key: &str) -> Error {
    Error::NotFound(format!("Volume {id} has no metadata with key {key}."))
}

async fn refuse_busy(tx: &mut Tx, id: Uuid, verb: &str) -> Result<()> {
    let volume = volumes::get(&mut *tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    if [status::MAINTENANCE, status::UPLOADING].contains(&volume.status.as_str()) {
        return Err(Error::invalid_volume(format!(
            "{verb} volume metadata is not allowed for volumes in {} status.",
            volume.status
        )));
    }
    Ok(())
}
