//! The metadata tables: user metadata of volumes, snapshots and backups, the properties that a
//! volume or snapshot has from an image, the specs of group types and of QoS. All alike: owner,
//! key, value.

use std::collections::{BTreeMap, HashMap};

use database::{Result, Tx, Value, params};
use uuid::Uuid;

use super::{Source, placeholders};

/// Keys and values, in the order of keys.
pub type Metadata = BTreeMap<String, String>;

/// Whose metadata, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The user's, of a volume.
    Volume,
    /// `volume_image_metadata`.
    VolumeImage,
    /// The user's, of a snapshot.
    Snapshot,
    /// What a snapshot keeps of its volume's `volume_image_metadata`.
    SnapshotImage,
    /// The user's, of a backup.
    Backup,
    /// `group_specs` of a group type.
    GroupType,
    /// The keys of QoS specs.
    Qos,
}

impl Kind {
    fn table(self) -> &'static str {
        match self {
            Kind::Volume => "volume_metadata",
            Kind::VolumeImage => "volume_image_metadata",
            Kind::Snapshot => "snapshot_metadata",
            Kind::SnapshotImage => "snapshot_image_metadata",
            Kind::Backup => "backup_metadata",
            Kind::GroupType => "group_type_specs",
            Kind::Qos => "qos_spec_entries",
        }
    }

    fn owner(self) -> &'static str {
        match self {
            Kind::Volume | Kind::VolumeImage => "volume_id",
            Kind::Snapshot | Kind::SnapshotImage => "snapshot_id",
            Kind::Backup => "backup_id",
            Kind::GroupType => "group_type_id",
            Kind::Qos => "qos_specs_id",
        }
    }

    /// A condition on rows of the owners' table: "has this key and value" (two values to bind).
    pub fn has_entry(self) -> &'static str {
        match self {
            Kind::Volume => {
                "EXISTS (SELECT 1 FROM volume_metadata m WHERE m.volume_id = volumes.id \
                 AND m.meta_key = ? AND m.meta_value = ?)"
            }
            Kind::VolumeImage => {
                "EXISTS (SELECT 1 FROM volume_image_metadata m WHERE m.volume_id = volumes.id \
                 AND m.meta_key = ? AND m.meta_value = ?)"
            }
            Kind::Snapshot => {
                "EXISTS (SELECT 1 FROM snapshot_metadata m WHERE m.snapshot_id = snapshots.id \
                 AND m.meta_key = ? AND m.meta_value = ?)"
            }
            Kind::SnapshotImage => {
                "EXISTS (SELECT 1 FROM snapshot_image_metadata m WHERE m.snapshot_id = snapshots.id \
                 AND m.meta_key = ? AND m.meta_value = ?)"
            }
            Kind::Backup => {
                "EXISTS (SELECT 1 FROM backup_metadata m WHERE m.backup_id = backups.id \
                 AND m.meta_key = ? AND m.meta_value = ?)"
            }
            Kind::GroupType => {
                "EXISTS (SELECT 1 FROM group_type_specs m WHERE m.group_type_id = group_types.id \
                 AND m.meta_key = ? AND m.meta_value = ?)"
            }
            Kind::Qos => {
                "EXISTS (SELECT 1 FROM qos_spec_entries m WHERE m.qos_specs_id = qos_specs.id \
                 AND m.meta_key = ? AND m.meta_value = ?)"
            }
        }
    }
}

/// All metadata of one owner.
pub async fn get<'a>(from: impl Into<Source<'a>>, kind: Kind, owner: Uuid) -> Result<Metadata> {
    let sql = format!(
        "SELECT meta_key, meta_value FROM {} WHERE {} = ?",
        kind.table(),
        kind.owner()
    );
    let rows = from.into().fetch_all(&sql, params![owner]).await?;
    rows.iter()
        .map(|row| Ok((row.get("meta_key")?, row.get("meta_value")?)))
        .collect()
}

/// All metadata of many owners in one read; owners without any are absent.
pub async fn of_many<'a>(
    from: impl Into<Source<'a>>,
    kind: Kind,
    owners: &[Uuid],
) -> Result<HashMap<Uuid, Metadata>> {
    let mut found: HashMap<Uuid, Metadata> = HashMap::new();
    if owners.is_empty() {
        return Ok(found);
    }
    let (table, owner, list) = (kind.table(), kind.owner(), placeholders(owners.len()));
    let sql = format!(
        "SELECT {owner} AS owner, meta_key, meta_value FROM {table} WHERE {owner} IN ({list})"
    );
    let values: Vec<_> = owners.iter().map(Value::from).collect();
    for row in from.into().fetch_all(&sql, &values).await? {
        let metadata = found.entry(row.get("owner")?).or_default();
        metadata.insert(row.get("meta_key")?, row.get("meta_value")?);
    }
    Ok(found)
}

/// Adds `entries`, replacing those whose keys are there.
pub async fn merge(tx: &mut Tx, kind: Kind, owner: Uuid, entries: &Metadata) -> Result<()> {
    let (table, column) = (kind.table(), kind.owner());
    for (key, value) in entries {
        let delete = format!("DELETE FROM {table} WHERE {column} = ? AND meta_key = ?");
        tx.execute(&delete, params![owner, key]).await?;
        let insert =
            format!("INSERT INTO {table} ({column}, meta_key, meta_value) VALUES (?, ?, ?)");
        tx.execute(&insert, params![owner, key, value]).await?;
    }
    Ok(())
}

/// Adds `entries` to an owner that has none yet.
pub async fn insert(tx: &mut Tx, kind: Kind, owner: Uuid, entries: &Metadata) -> Result<()> {
    let insert = format!(
        "INSERT INTO {} ({}, meta_key, meta_value) VALUES (?, ?, ?)",
        kind.table(),
        kind.owner()
    );
    for (key, value) in entries {
        tx.execute(&insert, params![owner, key, value]).await?;
    }
    Ok(())
}

/// Replaces everything by `entries`.
pub async fn replace(tx: &mut Tx, kind: Kind, owner: Uuid, entries: &Metadata) -> Result<()> {
    delete_all(tx, kind, owner).await?;
    insert(tx, kind, owner, entries).await
}

/// Removes one key; whether it was there.
pub async fn delete_key(tx: &mut Tx, kind: Kind, owner: Uuid, key: &str) -> Result<bool> {
    let sql = format!(
        "DELETE FROM {} WHERE {} = ? AND meta_key = ?",
        kind.table(),
        kind.owner()
    );
    Ok(tx.execute(&sql, params![owner, key]).await? > 0)
}

/// Removes everything of one owner.
pub async fn delete_all(tx: &mut Tx, kind: Kind, owner: Uuid) -> Result<()> {
    let sql = format!("DELETE FROM {} WHERE {} = ?", kind.table(), kind.owner());
    tx.execute(&sql, params![owner]).await?;
    Ok(())
}

/// Copies all of one owner to another (image properties of a source), replacing equal keys.
pub async fn copy(tx: &mut Tx, from: (Kind, Uuid), to: (Kind, Uuid)) -> Result<()> {
    let entries = get(&mut *tx, from.0, from.1).await?;
    merge(tx, to.0, to.1, &entries).await
}
