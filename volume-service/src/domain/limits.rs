//! Limits, usage and quota sets of a project.

use std::collections::BTreeMap;

use super::quota::{self, Consumed, DEFAULT_CLASS};
use crate::db::quotas::{self, Limits};
use crate::db::{groups, volume_types};
use crate::{Error, Result, VolumeService};

/// A limit and what is used of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    pub limit: i64,
    pub in_use: i64,
}

/// What a project has by resource: all resources, also the per-type ones.
pub type QuotaSet = BTreeMap<String, Quota>;

/// The limits that hold for a project, with its usage.
pub async fn of_project(service: &VolumeService, project_id: &str) -> Result<QuotaSet> {
    let mut limits = defaults(service).await?;
    limits.extend(quotas::of_project(&service.database, project_id).await?);
    let usage = usage(service, project_id).await?;
    let used = |resource: &str| usage.get(resource).copied().unwrap_or(0);
    Ok(limits
        .into_iter()
        .map(|(resource, limit)| {
            (
                resource.clone(),
                Quota {
                    limit,
                    in_use: used(&resource),
                },
            )
        })
        .collect())
}

/// The limits of a project that has none of its own, per-type resources included.
pub async fn defaults(service: &VolumeService) -> Result<Limits> {
    let mut limits = Limits::new();
    for volume_type in volume_types::all(&service.database).await?.values() {
        limits.extend(quota::type_resources(&volume_type.name).map(|resource| (resource, -1)));
    }
    limits.extend(quota::default_limits(&service.options, &service.database).await?);
    Ok(limits)
}

async fn usage(service: &VolumeService, project_id: &str) -> Result<BTreeMap<String, i64>> {
    let database = &service.database;
    let usage = quotas::volume_usage(database, project_id).await?;
    let backups = quotas::backup_usage(database, project_id).await?;
    let all = Consumed::of_all(&service.options, &usage);
    let mut used = BTreeMap::from([
        ("volumes".to_owned(), all.volumes),
        ("snapshots".to_owned(), all.snapshots),
        ("gigabytes".to_owned(), all.gigabytes),
        ("backups".to_owned(), backups.count),
        ("backup_gigabytes".to_owned(), backups.size_gib),
        (
            "groups".to_owned(),
            groups::count(database, project_id).await?,
        ),
    ]);
    for volume_type in volume_types::all(database).await?.values() {
        let of_type = Consumed::of(&service.options, &usage, volume_type);
        let [gigabytes, snapshots, volumes] = quota::type_resources(&volume_type.name);
        used.insert(gigabytes, of_type.type_gigabytes);
        used.insert(snapshots, of_type.type_snapshots);
        used.insert(volumes, of_type.type_volumes);
    }
    Ok(used)
}

/// Sets limits of a project; none may be below what is used.
pub async fn set_of_project(
    service: &VolumeService,
    project_id: &str,
    limits: &Limits,
) -> Result<()> {
    let known = of_project(service, project_id).await?;
    refuse_unknown(limits, "quota set", |resource| known.contains_key(resource))?;
    for (resource, limit) in limits {
        let used = known.get(resource).map_or(0, |quota| quota.in_use);
        if *limit != -1 && *limit < used {
            return Err(Error::Invalid(format!(
                "Quota {resource} limit must be equal or greater than existing resources. Current usage is {used} \
                 and the requested limit is {limit}."
            )));
        }
    }
    let mut tx = service.database.begin().await?;
    quotas::set_of_project(&mut tx, project_id, limits).await?;
    Ok(tx.commit().await?)
}

/// Takes a project back to the defaults.
pub async fn reset_project(service: &VolumeService, project_id: &str) -> Result<()> {
    let mut tx = service.database.begin().await?;
    quotas::delete_of_project(&mut tx, project_id).await?;
    Ok(tx.commit().await?)
}

/// The limits of a class; one that nobody set has the defaults.
pub async fn of_class(service: &VolumeService, class: &str) -> Result<Limits> {
    let mut limits = defaults(service).await?;
    if class != DEFAULT_CLASS {
        limits.extend(quotas::of_class(&service.database, class).await?);
    }
    Ok(limits)
}

/// Sets limits of a class.
pub async fn set_of_class(service: &VolumeService, class: &str, limits: &Limits) -> Result<()> {
    let known = defaults(service).await?;
    refuse_unknown(limits, "quota class set", |resource| {
        known.contains_key(resource)
    })?;
    let mut tx = service.database.begin().await?;
    quotas::set_of_class(&mut tx, class, limits).await?;
    Ok(tx.commit().await?)
}

fn refuse_unknown(limits: &Limits, what: &str, known: impl Fn(&str) -> bool) -> Result<()> {
    let unknown: Vec<_> = limits
        .keys()
        .map(String::as_str)
        .filter(|resource| !known(resource))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "Bad key(s) in {what}: {}",
        unknown.join(", ")
    )))
}
