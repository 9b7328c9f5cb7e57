//! Attaching by actions on the volume, as clients did before attachments were a resource.

use database::Tx;
use rest::RequestContext;
use uuid::Uuid;

use super::attachments::{connection_info, enforce_multipath, resting_status, settle};
use super::{detach_guard, volumes};
use crate::db::attachments::{self, Attachment, Document};
use crate::db::exports::{self, Export};
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, status};
use crate::{Error, Result, VolumeService};

/// Who attaches a volume, and where.
#[derive(Debug, Clone)]
pub struct Attach {
    /// A server, or
    pub instance_id: Option<Uuid>,
    /// a host.
    pub host_name: Option<String>,
    pub mountpoint: String,
    /// `rw` or `ro`.
    pub mode: String,
}

/// Sets the volume `attaching`, so that nobody else takes it.
pub async fn reserve(service: &VolumeService, volume: &Volume) -> Result<()> {
    let expected: &[&'static str] = if volume.multiattach {
        &[status::AVAILABLE, status::IN_USE]
    } else {
        &[status::AVAILABLE]
    };
    let change = Change::volume(volume.id)
        .when(expected)
        .and("multiattach = ?", &[volume.multiattach.into()])
        .status(status::ATTACHING);
    let refused = |current: String| {
        Error::invalid_volume(format!(
            "Volume status must be {} to reserve, but the status is {current}.",
            expected.join(" or ")
        ))
    };
    apply(service, volume.id, change, refused).await
}

/// Takes [`reserve`] back; nothing to do where it did not happen.
pub async fn unreserve(service: &VolumeService, volume_id: Uuid) -> Result<()> {
    let mut tx = service.database.begin().await?;
    release(&mut tx, volume_id).await?;
    Ok(tx.commit().await?)
}

async fn release(tx: &mut Tx, volume_id: Uuid) -> Result<()> {
    let attach_status = attachments::status_of_volume(tx, volume_id).await?;
    Change::volume(volume_id)
        .when(&[status::ATTACHING])
        .status(resting_status(&attach_status))
        .apply(tx)
        .await?;
    Ok(())
}

/// Sets an attached volume `detaching`.
pub async fn begin_detaching(service: &VolumeService, volume: &Volume) -> Result<()> {
    let change = Change::volume(volume.id)
        .when(&[status::IN_USE])
        .and("attach_status = ?", &[status::ATTACHED.into()])
        .and(
            "migration_status IS NULL OR migration_status IN ('deleting', 'error', 'success')",
            &[],
        )
        .status(status::DETACHING);
    let migrating = volume
        .migration_status
        .as_deref()
        .is_some_and(|state| !["deleting", "error", "success"].contains(&state));
    if migrating {
        // The migration status keeps others away already.
        return Ok(());
    }
    let refused = |_| {
        Error::invalid_volume(
            "Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach.",
        )
    };
    apply(service, volume.id, change, refused).await
}

/// Takes [`begin_detaching`] back; nothing to do where it did not happen.
pub async fn roll_detaching(service: &VolumeService, volume_id: Uuid) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let change = Change::volume(volume_id).when(&[status::DETACHING]);
    change.status(status::IN_USE).apply(&mut tx).await?;
    Ok(tx.commit().await?)
}

/// Makes an attachment at once: volume `in-use`.
pub async fn attach(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    attach: Attach,
) -> Result<()> {
    if volume.status == status::MAINTENANCE {
        return Err(Error::invalid_volume(
            "The volume cannot be attached in maintenance mode.",
        ));
    }
    let mut tx = service.database.begin().await?;
    let notices = &service.notices;
    notices
        .volume(&mut tx, volume.id, "attach.start", context)
        .await?;
    attach_in(&mut tx, volume.id, attach).await?;
    notices
        .volume(&mut tx, volume.id, "attach.end", context)
        .await?;
    Ok(tx.commit().await?)
}

async fn attach_in(tx: &mut Tx, volume_id: Uuid, attach: Attach) -> Result<()> {
    let volume = db::volumes::get(&mut *tx, volume_id).await?;
    let current = volume.ok_or_else(|| volumes::not_found(volume_id))?;
    if current.readonly == Some(true) && attach.mode != "ro" {
        return Err(Error::Invalid(format!(
            "Invalid attaching mode '{}' for volume {}.",
            attach.mode, volume_id
        )));
    }
    let known = attachments::of_volume(&mut *tx, volume_id).await?;
    let host = attach.host_name.as_deref().map(sanitized);
    let again = known.iter().any(|one| match attach.instance_id {
        Some(id) => one.instance_id == Some(id),
        None => one.attached_host == host,
    });
    let mut expected = vec![status::AVAILABLE, status::ATTACHING, status::RESERVED];
    if again || current.multiattach {
        expected.push(status::IN_USE);
    }
    let change = Change::volume(volume_id)
        .when(&expected)
        .status(status::IN_USE)
        .set("readonly = ?", current.readonly.unwrap_or(false))
        .set("attach_status = ?", status::ATTACHED);
    match change.apply(tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(volumes::not_found(volume_id)),
        Outcome::WrongState { status } if status == status::IN_USE => {
            return Err(Error::invalid_volume(
                "volume is already attached and multiple attachments are not enabled",
            ));
        }
        Outcome::WrongState { status } => {
            return Err(Error::invalid_volume(format!(
                "Volume status must be {} to attach, but the status is {status}.",
                expected.join(" or ")
            )));
        }
    }
    if !again {
        let attachment = Attachment {
            attached_host: host,
            mountpoint: Some(attach.mountpoint),
            attach_status: status::ATTACHED.to_owned(),
            attached_at: Some(database::now_us()),
            ..Attachment::reserved(volume_id, attach.instance_id, &attach.mode)
        };
        attachments::insert(tx, &attachment).await?;
    }
    Ok(())
}

/// The compute service has given the servers of `volume` another volume in its place: that one
/// is theirs now, and `volume` nobody's.
pub async fn swap(service: &VolumeService, volume_id: Uuid, new_volume_id: Uuid) -> Result<()> {
    let mut tx = service.database.begin().await?;
    for old in attachments::of_volume(&mut tx, volume_id).await? {
        attachments::delete(&mut tx, old.id).await?;
        exports::delete_of_attachment(&mut tx, old.id).await?;
        let attach = Attach {
            instance_id: old.instance_id,
            host_name: old.attached_host,
            mountpoint: old.mountpoint.unwrap_or_default(),
            mode: "rw".to_owned(),
        };
        attach_in(&mut tx, new_volume_id, attach).await?;
    }
    exports::delete_unattached(&mut tx, volume_id, None).await?;
    settle(&mut tx, volume_id).await?;
    Ok(tx.commit().await?)
}

/// A name that is fit for DNS, as Cinder keeps host names.
fn sanitized(host_name: &str) -> String {
    let fit = |c: char| match c {
        ' ' | '_' => Some('-'),
        c if c.is_ascii_alphanumeric() || c == '-' || c == '.' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    let kept: String = host_name.chars().filter_map(fit).collect();
    kept.trim_matches(['.', '-']).to_owned()
}

/// Removes an attachment: the named one, else the only one. Without any the volume becomes
/// `available`.
pub async fn detach(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    attachment_id: Option<Uuid>,
) -> Result<()> {
    detach_guard::check_volume(service, context, volume.id, attachment_id).await?;
    if volume.status == status::MAINTENANCE {
        return Err(Error::invalid_volume(
            "The volume cannot be detached in maintenance mode.",
        ));
    }
    let mut tx = service.database.begin().await?;
    let notices = &service.notices;
    notices
        .volume(&mut tx, volume.id, "detach.start", context)
        .await?;
    let all = attachments::of_volume(&mut tx, volume.id).await?;
    let meant = match (attachment_id, all.as_slice()) {
        (None, [_, _, ..]) => {
            return Err(Error::invalid_volume(
                "Detach volume failed: More than one attachment, but no attachment_id provided.",
            ));
        }
        (None, few) => few.first(),
        (Some(id), all) => all.iter().find(|one| one.id == id),
    };
    if let Some(meant) = meant {
        attachments::delete(&mut tx, meant.id).await?;
        exports::delete_of_attachment(&mut tx, meant.id).await?;
    }
    if all.len() <= 1 {
        exports::delete_unattached(&mut tx, volume.id, None).await?;
    }
    settle(&mut tx, volume.id).await?;
    notices
        .volume(&mut tx, volume.id, "detach.end", context)
        .await?;
    Ok(tx.commit().await?)
}

/// What a host needs to reach the volume: `driver_volume_type` and `data`. The same host is told
/// the same again.
pub async fn initialize_connection(
    service: &VolumeService,
    volume: &Volume,
    connector: &Document,
) -> Result<Document> {
    if volume.status == status::MAINTENANCE {
        return Err(Error::invalid_volume(
            "The volume connection cannot be initialized in maintenance mode.",
        ));
    }
    let mut tx = service.database.begin().await?;
    let host = connector_host(connector)?;
    let attached = attachments::of_volume(&mut tx, volume.id).await?;
    let read_only = volume.readonly == Some(true)
        || attached.iter().any(|one| {
            one.connector.is_none()
                && one.attach_status == status::ATTACHED
                && one.attach_mode == "ro"
        });
    let export = match exports::of_host(&mut tx, volume.id, &host).await? {
        Some(export) if export.read_only == read_only => export,
        _ => {
            exports::delete_unattached(&mut tx, volume.id, Some(&host)).await?;
            let export = Export::new(volume.id, None, &host, read_only);
            exports::insert(&mut tx, &export).await?;
            export
        }
    };
    let mut data = connection_info(&mut tx, volume, &export).await?;
    tx.commit().await?;
    let multipath = enforce_multipath(connector);
    let protocol = data.remove("driver_volume_type").unwrap_or_default();
    data.insert("enforce_multipath".to_owned(), multipath.clone());
    Ok([
        ("driver_volume_type".to_owned(), protocol),
        ("data".to_owned(), data.into()),
        ("enforce_multipath".to_owned(), multipath),
    ]
    .into_iter()
    .collect())
}

fn connector_host(connector: &Document) -> Result<String> {
    match connector.get("host") {
        None => Ok(String::new()),
        Some(serde_json::Value::String(host)) if host.chars().count() <= 255 => Ok(host.clone()),
        Some(_) => Err(Error::invalid_input(
            "The connector's host must be a text of at most 255 characters.",
        )),
    }
}

/// The host is done with the volume (no connector: every host is).
pub async fn terminate_connection(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    connector: Option<&Document>,
) -> Result<()> {
    detach_guard::check_volume(service, context, volume.id, None).await?;
    let host = connector.map(connector_host).transpose()?;
    let mut tx = service.database.begin().await?;
    exports::delete_unattached(&mut tx, volume.id, host.as_deref()).await?;
    release(&mut tx, volume.id).await?;
    Ok(tx.commit().await?)
}

async fn apply(
    service: &VolumeService,
    id: Uuid,
    change: Change,
    refused: impl FnOnce(String) -> Error,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    match change.apply(&mut tx).await? {
        Outcome::Done => Ok(tx.commit().await?),
        Outcome::NotFound => Err(volumes::not_found(id)),
        Outcome::WrongState { status } => Err(refused(status)),
    }
}
