//! Which backup service does a job: one that reaches the volume and has the backup's data.

use uuid::Uuid;

use crate::connection::Connection;
use crate::db::backups::Backup;
use crate::db::connections;
use crate::db::services::{self, BACKUP, Service};
use crate::db::volumes::Volume;
use crate::{Error, Result, VolumeService};

/// For a new backup of `volume`, in this zone if one is asked for.
///
/// Errors: [`Error::Unavailable`] when no such service is enabled and up; also of the others.
pub async fn for_new(
    service: &VolumeService,
    volume: &Volume,
    zone: Option<&str>,
) -> Result<Service> {
    let mut usable = usable(service, zone).await?;
    keep_those_that_reach(service, volume, &mut usable).await?;
    choose(usable, volume.id)
}

/// For a backup that is there: to delete it, or to write it to `restored_to`.
pub async fn for_backup(
    service: &VolumeService,
    backup: &Backup,
    restored_to: Option<&Volume>,
) -> Result<Service> {
    let mut usable = usable(service, backup.availability_zone.as_deref()).await?;
    let known = services::list(&service.database).await?;
    let mut of_host = known
        .into_iter()
        .filter(|known| known.binary == BACKUP && Some(&known.host) == backup.host.as_ref());
    // Its row says where its data went, even when the service itself is gone.
    if let Some(fsid) = of_host.next().and_then(|made_by| made_by.store_fsid) {
        usable.retain(|one| one.store_fsid.as_ref() == Some(&fsid));
    }
    if let Some(volume) = restored_to {
        keep_those_that_reach(service, volume, &mut usable).await?;
    }
    choose(usable, backup.id)
}

/// Any service: for a backup that somebody else made.
pub async fn any(service: &VolumeService) -> Result<Service> {
    choose(usable(service, None).await?, Uuid::nil())
}

async fn usable(service: &VolumeService, zone: Option<&str>) -> Result<Vec<Service>> {
    let down_time_s = service.options.service_down_time_s;
    let mut known = services::list(&service.database).await?;
    known.retain(|known| {
        known.binary == BACKUP
            && !known.disabled
            && known.is_up(down_time_s)
            && zone.is_none_or(|zone| known.availability_zone == zone)
    });
    Ok(known)
}

/// A volume in an embedded store is reached on its host alone, one in a cluster everywhere.
async fn keep_those_that_reach(
    service: &VolumeService,
    volume: &Volume,
    usable: &mut Vec<Service>,
) -> Result<()> {
    let Some(pool) = &volume.host else {
        return Ok(());
    };
    if let Some(Connection::Nbd { .. }) = connections::of_pool(&service.database, pool).await? {
        let host = pool.split('@').next();
        usable.retain(|one| Some(one.host.as_str()) == host);
    }
    Ok(())
}

/// Different jobs go to different services.
fn choose(mut usable: Vec<Service>, id: Uuid) -> Result<Service> {
    if usable.is_empty() {
        let text = format!("Service {BACKUP} could not be found.");
        return Err(Error::Unavailable(text));
    }
    let position = id.as_u128() % usable.len() as u128;
    Ok(usable.swap_remove(usize::try_from(position).unwrap_or(0)))
}
