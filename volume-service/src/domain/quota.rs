//! Quotas: the limits that hold for a project, and the check inside the inserting transaction.
//!
//! Limits come from the options, then the quota class `default`, then what was set for the
//! project. Per-type resources (`volumes_<type>`, `snapshots_<type>`, `gigabytes_<type>`) are
//! unlimited unless somebody set them.

use std::collections::BTreeMap;

use database::Tx;
use uuid::Uuid;

use crate::db::quotas::{self, Amount, Limits, Usage};
use crate::db::volume_types::VolumeType;
use crate::db::{Source, groups};
use crate::{Error, Options, Result};

/// The largest limit (a signed 32-bit integer in Cinder's database).
pub const MAX_LIMIT: i64 = 2_147_483_647;
/// The quota class whose limits are every project's defaults.
pub const DEFAULT_CLASS: &str = "default";

/// The resources that are not per type, with the limits of the options.
pub fn option_limits(options: &Options) -> Limits {
    [
        ("backup_gigabytes", options.quota_backup_gigabytes),
        ("backups", options.quota_backups),
        ("gigabytes", options.quota_gigabytes),
        ("groups", options.quota_groups),
        ("per_volume_gigabytes", options.per_volume_size_limit),
        ("snapshots", options.quota_snapshots),
        ("volumes", options.quota_volumes),
    ]
    .map(|(resource, limit)| (resource.to_owned(), limit))
    .into()
}

/// The names of the per-type resources of one type.
pub fn type_resources(type_name: &str) -> [String; 3] {
    ["gigabytes", "snapshots", "volumes"].map(|resource| format!("{resource}_{type_name}"))
}

/// The limits of a project that has none of its own.
pub async fn default_limits<'a>(options: &Options, from: impl Into<Source<'a>>) -> Result<Limits> {
    let mut limits = option_limits(options);
    limits.extend(quotas::of_class(from, DEFAULT_CLASS).await?);
    Ok(limits)
}

/// The limits that hold for a project.
pub async fn effective_limits(options: &Options, tx: &mut Tx, project_id: &str) -> Result<Limits> {
    let mut limits = default_limits(options, &mut *tx).await?;
    limits.extend(quotas::of_project(&mut *tx, project_id).await?);
    Ok(limits)
}

/// What a transaction is about to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addition {
    Volume,
    Snapshot,
    /// A volume grows; `size_gib` is by how much, `to_gib` the new size.
    Growth {
        to_gib: u32,
    },
    /// A volume of another type becomes one of this: only the type's own limits count.
    Retype,
}

/// Checks that `project_id` may add this, under the project's lock, which the transaction keeps.
///
/// Errors: [`Error::OverQuota`] with Cinder's text for the first resource that is over.
pub async fn check_volumes(
    options: &Options,
    tx: &mut Tx,
    project_id: &str,
    volume_type: &VolumeType,
    addition: Addition,
    size_gib: u32,
) -> Result<()> {
    let mut additions = Additions::default();
    match addition {
        Addition::Volume => additions.volume(volume_type, size_gib),
        Addition::Snapshot => additions.snapshot(volume_type, size_gib),
        Addition::Growth { to_gib } => additions.growth(volume_type, size_gib, to_gib),
        Addition::Retype => {
            return check_retype(options, tx, project_id, volume_type, size_gib).await;
        }
    }
    check_additions(options, tx, project_id, &additions).await
}

/// A volume of another type becomes one of this: only the type's own limits count.
async fn check_retype(
    options: &Options,
    tx: &mut Tx,
    project_id: &str,
    volume_type: &VolumeType,
    size_gib: u32,
) -> Result<()> {
    quotas::lock(tx, project_id).await?;
    let limits = effective_limits(options, tx, project_id).await?;
    let usage = quotas::volume_usage(&mut *tx, project_id).await?;
    let used = Consumed::of(options, &usage, volume_type);
    let name = &volume_type.name;
    let resource = format!("gigabytes_{name}");
    check_size(&limits, &resource, used.type_gigabytes, i64::from(size_gib))?;
    let resource = format!("volumes_{name}");
    check_count(&limits, "volumes", &resource, used.type_volumes, 1)
}

/// Volumes and snapshots that a transaction is about to add together, by volume type.
#[derive(Debug, Default)]
pub struct Additions {
    by_type: BTreeMap<Uuid, OfType>,
    /// The size that the largest volume will have.
    largest_volume_gib: u32,
}

#[derive(Debug)]
struct OfType {
    volume_type: VolumeType,
    volumes: Amount,
    snapshots: Amount,
}

impl Additions {
    /// One volume more.
    pub fn volume(&mut self, volume_type: &VolumeType, size_gib: u32) {
        self.largest_volume_gib = self.largest_volume_gib.max(size_gib);
        add(&mut self.of_type(volume_type).volumes, 1, size_gib);
    }

    /// One snapshot more.
    pub fn snapshot(&mut self, volume_type: &VolumeType, size_gib: u32) {
        add(&mut self.of_type(volume_type).snapshots, 1, size_gib);
    }

    /// A volume that is there grows by so much, to so much.
    pub fn growth(&mut self, volume_type: &VolumeType, by_gib: u32, to_gib: u32) {
        self.largest_volume_gib = self.largest_volume_gib.max(to_gib);
        add(&mut self.of_type(volume_type).volumes, 0, by_gib);
    }

    fn of_type(&mut self, volume_type: &VolumeType) -> &mut OfType {
        self.by_type
            .entry(volume_type.id)
            .or_insert_with(|| OfType {
                volume_type: volume_type.clone(),
                volumes: Amount::default(),
                snapshots: Amount::default(),
            })
    }
}

fn add(amount: &mut Amount, count: i64, size_gib: u32) {
    amount.count = amount.count.saturating_add(count);
    amount.size_gib = amount.size_gib.saturating_add(i64::from(size_gib));
}

/// [`check_volumes`] for many at once: all fit, or none is let in.
pub async fn check_additions(
    options: &Options,
    tx: &mut Tx,
    project_id: &str,
    additions: &Additions,
) -> Result<()> {
    quotas::lock(tx, project_id).await?;
    let limits = effective_limits(options, tx, project_id).await?;
    check_volume_size(&limits, additions.largest_volume_gib)?;
    let resources = ["gigabytes", "snapshots", "volumes"].map(str::to_owned);
    let of_types = additions
        .by_type
        .values()
        .flat_map(|of| type_resources(&of.volume_type.name));
    if resources
        .into_iter()
        .chain(of_types)
        .all(|resource| limit_of(&limits, &resource) < 0)
    {
        return Ok(());
    }
    let usage = quotas::volume_usage(&mut *tx, project_id).await?;
    let used = Consumed::of_all(options, &usage);
    let all: Vec<&OfType> = additions.by_type.values().collect();
    let gib = |of: &&OfType| gigabytes(options, of.volumes, of.snapshots);
    check_size(
        &limits,
        "gigabytes",
        used.gigabytes,
        all.iter().map(gib).sum(),
    )?;
    for of in &all {
        let used = Consumed::of(options, &usage, &of.volume_type).type_gigabytes;
        let resource = format!("gigabytes_{}", of.volume_type.name);
        check_size(&limits, &resource, used, gib(of))?;
    }
    let volumes = all.iter().map(|of| of.volumes.count).sum();
    let snapshots = all.iter().map(|of| of.snapshots.count).sum();
    check_count(&limits, "volumes", "volumes", used.volumes, volumes)?;
    check_count(&limits, "snapshots", "snapshots", used.snapshots, snapshots)?;
    for of in &all {
        let used = Consumed::of(options, &usage, &of.volume_type);
        let name = &of.volume_type.name;
        for (what, used, added) in [
            ("volumes", used.type_volumes, of.volumes.count),
            ("snapshots", used.type_snapshots, of.snapshots.count),
        ] {
            check_count(&limits, what, &format!("{what}_{name}"), used, added)?;
        }
    }
    Ok(())
}

/// Checks that `project_id` may add a group.
pub async fn check_group(options: &Options, tx: &mut Tx, project_id: &str) -> Result<()> {
    quotas::lock(tx, project_id).await?;
    let limits = effective_limits(options, tx, project_id).await?;
    let used = groups::count(&mut *tx, project_id).await?;
    check_count(&limits, "groups", "groups", used, 1)
}

/// Checks that `project_id` may add a backup of `size_gib`.
pub async fn check_backup(
    options: &Options,
    tx: &mut Tx,
    project_id: &str,
    size_gib: u32,
) -> Result<()> {
    quotas::lock(tx, project_id).await?;
    let limits = effective_limits(options, tx, project_id).await?;
    let used = quotas::backup_usage(&mut *tx, project_id).await?;
    let (limit, size_gib) = (limit_of(&limits, "backup_gigabytes"), i64::from(size_gib));
    if exceeds(limit, used.size_gib, size_gib) {
        return Err(Error::OverQuota(format!(
            "Requested backup exceeds allowed Backup gigabytes quota. Requested {size_gib}G, quota is {limit}G \
             and {}G has been consumed.",
            used.size_gib
        )));
    }
    check_count(&limits, "backups", "backups", used.count, 1)
}

/// What a project uses, summed as the resources are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Consumed {
    pub volumes: i64,
    pub snapshots: i64,
    pub gigabytes: i64,
    pub type_volumes: i64,
    pub type_snapshots: i64,
    pub type_gigabytes: i64,
}

impl Consumed {
    /// The sums over all types, and over one.
    pub fn of(options: &Options, usage: &Usage, volume_type: &VolumeType) -> Self {
        let mut consumed = Consumed::of_all(options, usage);
        let volumes = usage
            .volumes
            .get(&volume_type.id)
            .copied()
            .unwrap_or_default();
        let snapshots = usage
            .snapshots
            .get(&volume_type.id)
            .copied()
            .unwrap_or_default();
        let coming = usage
            .retyping
            .get(&volume_type.id)
            .copied()
            .unwrap_or_default();
        consumed.type_volumes = volumes.count.saturating_add(coming.count);
        consumed.type_snapshots = snapshots.count;
        consumed.type_gigabytes =
            gigabytes(options, volumes, snapshots).saturating_add(coming.size_gib);
        consumed
    }

    /// The sums over all types.
    pub fn of_all(options: &Options, usage: &Usage) -> Self {
        let sum = |amounts: &std::collections::HashMap<_, Amount>| {
            amounts
                .values()
                .fold(Amount::default(), |sum, amount| Amount {
                    count: sum.count.saturating_add(amount.count),
                    size_gib: sum.size_gib.saturating_add(amount.size_gib),
                })
        };
        let (volumes, snapshots) = (sum(&usage.volumes), sum(&usage.snapshots));
        Consumed {
            volumes: volumes.count,
            snapshots: snapshots.count,
            gigabytes: gigabytes(options, volumes, snapshots),
            ..Consumed::default()
        }
    }
}

fn gigabytes(options: &Options, volumes: Amount, snapshots: Amount) -> i64 {
    let of_snapshots = if options.no_snapshot_gb_quota {
        0
    } else {
        snapshots.size_gib
    };
    volumes.size_gib.saturating_add(of_snapshots)
}

fn limit_of(limits: &Limits, resource: &str) -> i64 {
    limits.get(resource).copied().unwrap_or(-1)
}

fn exceeds(limit: i64, used: i64, added: i64) -> bool {
    limit >= 0 && added > 0 && used.saturating_add(added) > limit
}

fn check_volume_size(limits: &Limits, size_gib: u32) -> Result<()> {
    let limit = limit_of(limits, "per_volume_gigabytes");
    if !exceeds(limit, 0, i64::from(size_gib)) {
        return Ok(());
    }
    Err(Error::OverQuota(format!(
        "Requested volume size {size_gib}G is larger than maximum allowed limit {limit}G."
    )))
}

fn check_size(limits: &Limits, resource: &str, used: i64, added: i64) -> Result<()> {
    let limit = limit_of(limits, resource);
    if !exceeds(limit, used, added) {
        return Ok(());
    }
    Err(Error::OverQuota(format!(
        "Requested volume or snapshot exceeds allowed {resource} quota. Requested {added}G, quota is {limit}G \
         and {used}G has been consumed."
    )))
}

fn check_count(limits: &Limits, what: &str, resource: &str, used: i64, added: i64) -> Result<()> {
    let limit = limit_of(limits, resource);
    if !exceeds(limit, used, added) {
        return Ok(());
    }
    let quota = if what == "volumes" {
        format!(" for quota '{resource}'.")
    } else {
        String::new()
    };
    Err(Error::OverQuota(format!(
        "Maximum number of {what} allowed ({limit}) exceeded{quota}"
    )))
}
