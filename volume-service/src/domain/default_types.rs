//! Default volume types of projects.

use super::types;
use crate::db::default_types::{self, DefaultType};
use crate::{Error, Result, VolumeService};
use rest::RequestContext;

/// Makes a type the default of a project. A type that is not there is the client's mistake (400).
pub async fn set(
    service: &VolumeService,
    context: &RequestContext,
    project_id: &str,
    type_id_or_name: &str,
) -> Result<DefaultType> {
    let found = types::find(service, context, type_id_or_name).await;
    let found = found.map_err(|error| match error {
        Error::NotFound(text) => Error::Invalid(text),
        other => other,
    })?;
    let mut tx = service.database.begin().await?;
    default_types::set(&mut tx, project_id, found.id).await?;
    tx.commit().await?;
    Ok(DefaultType {
        project_id: project_id.to_owned(),
        volume_type_id: found.id,
    })
}

/// The default type of a project that has its own.
pub async fn get(service: &VolumeService, project_id: &str) -> Result<DefaultType> {
    let found = default_types::get(&service.database, project_id).await?;
    let volume_type_id = found.ok_or_else(|| {
        Error::NotFound(format!("Default type for project {project_id} not found."))
    })?;
    Ok(DefaultType {
        project_id: project_id.to_owned(),
        volume_type_id,
    })
}

/// Takes a project back to the default of all.
pub async fn unset(service: &VolumeService, project_id: &str) -> Result<()> {
    let mut tx = service.database.begin().await?;
    default_types::delete(&mut tx, project_id).await?;
    Ok(tx.commit().await?)
}
