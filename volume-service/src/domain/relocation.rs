//! Retypes and migrations: checks, the status, quota and flow in one transaction.

use std::time::Duration;

use database::Tx;
use rest::RequestContext;
use uuid::Uuid;

use super::quota::{self, Addition};
use super::{
    encryption, requester, services, types, volume_actions, volume_attach, volume_create, volumes,
};
use crate::db::placements::{self, Placement};
use crate::db::volume_types::VolumeType;
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, status};
use crate::flows::swap::target_of;
use crate::flows::{
    CompleteMigration, CompleteMigrationParams, MigrateVolume, MigrateVolumeParams,
    MigrationPolicy, Recryption, RetypeVolume, RetypeVolumeParams,
};
use crate::{Error, Result, SCHEDULER_QUEUE, VolumeService};

/// A volume that is on its way stays out of the way of a second move.
const NOT_MOVING: &str =
    "migration_status IS NULL OR migration_status IN ('none', 'deleting', 'error', 'success')";
const RESTING: &[&str] = &[status::AVAILABLE, status::IN_USE];

/// Changes the type of a volume, and its pool if the policy allows it and the type asks for it.
pub async fn retype(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    new_type: &str,
    policy: MigrationPolicy,
) -> Result<()> {
    let new_type = types::find(service, context, new_type).await?;
    let extra_specs = db::volume_types::extra_specs(&service.database, new_type.id).await?;
    let multiattach = if volume.volume_type_id == new_type.id {
        volume.multiattach
    } else {
        volume_create::may_multiattach(service, context, &extra_specs)?
    };
    types::check_size(&new_type, &extra_specs, volume.size_gib)?;
    let recryption = recryption(service, context, volume, &new_type, policy).await?;
    let asked = Retyping {
        new_type: &new_type,
        multiattach,
        policy,
        recryption,
    };
    let inserted = insert_retype(service, context, volume, asked).await;
    if inserted.is_err() {
        encryption::forget(service, context, recryption.new_key()).await;
    }
    inserted
}

/// A retype whose type and keys have been found.
struct Retyping<'a> {
    new_type: &'a VolumeType,
    multiattach: bool,
    policy: MigrationPolicy,
    recryption: Recryption,
}

async fn insert_retype(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    asked: Retyping<'_>,
) -> Result<()> {
    let (new_type, multiattach) = (asked.new_type, asked.multiattach);
    let mut tx = service.database.begin().await?;
    let current = live(&mut tx, volume.id).await?;
    if db::volume_types::get(&mut tx, new_type.id).await?.is_none() {
        return Err(Error::no_such("Volume type", new_type.id));
    }
    check_new_type(&current, new_type, multiattach)?;
    if current.volume_type_id != volume.volume_type_id
        || current.encryption_key_id != volume.encryption_key_id
    {
        // What was decided about its encryption was about another type.
        return Err(refused(&current, "retyped"));
    }
    if current.status != status::AVAILABLE {
        check_in_use(&mut tx, &current, new_type).await?;
    }
    services::check_not_frozen(&mut tx, current.host.as_deref()).await?;
    let change = Change::volume(current.id)
        .when(RESTING)
        .and(NOT_MOVING, &[])
        .and("host IS NOT NULL AND group_id IS NULL", &[])
        .set_expression("previous_status = status")
        .status(status::RETYPING);
    expect_done(change.apply(&mut tx).await?, &current, "retyped")?;
    quota::check_volumes(
        &service.options,
        &mut tx,
        &current.project_id,
        new_type,
        Addition::Retype,
        current.size_gib,
    )
    .await?;
    let placement = Placement {
        new_type_id: Some(new_type.id),
        ..Placement::default()
    };
    placements::put(&mut tx, current.id, &placement).await?;
    let params = RetypeVolumeParams {
        volume_id: current.id,
        new_type_id: new_type.id,
        multiattach,
        policy: asked.policy,
        recryption: asked.recryption,
    };
    RetypeVolume::new_flow(&params, &requester(context, &current.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(SCHEDULER_QUEUE);
    Ok(())
}

/// A type that the volume can be given in its state.
fn check_new_type(volume: &Volume, new_type: &VolumeType, multiattach: bool) -> Result<()> {
    if volume.volume_type_id == new_type.id {
        return Err(Error::invalid_input(format!(
            "New volume_type same as original: {}.",
            new_type.id
        )));
    }
    if volume.multiattach != multiattach && volume.status != status::AVAILABLE {
        return Err(Error::invalid_input(
            "Invalid volume_type passed: the multiattach setting of a volume can be changed only \
             while it is available.",
        ));
    }
    Ok(())
}

/// What a client that has the volume attached would have to notice cannot change meanwhile.
async fn check_in_use(tx: &mut Tx, volume: &Volume, new_type: &VolumeType) -> Result<()> {
    let old_type = db::volume_types::get(&mut *tx, volume.volume_type_id).await?;
    let old_specs = old_type.and_then(|old_type| old_type.qos_specs_id);
    if old_specs == new_type.qos_specs_id {
        return Ok(());
    }
    for specs in [old_specs, new_type.qos_specs_id].into_iter().flatten() {
        let specs = db::qos_specs::get(&mut *tx, specs).await?;
        if specs.is_some_and(|specs| specs.consumer != "back-end") {
            return Err(Error::invalid_volume(format!(
                "Retype cannot change front-end qos specs for in-use volume: {}.",
                volume.id
            )));
        }
    }
    Ok(())
}

/// From the encryption of a volume to that of another type, with a key of its own where the two
/// differ.
async fn recryption(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    new_type: &VolumeType,
    policy: MigrationPolicy,
) -> Result<Recryption> {
    let from = encryption::of_volume(service, volume).await;
    let database = &service.database;
    let old = db::type_encryption::get(database, volume.volume_type_id).await?;
    let new = db::type_encryption::get(database, new_type.id).await?;
    let specs = db::volume_types::extra_specs(database, new_type.id).await?;
    if new.is_some() && volume_create::is_multiattach_spec(&specs) {
        return Err(Error::invalid_input(
            "Retype requested both encryption and multi-attach, which is not supported.",
        ));
    }
    if old.as_ref().map(encryption::settings) == new.as_ref().map(encryption::settings) {
        return Ok(Recryption::unchanged(from.unwrap_or(None)));
    }
    if policy == MigrationPolicy::Never {
        return Err(Error::invalid_input(
            "Retype requires migration but is not allowed: the encryption of the volume changes.",
        ));
    }
    Ok(Recryption {
        from: from?,
        to: encryption::key_for(service, context, new_type.id, None).await?,
        changes: true,
    })
}

/// Where a migration goes and how.
#[derive(Debug, Clone)]
pub struct Destination {
    /// `host@backend`, or with `#pool`.
    pub host: String,
    pub force_host_copy: bool,
    /// The volume is `maintenance` meanwhile, so that nothing else is done to it.
    pub lock_volume: bool,
}

/// Sends a volume to another pool.
pub async fn migrate(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    to: Destination,
) -> Result<()> {
    check_destination(service, &to.host).await?;
    // What cannot be made anew here can still be copied as it is.
    let encryption = encryption::of_volume(service, volume).await.unwrap_or(None);
    let mut tx = service.database.begin().await?;
    let current = live(&mut tx, volume.id).await?;
    if is_same(current.host.as_deref().unwrap_or_default(), &to.host) {
        return Err(Error::Invalid(
            "Invalid host: Destination host must be different than the current host.".to_owned(),
        ));
    }
    services::check_not_frozen(&mut tx, current.host.as_deref()).await?;
    if !db::snapshots::of_volume(&mut tx, current.id)
        .await?
        .is_empty()
    {
        return Err(refused(&current, "migrated"));
    }
    let locks = to.lock_volume && current.status == status::AVAILABLE;
    let mut change = Change::volume(current.id)
        .when(if locks { &[status::AVAILABLE] } else { RESTING })
        .and(NOT_MOVING, &[])
        .and("host IS NOT NULL AND group_id IS NULL", &[])
        .set_expression("previous_status = status")
        .set("migration_status = ?", status::STARTING);
    if locks {
        change = change.status(status::MAINTENANCE);
    }
    expect_done(change.apply(&mut tx).await?, &current, "migrated")?;
    let placement = Placement {
        target_host: Some(to.host),
        ..Placement::default()
    };
    placements::put(&mut tx, current.id, &placement).await?;
    let params = MigrateVolumeParams {
        volume_id: current.id,
        force_host_copy: to.force_host_copy,
        recryption: Recryption::unchanged(encryption),
    };
    MigrateVolume::new_flow(&params, &requester(context, &current.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(SCHEDULER_QUEUE);
    Ok(())
}

/// A manager of this name must be enabled and up.
async fn check_destination(service: &VolumeService, host: &str) -> Result<()> {
    let service_host = host.split('#').next().unwrap_or(host);
    let down_time_s = service.options.service_down_time_s;
    let known = db::services::list(&service.database).await?;
    let usable = known.iter().any(|known| {
        known.binary == db::services::VOLUME
            && known.host == service_host
            && !known.disabled
            && known.is_up(down_time_s)
    });
    if usable {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "Invalid host: No available service named '{host}'"
    )))
}

/// Whether `to`, with or without a pool, names where the volume is.
fn is_same(host: &str, to: &str) -> bool {
    host == to || host.split('#').next() == Some(to)
}

async fn live(tx: &mut Tx, id: Uuid) -> Result<Volume> {
    db::volumes::get(tx, id)
        .await?
        .ok_or_else(|| volumes::not_found(id))
}

fn expect_done(outcome: Outcome, volume: &Volume, what: &str) -> Result<()> {
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::NotFound => Err(volumes::not_found(volume.id)),
        Outcome::WrongState { .. } => Err(refused(volume, what)),
    }
}

fn refused(volume: &Volume, what: &str) -> Error {
    Error::invalid_volume(format!(
        "Volume {} status must be available or in-use, it must not be migrating, must have a host, \
         must not have snapshots (to be migrated), and must not be in a group to be {what}.",
        volume.id
    ))
}

/// How long the compute service's call waits for what is done to the volumes: a backup of the
/// old one, say, ends first.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(60);
const COMPLETION_POLL: Duration = Duration::from_millis(20);

/// Ends a migration that the compute service has carried out (it swapped an attached volume), or
/// could not. Returns when the volumes have changed places, or are sure to.
///
/// Errors: [`Error::Invalid`] unless `new_volume` is the target of a migration of `volume`.
/// Answers the id that stays.
pub async fn complete(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    new_volume: &str,
    has_failed: bool,
) -> Result<Uuid> {
    let new_volume = volumes::get(service, context, new_volume).await?;
    let is_set = |status: &Option<String>| status.as_deref().is_some_and(|status| status != "none");
    match (
        is_set(&volume.migration_status),
        is_set(&new_volume.migration_status),
    ) {
        // Nothing migrates: the compute service has swapped two volumes, and each stays itself.
        (false, false) => {
            if !has_failed {
                volume_attach::swap(service, volume.id, new_volume.id).await?;
            }
            Ok(new_volume.id)
        }
        (false, true) => Err(Error::invalid_volume("Source volume not mid-migration.")),
        (true, false) => Err(Error::invalid_volume(
            "Destination volume not mid-migration.",
        )),
        (true, true) if new_volume.migration_status == Some(target_of(volume.id)) => {
            insert_completion(service, context, volume, &new_volume, has_failed).await?;
            let completed = completion(service, new_volume.id);
            if let Ok(read) = tokio::time::timeout(COMPLETION_TIMEOUT, completed).await {
                read?;
            }
            Ok(volume.id)
        }
        (true, true) => Err(Error::invalid_volume(format!(
            "Destination has migration_status {}, expected target:{}.",
            new_volume.migration_status.unwrap_or_default(),
            volume.id
        ))),
    }
}

async fn insert_completion(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    new_volume: &Volume,
    has_failed: bool,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if !has_failed {
        let change = Change::volume(volume.id);
        change
            .set("migration_status = ?", status::COMPLETING)
            .apply(&mut tx)
            .await?;
    }
    let params = CompleteMigrationParams {
        volume_id: volume.id,
        new_volume_id: new_volume.id,
        error: has_failed,
    };
    let queue = volume_actions::queue_of(volume)?;
    CompleteMigration::new_flow(&params, &queue, &requester(context, &volume.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(())
}

/// Waits until a volume is no target any more.
async fn completion(service: &VolumeService, target_id: Uuid) -> Result<()> {
    loop {
        let target = db::volumes::get(&service.database, target_id).await?;
        let waits = target
            .and_then(|target| target.migration_status)
            .is_some_and(|status| status.starts_with("target:"));
        if !waits {
            return Ok(());
        }
        tokio::time::sleep(COMPLETION_POLL).await;
    }
}
