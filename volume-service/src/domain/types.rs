//! Volume types: who sees them, changing them, the default one.

use std::collections::HashMap;

use rest::RequestContext;
use rest::list_query::Clause;
use uuid::Uuid;

use super::{parse_id, quota};
use crate::db::volume_types::{self, ExtraSpecs, VolumeType};
use crate::db::volumes::Volume;
use crate::db::{self, Source, default_types, quotas};
use crate::notices::Specs;
use crate::{Error, Result, VolumeService};

/// The type that the first start makes.
const DEFAULT_DESCRIPTION: &str = "Default Volume Type";

/// A type with its extra specs.
#[derive(Debug, Clone)]
pub struct TypeDetails {
    pub volume_type: VolumeType,
    pub extra_specs: ExtraSpecs,
}

/// Makes the default type unless there is one of its name.
pub async fn ensure_default(service: &VolumeService) -> Result<()> {
    let name = &service.options.default_volume_type;
    let mut tx = service.database.begin().await?;
    if volume_types::get_by_name(&mut tx, name).await?.is_none() {
        volume_types::insert(&mut tx, name, Some(DEFAULT_DESCRIPTION), true).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// The type of a project's volumes that name none: its own default, else the one of all.
pub async fn default_type(service: &VolumeService, project_id: &str) -> Result<VolumeType> {
    let database = &service.database;
    if let Some(id) = default_types::get(database, project_id).await?
        && let Some(found) = volume_types::get(database, id).await?
    {
        return Ok(found);
    }
    let name = &service.options.default_volume_type;
    let found = volume_types::get_by_name(database, name).await?;
    found.ok_or_else(|| {
        Error::Misconfigured(format!(
            "The request cannot be fulfilled as the default volume type {name} cannot be found."
        ))
    })
}

/// The type of this id, if the caller may see it.
pub async fn get(
    service: &VolumeService,
    context: &RequestContext,
    id: &str,
) -> Result<VolumeType> {
    let not_found = || Error::no_such("Volume type", id);
    let id = parse_id(id).ok_or_else(not_found)?;
    let found = volume_types::get(&service.database, id)
        .await?
        .ok_or_else(not_found)?;
    let seen = context.is_admin
        || volume_types::is_visible(&service.database, &found, context.project()).await?;
    if seen { Ok(found) } else { Err(not_found()) }
}

/// The type of this id or name, if the caller may see it.
pub async fn find(
    service: &VolumeService,
    context: &RequestContext,
    id_or_name: &str,
) -> Result<VolumeType> {
    if parse_id(id_or_name).is_some()
        && let Ok(found) = get(service, context, id_or_name).await
    {
        return Ok(found);
    }
    let not_found = || {
        Error::NotFound(format!(
            "Volume type with name {id_or_name} could not be found."
        ))
    };
    let found = volume_types::get_by_name(&service.database, id_or_name)
        .await?
        .ok_or_else(not_found)?;
    get(service, context, &found.id.to_string())
        .await
        .map_err(|_| not_found())
}

/// The type of a volume; `None` when it was deleted meanwhile.
pub async fn of_volume(service: &VolumeService, volume: &Volume) -> Result<Option<TypeDetails>> {
    let found = volume_types::get(&service.database, volume.volume_type_id).await?;
    let details = with_specs(&service.database, found.into_iter().collect()).await?;
    Ok(details.into_iter().next())
}

/// Types with their extra specs, in one read more.
pub async fn with_specs<'a>(
    from: impl Into<Source<'a>>,
    types: Vec<VolumeType>,
) -> Result<Vec<TypeDetails>> {
    let ids: Vec<Uuid> = types.iter().map(|volume_type| volume_type.id).collect();
    let mut specs: HashMap<_, _> = volume_types::extra_specs_of_many(from, &ids).await?;
    let join = |volume_type: VolumeType| TypeDetails {
        extra_specs: specs.remove(&volume_type.id).unwrap_or_default(),
        volume_type,
    };
    Ok(types.into_iter().map(join).collect())
}

/// The filter for the types that are listed: public ones with the private ones that the caller's
/// project may use (`Some(true)`), private ones, or all.
pub fn visible_filter(context: &RequestContext, is_public: Option<bool>) -> Option<Clause> {
    is_public.map(|public| match public {
        true => Clause::raw(
            "is_public = 1 OR id IN (SELECT volume_type_id FROM volume_type_projects WHERE project_id = ?)",
            vec![context.project().into()],
        ),
        false => Clause::equal("is_public", false),
    })
}

/// What a type is made of.
#[derive(Debug, Clone)]
pub struct NewType {
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub extra_specs: ExtraSpecs,
}

/// Two specs that exclude each other: the image cache is for one attachment at a time.
fn check_specs(specs: &ExtraSpecs) -> Result<()> {
    let set = |key: &str| specs.get(key).is_some_and(|value| value == "<is> True");
    if set("multiattach") && set("cacheable") {
        return Err(Error::Invalid(
            "cacheable cannot be set with multiattach.".to_owned(),
        ));
    }
    Ok(())
}

/// Checks a volume's size against the limits in its type's extra specs
/// (`provisioning:min_vol_size` and `…max_vol_size`).
pub fn check_size(volume_type: &VolumeType, specs: &ExtraSpecs, size_gib: u32) -> Result<()> {
    let limit = |key: &str| {
        let text = specs.get(&format!("provisioning:{key}"))?;
        Some((text, text.trim().parse::<u32>().ok()?))
    };
    let refused = |relation: &str, limit: &str| {
        Error::invalid_input(format!(
            "Specified volume size of '{size_gib}' is {relation} size of '{limit}' for volume type '{}'.",
            volume_type.name
        ))
    };
    match limit("min_vol_size") {
        Some((text, least)) if size_gib < least => {
            return Err(refused("less than the minimum required", text));
        }
        _ => {}
    }
    match limit("max_vol_size") {
        Some((text, most)) if size_gib > most => {
            Err(refused("greater than the maximum allowable", text))
        }
        _ => Ok(()),
    }
}

/// Makes a type.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    new: NewType,
) -> Result<TypeDetails> {
    check_specs(&new.extra_specs)?;
    let mut tx = service.database.begin().await?;
    let inserted = volume_types::insert(
        &mut tx,
        &new.name,
        new.description.as_deref(),
        new.is_public,
    )
    .await;
    let volume_type = inserted.map_err(|error| name_taken(error, &new.name))?;
    volume_types::merge_extra_specs(&mut tx, volume_type.id, &new.extra_specs).await?;
    let notices = &service.notices;
    notices
        .volume_type(&mut tx, "create", &volume_type, &new.extra_specs, context)
        .await?;
    tx.commit().await?;
    Ok(TypeDetails {
        volume_type,
        extra_specs: new.extra_specs,
    })
}

/// Writes name, description and visibility. The limits of its volumes follow a new name.
pub async fn update(
    service: &VolumeService,
    context: &RequestContext,
    changed: VolumeType,
) -> Result<TypeDetails> {
    let mut tx = service.database.begin().await?;
    let before = volume_types::get(&mut tx, changed.id)
        .await?
        .ok_or_else(|| Error::no_such("Volume type", changed.id))?;
    let updated = volume_types::update(&mut tx, &changed).await;
    if !updated.map_err(|error| name_taken(error, &changed.name))? {
        return Err(Error::no_such("Volume type", changed.id));
    }
    if before.name != changed.name {
        let new_names = quota::type_resources(&changed.name);
        for (from, to) in quota::type_resources(&before.name).iter().zip(&new_names) {
            quotas::rename_resource(&mut tx, from, to).await?;
        }
    }
    let extra_specs = volume_types::extra_specs(&mut tx, changed.id).await?;
    let notices = &service.notices;
    notices
        .volume_type(&mut tx, "update", &changed, &extra_specs, context)
        .await?;
    tx.commit().await?;
    Ok(TypeDetails {
        volume_type: changed,
        extra_specs,
    })
}

fn name_taken(error: database::Error, name: &str) -> Error {
    match error {
        database::Error::Constraint(_) => {
            Error::Conflict(format!("Volume Type {name} already exists."))
        }
        other => other.into(),
    }
}

/// Deletes a type that no volume has and that is not the default.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    volume_type: &VolumeType,
) -> Result<()> {
    let id = volume_type.id;
    let mut tx = service.database.begin().await?;
    if volume_type.name == service.options.default_volume_type
        || default_types::any_with(&mut tx, id).await?
    {
        return Err(Error::Invalid(format!(
            "The volume type {id} is a default volume type and cannot be deleted."
        )));
    }
    if volume_types::all(&mut tx).await?.len() <= 1 {
        return Err(Error::Invalid(format!(
            "The volume type {id} is the only currently defined volume type and cannot be deleted."
        )));
    }
    if db::volumes::any_of_type(&mut tx, id).await?
        || db::placements::any_to_type(&mut tx, id).await?
    {
        return Err(Error::Invalid(
            "Target volume type is still in use.".to_owned(),
        ));
    }
    let extra_specs = volume_types::extra_specs(&mut tx, id).await?;
    if !volume_types::delete(&mut tx, id).await? {
        return Err(Error::no_such("Volume type", id));
    }
    let notices = &service.notices;
    notices
        .volume_type(&mut tx, "delete", volume_type, &extra_specs, context)
        .await?;
    Ok(tx.commit().await?)
}

/// Adds or replaces extra specs, of which `one` was named alone; refused while a volume uses the
/// type.
pub async fn set_extra_specs(
    service: &VolumeService,
    context: &RequestContext,
    volume_type: &VolumeType,
    specs: &ExtraSpecs,
    one: Option<&str>,
) -> Result<()> {
    let id = volume_type.id;
    let mut tx = service.database.begin().await?;
    refuse_used(&mut tx, id).await?;
    volume_types::merge_extra_specs(&mut tx, id, specs).await?;
    check_specs(&volume_types::extra_specs(&mut tx, id).await?)?;
    let named = one.map_or(Specs::Added(specs), Specs::Updated);
    let notices = &service.notices;
    notices
        .extra_specs(&mut tx, volume_type, named, context)
        .await?;
    Ok(tx.commit().await?)
}

/// Removes one extra spec; refused while a volume uses the type.
pub async fn delete_extra_spec(
    service: &VolumeService,
    context: &RequestContext,
    volume_type: &VolumeType,
    key: &str,
) -> Result<()> {
    let id = volume_type.id;
    let mut tx = service.database.begin().await?;
    refuse_used(&mut tx, id).await?;
    if !volume_types::delete_extra_spec(&mut tx, id, key).await? {
        return Err(no_extra_spec(id, key));
    }
    let notices = &service.notices;
    notices
        .extra_specs(&mut tx, volume_type, Specs::Deleted(key), context)
        .await?;
    Ok(tx.commit().await?)
}

/// "Volume Type … has no extra specs with key …."
pub fn no_extra_spec(id: Uuid, key: &str) -> Error {
    Error::NotFound(format!(
        "Volume Type {id} has no extra specs with key {key}."
    ))
}

async fn refuse_used(tx: &mut database::Tx, id: Uuid) -> Result<()> {
    if db::volumes::any_of_type(tx, id).await? {
        return Err(Error::Invalid(
            "Volume Type is currently in use.".to_owned(),
        ));
    }
    Ok(())
}

/// Lets a project use a private type.
pub async fn add_access(
    service: &VolumeService,
    context: &RequestContext,
    volume_type: &VolumeType,
    project_id: &str,
) -> Result<()> {
    if volume_type.is_public {
        let reason = "Type access modification is not applicable to public volume type.";
        return Err(Error::Invalid(format!("Invalid volume type: {reason}")));
    }
    let mut tx = service.database.begin().await?;
    match volume_types::add_project(&mut tx, volume_type.id, project_id).await {
        Err(database::Error::Constraint(_)) => Err(Error::Conflict(format!(
            "Volume type access for {} / {project_id} combination already exists.",
            volume_type.id
        ))),
        Err(other) => Err(other.into()),
        Ok(()) => {
            let notices = &service.notices;
            notices
                .type_access(&mut tx, "add", volume_type.id, project_id, context)
                .await?;
            Ok(tx.commit().await?)
        }
    }
}

/// Takes a project's access to a private type back.
pub async fn remove_access(
    service: &VolumeService,
    context: &RequestContext,
    volume_type: &VolumeType,
    project_id: &str,
) -> Result<()> {
    if volume_type.is_public {
        let reason = "Type access modification is not applicable to public volume type.";
        return Err(Error::Invalid(format!("Invalid volume type: {reason}")));
    }
    let mut tx = service.database.begin().await?;
    if !volume_types::remove_project(&mut tx, volume_type.id, project_id).await? {
        return Err(Error::NotFound(format!(
            "Volume type access not found for {} / {project_id} combination.",
            volume_type.id
        )));
    }
    let notices = &service.notices;
    notices
        .type_access(&mut tx, "remove", volume_type.id, project_id, context)
        .await?;
    Ok(tx.commit().await?)
}
