//! Table `group_types`. The specs are metadata of `Kind::GroupType`.

use database::{Result, Row, Tx, now_us, params};
use uuid::Uuid;

use super::{Source, metadata};

/// The type of groups that the consistency group API makes.
pub const DEFAULT_CGSNAPSHOT_TYPE: &str = "default_cgsnapshot_type";

/// One live group type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupType {
    pub id: Uuid,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
}

pub(crate) const COLUMNS: &str = "id, name, description, is_public";

impl GroupType {
    /// Whether groups of it belong to the consistency group API.
    pub fn is_of_consistency_groups(&self) -> bool {
        self.name == DEFAULT_CGSNAPSHOT_TYPE
    }

    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(GroupType {
            id: row.get("id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            is_public: row.get("is_public")?,
        })
    }
}

/// Inserts a type. `Error::Constraint` when the name is taken.
pub async fn insert(
    tx: &mut Tx,
    name: &str,
    description: Option<&str>,
    is_public: bool,
) -> Result<GroupType> {
    let group_type = GroupType {
        id: Uuid::new_v4(),
        name: name.to_owned(),
        description: description.map(str::to_owned),
        is_public,
    };
    tx.execute(
        "INSERT INTO group_types (id, name, live_name, description, is_public, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        params![group_type.id, name, name, description, is_public, now_us()],
    )
    .await?;
    Ok(group_type)
}

/// The live type `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<GroupType>> {
    let sql = format!("SELECT {COLUMNS} FROM group_types WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(GroupType::from_row).transpose()
}

/// The live type of this name.
pub async fn get_by_name<'a>(from: impl Into<Source<'a>>, name: &str) -> Result<Option<GroupType>> {
    let sql = format!("SELECT {COLUMNS} FROM group_types WHERE live_name = ?");
    let row = from.into().fetch_optional(&sql, params![name]).await?;
    row.as_ref().map(GroupType::from_row).transpose()
}

/// Writes name, description and visibility. `Error::Constraint` when the name is taken.
pub async fn update(tx: &mut Tx, changed: &GroupType) -> Result<bool> {
    let sql = "UPDATE group_types SET name = ?, live_name = ?, description = ?, is_public = ?, updated_at = ? \
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

/// Whether any live group has this type.
pub async fn in_use(tx: &mut Tx, id: Uuid) -> Result<bool> {
    let sql = "SELECT id FROM volume_groups WHERE group_type_id = ? AND deleted_at IS NULL LIMIT 1";
    Ok(tx.fetch_optional(sql, params![id]).await?.is_some())
}

/// Marks the type deleted, with its specs.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<bool> {
    metadata::delete_all(tx, metadata::Kind::GroupType, id).await?;
    let sql = "UPDATE group_types SET deleted_at = ?, live_name = NULL WHERE id = ? AND deleted_at IS NULL";
    Ok(tx.execute(sql, params![now_us(), id]).await? > 0)
}
