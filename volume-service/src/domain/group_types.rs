//! Group types and their specs: who sees them, changing them, the one of consistency groups.

use std::collections::HashMap;

use rest::RequestContext;
use rest::list_query::{Column, Columns};
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::parse_id;
use crate::db::group_types::{self, DEFAULT_CGSNAPSHOT_TYPE, GroupType};
use crate::db::metadata::{self, Kind, Metadata};
use crate::notices::Specs;
use crate::{Error, Result, VolumeService};

/// A group type with its specs.
#[derive(Debug, Clone)]
pub struct GroupTypeDetails {
    pub group_type: GroupType,
    pub specs: Metadata,
}

/// What lists of group types may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name"),
        Column::int("is_public", "is_public"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Group type",
    name: "group_types",
    columns: group_types::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

fn not_found(id: impl std::fmt::Display) -> Error {
    Error::no_such("Group type", id)
}

fn no_such_name(name: &str) -> Error {
    Error::NotFound(format!("Group type with name {name} could not be found."))
}

/// Makes the type of consistency groups unless it is there.
pub async fn ensure_default(service: &VolumeService) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let name = DEFAULT_CGSNAPSHOT_TYPE;
    if group_types::get_by_name(&mut tx, name).await?.is_none() {
        let description = "Default group type for migrating cgsnapshot";
        let made = group_types::insert(&mut tx, name, Some(description), true).await?;
        let specs = [("consistent_group_snapshot_enabled", "<is> True")];
        let specs = specs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        metadata::insert(&mut tx, Kind::GroupType, made.id, &specs.into()).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// The type of the groups that the consistency group API makes.
pub async fn of_consistency_groups(service: &VolumeService) -> Result<GroupType> {
    let name = DEFAULT_CGSNAPSHOT_TYPE;
    let found = group_types::get_by_name(&service.database, name).await?;
    found.ok_or_else(|| {
        Error::Invalid(format!(
            "Group type {name} not found. Restart the service to create the default cgsnapshot type."
        ))
    })
}

/// Refuses what belongs to the consistency group API alone; `what` names it (`group`).
pub async fn refuse_reserved(
    service: &VolumeService,
    group_type_id: Uuid,
    what: &str,
    api: &str,
) -> Result<()> {
    let found = group_types::get(&service.database, group_type_id).await?;
    if found.is_some_and(|found| found.is_of_consistency_groups()) {
        return Err(Error::Invalid(format!(
            "Group_type {group_type_id} is reserved for migrating CGs to groups. Migrated {what} can only be \
             operated by {api} APIs."
        )));
    }
    Ok(())
}

/// The type of this id, if the caller may see it: private ones are the admins'.
pub async fn get(service: &VolumeService, context: &RequestContext, id: &str) -> Result<GroupType> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let found = group_types::get(&service.database, uuid).await?;
    found
        .filter(|found| found.is_public || context.is_admin)
        .ok_or_else(|| not_found(id))
}

/// The type of this id or name, if the caller may see it.
pub async fn find(
    service: &VolumeService,
    context: &RequestContext,
    id_or_name: &str,
) -> Result<GroupType> {
    if parse_id(id_or_name).is_some()
        && let Ok(found) = get(service, context, id_or_name).await
    {
        return Ok(found);
    }
    let found = group_types::get_by_name(&service.database, id_or_name).await?;
    found
        .filter(|found| found.is_public || context.is_admin)
        .ok_or_else(|| no_such_name(id_or_name))
}

/// The type that `default_group_type` names.
pub async fn default_type(service: &VolumeService) -> Result<GroupType> {
    let none = || Error::NotFound("Default group type can not be found.".to_owned());
    let name = service.options.default_group_type.as_deref();
    let found = group_types::get_by_name(&service.database, name.ok_or_else(none)?).await?;
    found.ok_or_else(none)
}

/// One page of types with their specs.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<GroupTypeDetails>> {
    let page = listing::fetch(&service.database, &TABLE, query, GroupType::from_row).await?;
    let ids: Vec<Uuid> = page.rows.iter().map(|group_type| group_type.id).collect();
    let mut specs: HashMap<_, _> =
        metadata::of_many(&service.database, Kind::GroupType, &ids).await?;
    let join = |group_type: GroupType| GroupTypeDetails {
        specs: specs.remove(&group_type.id).unwrap_or_default(),
        group_type,
    };
    Ok(Rows {
        rows: page.rows.into_iter().map(join).collect(),
        total: page.total,
    })
}

/// Adds the specs of one type.
pub async fn details(service: &VolumeService, group_type: GroupType) -> Result<GroupTypeDetails> {
    let specs = metadata::get(&service.database, Kind::GroupType, group_type.id).await?;
    Ok(GroupTypeDetails { group_type, specs })
}

/// Makes a type.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    name: &str,
    description: Option<&str>,
    is_public: bool,
    specs: Metadata,
) -> Result<GroupTypeDetails> {
    let mut tx = service.database.begin().await?;
    let made = group_types::insert(&mut tx, name, description, is_public).await;
    let group_type = made.map_err(|error| name_taken(error, name))?;
    metadata::insert(&mut tx, Kind::GroupType, group_type.id, &specs).await?;
    let notices = &service.notices;
    notices
        .group_type(&mut tx, "create", &group_type, &specs, context)
        .await?;
    tx.commit().await?;
    Ok(GroupTypeDetails { group_type, specs })
}

/// Writes name, description and visibility.
pub async fn update(
    service: &VolumeService,
    context: &RequestContext,
    changed: GroupType,
) -> Result<GroupTypeDetails> {
    let mut tx = service.database.begin().await?;
    let updated = group_types::update(&mut tx, &changed).await;
    if !updated.map_err(|error| name_taken(error, &changed.name))? {
        return Err(not_found(changed.id));
    }
    let specs = metadata::get(&mut tx, Kind::GroupType, changed.id).await?;
    let notices = &service.notices;
    notices
        .group_type(&mut tx, "update", &changed, &specs, context)
        .await?;
    tx.commit().await?;
    Ok(GroupTypeDetails {
        group_type: changed,
        specs,
    })
}

fn name_taken(error: database::Error, name: &str) -> Error {
    match error {
        database::Error::Constraint(_) => {
            Error::Conflict(format!("Group Type {name} already exists."))
        }
        other => other.into(),
    }
}

/// Deletes a type that no group has.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    group_type: &GroupType,
) -> Result<()> {
    let id = group_type.id;
    let mut tx = service.database.begin().await?;
    if group_types::in_use(&mut tx, id).await? {
        return Err(Error::Invalid(
            "Target group type is still in use.".to_owned(),
        ));
    }
    let specs = metadata::get(&mut tx, Kind::GroupType, id).await?;
    if !group_types::delete(&mut tx, id).await? {
        return Err(not_found(id));
    }
    let notices = &service.notices;
    notices
        .group_type(&mut tx, "delete", group_type, &specs, context)
        .await?;
    Ok(tx.commit().await?)
}

/// Adds or replaces specs, of which `one` was named alone.
pub async fn set_specs(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    specs: &Metadata,
    one: Option<&str>,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if group_types::get(&mut tx, id).await?.is_none() {
        return Err(not_found(id));
    }
    metadata::merge(&mut tx, Kind::GroupType, id, specs).await?;
    let named = one.map_or(Specs::Added(specs), Specs::Updated);
    let notices = &service.notices;
    notices.group_specs(&mut tx, id, named, context).await?;
    Ok(tx.commit().await?)
}

/// Removes one spec.
pub async fn delete_spec(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    key: &str,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if !metadata::delete_key(&mut tx, Kind::GroupType, id, key).await? {
        return Err(Error::NotFound(format!(
            "Group Type {id} has no specs with key {key}."
        )));
    }
    let notices = &service.notices;
    notices
        .group_specs(&mut tx, id, Specs::Deleted(key), context)
        .await?;
    Ok(tx.commit().await?)
}
