//! Table `project_default_types`: the type of a project's volumes that name none.

use database::{Result, Tx, params};
use uuid::Uuid;

use super::Source;

/// A project's own default type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultType {
    pub project_id: String,
    pub volume_type_id: Uuid,
}

/// Every project's, by project id.
pub async fn all<'a>(from: impl Into<Source<'a>>) -> Result<Vec<DefaultType>> {
    let sql =
        "SELECT project_id, volume_type_id FROM project_default_types ORDER BY project_id LIMIT ?";
    let rows = from.into().fetch_all(sql, params![MOST]).await?;
    rows.iter()
        .map(|row| {
            Ok(DefaultType {
                project_id: row.get("project_id")?,
                volume_type_id: row.get("volume_type_id")?,
            })
        })
        .collect()
}

/// The list has no pages; more rows than this are not read into memory.
const MOST: i64 = 100_000;

/// The default type of one project.
pub async fn get<'a>(from: impl Into<Source<'a>>, project_id: &str) -> Result<Option<Uuid>> {
    let sql = "SELECT volume_type_id FROM project_default_types WHERE project_id = ?";
    let row = from.into().fetch_optional(sql, params![project_id]).await?;
    row.map(|row| row.get("volume_type_id")).transpose()
}

/// Sets it, replacing an older one.
pub async fn set(tx: &mut Tx, project_id: &str, volume_type_id: Uuid) -> Result<()> {
    delete(tx, project_id).await?;
    let sql = "INSERT INTO project_default_types (project_id, volume_type_id) VALUES (?, ?)";
    tx.execute(sql, params![project_id, volume_type_id]).await?;
    Ok(())
}

/// Takes the project back to the default of all; whether it had its own.
pub async fn delete(tx: &mut Tx, project_id: &str) -> Result<bool> {
    let sql = "DELETE FROM project_default_types WHERE project_id = ?";
    Ok(tx.execute(sql, params![project_id]).await? > 0)
}

/// Whether any project has this type as its default.
pub async fn any_with(tx: &mut Tx, volume_type_id: Uuid) -> Result<bool> {
    let sql = "SELECT project_id FROM project_default_types WHERE volume_type_id = ? LIMIT 1";
    let row = tx.fetch_optional(sql, params![volume_type_id]).await?;
    Ok(row.is_some())
}
