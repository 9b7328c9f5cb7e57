//! Tables `volume_types`, `volume_type_extra_specs` and `volume_type_projects`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use database::{Result, Row, Tx, Value, now_us, params};
use uuid::Uuid;

use super::{Source, placeholders};

/// Keys and values that a backend must match (`volume_backend_name`) or a front end reads.
pub type ExtraSpecs = BTreeMap<String, String>;

/// One live volume type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeType {
    pub id: Uuid,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    /// The QoS specs of its volumes.
    pub qos_specs_id: Option<Uuid>,
    pub created_at: i64,
    pub updated_at: Option<i64>,
}

pub(crate) const COLUMNS: &str =
    "id, name, description, is_public, qos_specs_id, created_at, updated_at";

impl VolumeType {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(VolumeType {
            id: row.get("id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            is_public: row.get("is_public")?,
            qos_specs_id: row.get("qos_specs_id")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
        })
    }
}

/// Inserts a type. `Error::Constraint` when the name is taken.
pub async fn insert(
    tx: &mut Tx,
    name: &str,
    description: Option<&str>,
    is_public: bool,
) -> Result<VolumeType> {
    let volume_type = VolumeType {
        id: Uuid::new_v4(),
        name: name.to_owned(),
        description: description.map(str::to_owned),
        is_public,
        qos_specs_id: None,
        created_at: now_us(),
        updated_at: None,
    };
    tx.execute(
        "INSERT INTO volume_types (id, name, live_name, description, is_public, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        params![volume_type.id, name, name, description, is_public, volume_type.created_at],
    )
    .await?;
    Ok(volume_type)
}

/// The live type `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<VolumeType>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_types WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(VolumeType::from_row).transpose()
}

/// The live type of this name.
pub async fn get_by_name<'a>(
    from: impl Into<Source<'a>>,
    name: &str,
) -> Result<Option<VolumeType>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_types WHERE live_name = ?");
    let row = from.into().fetch_optional(&sql, params![name]).await?;
    row.as_ref().map(VolumeType::from_row).transpose()
}

/// Every live type (there are few): id and row.
pub async fn all<'a>(from: impl Into<Source<'a>>) -> Result<HashMap<Uuid, VolumeType>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_types WHERE deleted_at IS NULL");
    let rows = from.into().fetch_all(&sql, params![]).await?;
    let read =
        |row: &Row| VolumeType::from_row(row).map(|volume_type| (volume_type.id, volume_type));
    rows.iter().map(read).collect()
}

/// The names of the types among `ids`, also of deleted ones.
pub async fn names<'a>(
    from: impl Into<Source<'a>>,
    ids: &BTreeSet<Uuid>,
) -> Result<BTreeMap<Uuid, String>> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let sql = format!(
        "SELECT id, name FROM volume_types WHERE id IN ({})",
        placeholders(ids.len())
    );
    let values: Vec<_> = ids.iter().map(Value::from).collect();
    let rows = from.into().fetch_all(&sql, &values).await?;
    rows.iter()
        .map(|row| Ok((row.get("id")?, row.get("name")?)))
        .collect()
}

/// Writes name, description and visibility. `Error::Constraint` when the name is taken.
pub async fn update(tx: &mut Tx, changed: &VolumeType) -> Result<bool> {
    let sql = "UPDATE volume_types SET name = ?, live_name = ?, description = ?, is_public = ?, updated_at = ? \
               WHERE id = ? AND deleted_at IS NULL";
    let values = params![
        &changed.name,
        &changed.name,
        &changed.description,
        changed.is_public,
        now_us(),
        changed.id,
    ];
    Ok(tx.execute(sql, values).await? > 0)
}

/// Marks the type deleted, with its specs, its encryption and its access list.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<bool> {
    for table in [
        "volume_type_extra_specs",
        "volume_type_projects",
        "volume_type_encryption",
    ] {
        let sql = format!("DELETE FROM {table} WHERE volume_type_id = ?");
        tx.execute(&sql, params![id]).await?;
    }
    let sql = "UPDATE volume_types SET deleted_at = ?, live_name = NULL WHERE id = ? AND deleted_at IS NULL";
    Ok(tx.execute(sql, params![now_us(), id]).await? > 0)
}

/// The extra specs of one type.
pub async fn extra_specs<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<ExtraSpecs> {
    Ok(extra_specs_of_many(from, &[id])
        .await?
        .remove(&id)
        .unwrap_or_default())
}

/// The extra specs of many types in one read; types without any are absent.
pub async fn extra_specs_of_many<'a>(
    from: impl Into<Source<'a>>,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, ExtraSpecs>> {
    let mut found: HashMap<Uuid, ExtraSpecs> = HashMap::new();
    if ids.is_empty() {
        return Ok(found);
    }
    let sql = format!(
        "SELECT volume_type_id, spec_key, spec_value FROM volume_type_extra_specs WHERE volume_type_id IN ({})",
        placeholders(ids.len())
    );
    let values: Vec<_> = ids.iter().map(Value::from).collect();
    for row in from.into().fetch_all(&sql, &values).await? {
        let specs = found.entry(row.get("volume_type_id")?).or_default();
        specs.insert(row.get("spec_key")?, row.get("spec_value")?);
    }
    Ok(found)
}

/// Adds extra specs, replacing those whose keys are there.
pub async fn merge_extra_specs(tx: &mut Tx, id: Uuid, specs: &ExtraSpecs) -> Result<()> {
    for (key, value) in specs {
        delete_extra_spec(tx, id, key).await?;
        let sql = "INSERT INTO volume_type_extra_specs (volume_type_id, spec_key, spec_value) VALUES (?, ?, ?)";
        tx.execute(sql, params![id, key, value]).await?;
    }
    Ok(())
}

/// Removes one extra spec; whether it was there.
pub async fn delete_extra_spec(tx: &mut Tx, id: Uuid, key: &str) -> Result<bool> {
    let sql = "DELETE FROM volume_type_extra_specs WHERE volume_type_id = ? AND spec_key = ?";
    Ok(tx.execute(sql, params![id, key]).await? > 0)
}

/// The projects that may use a private type.
pub async fn projects<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Vec<String>> {
    let sql =
        "SELECT project_id FROM volume_type_projects WHERE volume_type_id = ? ORDER BY project_id";
    let rows = from.into().fetch_all(sql, params![id]).await?;
    rows.iter().map(|row| row.get("project_id")).collect()
}

/// Lets a project use a private type. `Error::Constraint` when it may already.
pub async fn add_project(tx: &mut Tx, id: Uuid, project_id: &str) -> Result<()> {
    let sql = "INSERT INTO volume_type_projects (volume_type_id, project_id) VALUES (?, ?)";
    tx.execute(sql, params![id, project_id]).await?;
    Ok(())
}

/// Takes the access back; whether there was any.
pub async fn remove_project(tx: &mut Tx, id: Uuid, project_id: &str) -> Result<bool> {
    let sql = "DELETE FROM volume_type_projects WHERE volume_type_id = ? AND project_id = ?";
    Ok(tx.execute(sql, params![id, project_id]).await? > 0)
}

/// Whether a project may see and use a type.
pub async fn is_visible<'a>(
    from: impl Into<Source<'a>>,
    volume_type: &VolumeType,
    project_id: &str,
) -> Result<bool> {
    if volume_type.is_public {
        return Ok(true);
    }
    let sql =
        "SELECT 1 AS found FROM volume_type_projects WHERE volume_type_id = ? AND project_id = ?";
    Ok(from
        .into()
        .fetch_optional(sql, params![volume_type.id, project_id])
        .await?
        .is_some())
}
