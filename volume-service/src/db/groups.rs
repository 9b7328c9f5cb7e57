//! Tables `volume_groups` and `group_volume_types`, and which volumes are in a group.

use std::collections::{HashMap, HashSet};

use database::{Result, Row, Tx, Value, now_us, params};
use uuid::Uuid;

use super::group_types::DEFAULT_CGSNAPSHOT_TYPE;
use super::volumes::{self, Volume};
use super::{Change, Source, placeholders, status};

/// `replication_status` of a group that nobody replicates.
pub const REPLICATION_DISABLED: &str = "disabled";

/// One live group.
#[derive(Debug, Clone)]
pub struct Group {
    pub id: Uuid,
    pub user_id: String,
    pub project_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    pub availability_zone: String,
    /// `host@backend#pool`; none when no pool could take its types.
    pub host: Option<String>,
    pub group_type_id: Uuid,
    /// The source it was made from.
    pub group_snapshot_id: Option<Uuid>,
    /// The source it was made from.
    pub source_group_id: Option<Uuid>,
    pub replication_status: String,
    pub created_at: i64,
}

pub(crate) const COLUMNS: &str = "id, user_id, project_id, name, description, status, availability_zone, host, \
    group_type_id, group_snapshot_id, source_group_id, replication_status, created_at";

impl Group {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(Group {
            id: row.get("id")?,
            user_id: row.get("user_id")?,
            project_id: row.get("project_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            status: row.get("status")?,
            availability_zone: row.get("availability_zone")?,
            host: row.get("host")?,
            group_type_id: row.get("group_type_id")?,
            group_snapshot_id: row.get("group_snapshot_id")?,
            source_group_id: row.get("source_group_id")?,
            replication_status: row.get("replication_status")?,
            created_at: row.get("created_at")?,
        })
    }
}

/// Inserts a group with the volume types that its volumes may have.
pub async fn insert(tx: &mut Tx, group: &Group, volume_types: &[Uuid]) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_groups (id, user_id, project_id, name, description, status, availability_zone, host, \
         group_type_id, group_snapshot_id, source_group_id, replication_status, created_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            group.id,
            &group.user_id,
            &group.project_id,
            &group.name,
            &group.description,
            &group.status,
            &group.availability_zone,
            &group.host,
            group.group_type_id,
            group.group_snapshot_id,
            group.source_group_id,
            &group.replication_status,
            group.created_at,
        ],
    )
    .await?;
    for volume_type_id in volume_types {
        let sql = "INSERT INTO group_volume_types (group_id, volume_type_id) VALUES (?, ?)";
        tx.execute(sql, params![group.id, *volume_type_id]).await?;
    }
    Ok(())
}

/// The group `id`, deleted or not.
pub(crate) async fn even_deleted(tx: &mut Tx, id: Uuid) -> Result<Option<Group>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_groups WHERE id = ?");
    let row = tx.fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Group::from_row).transpose()
}

/// The live group `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<Group>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_groups WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Group::from_row).transpose()
}

/// The volume types of many groups in one read; groups without any are absent.
pub async fn volume_types<'a>(
    from: impl Into<Source<'a>>,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Uuid>>> {
    let sql = "SELECT group_id, volume_type_id AS item FROM group_volume_types WHERE group_id IN";
    lists(from.into(), sql, "volume_type_id", ids).await
}

/// The ids of the volumes of many groups in one read; empty groups are absent.
pub async fn volume_ids<'a>(
    from: impl Into<Source<'a>>,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Uuid>>> {
    let sql = "SELECT group_id, id AS item FROM volumes WHERE deleted_at IS NULL AND group_id IN";
    lists(from.into(), sql, "created_at, id", ids).await
}

async fn lists(
    mut from: Source<'_>,
    select: &str,
    order: &str,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Uuid>>> {
    let mut found: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    if ids.is_empty() {
        return Ok(found);
    }
    let sql = format!("{select} ({}) ORDER BY {order}", placeholders(ids.len()));
    let values: Vec<_> = ids.iter().map(Value::from).collect();
    for row in from.fetch_all(&sql, &values).await? {
        found
            .entry(row.get("group_id")?)
            .or_default()
            .push(row.get("item")?);
    }
    Ok(found)
}

/// The live volumes of a group, oldest first.
pub async fn members<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Vec<Volume>> {
    let sql = format!(
        "SELECT {} FROM volumes WHERE group_id = ? AND deleted_at IS NULL ORDER BY created_at, id",
        volumes::COLUMNS
    );
    let rows = from.into().fetch_all(&sql, params![id]).await?;
    rows.iter().map(Volume::from_row).collect()
}

/// Puts a volume that is in no group into this one, if it has one of the statuses; whether it
/// was so.
pub async fn add_volume(
    tx: &mut Tx,
    id: Uuid,
    volume_id: Uuid,
    statuses: &[&'static str],
) -> Result<bool> {
    let change = Change::volume(volume_id)
        .when(statuses)
        .and("group_id IS NULL", &[])
        .set("group_id = ?", id);
    Ok(change.apply(tx).await?.is_done())
}

/// Takes a volume of one of the statuses out of the group; whether it was in it.
pub async fn remove_volume(
    tx: &mut Tx,
    id: Uuid,
    volume_id: Uuid,
    statuses: &[&'static str],
) -> Result<bool> {
    let change = Change::volume(volume_id)
        .when(statuses)
        .and("group_id = ?", &[id.into()])
        .set("group_id = ?", Value::Null);
    Ok(change.apply(tx).await?.is_done())
}

/// How many groups a project has, for its quota.
pub async fn count<'a>(from: impl Into<Source<'a>>, project_id: &str) -> Result<i64> {
    let sql = "SELECT COUNT(*) AS n FROM volume_groups WHERE project_id = ? AND deleted_at IS NULL";
    let row = from.into().fetch_one(sql, params![project_id]).await?;
    row.get("n")
}

/// Whether a group is being made from this group, or from this group snapshot.
pub async fn is_source(tx: &mut Tx, group_or_snapshot_id: Uuid) -> Result<bool> {
    let sql = "SELECT id FROM volume_groups WHERE (source_group_id = ? OR group_snapshot_id = ?) AND status = ? \
               AND deleted_at IS NULL LIMIT 1";
    let values = params![group_or_snapshot_id, group_or_snapshot_id, status::CREATING];
    Ok(tx.fetch_optional(sql, values).await?.is_some())
}

/// Those among `ids` that the consistency group API has made.
pub async fn consistency_groups<'a>(
    from: impl Into<Source<'a>>,
    ids: &HashSet<Uuid>,
) -> Result<HashSet<Uuid>> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = format!(
        "SELECT g.id FROM volume_groups g JOIN group_types t ON t.id = g.group_type_id \
         WHERE t.live_name = ? AND g.id IN ({})",
        placeholders(ids.len())
    );
    let mut values = params![DEFAULT_CGSNAPSHOT_TYPE].to_vec();
    values.extend(ids.iter().map(Value::from));
    let rows = from.into().fetch_all(&sql, &values).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

/// Marks the group deleted: it no longer counts against the quota.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<()> {
    let change = Change::group(id)
        .status(status::DELETED)
        .set("deleted_at = ?", now_us());
    change.apply(tx).await?;
    let sql = "DELETE FROM group_volume_types WHERE group_id = ?";
    tx.execute(sql, params![id]).await?;
    Ok(())
}
